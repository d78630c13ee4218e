//! The last queries of every layer, by whose attention SnapKV and similar policies judge which entries matter.

use crate::CacheShape;
use std::ops::Range;

/// The last queries of each layer that grows, after RoPE, in a ring.
#[derive(Debug, Clone)]
pub struct RecentQueries {
    shape: CacheShape,
    window: usize,
    /// For each layer that grows `[window][q_heads][key_dim]`; the query at position p lies in slot `p % window`.
    rows: Vec<f32>,
    /// Positions held of each layer.
    held: Vec<Range<usize>>,
}

impl RecentQueries {
    /// Room for the last `window` queries of each layer that grows.
    pub fn new(shape: CacheShape, window: usize) -> Self {
        let (rows, held) = (vec![0.0; window * shape.all().queries], vec![0..0; shape.layers().len()]);
        RecentQueries { shape, window, rows, held }
    }

    /// Takes in `n` queries of `layer`, `[n, q_heads, key_dim]`, the first at position `first`.
    pub fn observe(&mut self, layer: usize, q: &[f32], n: usize, first: usize) {
        if !self.shape.layer(layer).grows() {
            return;
        }
        let token = self.shape.layer(layer).query_width();
        let rows = &mut self.rows[self.window * self.shape.before(layer).queries..][..self.window * token];
        for t in n.saturating_sub(self.window)..n {
            let slot = (first + t) % self.window;
            rows[slot * token..][..token].copy_from_slice(&q[t * token..][..token]);
        }
        let held = &mut self.held[layer];
        let start = if held.end == first { held.start } else { first };
        *held = start.max((first + n).saturating_sub(self.window))..first + n;
    }

    /// Positions of the queries held of `layer`.
    pub fn positions(&self, layer: usize) -> Range<usize> {
        self.held[layer].clone()
    }

    /// The query of one query head at one of these positions.
    pub fn query(&self, layer: usize, position: usize, q_head: usize) -> &[f32] {
        let spec = self.shape.layer(layer);
        let slot = self.window * self.shape.before(layer).queries + position % self.window * spec.query_width();
        &self.rows[slot + q_head * spec.key_dim..][..spec.key_dim]
    }

    /// Queries of each layer that there is room for.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Forgets the queries of positions from `tokens` on.
    pub(crate) fn rewind(&mut self, tokens: usize) {
        for held in &mut self.held {
            *held = held.start.min(tokens)..held.end.min(tokens);
        }
    }

    /// The rings one after the other and the positions each holds, as [`RecentQueries::from_parts`] takes them.
    pub(crate) fn parts(&self) -> (&[f32], &[Range<usize>]) {
        (&self.rows, &self.held)
    }

    /// What was taken apart before: for each layer that grows `[window][q_heads][key_dim]`, and positions `[layers]`.
    pub(crate) fn from_parts(shape: CacheShape, window: usize, rows: Vec<f32>, held: Vec<Range<usize>>) -> Self {
        debug_assert!(rows.len() == window * shape.all().queries);
        debug_assert!(held.len() == shape.layers().len());
        RecentQueries { shape, window, rows, held }
    }

    /// Bytes that this takes in a cache of `shape`.
    pub fn bytes_for(shape: &CacheShape, window: usize) -> usize {
        window * shape.all().queries * 4 + shape.layers().len() * size_of::<Range<usize>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rotary;

    #[test]
    fn the_last_queries_are_held_across_blocks() {
        let mut recent = RecentQueries::new(CacheShape::uniform(2, 2, 1, 2, Rotary::none()).unwrap(), 3);
        let rows =
            |range: Range<usize>| -> Vec<f32> { range.flat_map(|p| [p as f32, 0.0, 0.0, 100.0 + p as f32]).collect() };
        assert_eq!(recent.positions(1), 0..0);
        recent.observe(1, &rows(10..12), 2, 10);
        assert_eq!(recent.positions(1), 10..12);
        recent.observe(1, &rows(12..13), 1, 12);
        recent.observe(1, &rows(13..14), 1, 13);
        assert_eq!(recent.positions(1), 11..14);
        for p in 11..14 {
            assert_eq!(recent.query(1, p, 0), [p as f32, 0.0]);
            assert_eq!(recent.query(1, p, 1), [0.0, 100.0 + p as f32]);
        }
        recent.observe(1, &rows(14..30), 16, 14);
        assert_eq!(recent.positions(1), 27..30);
        assert_eq!(recent.query(1, 28, 0), [28.0, 0.0]);
        assert_eq!(recent.positions(0), 0..0);
    }
}
