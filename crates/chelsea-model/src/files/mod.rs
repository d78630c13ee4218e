//! Containers of weights on disk: foreign bytes, so everything is checked.

mod error;
pub mod gguf;
pub(crate) mod safetensors;
mod tensor;

pub(crate) use error::FileError;
pub(crate) use tensor::Scales;
pub use tensor::TensorEntry;
