//! Queries against a cache, one sequence at a time or several together.

use super::{CacheError, SequenceCache};
use crate::LayerSpec;
use crate::attention::Attention;
use crate::backend::Asked;

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
    /// # Errors
    /// If there is no such layer, if `q` and `out` are not the queries and outputs of one whole number of tokens, or if
    /// the layer was given fewer tokens.
    pub fn attend(&mut self, layer: usize, q: &[f32], out: &mut [f32]) -> Result<(), CacheError> {
        Self::attend_many(layer, &mut [AttendRequest { cache: self, q, out }], None)
    }

    /// Whether anything is found out about queries, so that [`SequenceCache::note_queries`] has to be told them.
    pub fn notes_queries(&self) -> bool {
        self.query_power.is_some() || self.statistics.note_queries()
    }

    /// Takes note of the queries of the tokens that `layer` took in last, after a backend has attended to them by itself.
    /// `q` is `[n, q_heads, key_dim]`, after RoPE.
    ///
    /// # Errors
    /// If there is no such layer, or `q` is no whole number of tokens.
    pub fn note_queries(&mut self, layer: usize, q: &[f32]) -> Result<(), CacheError> {
        let (layers, found) = (self.config.shape.layers().len(), self.config.shape.layers().get(layer).cloned());
        let spec = found.ok_or(CacheError::Layer { layer, layers })?;
        let n = q.len() / spec.query_width();
        if q.len() != n * spec.query_width() {
            let LayerSpec { q_heads, key_dim, value_dim, .. } = spec;
            return Err(CacheError::Queries { queries: q.len(), outputs: 0, q_heads, key_dim, value_dim });
        }
        self.observe_queries(layer, q, n);
        Ok(())
    }

    /// Drops entries of layers with a sliding window that no later token sees, after a backend has attended to them by
    /// itself.
    pub fn slide(&mut self) {
        for (layer, spec) in self.config.shape.layers().iter().enumerate() {
            if let Some(window) = spec.window {
                self.store.slide(self.config.shape.heads_of(layer), window);
            }
        }
    }

    /// As many calls of [`SequenceCache::attend`], with their work balanced over the threads together:
    /// the decode step of a batch, in which each sequence has one query and a cache of its own length. What a sequence is
    /// answered does not depend on the others. `sinks` are the learned sinks of the layer, one logit for each query head,
    /// if it has any.
    ///
    /// # Errors
    /// As [`SequenceCache::attend`], and if the caches differ in shape or backend, or not every query head has a sink:
    /// before anything is computed.
    pub fn attend_many(
        layer: usize,
        requests: &mut [AttendRequest<'_>],
        sinks: Option<&[f32]>,
    ) -> Result<(), CacheError> {
        let Some(shape) = requests.first().map(|request| request.cache.config.shape.clone()) else { return Ok(()) };
        let layers = shape.layers().len();
        let spec = shape.layers().get(layer).ok_or(CacheError::Layer { layer, layers })?;
        if let Some(sinks) = sinks
            && sinks.len() != spec.q_heads
        {
            return Err(CacheError::Sinks { sinks: sinks.len(), q_heads: spec.q_heads });
        }
        let backend = requests[0].cache.config.backend.clone();
        for AttendRequest { cache, q, out } in requests.iter() {
            if cache.config.shape != shape || cache.config.backend.name() != backend.name() {
                return Err(CacheError::Batch);
            }
            let n = q.len() / spec.query_width();
            if q.len() != n * spec.query_width() || out.len() != n * spec.output_width() {
                let LayerSpec { q_heads, key_dim, value_dim, .. } = *spec;
                return Err(CacheError::Queries { queries: q.len(), outputs: out.len(), q_heads, key_dim, value_dim });
            }
            // What was merged or left a window cannot be the queries' own entry.
            let held = shape.heads_of(layer).map(|g| cache.store.len(g)).min().unwrap_or(0);
            if n > held {
                return Err(CacheError::Unseen { layer, held, asked: n });
            }
        }
        let mut asked: Vec<Asked<'_>> = Vec::with_capacity(requests.len());
        for AttendRequest { cache, q, out } in requests.iter_mut() {
            let n = q.len() / spec.query_width();
            cache.observe_queries(layer, q, n);
            asked.push(Asked { store: &*cache.store, heads: shape.heads_of(layer), q, n, out });
        }
        let attention = Attention { group: spec.group(), scale: spec.scale, window: spec.window, sinks };
        backend.attend(&mut asked, &attention);
        if let Some(window) = spec.window {
            for AttendRequest { cache, .. } in requests {
                cache.store.slide(shape.heads_of(layer), window);
            }
        }
        Ok(())
    }
}
