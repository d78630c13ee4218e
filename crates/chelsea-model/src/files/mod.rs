//! Containers of weights on disk: foreign bytes, so everything is checked.

pub mod gguf;
mod error;
pub(crate) mod safetensors;
mod tensor;

pub(crate) use error::FileError;
pub use tensor::TensorEntry;
pub(crate) use tensor::Scales;
