//! What a cache remembers of the queries that passed by: their power here, and in the modules below what
//! only some policies ask for.

mod moments;
mod recent;
mod weights;

pub use moments::QueryMoments;
pub use recent::RecentQueries;
pub(crate) use weights::{ROWS, Row, Weights};

use crate::CacheShape;

/// What a cache has seen of queries, as far as it matters to one head.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen<'a> {
    /// The head's layer.
    pub layer: usize,
    /// Factor on inner products in attention.
    pub scale: f32,
    /// The query heads that read it: the first, and how many.
    pub q_heads: (usize, usize),
    /// First entries of a head that are attention sinks.
    pub sinks: usize,
    /// The last queries.
    pub recent: Option<&'a RecentQueries>,
    /// Mean and covariance of queries.
    pub moments: Option<&'a QueryMoments>,
    /// Attention that each entry has drawn, summed over queries and query heads.
    pub mass: Option<&'a [f32]>,
    /// What a second pass found of each entry.
    pub importance: Option<&'a [f32]>,
}

/// What dimensions of keys are multiplied by so that squared distances are costs, for weights as [`QueryPower`] has them; all
/// dimensions count alike where there are none.
pub(crate) fn key_scales(power: &[f32], dim: usize) -> Vec<f32> {
    match power {
        [] => vec![(1.0 / dim as f32).sqrt(); dim],
        power => power.iter().map(|weight| weight.sqrt()).collect(),
    }
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
    /// For each KV head of the layers that grow `[key_dim]`: sums of squares over samples and query heads of the group.
    sums: Vec<f64>,
    /// Samples a layer.
    samples: Vec<u64>,
}

impl QueryPower {
    /// Nothing seen yet.
    pub fn new(shape: CacheShape) -> Self {
        QueryPower { sums: vec![0.0; shape.all().keys], samples: vec![0; shape.layers().len()], shape }
    }

    /// Takes note of `n` queries of `layer`, `[n, q_heads, key_dim]`: of at most 64 of them, evenly
    /// spaced. Layers that are never clustered are left out.
    pub fn observe(&mut self, layer: usize, q: &[f32], n: usize) {
        let spec = self.shape.layer(layer);
        if !spec.grows() {
            return;
        }
        let (width, key_dim, group) = (spec.query_width(), spec.key_dim, spec.group());
        let sums = &mut self.sums[self.shape.before(layer).keys..][..spec.key_width()];
        for t in (0..n).step_by(n.div_ceil(SAMPLES).max(1)) {
            let token = &q[t * width..][..width];
            for (sums, queries) in sums.chunks_exact_mut(key_dim).zip(token.chunks_exact(group * key_dim)) {
                for query in queries.chunks_exact(key_dim) {
                    for (s, &x) in sums.iter_mut().zip(query) {
                        *s += f64::from(x) * f64::from(x);
                    }
                }
            }
            self.samples[layer] += 1;
        }
    }

    /// The weights of KV head `g`, which belongs to a layer that grows: one a dimension; `1 / key_dim` everywhere when no
    /// query was seen.
    pub fn weights(&self, g: usize) -> Vec<f32> {
        let layer = self.shape.layer_of(g);
        let (spec, before) = (self.shape.layer(layer), self.shape.before(layer));
        let d = spec.key_dim;
        let seen = self.samples[layer] * spec.group() as u64;
        if seen == 0 {
            return vec![1.0 / d as f32; d];
        }
        let sums = &self.sums[before.keys + (g - before.heads) * d..][..d];
        let mean = |i: usize| sums[i] / seen as f64;
        let half = spec.rotary.inv_freq.len();
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

    /// What was taken apart before: sums of each KV head that grows, and samples `[layers]`.
    pub(crate) fn from_parts(shape: CacheShape, sums: Vec<f64>, samples: Vec<u64>) -> Self {
        debug_assert!(sums.len() == shape.all().keys && samples.len() == shape.layers().len());
        QueryPower { shape, sums, samples }
    }

    /// Bytes that this takes in a cache of `shape`.
    pub fn bytes_for(shape: &CacheShape) -> usize {
        (shape.all().keys + shape.layers().len()) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rotary;

    fn shape(rotary: Rotary) -> CacheShape {
        CacheShape::uniform(2, 2, 1, 4, rotary).unwrap()
    }

    #[test]
    fn power_is_shared_by_the_two_halves_of_a_pair() {
        let weights = |rotary: Rotary| {
            let mut power = QueryPower::new(shape(rotary));
            power.observe(1, &[1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 1.0, 2.0], 1);
            power.weights(1)
        };
        // means of squares over both query heads: 1, 2, 5, 10
        assert_eq!(weights(Rotary::plain(4, 10_000.0)), [3.0 / 4.0, 6.0 / 4.0, 3.0 / 4.0, 6.0 / 4.0]);
        assert_eq!(weights(Rotary { inv_freq: vec![1.0], scale: 1.0 }), [1.5 / 4.0, 1.5 / 4.0, 5.0 / 4.0, 10.0 / 4.0]);
    }

    #[test]
    fn a_layer_without_queries_weighs_all_dimensions_alike() {
        let power = QueryPower::new(shape(Rotary::plain(4, 10_000.0)));
        assert_eq!(power.weights(0), [0.25; 4]);
    }

    #[test]
    fn a_long_block_is_sampled() {
        let mut power = QueryPower::new(shape(Rotary::plain(4, 10_000.0)));
        power.observe(0, &vec![1.0; 1000 * 8], 1000);
        assert!(power.samples[0] <= 64 && power.samples[0] > 48);
        assert_eq!(power.weights(0), [0.25; 4]);
    }
}
