//! Bytes to logits: GGUF and safetensors, tokenizers, chat templates, architectures.
//!
//! The way in: [`ModelFile::open`] reads headers only (for looking at a model), [`Model::load`] packs the
//! weights, [`Model::forward`] runs chunks of token sequences through them against
//! [`chelsea_kv::SequenceCache`]s.
//!
//! Modules point one way, in this order, and a test holds them to it:
//!
//! - `files`: containers ([`gguf`], safetensors). Foreign bytes, so everything is checked.
//! - [`config`]: what a model is, layer by layer, the same for both containers.
//! - [`arch`]: one file for each architecture, with names and switches.
//! - `error`: what may go wrong.
//! - `checkpoint`: a model on disk, tensors by one set of names.
//! - `text`: [`tokenizer`] and [`chat`] templates.
//! - `blocks`: attention, gated feed-forward, mixture of experts, norm, rotary embedding, and their buffers.
//! - [`device`]: the seam to devices that compute forward passes by themselves.
//! - `model`: packed weights: loading them, or drawing them at random.
//! - `forward`: one loop over the blocks.

pub mod arch;
mod blocks;
mod checkpoint;
pub mod config;
pub mod device;
mod error;
mod files;
mod forward;
mod model;
mod text;

pub use blocks::{Chunk, Spent, Wanted, Workspace};
pub use checkpoint::ModelFile;
pub use config::{Architecture, Config};
pub use error::ModelError;
pub use files::{TensorEntry, gguf};
pub use model::{LoadOptions, Model, PackedTensor, Progress, RandomModel, WeightBytes};
pub use text::{chat, tokenizer};
