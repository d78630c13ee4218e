//! Why a model could not be loaded, or a forward pass not be run.

use std::io;
use std::path::PathBuf;

use chelsea_kv::CacheError;
use chelsea_linear::LinearError;
use thiserror::Error;

use crate::config::ConfigError;
use crate::files::FileError;
use crate::files::gguf::GgufError;

/// Why a model could not be loaded, or a forward pass not be run.
///
/// After a failed forward pass nothing was computed and the caches are untouched, unless it is
/// [`ModelError::Cache`], [`ModelError::Device`] or [`ModelError::Logits`].
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file that cannot be opened.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a GGUF file, a safetensors file, nor a folder with one of them.
    #[error("{} is not a model: {why}", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// A damaged or unsupported GGUF file.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// A model in several GGUF files that cannot be put together.
    #[error("{} is part {} of {parts} of a split model: {why}", path.display(), u64::from(*part) + 1)]
    Split {
        /// The part that was opened.
        path: PathBuf,
        /// Its number, from 0.
        part: u32,
        /// How many there are.
        parts: u32,
        /// What is wrong.
        why: String,
    },
    /// A damaged or unsupported safetensors file or index.
    #[error("{}: {why}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A configuration that cannot be used.
    #[error("{}: {source}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A tensor the architecture needs is not in the file.
    #[error("tensor `{0}` is missing: the model is incomplete, or of another architecture than it says")]
    MissingTensor(String),
    /// A tensor that the forward pass would ignore, so that its logits would be wrong.
    #[error("tensor `{name}` has no place in the architecture `{architecture}`: this variant is not supported")]
    UnknownTensor {
        /// Name in the file.
        name: String,
        /// What the file says it is.
        architecture: &'static str,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("tensor `{name}` has the shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// Name in the file.
        name: String,
        /// Shape in the file, outermost first.
        found: Vec<usize>,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// Weights that cannot be packed.
    #[error("tensor `{name}`: {source}")]
    Linear {
        /// Name in the file.
        name: String,
        /// What is wrong.
        source: LinearError,
    },
    /// A tensor with a value, or a block with a scale, that is not a number.
    #[error("tensor `{0}` holds values that are not finite: the file is damaged")]
    NotFinite(String),

    /// A chunk without tokens.
    #[error("a chunk of a batch holds no tokens")]
    EmptyChunk,
    /// A token id that the embedding has no row for.
    #[error("token id {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A position too large for the arithmetic of rotary embeddings.
    #[error("position {needed} is beyond {limit}, where rotary embeddings lose their precision")]
    Position {
        /// Length the sequence would have.
        needed: usize,
        /// Largest length.
        limit: usize,
    },
    /// A cache made for another model.
    #[error("the cache has the shape {found:?}, the model needs {expected:?}")]
    CacheShape {
        /// Shape of the cache.
        found: chelsea_kv::CacheShape,
        /// Shape of the model.
        expected: chelsea_kv::CacheShape,
    },
    /// Logits that are no numbers: the weights, or a number format too narrow for what the model computes, are to
    /// blame. The caches of the batch must be dropped.
    #[error("the model's logits are not finite; {}", match layer {
        Some(layer) => format!("the first layer to give such numbers is {layer} of {layers} (counted from 0)"),
        None => "every layer by itself gives finite numbers".to_owned(),
    })]
    Logits {
        /// The first layer whose output is not finite.
        layer: Option<usize>,
        /// Layers of the model.
        layers: usize,
    },
    /// The device that computes for this model failed. The caches of the batch must be dropped.
    #[error("{0}")]
    Device(String),
    /// The cache refused keys and values; drop it.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl From<FileError> for ModelError {
    fn from(error: FileError) -> ModelError {
        match error {
            FileError::Io { path, source } => ModelError::Io { path, source },
            FileError::Broken { path, why } => ModelError::Safetensors { path, why },
        }
    }
}
