//! Bytes to logits: GGUF and safetensors, tokenizers, chat templates, architectures.
//!
//! The way in: [`ModelFile::open`] reads headers only (for looking at a model), [`Model::load`] packs the
//! weights, [`Model::forward`] runs chunks of token sequences through them against
//! [`chelsea_kv::SequenceCache`]s.
//!
//! - [`gguf`], `safetensors`: containers. Foreign bytes, so everything is checked.
//! - [`config`]: what a model is, the same for both containers.
//! - `file`: a model on disk, tensors by one set of names.
//! - `model`: packed weights, and the forward pass over them.
//! - [`tokenizer`], [`chat`]: text to ids and back, and conversations to text.
//! - `ops`: norms, rotary embedding, gate.

pub mod chat;
pub mod config;
mod error;
mod file;
pub mod gguf;
mod model;
mod ops;
mod safetensors;
pub mod tokenizer;

pub use config::{Architecture, Config};
pub use error::ModelError;
pub use file::{ModelFile, TensorEntry};
pub use model::{
    Chunk, LoadOptions, Model, PackedTensor, Progress, RandomModel, Spent, Wanted, WeightBytes, Workspace,
};
