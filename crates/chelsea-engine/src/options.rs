//! How a sequence keeps its cache: what a caller chooses, and the cache that follows from it.

use crate::EngineError;
use chelsea_kv::policy::Chelsea;
use chelsea_kv::{Budget, CacheConfig, Dtype, PAGE, Policy, Pool, ReadPlan};
use chelsea_model::Model;
use std::sync::Arc;

/// When the cache of a prompt is clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Block by block while reading: memory never exceeds the budget by more than a block.
    Online,
    /// When [`Session::compress`](crate::Session::compress) is called, and never while reading, which needs the memory
    /// of the full cache. When the answer grows, it is compacted as needed to hold the budget, as with `Online`.
    OneShot,
}

/// How a sequence keeps its cache.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How much may be kept.
    pub budget: Budget,
    /// What happens to the entries beyond it: [`chelsea_kv::policy()`] makes one from its name and settings.
    pub policy: Arc<dyn Policy>,
    /// When prompts are clustered.
    pub compression: Compression,
    /// First entries of every head that are never merged.
    pub sinks: usize,
    /// Last entries of every head that are never merged.
    pub window: usize,
    /// Entries of each head that reading a prompt may hold beyond the budget; see [`ReadPlan`](chelsea_kv::ReadPlan) for
    /// what it is used for.
    pub block: usize,
    /// Most tokens of a prompt that pass through the model at once, where others wait for their turn meanwhile. When none
    /// is given, what reads fastest within the block.
    pub step: Option<usize>,
    /// Longest sequence, prompt and answer together; the trained context when none is given.
    pub context: Option<usize>,
    /// Storage of keys and values. When none is given, [`dtype_for`] the budget.
    pub dtype: Option<Dtype>,
    /// What the cache may be made smaller to, while an answer is generated, by a [`Scheduler`](crate::Scheduler) whose memory
    /// runs short: the answer then depends on what else there is to do. When none is given, it never is.
    pub squeeze: Option<Budget>,
    /// The ledger that every byte of the cache is charged to; its own, without a limit, unless sequences share one.
    pub pool: Pool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            budget: Budget::EntryFraction(1.0),
            policy: Arc::new(Chelsea::default()),
            compression: Compression::Online,
            sinks: 4,
            window: 64,
            block: 1024,
            step: None,
            context: None,
            dtype: None,
            squeeze: None,
            pool: Pool::unlimited(),
        }
    }
}

impl SessionOptions {
    /// How prompts are cut into steps.
    pub fn plan(&self) -> ReadPlan {
        let plan = ReadPlan::of_block(self.block, PAGE);
        self.step.map_or(plan, |step| plan.in_steps_of(step))
    }
}

/// The cache that `options` ask for, for this model.
pub fn cache_config(model: &Model, options: &SessionOptions) -> Result<CacheConfig, EngineError> {
    let backend = model.backend();
    let pool = match options.pool.limit() {
        None => backend.pool().unwrap_or_else(|| options.pool.clone()),
        Some(_) => options.pool.clone(),
    };
    let usual = dtype_for(options.budget, model.kv_dtype());
    // What not every device stores has its next best.
    let known = if usual == Dtype::K5V4 && !backend.supports(usual) { Dtype::K8V4 } else { usual };
    let dtype = options.dtype.unwrap_or(known);
    Ok(CacheConfig {
        dtype,
        sinks: options.sinks,
        window: options.window,
        policy: options.policy.clone(),
        budget: options.budget,
        pool,
        backend,
        ..CacheConfig::new(model.cache_shape())
    })
}

/// Share of the bytes of a full 16-bit cache of which 8 bits make the most. In less, values in 4 bits do: what they lose
/// is less than what the entries are worth that there is room for (docs/lab/number-types.md, "Values in 4 bits").
const ENOUGH_FOR_Q8: f32 = 0.15;

/// Share below which the same is true of keys in 5 bits (docs/lab/number-types.md, "Keys in 4 and 5 bits").
const ENOUGH_FOR_K8: f32 = 0.08;

/// How keys and values are stored when nobody says how, by a model that works in `own`: a budget of bytes holds the more
/// entries the smaller they are.
pub fn dtype_for(budget: Budget, own: Dtype) -> Dtype {
    match budget {
        Budget::ByteFraction(share) if share < ENOUGH_FOR_K8 => Dtype::K5V4,
        Budget::ByteFraction(share) if share < ENOUGH_FOR_Q8 => Dtype::K8V4,
        Budget::ByteFraction(_) | Budget::Bytes(_) => Dtype::Q8,
        Budget::EntryFraction(_) | Budget::Entries(_) => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_a_budget_of_bytes_the_smaller_are_its_numbers() {
        let stored = |budget: &str| dtype_for(budget.parse().expect("a budget"), Dtype::Bf16);
        assert_eq!(["100%", "20000"].map(stored), [Dtype::Bf16; 2]);
        assert_eq!(["99%", "25%", "15%", "512MiB"].map(stored), [Dtype::Q8; 4]);
        assert_eq!(["14.9%", "8%"].map(stored), [Dtype::K8V4; 2]);
        assert_eq!(["7.9%", "1%"].map(stored), [Dtype::K5V4; 2]);
        assert_eq!(dtype_for(Budget::EntryFraction(0.1), Dtype::F16), Dtype::F16);
    }
}
