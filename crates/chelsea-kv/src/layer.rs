//! What a cache must know of the model it serves: one [`LayerSpec`] for each layer, and all of them together as a
//! [`CacheShape`].
//!
//! Layers of a model may differ: in how many KV heads they have and how large those are, in how they turn keys, and in
//! how far back a token sees. A layer without a window *grows* with the text, and only such layers are clustered; a layer
//! with a sliding window holds its window and no more, whatever the budget.

use crate::{Dims, Dtype, Rotary};
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// The attention of one layer, as far as a cache is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Query heads, a multiple of `kv_heads`.
    pub q_heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Numbers of a key, and of a query.
    pub key_dim: usize,
    /// Numbers of a value, and of what attention gives for one query head.
    pub value_dim: usize,
    /// Factor on inner products of queries and keys.
    pub scale: f32,
    /// Tokens that a token sees at most, itself included; nothing when it sees all.
    pub window: Option<usize>,
    /// How keys are turned by their positions.
    pub rotary: Arc<Rotary>,
}

impl LayerSpec {
    /// A layer of heads of one size that sees everything, with the usual factor `1 / sqrt(head_dim)`.
    pub fn new(q_heads: usize, kv_heads: usize, head_dim: usize, rotary: Arc<Rotary>) -> Self {
        let scale = (head_dim as f32).sqrt().recip();
        LayerSpec { q_heads, kv_heads, key_dim: head_dim, value_dim: head_dim, scale, window: None, rotary }
    }

    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Sizes of the entries of a head.
    pub fn dims(&self) -> Dims {
        Dims { key: self.key_dim, value: self.value_dim }
    }

    /// Numbers of a token's keys over all KV heads.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.key_dim
    }

    /// Numbers of a token's values over all KV heads.
    pub fn value_width(&self) -> usize {
        self.kv_heads * self.value_dim
    }

    /// Numbers of a token's keys and of its values, over all KV heads.
    pub fn widths(&self) -> Dims {
        Dims { key: self.key_width(), value: self.value_width() }
    }

    /// Numbers of a token's queries over all query heads.
    pub fn query_width(&self) -> usize {
        self.q_heads * self.key_dim
    }

    /// Numbers of what attention gives for a token, over all query heads.
    pub fn output_width(&self) -> usize {
        self.q_heads * self.value_dim
    }

    /// Whether the layer holds more and more as the text goes on; those are the layers that can be clustered.
    pub fn grows(&self) -> bool {
        self.window.is_none()
    }

    fn check(&self, layer: usize) -> Result<(), ShapeError> {
        let LayerSpec { q_heads, kv_heads, key_dim, value_dim, scale, window, .. } = *self;
        if q_heads == 0 || kv_heads == 0 || key_dim < 2 || value_dim < 2 {
            return Err(ShapeError::Empty { layer, q_heads, kv_heads, key_dim, value_dim });
        }
        if !q_heads.is_multiple_of(kv_heads) {
            return Err(ShapeError::Grouping { q_heads, kv_heads });
        }
        // Rotary pairs need an even number; values in 4 bits are stored in pairs.
        if let Some(&odd) = [key_dim, value_dim].iter().find(|dim| !dim.is_multiple_of(2)) {
            return Err(ShapeError::OddHead(odd));
        }
        let turned = self.rotary.turned_dims();
        if turned > key_dim {
            return Err(ShapeError::Rotary { turned, key_dim });
        }
        if !scale.is_finite() || scale <= 0.0 {
            return Err(ShapeError::Scale { layer, scale });
        }
        if window == Some(0) {
            return Err(ShapeError::Window { layer });
        }
        Ok(())
    }
}

/// A shape that no cache can have.
#[derive(Debug, Clone, Error, PartialEq)]
pub enum ShapeError {
    /// No layers.
    #[error("a cache needs at least one layer")]
    NoLayers,
    /// One of the sizes is zero.
    #[error(
        "layer {layer} has {q_heads} query heads, {kv_heads} KV heads, keys of {key_dim} and values of {value_dim} \
         numbers: a layer needs at least one head of each kind and heads of 2 numbers"
    )]
    Empty {
        /// The layer.
        layer: usize,
        /// Its query heads.
        q_heads: usize,
        /// Its KV heads.
        kv_heads: usize,
        /// Numbers of a key.
        key_dim: usize,
        /// Numbers of a value.
        value_dim: usize,
    },
    /// Query heads cannot be shared evenly among KV heads.
    #[error("{q_heads} query heads cannot be shared evenly among {kv_heads} KV heads")]
    Grouping {
        /// Query heads of a layer.
        q_heads: usize,
        /// KV heads of a layer.
        kv_heads: usize,
    },
    /// Rotary pairs need an even head size.
    #[error("head size {0} is odd: rotary pairs need an even one")]
    OddHead(usize),
    /// More dimensions are turned than a key has.
    #[error("rotary embedding turns {turned} dimensions of a head of {key_dim}")]
    Rotary {
        /// Dimensions turned.
        turned: usize,
        /// Numbers of a key.
        key_dim: usize,
    },
    /// A factor that makes no scores.
    #[error("layer {layer} multiplies scores by {scale}: the factor must be a number above 0")]
    Scale {
        /// The layer.
        layer: usize,
        /// Its factor.
        scale: f32,
    },
    /// A window without tokens.
    #[error("layer {layer} has a sliding window of 0 tokens: a token sees at least itself")]
    Window {
        /// The layer.
        layer: usize,
    },
}

/// All layers of a cache, in order. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct CacheShape {
    layers: Arc<[LayerSpec]>,
    /// What comes before each layer, and all of it at the end.
    before: Arc<[Before]>,
}

impl PartialEq for CacheShape {
    fn eq(&self, other: &Self) -> bool {
        // Sequences that are attended to together mostly have one list, and are compared in every layer of every step.
        Arc::ptr_eq(&self.layers, &other.layers) || self.layers == other.layers
    }
}

/// Sums over the layers before one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Before {
    /// KV heads.
    pub heads: usize,
    /// KV heads of layers that grow.
    pub growing_heads: usize,
    /// Query heads of layers that grow.
    pub q_heads: usize,
    /// Numbers of a token's keys in layers that grow.
    pub keys: usize,
    /// Numbers of a token's queries in layers that grow.
    pub queries: usize,
}

impl CacheShape {
    /// A cache of these layers.
    ///
    /// # Errors
    /// If there are none, or one of them has sizes that make no cache.
    pub fn new(layers: Vec<LayerSpec>) -> Result<Self, ShapeError> {
        if layers.is_empty() {
            return Err(ShapeError::NoLayers);
        }
        layers.iter().enumerate().try_for_each(|(index, layer)| layer.check(index))?;
        let mut sums = Before::default();
        let mut before = vec![sums];
        before.extend(layers.iter().map(|layer| {
            sums.heads += layer.kv_heads;
            if layer.grows() {
                sums.growing_heads += layer.kv_heads;
                sums.q_heads += layer.q_heads;
                sums.keys += layer.key_width();
                sums.queries += layer.query_width();
            }
            sums
        }));
        Ok(CacheShape { layers: layers.into(), before: before.into() })
    }

    /// A cache of `layers` layers that are all alike and see everything.
    ///
    /// # Errors
    /// As [`CacheShape::new`].
    pub fn uniform(
        layers: usize,
        q_heads: usize,
        kv_heads: usize,
        head_dim: usize,
        rotary: Rotary,
    ) -> Result<Self, ShapeError> {
        CacheShape::new(vec![LayerSpec::new(q_heads, kv_heads, head_dim, Arc::new(rotary)); layers])
    }

    /// The layers.
    pub fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    /// One of the layers.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> &LayerSpec {
        &self.layers[layer]
    }

    /// Number of KV heads over all layers.
    pub fn heads(&self) -> usize {
        self.all().heads
    }

    /// Numbers of the KV heads of `layer`, of those of all layers.
    pub fn heads_of(&self, layer: usize) -> Range<usize> {
        self.before[layer].heads..self.before[layer + 1].heads
    }

    /// The layer that KV head `g` belongs to.
    pub fn layer_of(&self, g: usize) -> usize {
        self.before.partition_point(|before| before.heads <= g) - 1
    }

    /// The layer of every KV head, in the order of heads.
    pub fn layer_of_heads(&self) -> impl Iterator<Item = (usize, &LayerSpec)> + Clone {
        self.layers.iter().enumerate().flat_map(|(index, layer)| std::iter::repeat_n((index, layer), layer.kv_heads))
    }

    /// KV heads of the layers that grow with the text.
    pub fn growing_heads(&self) -> usize {
        self.all().growing_heads
    }

    /// What comes before `layer`.
    pub(crate) fn before(&self, layer: usize) -> Before {
        self.before[layer]
    }

    /// Sums over all layers.
    pub(crate) fn all(&self) -> Before {
        self.before[self.layers.len()]
    }

    /// Bytes that the keys and values of `tokens` tokens take over all layers in a cache that keeps everything, scales
    /// included: a layer with a sliding window holds its window.
    pub fn bytes(&self, tokens: usize, dtype: Dtype) -> usize {
        let held = |layer: &LayerSpec| layer.window.map_or(tokens, |window| window.min(tokens));
        self.layers.iter().map(|layer| dtype.bytes(held(layer) * layer.kv_heads, layer.dims())).sum()
    }

    /// Bytes of the full cache that reports compare with: everything kept, in 16 bits, whatever this cache is stored in.
    pub fn full_bytes(&self, tokens: usize) -> usize {
        self.bytes(tokens, Dtype::F16)
    }

    /// Of [`CacheShape::full_bytes`], those of the layers with a sliding window.
    pub fn full_window_bytes(&self, tokens: usize) -> usize {
        self.full_bytes(tokens) - self.full_bytes_of_growing(tokens)
    }

    /// Of [`CacheShape::full_bytes`], those of the layers that grow with the text.
    pub fn full_bytes_of_growing(&self, tokens: usize) -> usize {
        let growing = self.layers.iter().filter(|layer| layer.grows());
        growing.map(|layer| Dtype::F16.bytes(tokens * layer.kv_heads, layer.dims())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(q_heads: usize, kv_heads: usize, window: Option<usize>) -> LayerSpec {
        LayerSpec { window, ..LayerSpec::new(q_heads, kv_heads, 8, Arc::new(Rotary::plain(8, 1e4))) }
    }

    #[test]
    fn heads_are_numbered_layer_by_layer() {
        let shape = CacheShape::new(vec![layer(4, 2, None), layer(3, 1, Some(5)), layer(3, 3, None)]).unwrap();
        assert_eq!((shape.heads(), shape.growing_heads()), (6, 5));
        assert_eq!([0, 1, 2].map(|l| shape.heads_of(l)), [0..2, 2..3, 3..6]);
        assert_eq!([0, 1, 2, 3, 5].map(|g| shape.layer_of(g)), [0, 0, 1, 2, 2]);
        let layers: Vec<usize> = shape.layer_of_heads().map(|(layer, _)| layer).collect();
        assert_eq!(layers, [0, 0, 1, 2, 2, 2]);
    }

    #[test]
    fn a_full_cache_holds_windows_and_everything_else_whole() {
        let shape = CacheShape::new(vec![layer(4, 2, None), layer(3, 1, Some(5))]).unwrap();
        let entry = 2 * 8 * 2;
        assert_eq!(shape.full_bytes(100), entry * (200 + 5));
        assert_eq!(shape.full_bytes(3), entry * (6 + 3));
        assert_eq!(shape.full_window_bytes(100), entry * 5);
    }

    #[test]
    fn what_makes_no_cache_is_refused() {
        let refused = |layer: LayerSpec| CacheShape::new(vec![layer]).unwrap_err();
        assert_eq!(CacheShape::new(Vec::new()).unwrap_err(), ShapeError::NoLayers);
        assert!(matches!(refused(layer(0, 1, None)), ShapeError::Empty { .. }));
        assert!(matches!(refused(layer(3, 2, None)), ShapeError::Grouping { .. }));
        assert!(matches!(refused(layer(2, 2, Some(0))), ShapeError::Window { .. }));
        assert_eq!(refused(LayerSpec { key_dim: 9, ..layer(1, 1, None) }), ShapeError::OddHead(9));
        assert!(matches!(refused(LayerSpec { key_dim: 4, ..layer(1, 1, None) }), ShapeError::Rotary { .. }));
        assert!(matches!(refused(LayerSpec { scale: f32::NAN, ..layer(1, 1, None) }), ShapeError::Scale { .. }));
    }
}
