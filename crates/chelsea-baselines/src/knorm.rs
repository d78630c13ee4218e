//! `knorm`: entries with short keys.

use crate::vectors::length;
use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, Heads, PolicyInfo, Scorer, View};
use std::sync::Arc;

/// Scores an entry by the length of its key: the shorter, the better. Published as "A Simple and Effective
/// L2 Norm-Based Strategy for KV Cache Compression" (arXiv:2406.11430): keys of small norm were seen to draw
/// much attention. Needs nothing from the cache but keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knorm;

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "knorm",
    about: "keep the entries with the shortest keys",
    source: "L2 norm of keys, arXiv:2406.11430",
    one_shot_only: false,
    settings: &[HEADS_EVEN, FLOOR],
    make: |s| Ok(Arc::new(Evict::make(Knorm, s, Heads::Even, 0.2)?)),
};

impl Scorer for Knorm {
    fn name(&self) -> &'static str {
        "knorm"
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        view.map_heads(|head| {
            let mut scores = Vec::with_capacity(head.len());
            head.for_each_key(|_, key| scores.push(-length(key)));
            Ok(scores)
        })
    }
}
