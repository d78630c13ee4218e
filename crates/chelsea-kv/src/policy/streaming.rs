//! `streaming`: attention sinks and the most recent entries.

use super::{Plan, Policy, View};
use crate::PoolFull;
use crate::budget::even_shares;
use crate::merge::EVICT;

/// Drops the oldest candidates of every head, so that sinks and a longer recent window remain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streaming;

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
