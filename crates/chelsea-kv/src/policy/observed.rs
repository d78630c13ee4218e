//! What [`HeadView`] tells of queries: attention of the last ones, sums over all, and their moments.

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

    /// Bytes that [`HeadView::recent_attention`] takes: to be reserved from [`View::scratch`](super::View::scratch) first.
    pub fn recent_attention_bytes(&self) -> usize {
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
    pub fn scale(&self) -> f32 {
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

    /// Mean of the queries before RoPE that query head `h` of this head's group has asked so far (`[key_dim]`), the sums
    /// of products of what differs from it (`[key_dim][key_dim]`; empty when only means are kept), and the number of those
    /// queries. Nothing when no query was seen, or unless asked for.
    pub fn query_moments(&self, h: usize) -> Option<(&[f64], &[f32], u64)> {
        let seen = self.seen();
        if h >= seen.q_heads.1 {
            return None;
        }
        seen.moments?.of(seen.layer, seen.q_heads.0 + h)
    }

    /// Whether the last queries were kept for this head, so that [`HeadView::recent_attention`] has something to say.
    pub fn has_recent_queries(&self) -> bool {
        self.seen().recent.is_some()
    }

    /// Query heads that read this head.
    pub fn group(&self) -> usize {
        self.seen().q_heads.1
    }
}
