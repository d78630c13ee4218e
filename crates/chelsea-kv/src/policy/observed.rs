//! What [`HeadView`] tells of queries: attention of the last ones, sums over all, and what is to be expected
//! of those to come.

use super::HeadView;
use crate::query::{Row, Weights};

impl HeadView<'_> {
    /// Attention of the last queries (at most `window` of them) to the entries of this head, a mean over
    /// those queries: one list over *all* entries ([`HeadView::entries`]) for each query head that reads it.
    /// Exact softmax over what each query sees. Nothing when no query was seen.
    pub fn recent_attention(&self, window: usize) -> Vec<Vec<f32>> {
        let seen = self.seen();
        let Some(recent) = seen.recent else { return Vec::new() };
        let held = recent.positions(seen.layer);
        let positions: Vec<usize> = held.clone().skip(held.len().saturating_sub(window)).collect();
        if positions.is_empty() || self.entries() == 0 {
            return Vec::new();
        }
        let visible = self.visible(&positions);
        let mut weights = Weights::default();
        let all = 0..self.entries();
        let (first, group) = seen.q_heads;
        (first..first + group)
            .map(|h| {
                let rows: Vec<Row<'_>> = positions
                    .iter()
                    .zip(&visible)
                    .map(|(&p, &visible)| Row { query: recent.query(seen.layer, p, h), visible })
                    .collect();
                let mut sums = vec![0.0f32; self.entries()];
                let spans = std::slice::from_ref(&all);
                weights.each(self.head(), spans, &rows, self.scale(), |_, weights| {
                    sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w);
                });
                let factor = 1.0 / positions.len() as f32;
                sums.iter_mut().for_each(|sum| *sum *= factor);
                sums
            })
            .collect()
    }

    /// Bytes that [`HeadView::recent_attention`] takes.
    pub(super) fn recent_attention_bytes(&self) -> usize {
        self.seen().q_heads.1 * self.entries() * 4 + Weights::bytes(self.entries(), self.key_dim())
    }

    /// Entries that come no later than each of `positions`, which ascend; at least one.
    fn visible(&self, positions: &[usize]) -> Vec<usize> {
        let mut visible = vec![0; positions.len()];
        let mut at = self.entries();
        for (visible, &position) in visible.iter_mut().zip(positions).rev() {
            while at > 1 && self.head().position(at - 1) > position as f32 {
                at -= 1;
            }
            *visible = at;
        }
        visible
    }

    /// Factor on inner products in attention.
    pub(super) fn scale(&self) -> f32 {
        self.seen().scale
    }

    /// Attention that each candidate has drawn, summed over all queries so far and the query heads that read
    /// this head. A centroid has the sum of its members. Nothing unless asked for.
    pub fn attention_mass(&self) -> &[f32] {
        self.seen().mass.map_or(&[], |mass| &mass[self.first()..][..self.len()])
    }

    /// The most attention that any query of the second pass paid to each candidate. Nothing unless there was
    /// such a pass.
    pub fn importance(&self) -> &[f32] {
        match self.seen().importance {
            Some(importance) if importance.len() >= self.first() + self.len() => {
                &importance[self.first()..][..self.len()]
            }
            _ => &[],
        }
    }

    /// Queries that query head `h` of this head's group may ask at the next `positions` positions: their mean
    /// and, if it is kept, their covariance (`[dim][dim]`), after RoPE averaged over those positions. Nothing
    /// when no query was seen.
    pub fn future_query(&self, h: usize, positions: usize) -> Option<(Vec<f64>, Vec<f32>)> {
        let seen = self.seen();
        let (mean, scatter, count) = seen.moments?.of(seen.layer, seen.q_heads.0 + h)?;
        let (d, half) = (self.key_dim(), self.rotary().inv_freq.len());
        // The mean of turns by the positions to come is itself a turn and a shortening: one pair at a time.
        let turns: Vec<(f64, f64)> = self
            .rotary()
            .inv_freq
            .iter()
            .map(|&f| {
                let phases = (seen.tokens..seen.tokens + positions).map(|p| (p as f64 * f64::from(f)).sin_cos());
                let (sin, cos) = phases.fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1));
                (sin / positions as f64, cos / positions as f64)
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

    /// Query heads that read this head.
    pub(super) fn group(&self) -> usize {
        self.seen().q_heads.1
    }
}
