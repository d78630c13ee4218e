//! What a snapshot keeps of a cache beside its settings and entries: all that it takes to go on as if
//! nothing had happened. A second pass in progress is no part of it.

use super::{CacheConfig, CacheError, SequenceCache, Statistics};
use crate::Head;
use crate::query::QueryPower;

/// The state of a cache between two blocks.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    /// Tokens that every layer was given.
    pub tokens: usize,
    /// Tokens seen when the cache was last compacted.
    pub compacted_at: usize,
    /// Length that the sequence is going to have, as far as known.
    pub expected_tokens: usize,
    /// Entries of each head that may stay beyond the budget until then.
    pub recent: usize,
    /// Entries at the front of each head that were clustered before.
    pub frozen: Vec<usize>,
    /// Mean power of the values of each head, once it was found out.
    pub value_scale: Vec<Option<f32>>,
    /// Power of queries.
    pub query_power: Option<QueryPower>,
}

impl SequenceCache {
    /// The state of this cache; none while a block is on its way through the layers.
    pub(crate) fn saved(&self) -> Option<Saved> {
        (self.block() == 0).then(|| Saved {
            tokens: self.tokens(),
            compacted_at: self.compacted_at,
            expected_tokens: self.expected_tokens,
            recent: self.recent,
            frozen: self.frozen.clone(),
            value_scale: self.value_scale.clone(),
            query_power: self.query_power.clone(),
        })
    }

    /// What was found out for policies that ask for it, beside the power of queries.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// A cache in the state `saved`, with the statistics `found`. Those that the policy has no use for are dropped;
    /// those that it misses are gathered from here on.
    pub(crate) fn restored(
        config: CacheConfig,
        heads: Vec<Head>,
        saved: Saved,
        found: Statistics,
    ) -> Result<Self, CacheError> {
        config.validate()?;
        let mut cache = Self::from_heads(config, heads, saved.tokens, found)?;
        cache.compacted_at = saved.compacted_at;
        cache.expect_tokens(saved.expected_tokens, saved.recent);
        cache.frozen = saved.frozen;
        cache.value_scale = saved.value_scale;
        if cache.query_power.is_some() && saved.query_power.is_some() {
            cache.query_power = saved.query_power;
        }
        Ok(cache)
    }
}
