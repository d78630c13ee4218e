//! What layers are made of. A block owns its weights and works on rows of a [`Workspace`], `[rows][width]`.

mod activation;
mod attention;
mod batch;
mod buffer;
mod clock;
mod mlp;
mod moe;
mod norm;
mod product;
mod rope;
mod workspace;

pub(crate) use attention::Attention;
pub use batch::{Chunk, Wanted};
pub(crate) use clock::Phase;
pub use clock::Spent;
pub(crate) use mlp::Mlp;
pub(crate) use moe::{ExpertProjection, Experts};
pub(crate) use norm::{add, rms_norm, rms_norm_in_place};
pub(crate) use product::{Projection, products};
pub(crate) use rope::RotaryTable;
pub use workspace::{HeldLogits, Workspace};

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) attention: Attention,
    /// Norm of attention's output, before it joins the residual stream.
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) feed_forward: FeedForward,
    /// Norm of the feed-forward's output, before it joins the residual stream.
    pub(crate) post_ffn_norm: Option<Vec<f32>>,
}

/// What follows attention.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

impl FeedForward {
    /// Rows of `ws.y`, in place.
    pub(crate) fn forward(&self, ws: &mut Workspace) {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(ws),
            FeedForward::Experts(experts) => experts.forward(ws),
        }
    }
}

impl Layer {
    /// Bytes of the weights of attention, of the feed-forward, and of vectors.
    pub(crate) fn bytes(&self) -> (usize, usize, usize) {
        let (attention, mut vectors) = self.attention.bytes();
        let (feed_forward, biases) = match &self.feed_forward {
            FeedForward::Dense(mlp) => (mlp.bytes(), 0),
            FeedForward::Experts(experts) => experts.bytes(),
        };
        let norms = [Some(&self.attn_norm), self.post_attention_norm.as_ref(), Some(&self.ffn_norm)];
        for norm in norms.into_iter().chain([self.post_ffn_norm.as_ref()]).flatten() {
            vectors += size_of_val(norm.as_slice());
        }
        (attention, feed_forward, vectors + biases)
    }
}
