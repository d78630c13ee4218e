//! What a cache is made for, and what can be wrong with it.

use super::statistics::Statistics;
use crate::backend::Backend;
use crate::budget::{Budget, BudgetError, Limits, Sliding};
use crate::policy::{Chelsea, Policy};
use crate::{CacheShape, Cpu, Dtype, LayerSpec, PAGE, Page, Pool, PoolFull, ShapeError};
use std::sync::Arc;
use thiserror::Error;

/// Entries of each head that pile up beyond the budget unless told otherwise: enough that a compaction is rare, few beside
/// what a step of reading brings.
const DECODE_BLOCK: usize = 64;

/// Settings of a [`super::SequenceCache`].
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Sizes, from the model.
    pub shape: CacheShape,
    /// How keys and values are stored.
    pub dtype: Dtype,
    /// First entries of every head that grows, never touched: attention sinks.
    pub sinks: usize,
    /// Last entries of every head that grows, never touched: the recent window.
    pub window: usize,
    /// What happens to the entries between.
    pub policy: Arc<dyn Policy>,
    /// How much may be kept.
    pub budget: Budget,
    /// Entries that may pile up beyond the budget before they are clustered: decoding compacts once in
    /// so many tokens.
    pub decode_block: usize,
    /// The ledger that every byte is charged to; its own, without a limit, unless it is shared.
    pub pool: Pool,
    /// Where entries lie and attention is computed.
    pub backend: Arc<dyn Backend>,
}

impl CacheConfig {
    /// The defaults: 16-bit storage, 4 sinks, a window of 64, policy `chelsea`, everything kept.
    pub fn new(shape: CacheShape) -> Self {
        CacheConfig {
            shape,
            dtype: Dtype::F16,
            sinks: 4,
            window: 64,
            policy: Arc::new(Chelsea::default()),
            budget: Budget::EntryFraction(1.0),
            decode_block: DECODE_BLOCK,
            pool: Pool::unlimited(),
            backend: Arc::new(Cpu),
        }
    }

    /// Checks that a cache can be made so.
    pub fn validate(&self) -> Result<(), CacheError> {
        if !self.backend.supports(self.dtype) {
            return Err(CacheError::Dtype { backend: self.backend.name(), dtype: self.dtype.name() });
        }
        let odd = |layer: &&LayerSpec| !self.backend.has_kernels_for(layer.dims(), layer.group());
        if let Some(layer) = self.shape.layers().iter().find(odd) {
            let LayerSpec { key_dim, value_dim, .. } = *layer;
            return Err(CacheError::Heads { backend: self.backend.name(), key_dim, value_dim, group: layer.group() });
        }
        self.budget.validate(&self.limits())?;
        if self.policy.keeps_everything() && self.budget != Budget::EntryFraction(1.0) {
            return Err(CacheError::NothingToGive(self.policy.name()));
        }
        Ok(())
    }

    /// What the budget must know of this cache.
    pub(super) fn limits(&self) -> Limits {
        let needs = self.policy.needs();
        let growing = self.shape.layers().iter().filter(|layer| layer.grows());
        // Of pages of several sizes the largest counts, so that what is promised holds wherever entries are kept.
        let largest = growing.map(|layer| Page::bytes(layer.dims(), self.dtype)).max().unwrap_or(0);
        let sliding = self.shape.layers().iter().filter_map(|layer| {
            let page_bytes = layer.kv_heads * Page::bytes(layer.dims(), self.dtype);
            layer.window.map(|window| Sliding {
                window,
                page_bytes,
                full_token_bytes: Dtype::F16.bytes(layer.kv_heads, layer.dims()),
            })
        });
        Limits {
            heads: self.shape.growing_heads(),
            sinks: self.sinks,
            window: self.window,
            recent_share: self.policy.recent_share(),
            page: PAGE,
            page_bytes: largest + Statistics::page_bytes(needs),
            fixed_bytes: super::memory::fixed_bytes(self, needs),
            full_token_bytes: self.shape.full_bytes_of_growing(1),
            sliding: sliding.collect(),
        }
    }
}

/// What can go wrong with a cache.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CacheError {
    /// The sizes make no sense.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The budget cannot be held.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A policy that keeps everything was given a budget.
    #[error("policy `{0}` keeps every entry: it cannot hold a budget below the full cache")]
    NothingToGive(&'static str),
    /// The backend has no such number type.
    #[error("the backend `{backend}` does not store entries in {dtype}")]
    Dtype {
        /// The backend.
        backend: &'static str,
        /// What was asked for.
        dtype: &'static str,
    },
    /// The backend has no kernels for such heads.
    #[error(
        "the backend `{backend}` has no kernels for keys of {key_dim} and values of {value_dim} numbers that {group} query \
         heads share"
    )]
    Heads {
        /// The backend.
        backend: &'static str,
        /// Numbers of a key.
        key_dim: usize,
        /// Numbers of a value.
        value_dim: usize,
        /// Query heads that share a KV head.
        group: usize,
    },
    /// The pool has no room.
    #[error(transparent)]
    Pool(#[from] PoolFull),
    /// More tokens were to be taken back than can be.
    #[error(
        "{tokens} tokens cannot be taken back: entries stand for one token each from token {exact_from} of {seen} on, and \
         what was merged or dropped before cannot be had again"
    )]
    Rewind {
        /// Tokens to be taken back.
        tokens: usize,
        /// First token from which the cache is exact.
        exact_from: usize,
        /// Tokens seen.
        seen: usize,
    },
    /// There is no such layer.
    #[error("layer {layer} does not exist: the cache has {layers}")]
    Layer {
        /// What was asked for.
        layer: usize,
        /// Layers of the cache.
        layers: usize,
    },
    /// Keys and values do not hold a whole number of tokens, or differ in length.
    #[error(
        "{keys} numbers of keys and {values} of values are not [tokens, {kv_heads}, {key_dim}] and \
         [tokens, {kv_heads}, {value_dim}]"
    )]
    Length {
        /// Numbers given as keys.
        keys: usize,
        /// Numbers given as values.
        values: usize,
        /// KV heads of the layer.
        kv_heads: usize,
        /// Numbers of a key.
        key_dim: usize,
        /// Numbers of a value.
        value_dim: usize,
    },
    /// Queries and outputs that are not of one whole number of tokens.
    #[error(
        "{queries} numbers of queries and {outputs} of outputs are not [tokens, {q_heads}, {key_dim}] and \
         [tokens, {q_heads}, {value_dim}]"
    )]
    Queries {
        /// Numbers given as queries.
        queries: usize,
        /// Numbers that there is room for in the outputs.
        outputs: usize,
        /// Query heads of the layer.
        q_heads: usize,
        /// Numbers of a query.
        key_dim: usize,
        /// Numbers of an output.
        value_dim: usize,
    },
    /// More queries than tokens.
    #[error("layer {layer} holds {held} entries, fewer than the {asked} tokens that were asked for: append them first")]
    Unseen {
        /// The layer.
        layer: usize,
        /// Entries of its shortest head.
        held: usize,
        /// Tokens that queries were given for.
        asked: usize,
    },
    /// Learned sinks that do not fit the layer.
    #[error("{sinks} learned sinks for a layer of {q_heads} query heads: each has one")]
    Sinks {
        /// Sinks given.
        sinks: usize,
        /// Query heads of the layer.
        q_heads: usize,
    },
    /// Caches that cannot be asked together.
    #[error("caches that are asked together must have one shape and one backend")]
    Batch,
    /// A layer got tokens out of step with the others.
    #[error(
        "layer {layer} holds {held} tokens and got {got} more, while the other layers are at {tokens} plus {block}"
    )]
    OutOfStep {
        /// The layer.
        layer: usize,
        /// Tokens it had before.
        held: usize,
        /// Tokens it was given.
        got: usize,
        /// Tokens that all layers have.
        tokens: usize,
        /// Tokens of the block in progress; 0 when none is.
        block: usize,
    },
    /// A policy that needs a second pass was asked to compress without one.
    #[error("policy `{0}` needs a second pass over the text, in which the model repeats it, before it can compress")]
    NoImportance(&'static str),
    /// What a second pass found belongs to another cache.
    #[error("the second pass was made over a cache with other entries")]
    OtherEntries,
    /// A synthetic cache of an impossible size.
    #[error("{entries} entries cannot stand for {tokens} tokens: each stands for at least one")]
    Synthetic {
        /// Entries of a head.
        entries: usize,
        /// Tokens.
        tokens: usize,
    },
    /// The sequence is too long for positions to be exact.
    #[error("a sequence holds at most {0} tokens")]
    TooLong(usize),
}
