//! `lagkv`: entries that stand out against the text that follows them.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, HeadView, Heads, PolicyInfo, Scorer, Setting, View};
use std::ops::Range;
use std::sync::Arc;

/// Cuts what follows the sinks into partitions of `lag` entries. Keys and values of a partition are scaled,
/// dimension by dimension, by the least and the greatest of the *next* partition; the standard deviation of
/// an entry's scaled numbers, made comparable by a softmax over the partition, is its score. Published as
/// LagKV (arXiv:2504.04704). Every partition keeps the same share (with `heads=even`: entries are ranked in
/// their partition; under the other rules the scores themselves compete), and the last whole partition and
/// what follows it come before all others, because nothing says yet how they compare.
///
/// Needs keys and values, and two partitions after the sinks: before that the latest entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LagKv {
    /// Entries of a partition.
    pub lag: usize,
}

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "lagkv",
    about: "keep the entries that differ most from the partition of the text that follows",
    source: "LagKV, arXiv:2504.04704",
    one_shot_only: false,
    settings: &[Setting::new("lag", "128", "entries of a partition"), HEADS_EVEN, FLOOR],
    make: |s| {
        let lag = s.get("lag", 128, "a number of entries from 2 to 65536", |n| (2..=65_536).contains(n))?;
        Ok(Arc::new(Evict::make(LagKv { lag }, s, Heads::Even, 0.2)?))
    },
};

impl Scorer for LagKv {
    fn name(&self) -> &'static str {
        "lagkv"
    }

    fn settings(&self) -> String {
        format!("lag={}", self.lag)
    }

    fn scores(&self, view: &View<'_>, _target: usize, heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        view.map_heads(|head| Ok(self.score(head, heads == Heads::Even)))
    }
}

impl LagKv {
    fn score(&self, head: &HeadView<'_>, ranked: bool) -> Vec<f32> {
        let (lag, dims, start) = (self.lag, head.dims(), head.sinks());
        let partitions = (head.entries() - start) / lag;
        // Those that nothing is known of stay, ranks lie below.
        let mut all = vec![1.0; head.entries()];
        let whole = head.whole();
        let key = |i: usize, row: &mut [f32]| whole.read_key(i, row);
        let value = |i: usize, row: &mut [f32]| whole.read_value(i, row);
        for p in 0..partitions.saturating_sub(1) {
            let scores = &mut all[start + p * lag..][..lag];
            scores.fill(0.0);
            for (part, dim) in [(&key as &dyn Fn(usize, &mut [f32]), dims.key), (&value, dims.value)] {
                let (mut own, mut next) = (vec![0.0; lag * dim], vec![0.0; lag * dim]);
                let read = |range: Range<usize>, rows: &mut [f32]| {
                    rows.chunks_exact_mut(dim).zip(range).for_each(|(row, i)| part(start + i, row));
                };
                read(p * lag..(p + 1) * lag, &mut own);
                read((p + 1) * lag..(p + 2) * lag, &mut next);
                let deviations = deviations(&mut own, &next, dim);
                let top = deviations.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = deviations.iter().map(|x| (x - top).exp()).sum();
                scores.iter_mut().zip(&deviations).for_each(|(s, x)| *s += (0.5 * (x - top).exp() / sum) as f32);
            }
            if ranked {
                let mut order: Vec<usize> = (0..lag).collect();
                order.sort_by(|&x, &y| scores[x].total_cmp(&scores[y]).then(x.cmp(&y)));
                order.iter().enumerate().for_each(|(rank, &i)| scores[i] = rank as f32 / lag as f32);
            }
        }
        all[head.first()..][..head.len()].to_vec()
    }
}

/// Standard deviation of each row's numbers after they were scaled to the range of `reference`.
fn deviations(rows: &mut [f32], reference: &[f32], dim: usize) -> Vec<f64> {
    let (mut least, mut most) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    for row in reference.chunks_exact(dim) {
        for ((least, most), &x) in least.iter_mut().zip(&mut most).zip(row) {
            (*least, *most) = (least.min(x), most.max(x));
        }
    }
    let deviation = |row: &mut [f32]| {
        for ((x, &least), &most) in row.iter_mut().zip(&least).zip(&most) {
            // A dimension that never changes says nothing.
            *x = if most > least { (*x - least) / (most - least) } else { 0.0 };
        }
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / dim as f64;
        let squares: f64 = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        (squares / (dim as f64 - 1.0)).sqrt()
    };
    rows.chunks_exact_mut(dim).map(deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_taken_in_the_range_of_the_next_partition() {
        // Ranges 0..2 and 0..10 and a constant: the rows become (0.5, 0.5, 0) and (2, 0, 0).
        let mut rows = [1.0, 5.0, 7.0, 4.0, 0.0, 7.0];
        let d = deviations(&mut rows, &[0.0, 10.0, 3.0, 2.0, 0.0, 3.0], 3);
        assert!((d[0] - (1.0f64 / 12.0).sqrt()).abs() < 1e-6, "{d:?}");
        assert!((d[1] - (4.0f64 / 3.0).sqrt()).abs() < 1e-6, "{d:?}");
    }
}
