//! `snapkv`: entries that the last queries attended to.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{
    Evict, FLOOR, HEADS_EVEN, HeadView, Heads, Needs, PolicyError, PolicyInfo, Scorer, Setting, Settings, View, by_age,
};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;

/// How scores are smoothed over neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smooth {
    /// The mean of a neighbourhood; what lies beyond the ends counts as 0.
    Avg,
    /// The greatest of a neighbourhood.
    Max,
}

impl FromStr for Smooth {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Smooth::Avg, Smooth::Max].into_iter().find(|s| s.to_string() == text).ok_or(())
    }
}

impl Display for Smooth {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Smooth::Avg { "avg" } else { "max" })
    }
}

/// Scores an entry by the attention that the last `window` queries pay to it: a mean over those queries,
/// smoothed over `kernel` neighbouring entries so that what is found is kept with its surroundings, and
/// averaged over the query heads that share the KV head. Published as SnapKV (arXiv:2404.14469).
///
/// What is asked decides what is kept: compressed before the question is known, the end of the document
/// stands in for it. Needs the last `window` queries of each layer in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapKv {
    /// Last queries that are asked.
    pub window: usize,
    /// Entries of a neighbourhood.
    pub kernel: usize,
    /// What is taken of a neighbourhood.
    pub smooth: Smooth,
}

pub(crate) const WINDOW: Setting = Setting::new("window", "64", "how many of the last queries choose");
pub(crate) const KERNEL: Setting = Setting::new("kernel", "5", "neighbouring entries that scores are smoothed over");
pub(crate) const SMOOTH: Setting = Setting::new("pool", "avg", "smoothing: avg or max");

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "snapkv",
    about: "keep the entries that the last queries attend to",
    source: "SnapKV, arXiv:2404.14469",
    one_shot_only: false,
    settings: &[WINDOW, KERNEL, SMOOTH, HEADS_EVEN, FLOOR],
    make: |s| Ok(Arc::new(Evict::make(SnapKv::make(s)?, s, Heads::Even, 0.2)?)),
};

impl SnapKv {
    pub(crate) fn make(s: &Settings) -> Result<Self, PolicyError> {
        Ok(SnapKv {
            window: s.get("window", 64, "a number of queries from 1 to 4096", |n| (1..=4096).contains(n))?,
            kernel: s.get("kernel", 5, "an odd number from 1 to 255", |n| n % 2 == 1 && *n <= 255)?,
            smooth: s.get("pool", Smooth::Avg, "avg or max", |_| true)?,
        })
    }

    fn score(&self, head: &HeadView<'_>) -> Vec<f32> {
        let mut scores = vec![0.0; head.len()];
        for attention in head.recent_attention(self.window) {
            // The recent window stands apart: what lies in it is no neighbour.
            let attention = &attention[..head.first() + head.len()];
            for (i, score) in scores.iter_mut().enumerate() {
                *score += self.smoothed(attention, head.first() + i) / head.group() as f32;
            }
        }
        scores
    }

    fn smoothed(&self, x: &[f32], i: usize) -> f32 {
        let half = self.kernel / 2;
        let near = &x[i.saturating_sub(half)..(i + half + 1).min(x.len())];
        match self.smooth {
            Smooth::Avg => near.iter().sum::<f32>() / self.kernel as f32,
            Smooth::Max => near.iter().copied().fold(0.0, f32::max),
        }
    }
}

impl Scorer for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn settings(&self) -> String {
        format!("window={},kernel={},pool={}", self.window, self.kernel, self.smooth)
    }

    fn needs(&self) -> Needs {
        Needs { recent_queries: self.window, ..Needs::default() }
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        if !view.heads.iter().any(HeadView::has_recent_queries) {
            return Ok(by_age(view));
        }
        view.map_heads(|head| {
            let _held = view.scratch.reserve(head.recent_attention_bytes())?;
            Ok(self.score(head))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_smoothed_with_nothing_beyond_the_ends() {
        let snap = |smooth| SnapKv { window: 1, kernel: 3, smooth };
        let x = [3.0, 0.0, 6.0, 9.0];
        let all = |s: SnapKv| -> Vec<f32> { (0..4).map(|i| s.smoothed(&x, i)).collect() };
        assert_eq!(all(snap(Smooth::Avg)), [1.0, 3.0, 5.0, 5.0]);
        assert_eq!(all(snap(Smooth::Max)), [3.0, 6.0, 9.0, 9.0]);
    }
}
