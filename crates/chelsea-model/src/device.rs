//! A device that computes forward passes by itself, and what it takes over from a model: the seam between the loop in
//! `forward` and one on a GPU.
//!
//! What stays here: checking a batch, embedding its tokens, tables of the rotary embedding, and looking at logits. What
//! a device does: everything between, with caches of its own [`Backend`].

use std::fmt::Debug;
use std::sync::Arc;

use chelsea_kv::Backend;
use chelsea_linear::Linear;

pub use crate::blocks::HeldLogits;
use crate::blocks::{self, Chunk, Layer, Mlp, Projection};
use crate::config::{Activation, Config, FeedForward, LayerConfig};

/// A device with the weights of one model.
pub trait Accelerator: Debug + Send + Sync {
    /// What it is called in reports, such as `cuda:0`.
    fn name(&self) -> &str;

    /// Where caches of its sequences lie.
    fn backend(&self) -> Arc<dyn Backend>;

    /// Entries of each head that reading a text should be allowed to hold beyond the budget, for the device to be busy: an
    /// eighth as many tokens pass through the model at once, or a quarter where nothing has to be clustered for them.
    fn block(&self) -> usize;

    /// Takes a batch through all layers. Every cache takes in its chunk's tokens. `logits`, `[rows][vocab]`, gets those of the
    /// wanted rows but for the ones that may stay, which are returned in order.
    ///
    /// # Errors
    /// What went wrong, in one line; the caches of the batch must be dropped.
    fn forward(&self, pass: &mut Pass<'_, '_>, logits: &mut [f32]) -> Result<Vec<Arc<dyn HeldLogits>>, String>;
}

/// One forward pass, ready to be computed.
#[derive(Debug)]
pub struct Pass<'p, 'b> {
    /// The chunks, which were checked.
    pub batch: &'p mut [Chunk<'b>],
    /// The embeddings of all tokens, `[rows][hidden]`.
    pub embedded: &'p [f32],
    /// Cosine and sine of every row's position for each of the model's rotary embeddings, `[rows][pairs]` each.
    pub rotary: &'p [(&'p [f32], &'p [f32])],
    /// Rows whose logits are wanted, ascending.
    pub wanted: &'p [usize],
    /// For each of them, whether its logits may stay on the device.
    pub held: &'p [bool],
}

/// A product's weights and bias.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// The matrix.
    pub weight: &'a Linear,
    /// What is added, `[rows]`.
    pub bias: Option<&'a [f32]>,
}

/// The weights of a layer of a plain transformer: norms before attention and before a gated feed-forward with SiLU.
#[derive(Debug, Clone, Copy)]
pub struct DenseLayer<'a> {
    /// Norm before attention, `[hidden]`.
    pub attn_norm: &'a [f32],
    /// Queries.
    pub q: Product<'a>,
    /// Keys.
    pub k: Product<'a>,
    /// Values.
    pub v: Product<'a>,
    /// Norms of each head's query and key, `[head_dim]`.
    pub qk_norm: Option<(&'a [f32], &'a [f32])>,
    /// Attention's output.
    pub output: Product<'a>,
    /// Which of [`Pass::rotary`] turns queries and keys.
    pub rotary: Option<usize>,
    /// Norm before the feed-forward, `[hidden]`.
    pub ffn_norm: &'a [f32],
    /// The gate.
    pub gate: &'a Linear,
    /// What is gated.
    pub up: &'a Linear,
    /// The feed-forward's output.
    pub down: &'a Linear,
}

impl Config {
    /// Whether a model is a plain transformer ([`DenseLayer`]), before its weights are read.
    ///
    /// # Errors
    /// What it has that those have not, in a few words.
    pub fn is_plain(&self) -> Result<(), &'static str> {
        let architecture = self.architecture;
        let dense = |layer: &LayerConfig| matches!(layer.feed_forward, FeedForward::Dense { .. });
        match () {
            () if architecture.post_norms => Err(POST_NORMS),
            () if architecture.sinks => Err(SINKS),
            () if !self.layers.iter().all(dense) => Err(EXPERTS),
            () if architecture.activation != Activation::Silu => Err(GATE),
            () => Ok(()),
        }
    }
}

// What plain transformers have not.
const POST_NORMS: &str = "norms after attention and the feed-forward";
const SINKS: &str = "learned attention sinks";
const EXPERTS: &str = "a mixture of experts";
const GATE: &str = "a feed-forward without SiLU";

impl Layer {
    /// The layer as a plain one, or what it has that those have not.
    pub(crate) fn dense(&self) -> Result<DenseLayer<'_>, &'static str> {
        let Layer { attn_norm, attention, post_attention_norm, ffn_norm, feed_forward, post_ffn_norm } = self;
        if post_attention_norm.is_some() || post_ffn_norm.is_some() {
            return Err(POST_NORMS);
        }
        if attention.sinks.is_some() {
            return Err(SINKS);
        }
        let blocks::FeedForward::Dense(Mlp { gate, up, down, activation }) = feed_forward else {
            return Err(EXPERTS);
        };
        if *activation != Activation::Silu {
            return Err(GATE);
        }
        fn of(projection: &Projection) -> Product<'_> {
            Product { weight: &projection.weight, bias: projection.bias.as_deref() }
        }
        Ok(DenseLayer {
            attn_norm,
            q: of(&attention.q),
            k: of(&attention.k),
            v: of(&attention.v),
            qk_norm: attention.q_norm.as_deref().zip(attention.k_norm.as_deref()),
            output: of(&attention.output),
            rotary: attention.rotary,
            ffn_norm,
            gate,
            up,
            down,
        })
    }
}
