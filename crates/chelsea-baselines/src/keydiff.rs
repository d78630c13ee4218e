//! `keydiff`: entries whose keys differ from the others.

use crate::vectors::length;
use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, Heads, PolicyInfo, Scorer, View};
use std::sync::Arc;

/// Scores an entry by how far its key points away from the anchor, the mean direction of all keys of the
/// head: `-cos(key, anchor)`. Published as KeyDiff (arXiv:2504.15364), for text that is read in blocks under
/// a fixed budget: that is this policy online. Needs nothing from the cache but keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyDiff;

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "keydiff",
    about: "keep the entries whose keys differ most from the mean key",
    source: "KeyDiff, arXiv:2504.15364",
    one_shot_only: false,
    settings: &[HEADS_EVEN, FLOOR],
    make: |s| Ok(Arc::new(Evict::make(KeyDiff, s, Heads::Even, 0.2)?)),
};

impl Scorer for KeyDiff {
    fn name(&self) -> &'static str {
        "keydiff"
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        view.map_heads(|head| {
            let mut anchor = vec![0.0f64; head.key_dim()];
            head.whole().for_each_key(|_, key| {
                let factor = 1.0 / f64::from(length(key).max(1e-12));
                anchor.iter_mut().zip(key).for_each(|(sum, &x)| *sum += factor * f64::from(x));
            });
            let norm = anchor.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            let mut scores = Vec::with_capacity(head.len());
            head.for_each_key(|_, key| {
                let product: f64 = anchor.iter().zip(key).map(|(a, &x)| a * f64::from(x)).sum();
                scores.push((-product / (norm * f64::from(length(key).max(1e-12)))) as f32);
            });
            Ok(scores)
        })
    }
}
