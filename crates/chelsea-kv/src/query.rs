//! What a cache remembers of the queries that passed by: their power here, and in the modules below what
//! only some policies ask for.

mod moments;
mod recent;
mod weights;

pub use moments::QueryMoments;
pub use recent::RecentQueries;
pub(crate) use weights::{ROWS, Row, Weights};

use crate::{CacheShape, Rotary};

/// What a cache has seen of queries, as far as it matters to one head.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen<'a> {
    /// The head's layer.
    pub layer: usize,
    /// The query heads that read it: the first, and how many.
    pub q_heads: (usize, usize),
    /// First entries of a head that are attention sinks.
    pub sinks: usize,
    /// Tokens that the sequence has.
    pub tokens: usize,
    /// The last queries.
    pub recent: Option<&'a RecentQueries>,
    /// Mean and covariance of queries.
    pub moments: Option<&'a QueryMoments>,
    /// Attention that each entry has drawn, summed over queries and query heads.
    pub mass: Option<&'a [f32]>,
    /// What a second pass found of each entry.
    pub importance: Option<&'a [f32]>,
}

/// Positions sampled from one block of queries at most.
const SAMPLES: usize = 64;

/// Running mean of squared queries, per layer and KV head: the weights of the matching cost.
///
/// Merging two keys x and y changes the logit of a query q by `q . (x - y) / sqrt(d)`. For a random
/// phase between the query and the pair, the expected square is
/// `sum_i w_i (F_x,i - F_y,i)^2` with `w_i = (mean q_i^2 + mean q_j^2) / 2 / d`, where i and j are the
/// two halves of a rotary pair and F is the key before RoPE. A dimension that RoPE does not turn has
/// `w_i = mean q_i^2 / d`. RoPE keeps the power of a pair, so queries after RoPE serve.
#[derive(Debug, Clone)]
pub struct QueryPower {
    shape: CacheShape,
    /// `[layers][kv_heads][head_dim]`, sums of squares over samples and query heads of the group.
    sums: Vec<f64>,
    /// Samples a layer.
    samples: Vec<u64>,
}

impl QueryPower {
    /// Nothing seen yet.
    pub fn new(shape: CacheShape) -> Self {
        QueryPower { shape, sums: vec![0.0; shape.heads() * shape.head_dim], samples: vec![0; shape.layers] }
    }

    /// Takes note of `n` queries of `layer`, `[n, q_heads, head_dim]`: of at most 64 of them, evenly
    /// spaced.
    pub fn observe(&mut self, layer: usize, q: &[f32], n: usize) {
        let CacheShape { kv_heads, q_heads, head_dim, .. } = self.shape;
        let group = self.shape.group();
        let sums = &mut self.sums[layer * kv_heads * head_dim..][..kv_heads * head_dim];
        for t in (0..n).step_by(n.div_ceil(SAMPLES).max(1)) {
            let token = &q[t * q_heads * head_dim..][..q_heads * head_dim];
            for (sums, queries) in sums.chunks_exact_mut(head_dim).zip(token.chunks_exact(group * head_dim)) {
                for query in queries.chunks_exact(head_dim) {
                    for (s, &x) in sums.iter_mut().zip(query) {
                        *s += f64::from(x) * f64::from(x);
                    }
                }
            }
            self.samples[layer] += 1;
        }
    }

    /// The weights of head `g = layer * kv_heads + head`, one a dimension; `1 / head_dim` everywhere
    /// when no query was seen.
    pub fn weights(&self, g: usize, rotary: &Rotary) -> Vec<f32> {
        let d = self.shape.head_dim;
        let seen = self.samples[g / self.shape.kv_heads] * self.shape.group() as u64;
        if seen == 0 {
            return vec![1.0 / d as f32; d];
        }
        let mean = |i: usize| self.sums[g * d + i] / seen as f64;
        let half = rotary.inv_freq.len();
        let weight = |i: usize| match i {
            i if i < half => (mean(i) + mean(i + half)) / 2.0,
            i if i < 2 * half => (mean(i - half) + mean(i)) / 2.0,
            i => mean(i),
        };
        (0..d).map(|i| (weight(i) / d as f64) as f32).collect()
    }

    /// Sums of squares and samples seen, as [`QueryPower::from_parts`] takes them.
    pub(crate) fn parts(&self) -> (&[f64], &[u64]) {
        (&self.sums, &self.samples)
    }

    /// What was taken apart before: sums `[layers][kv_heads][head_dim]` and samples `[layers]`.
    pub(crate) fn from_parts(shape: CacheShape, sums: Vec<f64>, samples: Vec<u64>) -> Self {
        debug_assert!(sums.len() == shape.heads() * shape.head_dim && samples.len() == shape.layers);
        QueryPower { shape, sums, samples }
    }

    /// Bytes that this takes in a cache of `shape`.
    pub fn bytes_for(shape: CacheShape) -> usize {
        (shape.heads() * shape.head_dim + shape.layers) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape { layers: 2, kv_heads: 1, q_heads: 2, head_dim: 4 };

    #[test]
    fn power_is_shared_by_the_two_halves_of_a_pair() {
        let mut power = QueryPower::new(SHAPE);
        power.observe(1, &[1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 1.0, 2.0], 1);
        let w = power.weights(1, &Rotary::plain(4, 10_000.0));
        // means of squares over both query heads: 1, 2, 5, 10
        assert_eq!(w, [3.0 / 4.0, 6.0 / 4.0, 3.0 / 4.0, 6.0 / 4.0]);
        let partial = power.weights(1, &Rotary { inv_freq: vec![1.0], scale: 1.0 });
        assert_eq!(partial, [1.5 / 4.0, 1.5 / 4.0, 5.0 / 4.0, 10.0 / 4.0]);
    }

    #[test]
    fn a_layer_without_queries_weighs_all_dimensions_alike() {
        let power = QueryPower::new(SHAPE);
        assert_eq!(power.weights(0, &Rotary::plain(4, 10_000.0)), [0.25; 4]);
    }

    #[test]
    fn a_long_block_is_sampled() {
        let mut power = QueryPower::new(SHAPE);
        power.observe(0, &vec![1.0; 1000 * 8], 1000);
        assert!(power.samples[0] <= 64 && power.samples[0] > 48);
        assert_eq!(power.weights(0, &Rotary::plain(4, 10_000.0)), [0.25; 4]);
    }
}
