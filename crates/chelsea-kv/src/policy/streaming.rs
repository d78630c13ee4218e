//! `streaming`: attention sinks and the most recent entries.

use super::{Plan, Policy, PolicyInfo, View};
use crate::PoolFull;
use crate::budget::even_shares;
use crate::merge::EVICT;
use std::sync::Arc;

/// Drops the oldest candidates of every head, so that sinks and a longer recent window remain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streaming;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "streaming",
    about: "keep the attention sinks and the most recent entries",
    source: "StreamingLLM, arXiv:2309.17453",
    one_shot_only: false,
    settings: &[],
    make: |_| Ok(Arc::new(Streaming)),
};

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        let lens = view.lens();
        let shares = even_shares(&lens, target);
        let newest = |(&len, &share): (&usize, &usize)| {
            (0..len).map(|i| if i < len - share { EVICT } else { i as u32 }).collect()
        };
        Ok(Plan::new(lens.iter().zip(&shares).map(newest).collect()))
    }
}
