//! What a model is: one [`Config`] for every architecture and both file formats.
//!
//! The supported architectures are one family, pre-norm transformers with rotary embeddings, grouped
//! query attention and a gated feed-forward, and differ in switches only:
//!
//! | architecture | models | QKV bias | QK norm | GGUF Q/K rows |
//! |---|---|---|---|---|
//! | `llama` | Llama 2, 3.x, SmolLM2, Mistral | where the file has one | no | interleaved |
//! | `qwen2` | Qwen 2, 2.5 | yes | no | half-split |
//! | `qwen3` | Qwen 3 | where the file has one | yes | half-split |

mod gguf;
mod json;
mod rope;

use std::fmt;

use chelsea_kv::{CacheShape, MAX_TOKENS, Rotary, ShapeError};
use thiserror::Error;

pub(crate) use gguf::ROPE_DIVISORS;
pub use rope::{Rope, Scaling, yarn_attention_factor};

use crate::gguf::GgufError;

/// A model whose metadata cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// An architecture without an implementation here.
    #[error("the architecture `{0}` is not supported; supported: {list}", list = Architecture::list())]
    Architecture(String),
    /// Something the architecture may have, but this implementation has not.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A value that makes no sense.
    #[error("the model's configuration is not usable: {0}")]
    Invalid(String),
    /// A key missing from `config.json`, or of the wrong type.
    #[error("config.json: {0}")]
    Json(String),
    /// A key missing from GGUF metadata, or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// A family of models with one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3.x, SmolLM2, Mistral.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3 (dense).
    Qwen3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

    /// Name in GGUF metadata (`general.architecture`).
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    fn list() -> String {
        Architecture::ALL.map(Architecture::name).join(", ")
    }

    fn from_gguf(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// From `model_type` of `config.json`: Mistral is Llama with a sliding window.
    fn from_model_type(name: &str) -> Option<Architecture> {
        if name == "mistral" { Some(Architecture::Llama) } else { Architecture::from_gguf(name) }
    }

    /// Whether queries and keys are normalised per head before the rotary embedding.
    pub fn has_qk_norm(self) -> bool {
        self == Architecture::Qwen3
    }

    /// Whether query, key and value projections must have a bias (the others may have one).
    pub fn needs_qkv_bias(self) -> bool {
        self == Architecture::Qwen2
    }

    /// Whether GGUF files store the rows of Q and K for the interleaved rotary layout.
    pub fn gguf_rows_interleaved(self) -> bool {
        self == Architecture::Llama
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sizes and switches of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family.
    pub architecture: Architecture,
    /// The model's own name, where the file says one.
    pub name: Option<String>,
    /// Transformer layers.
    pub layers: usize,
    /// Size of the residual stream.
    pub hidden: usize,
    /// Inner size of the feed-forward.
    pub feed_forward: usize,
    /// Query heads of a layer.
    pub q_heads: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Rows of the embedding: token ids are below this.
    pub vocab: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Tokens the model was trained to read (stretched by YaRN where the metadata says so).
    pub context_length: usize,
    /// Whether the output product uses the embedding; `None`: it does where the file has no output tensor.
    pub tied_embeddings: Option<bool>,
    /// Sliding window of some or all layers: attention is exact for sequences up to this long, and this
    /// implementation refuses longer ones.
    pub window: Option<usize>,
}

impl Config {
    /// Sizes of a cache for this model.
    pub fn cache_shape(&self) -> CacheShape {
        self.checked_shape().expect("sizes were checked when the configuration was read")
    }

    fn checked_shape(&self) -> Result<CacheShape, ShapeError> {
        CacheShape::uniform(self.layers, self.q_heads, self.kv_heads, self.head_dim, self.rotary())
    }

    /// Rotary frequencies.
    pub fn rotary(&self) -> Rotary {
        self.rope.rotary()
    }

    /// Number of positions for which the forward pass is sound: the sliding window where there is one.
    /// Beyond [`Config::context_length`] a model without a window still computes what it was built to compute,
    /// but it was never trained there: callers should warn.
    pub fn max_positions(&self) -> usize {
        self.window.unwrap_or(MAX_TOKENS).min(MAX_TOKENS)
    }

    /// Checks that sizes are neither absurd nor contradictory. Tensor shapes are checked against them at load,
    /// so nothing is ever allocated by these numbers alone.
    fn validate(self) -> Result<Config, ConfigError> {
        let sizes = [
            ("layers", self.layers, 1 << 12),
            ("the hidden size", self.hidden, 1 << 20),
            ("the feed-forward size", self.feed_forward, 1 << 22),
            ("query heads", self.q_heads, 1 << 12),
            ("KV heads", self.kv_heads, 1 << 12),
            ("the head size", self.head_dim, 1 << 12),
            ("the vocabulary", self.vocab, 1 << 26),
            ("the trained context", self.context_length, 1 << 30),
        ];
        for (name, size, limit) in sizes {
            if size == 0 || size > limit {
                return Err(ConfigError::Invalid(format!("{name}: {size} is outside 1 to {limit}")));
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::Invalid(format!("the norm's epsilon is {}", self.norm_eps)));
        }
        if self.window == Some(0) {
            return Err(ConfigError::Invalid("the sliding window is 0 tokens".into()));
        }
        self.rope.validate(self.head_dim)?;
        self.checked_shape().map_err(|error| ConfigError::Invalid(error.to_string()))?;
        Ok(self)
    }
}
