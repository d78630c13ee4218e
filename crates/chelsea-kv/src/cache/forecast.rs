//! What a sequence is going to take before it is read: for those who decide which sequences to let in.

use super::{CacheConfig, SequenceCache};
use crate::budget::{Length, ReadPlan};
use crate::{PAGE, Page};

/// Bytes that a sequence is going to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Held once all of it was read, at most.
    pub settled: usize,
    /// Held at any moment while it is read, at most; what a compaction takes for a while comes on top.
    pub reading: usize,
    /// What every further token of an answer adds, at most, until the next compaction; 0 when nothing more can be added.
    pub growth: usize,
}

impl CacheConfig {
    /// What a sequence of `tokens` tokens is going to take that is read as `plan` says.
    pub fn forecast(&self, tokens: usize, plan: &ReadPlan) -> Forecast {
        let limits = self.limits();
        let heads = limits.heads;
        let fixed = limits.fixed_bytes + limits.sliding_bytes(tokens);
        // Of a number of entries over all heads: every head may leave a page less one entry empty.
        let held = |entries: usize| match heads {
            0 => fixed,
            _ => fixed + (entries + heads * (PAGE - 1)).div_ceil(PAGE) * limits.page_bytes,
        };
        let settled = self.budget.allowed(&limits, Length::of(tokens));
        let at_once = plan.block().min(tokens) * heads;
        let step: usize = self
            .shape
            .layers()
            .iter()
            .filter(|layer| !layer.grows())
            .map(|layer| {
                layer.kv_heads * Page::bytes(layer.dims(), self.dtype) * plan.longest.min(tokens).div_ceil(PAGE)
            })
            .sum();
        let reading = held((settled + at_once).min(tokens * heads)) + step;
        // A layer with a sliding window grows, too, until its window is full.
        let filling = limits.sliding.iter().filter(|layer| layer.window > tokens).map(|layer| layer.page_bytes);
        let growth = (heads * limits.page_bytes + filling.sum::<usize>()).div_ceil(PAGE);
        Forecast { settled: held(settled), reading, growth }
    }
}

impl SequenceCache {
    /// [`CacheConfig::forecast`] of this cache's settings, for a sequence of `tokens` tokens in all.
    pub fn forecast(&self, tokens: usize, plan: &ReadPlan) -> Forecast {
        self.config.forecast(tokens, plan)
    }
}
