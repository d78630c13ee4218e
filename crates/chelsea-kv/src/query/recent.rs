//! The last queries of every layer: what SnapKV and its kin ask which entries matter.

use crate::CacheShape;
use std::ops::Range;

/// The last queries of each layer, after RoPE, in a ring.
#[derive(Debug, Clone)]
pub struct RecentQueries {
    shape: CacheShape,
    window: usize,
    /// `[layers][window][q_heads][head_dim]`; the query at position p lies in slot `p % window`.
    rows: Vec<f32>,
    /// Positions held of each layer.
    held: Vec<Range<usize>>,
}

impl RecentQueries {
    /// Room for the last `window` queries of each layer.
    pub fn new(shape: CacheShape, window: usize) -> Self {
        let rows = vec![0.0; shape.layers * window * shape.q_heads * shape.head_dim];
        RecentQueries { shape, window, rows, held: vec![0..0; shape.layers] }
    }

    /// Takes in `n` queries of `layer`, `[n, q_heads, head_dim]`, the first at position `first`.
    pub fn observe(&mut self, layer: usize, q: &[f32], n: usize, first: usize) {
        let token = self.shape.q_heads * self.shape.head_dim;
        let rows = &mut self.rows[layer * self.window * token..][..self.window * token];
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
        let CacheShape { q_heads, head_dim, .. } = self.shape;
        let slot = layer * self.window + position % self.window;
        &self.rows[(slot * q_heads + q_head) * head_dim..][..head_dim]
    }

    /// Queries of each layer that there is room for.
    pub fn window(&self) -> usize {
        self.window
    }

    /// The ring of each layer and the positions it holds, as [`RecentQueries::from_parts`] takes them.
    pub(crate) fn parts(&self) -> (&[f32], &[Range<usize>]) {
        (&self.rows, &self.held)
    }

    /// What was taken apart before: rows `[layers][window][q_heads][head_dim]`, and positions `[layers]`.
    pub(crate) fn from_parts(shape: CacheShape, window: usize, rows: Vec<f32>, held: Vec<Range<usize>>) -> Self {
        debug_assert!(rows.len() == shape.layers * window * shape.q_heads * shape.head_dim);
        debug_assert!(held.len() == shape.layers);
        RecentQueries { shape, window, rows, held }
    }

    /// Bytes that this takes in a cache of `shape`.
    pub fn bytes_for(shape: CacheShape, window: usize) -> usize {
        shape.layers * (window * shape.q_heads * shape.head_dim * 4 + size_of::<Range<usize>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape { layers: 2, kv_heads: 1, q_heads: 2, head_dim: 2 };

    #[test]
    fn the_last_queries_are_held_across_blocks() {
        let mut recent = RecentQueries::new(SHAPE, 3);
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
