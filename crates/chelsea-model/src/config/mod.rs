//! What a model is: one [`Config`] for every architecture and both file formats, with a list of layers.
//!
//! Every supported model is a pre-norm transformer with grouped query attention and gated feed-forwards. Layers may
//! differ in everything that [`LayerConfig`] holds; what is the same throughout an architecture (norms, biases, the
//! gate's function, names of tensors) are the switches of its [`Architecture`].

mod architecture;
mod gguf;
mod json;
mod keys;
mod rope;

use std::sync::Arc;

use chelsea_kv::{CacheShape, LayerSpec, MAX_TOKENS, Rotary};
use thiserror::Error;

pub(crate) use architecture::Activation;
pub use architecture::Architecture;
pub(crate) use gguf::{GgufDescription, from_gguf};
pub(crate) use json::from_json;
pub(crate) use keys::Keys;
pub use rope::{Rope, Scaling, yarn_attention_factor};

use crate::files::gguf::GgufError;

/// A model whose metadata cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// An architecture without an implementation here.
    #[error("the architecture `{found}` is not supported; supported: {supported}")]
    Architecture {
        /// What the file says.
        found: String,
        /// Names of all that are.
        supported: String,
    },
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

/// Sizes and switches of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family.
    pub architecture: &'static Architecture,
    /// The model's own name, where the file says one.
    pub name: Option<String>,
    /// Size of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding: token ids are below this.
    pub vocab: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Factor on embeddings; 1 in most models.
    pub embedding_scale: f32,
    /// Tokens the model was trained to read (stretched by YaRN where the metadata says so).
    pub context_length: usize,
    /// Whether the output product uses the embedding; `None`: it does where the file has no output tensor.
    pub tied_embeddings: Option<bool>,
    /// The layers, in order; at least one.
    pub layers: Vec<LayerConfig>,
}

/// One transformer layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// Query heads.
    pub q_heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Size of one head: of queries, keys and values.
    pub head_dim: usize,
    /// Factor on products of queries and keys.
    pub scale: f32,
    /// Sliding window in tokens, below the trained context: a token sees itself and the `window - 1` before it. `None`: it
    /// sees all.
    pub window: Option<usize>,
    /// Rotary embedding; `None`: the layer does not know positions.
    pub rope: Option<Rope>,
    /// What follows attention.
    pub feed_forward: FeedForward,
}

/// The feed-forward of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForward {
    /// One gated feed-forward.
    Dense {
        /// Its inner size.
        inner: usize,
    },
    /// A mixture of experts: each token goes through a few of them.
    Experts {
        /// How many there are.
        count: usize,
        /// How many a token goes through.
        used: usize,
        /// Inner size of each.
        inner: usize,
        /// How the router's logits become weights.
        routing: Routing,
    },
}

impl FeedForward {
    /// Inner size, of each expert where there are several.
    pub fn inner(&self) -> usize {
        match *self {
            FeedForward::Dense { inner } | FeedForward::Experts { inner, .. } => inner,
        }
    }
}

/// How a router's logits become the weights of the experts with the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Softmax over all experts, of which those chosen keep what they have.
    Softmax,
    /// The same, divided by its sum over those chosen; and so a softmax over those alone.
    SoftmaxOfChosen,
}

impl Config {
    /// Shape of a cache for this model.
    ///
    /// # Panics
    /// Never for a configuration that was read from a file: its shape was checked.
    pub fn cache_shape(&self) -> CacheShape {
        self.try_cache_shape().expect("the configuration was validated")
    }

    fn try_cache_shape(&self) -> Result<CacheShape, ConfigError> {
        let rotaries = self.rotaries();
        let layers = self.layers.iter().zip(rotaries).map(|(layer, rotary)| LayerSpec {
            q_heads: layer.q_heads,
            kv_heads: layer.kv_heads,
            key_dim: layer.head_dim,
            value_dim: layer.head_dim,
            scale: layer.scale,
            window: layer.window,
            rotary,
        });
        CacheShape::new(layers.collect()).map_err(|error| ConfigError::Invalid(error.to_string()))
    }

    /// The rotary embedding of each layer; layers with the same one share it.
    fn rotaries(&self) -> Vec<Arc<Rotary>> {
        let mut known: Vec<(Option<&Rope>, Arc<Rotary>)> = Vec::new();
        let rotary = |layer: &'_ LayerConfig| layer.rope.as_ref().map_or_else(Rotary::none, Rope::rotary);
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let found = known.iter().find(|(rope, _)| *rope == layer.rope.as_ref()).map(|(_, found)| found.clone());
            let shared = found.unwrap_or_else(|| {
                let made = Arc::new(rotary(layer));
                known.push((layer.rope.as_ref(), made.clone()));
                made
            });
            all.push(shared);
        }
        all
    }

    /// Number of positions for which the forward pass is sound. Beyond [`Config::context_length`] a model still
    /// computes what it was built to compute, but it was never trained there: callers should warn.
    pub fn max_positions(&self) -> usize {
        MAX_TOKENS
    }

    /// Layers that see everything, and layers with a sliding window.
    pub fn full_and_sliding_layers(&self) -> (usize, usize) {
        let sliding = self.layers.iter().filter(|layer| layer.window.is_some()).count();
        (self.layers.len() - sliding, sliding)
    }

    /// The smallest sliding window of any layer.
    pub fn smallest_window(&self) -> Option<usize> {
        self.layers.iter().filter_map(|layer| layer.window).min()
    }

    /// The same model, to be used for texts of up to `tokens` tokens, the question and the answer included.
    ///
    /// It matters for models with LongRoPE (Phi-3), which have two sets of rotary frequencies: one for texts within
    /// the context of the first training, which it keeps best, and one for longer ones. Keys are cached after the
    /// rotary embedding, so that one sequence cannot change from one set to the other: the choice is made here, by the
    /// length asked for. Without this call it is the set for [`Config::context_length`].
    #[must_use]
    pub fn for_context(mut self, tokens: usize) -> Config {
        for layer in &mut self.layers {
            if let Some(Rope { scaling: Scaling::LongRope { long, original_context, .. }, .. }) = &mut layer.rope {
                *long = tokens > *original_context;
            }
        }
        self
    }

    /// What follows from the context that the model was trained to read: the choice of [`Config::for_context`], and that a
    /// window no smaller than it has no effect. Some models state one all the same, and their layers could not be clustered.
    fn with_trained_context(mut self) -> Config {
        let context = self.context_length;
        for layer in &mut self.layers {
            layer.window = layer.window.filter(|&window| window < context);
        }
        self.for_context(context)
    }

    /// Checks that sizes are neither absurd nor contradictory. Tensor shapes are checked against them at load,
    /// so nothing is ever allocated by these numbers alone.
    fn validate(self) -> Result<Config, ConfigError> {
        within("the hidden size", self.hidden, 1 << 20)?;
        within("the vocabulary", self.vocab, 1 << 26)?;
        within("the trained context", self.context_length, 1 << 30)?;
        check_layer_count(self.layers.len())?;
        let positive = |name: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(ConfigError::Invalid(format!("{name} is {value}, it must be positive"))),
        };
        positive("the factor on embeddings", self.embedding_scale)?;
        for (index, layer) in self.layers.iter().enumerate() {
            within("query heads", layer.q_heads, 1 << 12)?;
            within("KV heads", layer.kv_heads, 1 << 12)?;
            within("the head size", layer.head_dim, 1 << 12)?;
            positive("attention's scale", layer.scale)?;
            if let Some(rope) = &layer.rope
                && (index == 0 || self.layers[index - 1].rope.as_ref() != Some(rope))
            {
                rope.validate(layer.head_dim)?;
            }
            if layer.window == Some(0) {
                return Err(ConfigError::Invalid("the sliding window is 0 tokens".into()));
            }
            match layer.feed_forward {
                FeedForward::Dense { inner } => within("the feed-forward size", inner, 1 << 22)?,
                FeedForward::Experts { count, used, inner, .. } => {
                    within("the feed-forward size", inner, 1 << 22)?;
                    within("experts", count, 1 << 12)?;
                    within("experts of a token", used, count)?;
                }
            }
        }
        self.try_cache_shape()?;
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::Invalid(format!("the norm's epsilon is {}", self.norm_eps)));
        }
        Ok(self)
    }
}

fn within(name: &str, size: usize, limit: usize) -> Result<(), ConfigError> {
    match size == 0 || size > limit {
        true => Err(ConfigError::Invalid(format!("{name}: {size} is outside 1 to {limit}"))),
        false => Ok(()),
    }
}

/// Before a list of layers is made.
fn check_layer_count(layers: usize) -> Result<(), ConfigError> {
    within("layers", layers, 1 << 12)
}
