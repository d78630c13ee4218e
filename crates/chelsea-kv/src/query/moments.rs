//! Mean and covariance of queries before RoPE, per query head: what Expected Attention knows of the
//! queries to come.

use crate::CacheShape;
use rayon::prelude::*;

/// Tokens of a block from which its query heads are taken in parallel.
const PARALLEL_TOKENS: usize = 16;

/// Running mean and covariance of queries, turned back by their positions.
///
/// Blocks are joined by their means and sums of squares, so that no digits are lost however far the mean
/// lies from zero.
#[derive(Debug, Clone)]
pub struct QueryMoments {
    shape: CacheShape,
    /// Queries seen of each layer.
    count: Vec<u64>,
    /// One for each query head of the layers that grow.
    heads: Vec<Moments>,
}

/// Mean and scatter of one query head.
#[derive(Debug, Clone)]
struct Moments {
    mean: Vec<f64>,
    /// `[key_dim][key_dim]`, sums of products of what differs from the mean; empty when nobody asked.
    scatter: Vec<f32>,
}

impl QueryMoments {
    /// Nothing seen yet; with covariances or without.
    pub fn new(shape: CacheShape, covariance: bool) -> Self {
        let growing = shape.layers().iter().filter(|layer| layer.grows());
        let heads = growing.flat_map(|layer| {
            let d = layer.key_dim;
            let scatter = if covariance { d * d } else { 0 };
            std::iter::repeat_n(Moments { mean: vec![0.0; d], scatter: vec![0.0; scatter] }, layer.q_heads)
        });
        QueryMoments { count: vec![0; shape.layers().len()], heads: heads.collect(), shape }
    }

    /// Whether covariances are kept.
    pub fn covariance(&self) -> bool {
        self.heads.first().is_some_and(|head| !head.scatter.is_empty())
    }

    /// Takes in `n` queries of `layer`, `[n, q_heads, key_dim]` after RoPE, the first at position `first`.
    /// Those at positions below `skip` (sinks: they are unlike any that follow) are left out.
    pub fn observe(&mut self, layer: usize, q: &[f32], n: usize, first: usize, skip: usize) {
        let spec = self.shape.layer(layer);
        let (q_heads, d, rotary) = (spec.q_heads, spec.key_dim, &spec.rotary);
        let from = skip.saturating_sub(first).min(n);
        if from == n || !spec.grows() {
            return;
        }
        let before = self.count[layer];
        self.count[layer] += (n - from) as u64;
        let take = |(h, head): (usize, &mut Moments)| {
            let mut rows = vec![0.0; (n - from) * d];
            for (t, row) in (from..n).zip(rows.chunks_exact_mut(d)) {
                row.copy_from_slice(&q[(t * q_heads + h) * d..][..d]);
                rotary.turn_back(row, (first + t) as f32);
            }
            head.join(&mut rows, before);
        };
        let heads = &mut self.heads[self.shape.before(layer).q_heads..][..q_heads];
        if n >= PARALLEL_TOKENS {
            heads.par_iter_mut().enumerate().for_each(take);
        } else {
            heads.iter_mut().enumerate().for_each(take);
        }
    }

    /// Mean of the queries of one head, and the sums of products of what differs from it (empty without
    /// covariances), with the number of queries seen; none before any was.
    pub fn of(&self, layer: usize, q_head: usize) -> Option<(&[f64], &[f32], u64)> {
        let head = self.heads.get(self.shape.before(layer).q_heads + q_head)?;
        (self.count[layer] > 0).then_some((&head.mean, &head.scatter, self.count[layer]))
    }

    /// Queries seen of each layer, and mean and sums of each query head, as [`QueryMoments::from_parts`] takes them.
    pub(crate) fn parts(&self) -> (&[u64], impl Iterator<Item = (&[f64], &[f32])>) {
        (&self.count, self.heads.iter().map(|head| (&head.mean[..], &head.scatter[..])))
    }

    /// What was taken apart before: counts `[layers]`, and for each query head of the layers that grow its mean
    /// `[key_dim]` and sums of products `[key_dim][key_dim]`, or none for all of them.
    pub(crate) fn from_parts(shape: CacheShape, count: Vec<u64>, heads: Vec<(Vec<f64>, Vec<f32>)>) -> Self {
        debug_assert!(count.len() == shape.layers().len() && heads.len() == shape.all().q_heads);
        QueryMoments {
            shape,
            count,
            heads: heads.into_iter().map(|(mean, scatter)| Moments { mean, scatter }).collect(),
        }
    }

    /// Counts no more queries than a text of `tokens` has, whose last ones were taken back: theirs cannot be told from the
    /// others, so all count for less.
    pub(crate) fn rewind(&mut self, tokens: usize) {
        let mut heads = self.heads.iter_mut();
        for (layer, count) in self.shape.layers().iter().zip(&mut self.count) {
            let heads = heads.by_ref().take(if layer.grows() { layer.q_heads } else { 0 });
            let now = (*count).min(tokens as u64);
            let share = if now == *count { 1.0 } else { now as f32 / *count as f32 };
            heads.for_each(|head| {
                if now == 0 {
                    head.mean.fill(0.0);
                }
                head.scatter.iter_mut().for_each(|sum| *sum *= share);
            });
            *count = now;
        }
    }

    /// Bytes that this takes in a cache of `shape`.
    pub fn bytes_for(shape: &CacheShape, covariance: bool) -> usize {
        let head = |d: usize| size_of::<Moments>() + d * 8 + if covariance { d * d * 4 } else { 0 };
        let growing = shape.layers().iter().filter(|layer| layer.grows());
        shape.layers().len() * 8 + growing.map(|layer| layer.q_heads * head(layer.key_dim)).sum::<usize>()
    }
}

impl Moments {
    /// Joins the moments of `rows`, which are spoilt, to those of `before` queries.
    fn join(&mut self, rows: &mut [f32], before: u64) {
        let d = self.mean.len();
        let (n, before) = ((rows.len() / d) as f64, before as f64);
        let mut mean = vec![0.0f64; d];
        for row in rows.chunks_exact(d) {
            mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        mean.iter_mut().for_each(|sum| *sum /= n);
        if !self.scatter.is_empty() {
            for row in rows.chunks_exact_mut(d) {
                row.iter_mut().zip(&mean).for_each(|(x, m)| *x = (f64::from(*x) - m) as f32);
                for (sums, &x) in self.scatter.chunks_exact_mut(d).zip(row.iter()) {
                    sums.iter_mut().zip(row.iter()).for_each(|(sum, &y)| *sum += x * y);
                }
            }
            let weight = n * before / (n + before);
            for (i, sums) in self.scatter.chunks_exact_mut(d).enumerate() {
                let x = weight * (mean[i] - self.mean[i]);
                for ((sum, m), old) in sums.iter_mut().zip(&mean).zip(&self.mean) {
                    *sum += (x * (m - old)) as f32;
                }
            }
        }
        self.mean.iter_mut().zip(&mean).for_each(|(old, m)| *old += (m - *old) * n / (n + before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rotary;

    #[test]
    fn moments_of_blocks_are_those_of_the_whole() {
        let rotary = Rotary { inv_freq: vec![0.0, 0.0], scale: 1.0 };
        let shape = CacheShape::uniform(1, 2, 1, 4, rotary).unwrap();
        let all: Vec<f32> =
            (0..30 * 8).map(|i| 50.0 + ((i * 37) % 11) as f32 * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let mut moments = QueryMoments::new(shape, true);
        for (first, n) in [(0, 2), (2, 1), (3, 20), (23, 7)] {
            moments.observe(0, &all[first * 8..][..n * 8], n, first, 4);
        }
        for h in 0..2 {
            let (mean, scatter, count) = moments.of(0, h).unwrap();
            assert_eq!(count, 26);
            let at = |t: usize, i: usize| f64::from(all[t * 8 + h * 4 + i]);
            for i in 0..4 {
                let wanted = (4..30).map(|t| at(t, i)).sum::<f64>() / 26.0;
                assert!((mean[i] - wanted).abs() < 1e-9);
                for j in 0..4 {
                    let wanted: f64 = (4..30).map(|t| (at(t, i) - mean[i]) * (at(t, j) - mean[j])).sum();
                    assert!((f64::from(scatter[i * 4 + j]) - wanted).abs() < 1e-2, "{wanted}");
                }
            }
        }
    }

    #[test]
    fn queries_are_turned_back_by_their_positions() {
        // A query that RoPE turns with its position is one and the same before it.
        let rotary = Rotary::plain(4, 100.0);
        let shape = CacheShape::uniform(1, 2, 1, 4, rotary.clone()).unwrap();
        let mut moments = QueryMoments::new(shape, true);
        for p in 0..50usize {
            let turned = |i: usize| {
                let (s, c) = (p as f64 * f64::from(rotary.inv_freq[i % 2])).sin_cos();
                let (x, y) = ([1.0, -2.0][i % 2], [0.5, 3.0][i % 2]);
                (if i < 2 { x * c - y * s } else { y * c + x * s }) as f32
            };
            let token: Vec<f32> = (0..8).map(|i| turned(i % 4)).collect();
            moments.observe(0, &token, 1, p, 0);
        }
        let (mean, scatter, _) = moments.of(0, 1).unwrap();
        assert!(mean.iter().zip([1.0, -2.0, 0.5, 3.0]).all(|(m, x)| (m - x).abs() < 1e-5), "{mean:?}");
        assert!(scatter.iter().all(|x| x.abs() < 1e-5));
    }
}
