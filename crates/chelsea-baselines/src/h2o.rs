//! `h2o`: entries that have drawn the most attention, and the recent ones.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, HeadView, Heads, Needs, PolicyInfo, Scorer, Setting, View, by_age};
use std::sync::Arc;

/// Heavy hitters: scores an entry by the attention it has drawn from all queries so far, over all query
/// heads that share its head. Published as H2O (arXiv:2306.14048), which gives half of the budget to heavy
/// hitters and half to the most recent entries (`recent`; the recent window counts towards it).
/// `average=1` divides the sum by the number of queries that saw the entry, which does not favour old ones.
///
/// Needs the exact sums, for which the scores of every block are computed a second time: reading becomes
/// about as much slower as attention takes of it, and every entry costs four bytes more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct H2o {
    /// Share of a head's entries that are the most recent ones.
    pub recent: f64,
    /// Whether sums are divided by the number of queries that saw the entry.
    pub average: bool,
}

pub(crate) const RECENT: Setting =
    Setting::new("recent", "0.5", "share of what is kept that goes to the latest entries");

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "h2o",
    about: "keep the entries that drew the most attention, and the latest",
    source: "H2O, arXiv:2306.14048",
    one_shot_only: false,
    settings: &[
        RECENT,
        Setting::new("average", "0", "1: mean attention per query instead of the sum"),
        HEADS_EVEN,
        FLOOR,
    ],
    make: |s| {
        let recent = s.get("recent", 0.5, "from 0 to 1", |x| (0.0..=1.0).contains(x))?;
        let average = s.get("average", 0u8, "0 or 1", |x| *x <= 1)? == 1;
        Ok(Arc::new(Evict::make(H2o { recent, average }, s, Heads::Even, 0.2)?))
    },
};

impl Scorer for H2o {
    fn name(&self) -> &'static str {
        "h2o"
    }

    fn settings(&self) -> String {
        format!("recent={},average={}", self.recent, u8::from(self.average))
    }

    fn needs(&self) -> Needs {
        Needs { attention_mass: true, ..Needs::default() }
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn scores(&self, view: &View<'_>, target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        if view.heads.iter().all(|head| head.attention_mass().is_empty()) {
            return Ok(by_age(view));
        }
        let share = target / view.heads.len().max(1);
        view.map_heads(|head| Ok(self.score(head, share, view.tokens)))
    }
}

impl H2o {
    /// Scores of a head that is going to keep `share` candidates or thereabouts.
    fn score(&self, head: &HeadView<'_>, share: usize, tokens: usize) -> Vec<f32> {
        let mut scores = head.attention_mass().to_vec();
        scores.resize(head.len(), 0.0);
        if self.average {
            let queries = |i: usize| (tokens as f32 - head.position(i)).max(1.0);
            scores.iter_mut().enumerate().for_each(|(i, score)| *score /= queries(i));
        }
        let window = head.entries() - head.first() - head.len();
        let kept = share.min(head.len()) + head.first() + window;
        let recent = ((self.recent * kept as f64) as usize).saturating_sub(window).min(share).min(head.len());
        let len = scores.len();
        scores[len - recent..].fill(f32::INFINITY);
        scores
    }
}
