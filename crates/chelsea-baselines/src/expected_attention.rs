//! `expected-attention`: entries that queries to come are expected to attend to.

use crate::vectors::{length, product};
use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, HeadView, Heads, Needs, PolicyInfo, Scorer, Setting, View, by_age};
use std::ops::Range;
use std::sync::Arc;

/// Takes the queries to come for normally distributed, with the mean and covariance (before RoPE) of those
/// seen so far, turned by RoPE averaged over the next `future` positions. The expected weight of an entry is
/// then `exp(k.m / sqrt(d) + k.C.k / 2d)`, made comparable by a softmax over the head and averaged over the
/// query heads that share it; times the length of its value, that is its score. Published as Expected
/// Attention (arXiv:2510.00636).
///
/// `cov=0` leaves the second term out, which saves `head_dim^2` numbers a query head; `vnorm=0` leaves out
/// the value. Needs mean and covariance of all queries after the sinks, which are unlike the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedAttention {
    /// Positions to come that RoPE is averaged over.
    pub future: usize,
    /// Whether the covariance counts.
    pub covariance: bool,
    /// Whether the length of values counts.
    pub value_norm: bool,
}

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "expected-attention",
    about: "keep the entries that queries to come are expected to attend to",
    source: "Expected Attention, arXiv:2510.00636",
    one_shot_only: false,
    settings: &[
        Setting::new("future", "512", "how many positions ahead are looked at"),
        Setting::new("cov", "1", "0: without the covariance of queries"),
        Setting::new("vnorm", "1", "0: without the length of values"),
        HEADS_EVEN,
        FLOOR,
    ],
    make: |s| {
        let flag = |name| s.get(name, 1u8, "0 or 1", |x| *x <= 1).map(|x| x == 1);
        let future = s.get("future", 512, "a number of positions from 1 to 65536", |n| (1..=65_536).contains(n))?;
        let scorer = ExpectedAttention { future, covariance: flag("cov")?, value_norm: flag("vnorm")? };
        Ok(Arc::new(Evict::make(scorer, s, Heads::Even, 0.2)?))
    },
};

impl Scorer for ExpectedAttention {
    fn name(&self) -> &'static str {
        "expected-attention"
    }

    fn settings(&self) -> String {
        format!("future={},cov={},vnorm={}", self.future, u8::from(self.covariance), u8::from(self.value_norm))
    }

    fn needs(&self) -> Needs {
        Needs { query_mean: true, query_covariance: self.covariance, ..Needs::default() }
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        if view.heads.iter().all(|head| head.query_moments(0).is_none()) {
            return Ok(by_age(view));
        }
        view.map_heads(|head| {
            let _held = view.scratch.reserve(head.entries() * 16 + 4 * head.key_dim() * head.key_dim() * 8)?;
            Ok(self.score(head, view.tokens))
        })
    }
}

impl ExpectedAttention {
    /// Scores of a head of a sequence that has `tokens` tokens.
    fn score(&self, head: &HeadView<'_>, tokens: usize) -> Vec<f32> {
        let (scale, first, whole) = (f64::from(head.scale()), head.first(), head.whole());
        let mut scores = vec![0.0f32; head.len()];
        for h in 0..head.group() {
            let Some((mean, covariance)) = expected_query(head, h, tokens..tokens + self.future) else { continue };
            let mut logits = vec![0.0f64; head.entries()];
            whole.for_each_key(|i, key| {
                let linear: f64 = mean.iter().zip(key).map(|(m, &k)| m * f64::from(k)).sum();
                let mut square = 0.0;
                if self.covariance {
                    for (row, &x) in covariance.chunks_exact(key.len()).zip(key) {
                        square += f64::from(x) * f64::from(product(row, key));
                    }
                }
                logits[i] = linear * scale + square * scale * scale / 2.0 + f64::from(whole.count(i)).ln();
            });
            // Sinks draw nearly everything, and what they draw says nothing of the others.
            let others = head.sinks()..;
            let top = logits[others.clone()].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits[others].iter().map(|x| (x - top).exp()).sum();
            for (score, x) in scores.iter_mut().zip(&logits[first..]) {
                *score += ((x - top).exp() / sum / head.group() as f64) as f32;
            }
        }
        if self.value_norm {
            let mut value = vec![0.0; head.dims().value];
            for (i, score) in scores.iter_mut().enumerate() {
                head.read_value(i, &mut value);
                *score *= length(&value);
            }
        }
        scores
    }
}

/// Queries that query head `h` of the group may ask at `positions`: their mean and, if it is kept, their covariance
/// (`[dim][dim]`), after RoPE averaged over those positions. Nothing when no query was seen.
fn expected_query(head: &HeadView<'_>, h: usize, positions: Range<usize>) -> Option<(Vec<f64>, Vec<f32>)> {
    let (mean, scatter, count) = head.query_moments(h)?;
    let (d, half, n) = (head.key_dim(), head.rotary().inv_freq.len(), positions.len() as f64);
    // The mean of turns by the positions to come is itself a turn and a shortening: one pair at a time.
    let turns: Vec<(f64, f64)> = head
        .rotary()
        .inv_freq
        .iter()
        .map(|&f| {
            let phases = positions.clone().map(|p| (p as f64 * f64::from(f)).sin_cos());
            let (sin, cos) = phases.fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1));
            (sin / n, cos / n)
        })
        .collect();
    let turned = |x: &[f64]| -> Vec<f64> {
        let mut y = x.to_vec();
        for (i, &(sin, cos)) in turns.iter().enumerate() {
            (y[i], y[i + half]) = (x[i] * cos - x[i + half] * sin, x[i + half] * cos + x[i] * sin);
        }
        y
    };
    let transposed = |m: &[f64]| -> Vec<f64> { (0..m.len()).map(|i| m[i % d * d + i / d]).collect() };
    let rows = |m: &[f64]| -> Vec<f64> { m.chunks_exact(d).flat_map(turned).collect() };
    // R C R^T: rows are turned, then columns.
    let covariance: Vec<f64> = scatter.iter().map(|&x| f64::from(x) / count as f64).collect();
    let covariance = transposed(&rows(&transposed(&rows(&covariance))));
    Some((turned(mean), covariance.iter().map(|&x| x as f32).collect()))
}
