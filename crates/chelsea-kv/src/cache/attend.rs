//! Queries against a cache, one sequence at a time or several together.

use super::SequenceCache;
use super::statistics::scale;
use crate::attention::{self, Request};

/// A cache, the queries of its tokens appended last, and where their outputs go.
pub type Share<'a> = (&'a mut SequenceCache, &'a [f32], &'a mut [f32]);

impl SequenceCache {
    /// Attention of the `n` tokens appended last to `layer`. `q` and `out` are
    /// `[n, q_heads, head_dim]`, queries after RoPE; token i sees everything up to itself.
    ///
    /// # Panics
    /// If there is no such layer, if `q` and `out` differ in length or are no whole number of tokens, or
    /// if the layer was given fewer tokens.
    pub fn attend(&mut self, layer: usize, q: &[f32], out: &mut [f32]) {
        let shape = self.config.shape;
        let n = self.observe(layer, q);
        attention::attend(self.layer(layer), q, n, shape.group(), scale(shape), out);
    }

    /// As many calls of [`SequenceCache::attend`], with their work balanced over the threads together:
    /// the decode step of a batch, in which each sequence has one query and a cache of its own length.
    ///
    /// # Panics
    /// As [`SequenceCache::attend`], and if the caches differ in shape.
    pub fn attend_many(layer: usize, mut shares: Vec<Share<'_>>) {
        let Some(shape) = shares.first().map(|(cache, ..)| cache.config.shape) else { return };
        let mut requests: Vec<Request<'_>> = Vec::with_capacity(shares.len());
        for (cache, q, out) in &mut shares {
            assert_eq!(cache.config.shape, shape, "sequences of a batch share one model");
            let n = cache.observe(layer, q);
            requests.push(Request { heads: cache.layer(layer), q, n, out });
        }
        attention::attend_batch(&mut requests, shape.group(), scale(shape));
    }

    /// Takes note of queries, where the policy wants to know them. Returns how many tokens they are of.
    fn observe(&mut self, layer: usize, q: &[f32]) -> usize {
        let shape = self.config.shape;
        assert!(layer < shape.layers, "layer {layer} of {}", shape.layers);
        let n = q.len() / (shape.q_heads * shape.head_dim);
        assert!(q.len() == n * shape.q_heads * shape.head_dim, "queries are [n, q_heads, head_dim]");
        self.observe_queries(layer, q, n);
        n
    }

    fn layer(&self, layer: usize) -> &[crate::Head] {
        let kv_heads = self.config.shape.kv_heads;
        &self.heads[layer * kv_heads..][..kv_heads]
    }
}
