//! Queries against a cache, one sequence at a time or several together.

use super::SequenceCache;
use crate::attention::{self, Attention, Request};

/// What one sequence of a batch asks.
#[derive(Debug)]
pub struct AttendRequest<'a> {
    /// The cache, to which the tokens of the queries were appended last.
    pub cache: &'a mut SequenceCache,
    /// Queries after RoPE, `[n, q_heads, key_dim]`.
    pub q: &'a [f32],
    /// Where the outputs go, `[n, q_heads, value_dim]`.
    pub out: &'a mut [f32],
}

impl SequenceCache {
    /// Attention of the `n` tokens appended last to `layer`. `q` is `[n, q_heads, key_dim]`, queries after RoPE, and `out`
    /// `[n, q_heads, value_dim]`; token i sees everything up to itself, as far as the layer's window reaches.
    ///
    /// # Panics
    /// If there is no such layer, if `q` and `out` are not the queries and outputs of one whole number of tokens, or if
    /// the layer was given fewer tokens.
    pub fn attend(&mut self, layer: usize, q: &[f32], out: &mut [f32]) {
        Self::attend_many(layer, &mut [AttendRequest { cache: self, q, out }], None);
    }

    /// As many calls of [`SequenceCache::attend`], with their work balanced over the threads together:
    /// the decode step of a batch, in which each sequence has one query and a cache of its own length. What a sequence is
    /// answered does not depend on the others. `sinks` are the learned sinks of the layer, one logit for each query head,
    /// if it has any.
    ///
    /// # Panics
    /// As [`SequenceCache::attend`], and if the caches differ in shape, or not every query head has a sink.
    pub fn attend_many(layer: usize, requests: &mut [AttendRequest<'_>], sinks: Option<&[f32]>) {
        let Some(shape) = requests.first().map(|request| request.cache.config.shape.clone()) else { return };
        let spec = shape.layer(layer);
        let mut of_heads: Vec<Request<'_>> = Vec::with_capacity(requests.len());
        for AttendRequest { cache, q, out } in requests.iter_mut() {
            assert!(cache.config.shape == shape, "sequences of a batch share one model");
            let n = q.len() / spec.query_width();
            assert!(q.len() == n * spec.query_width(), "queries are [n, q_heads, key_dim]");
            cache.observe_queries(layer, q, n);
            of_heads.push(Request { heads: &cache.heads[shape.heads_of(layer)], q, n, out });
        }
        let attention = Attention { group: spec.group(), scale: spec.scale, window: spec.window, sinks };
        attention::attend_batch(&mut of_heads, &attention);
        if spec.window.is_some() {
            for AttendRequest { cache, .. } in requests {
                cache.heads[shape.heads_of(layer)].iter_mut().for_each(|head| head.slide(spec.window));
            }
        }
    }
}
