//! The cache of one sequence: every layer's KV heads, kept within a budget as the text goes by.
//!
//! # The way of a token
//!
//! A block of tokens goes through the layers: [`SequenceCache::append`] adds a layer's keys and values,
//! [`SequenceCache::attend`] answers its queries. After the last layer, [`SequenceCache::compact`] looks
//! at what left the recent window and has the policy cluster it, over all layers at once.
//!
//! # Invariants
//!
//! - Every layer has been given the same tokens whenever `compact` does anything.
//! - The first `sinks` and the last `window` entries of a head stand for one token each and are never
//!   touched.
//! - After a compaction that was due, the entries of all heads together are within the budget. Between
//!   compactions at most one block (or `decode_block` tokens, in decode) piles up beyond it.
//! - A fork shares pages with its origin until one of them writes to a page.

mod attend;
mod compact;
mod config;
mod forecast;
mod layout;
mod memory;
mod rewind;
mod saved;
mod statistics;
mod synthetic;

pub use attend::AttendRequest;
pub use compact::CompactReport;
pub use config::{CacheConfig, CacheError};
pub use forecast::Forecast;
pub use layout::{HeadLayout, LAYOUT_CLASSES};
pub use memory::MemoryReport;
pub(crate) use saved::Saved;
pub use statistics::Importance;
pub(crate) use statistics::Statistics;

use crate::backend::{Backend, Block, Room, Store};
use crate::budget::Budget;
use crate::policy::{Needs, Policy};
use crate::pool::{Lease, Reservation};
use crate::query::QueryPower;
use crate::{Head, LayerSpec, PAGE};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Positions are kept as `f32`, which counts exactly up to here.
pub const MAX_TOKENS: usize = 1 << 24;

/// The KV cache of one sequence.
#[derive(Debug)]
pub struct SequenceCache {
    config: CacheConfig,
    /// The entries of the KV heads of all layers, layer by layer.
    store: Box<dyn Store>,
    /// Tokens that each layer was given.
    layer_tokens: Vec<usize>,
    /// Entries at the front of each head up to which everything has been through a compaction: `Once`
    /// leaves them alone.
    frozen: Vec<usize>,
    /// Mean of `|value|^2` at a head's first compaction, where the policy needs it.
    value_scale: Vec<Option<f32>>,
    query_power: Option<QueryPower>,
    /// What is found out: what the policy needs, and whatever else was asked for.
    needs: Needs,
    statistics: Statistics,
    /// Tokens seen when the cache was last compacted.
    compacted_at: usize,
    /// Tokens that the sequence is going to have, as far as known.
    expected_tokens: usize,
    /// Entries of each head that may stay as they are beyond the budget until then.
    recent: usize,
    peak: usize,
    scratch_peak: usize,
    /// What is charged for everything but pages.
    beside: Lease,
    /// What was charged ahead of the tokens that come next.
    ahead: Option<Reservation>,
    /// Tokens of all layers that it is sure to be enough for: none once pages were shared or moved since.
    ahead_tokens: AtomicUsize,
}

impl SequenceCache {
    /// An empty cache.
    pub fn new(config: CacheConfig) -> Result<Self, CacheError> {
        config.validate()?;
        let head = |(_, layer): (usize, &LayerSpec)| Head::new(layer.dims(), config.dtype);
        let heads = config.shape.layer_of_heads().map(head).collect();
        Self::from_heads(config, heads, 0, Statistics::default())
    }

    /// A cache that holds these entries already, of a sequence of `tokens` tokens. What the policy needs and was not
    /// found out is begun, what it has no use for is dropped.
    fn from_heads(config: CacheConfig, heads: Vec<Head>, tokens: usize, found: Statistics) -> Result<Self, CacheError> {
        let shape = &config.shape;
        let needs = config.policy.needs();
        let reserved = config.pool.reserve(config.backend.bytes_to_import(&heads))?;
        let query_power = needs.query_power.then(|| QueryPower::new(shape.clone()));
        let mut cache = SequenceCache {
            layer_tokens: vec![tokens; shape.layers().len()],
            frozen: vec![0; heads.len()],
            value_scale: vec![None; heads.len()],
            query_power,
            needs,
            statistics: found.adapted(shape, needs, &heads),
            compacted_at: 0,
            expected_tokens: 0,
            recent: 0,
            peak: 0,
            scratch_peak: 0,
            beside: config.pool.lease(0)?,
            ahead: None,
            ahead_tokens: AtomicUsize::new(0),
            store: config.backend.import(heads, &reserved),
            config,
        };
        cache.settle()?;
        cache.peak = cache.bytes_held();
        Ok(cache)
    }

    /// The same cache, with its entries where `backend` keeps them.
    ///
    /// # Errors
    /// If the backend does not store such entries, or the pool has no room for them there.
    pub fn moved_to(mut self, backend: Arc<dyn Backend>) -> Result<Self, CacheError> {
        let config = CacheConfig { backend, ..self.config.clone() };
        config.validate()?;
        let heads = self.store.export();
        let reserved = config.pool.reserve(config.backend.bytes_to_import(&heads))?;
        let store = config.backend.import(heads.into_owned(), &reserved);
        (self.store, self.config) = (store, config);
        self.peak = self.peak.max(self.bytes_held());
        Ok(self)
    }

    /// Settings of this cache.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Changes how much may be kept; the next [`SequenceCache::compact`] acts on it.
    pub fn set_budget(&mut self, budget: Budget) -> Result<(), CacheError> {
        let config = CacheConfig { budget, ..self.config.clone() };
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// Changes policy and budget from here on; the next compaction acts on it. Statistics that only the
    /// new policy needs are gathered from here on, those that it has no use for are dropped; see
    /// [`SequenceCache::gather`].
    ///
    /// # Errors
    /// If the two do not fit together or to the cache, or the pool has no room for those statistics; the cache is as it
    /// was then.
    pub fn reconfigure(&mut self, policy: Arc<dyn Policy>, budget: Budget) -> Result<(), CacheError> {
        let config = CacheConfig { policy, budget, ..self.config.clone() };
        config.validate()?;
        let before = std::mem::replace(&mut self.config, config);
        let gathered = self.gather(Needs::default());
        if gathered.is_err() {
            self.config = before;
        }
        gathered
    }

    /// Says how long the sequence is going to be, as far as known: `tokens` is the length of the whole text, what is there
    /// already included, and 0 when it is not known; `recent` is a number of entries of each head. A share of the
    /// entries or bytes is then met at that length rather than at every step before it: the first blocks are
    /// clustered no more than the last. Until then, the last `recent` entries of each head stay as they
    /// are, beyond the recent window and beyond the budget: the better the latest text is seen, the better
    /// what comes next is understood.
    pub fn expect_tokens(&mut self, tokens: usize, recent: usize) {
        (self.expected_tokens, self.recent) = (tokens, recent);
    }

    /// Tokens that all layers have seen.
    pub fn tokens(&self) -> usize {
        self.layer_tokens.iter().copied().min().unwrap_or(0)
    }

    /// Entries over all heads of layers that grow with the text: those that a budget speaks of.
    pub fn entries(&self) -> usize {
        self.growing().map(|g| self.store.len(g)).sum()
    }

    /// Entries over all heads of layers with a sliding window.
    pub fn sliding_entries(&self) -> usize {
        (0..self.store.heads()).map(|g| self.store.len(g)).sum::<usize>() - self.entries()
    }

    /// Numbers of the heads of layers that grow with the text.
    fn growing(&self) -> impl Iterator<Item = usize> {
        self.config.shape.layer_of_heads().enumerate().filter(|(_, (_, layer))| layer.grows()).map(|(g, _)| g)
    }

    /// All heads in host memory, layer by layer (see [`CacheShape::heads_of`](crate::CacheShape::heads_of)): lent where
    /// they lie there anyway, and else copied out.
    pub fn heads(&self) -> Cow<'_, [Head]> {
        self.store.export()
    }

    /// Tokens of the block that some layers were given and others were not; 0 between blocks.
    fn block(&self) -> usize {
        self.layer_tokens.iter().copied().max().unwrap_or(0) - self.tokens()
    }

    /// Adds `n` tokens to a layer. `k` is `[n, kv_heads, key_dim]`, keys after RoPE, and `v` `[n, kv_heads, value_dim]`;
    /// positions go on from the tokens seen. Every layer must get a block before any gets the next.
    pub fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<(), CacheError> {
        let shape = &self.config.shape;
        let Some(spec) = shape.layers().get(layer) else {
            return Err(CacheError::Layer { layer, layers: shape.layers().len() });
        };
        let (&LayerSpec { kv_heads, key_dim, value_dim, .. }, strides) = (spec, spec.widths());
        let n = k.len() / strides.key;
        if k.len() != n * strides.key || v.len() != n * strides.value {
            return Err(CacheError::Length { keys: k.len(), values: v.len(), kv_heads, key_dim, value_dim });
        }
        let (held, tokens, block) = (self.layer_tokens[layer], self.tokens(), self.block());
        if held != tokens || (block != 0 && n != block) {
            return Err(CacheError::OutOfStep { layer, held, got: n, tokens, block });
        }
        self.take_in(layer, n, |room| {
            let Room { store, heads, layer, n, first, reserved } = room;
            store.append(heads, layer, Block { k, v, n, first }, reserved);
        })
    }

    /// Makes room for the next `n` tokens in all layers: `fill` is told of each, in order, and has their store hold the
    /// entries, whose keys and values come later. For a backend that computes a forward pass by itself.
    ///
    /// # Errors
    /// If layers are out of step, the sequence would be too long, or the pool has no room; the cache must be dropped if
    /// that comes after the first layer.
    pub fn make_room(&mut self, n: usize, mut fill: impl FnMut(Room<'_>)) -> Result<(), CacheError> {
        let (tokens, block) = (self.tokens(), self.block());
        if block != 0 {
            return Err(CacheError::OutOfStep { layer: 0, held: self.layer_tokens[0], got: n, tokens, block });
        }
        (0..self.layer_tokens.len()).try_for_each(|layer| self.take_in(layer, n, &mut fill))
    }

    /// The books of `n` tokens that `layer` takes in.
    fn take_in(&mut self, layer: usize, n: usize, fill: impl FnOnce(Room<'_>)) -> Result<(), CacheError> {
        let held = self.layer_tokens[layer];
        if held + n > MAX_TOKENS {
            return Err(CacheError::TooLong(MAX_TOKENS));
        }
        let (heads, spec) = (self.config.shape.heads_of(layer), self.config.shape.layer(layer).clone());
        if let Some(window) = spec.window {
            self.store.slide(heads.clone(), window);
        }
        let reserved = self.take_reserved(layer, n)?;
        fill(Room { store: &mut *self.store, heads, layer: &spec, n, first: held, reserved: &reserved });
        self.layer_tokens[layer] += n;
        // What was charged ahead serves the layers to come.
        self.ahead = (self.block() != 0).then_some(reserved);
        if self.ahead.is_none() {
            *self.ahead_tokens.get_mut() = 0;
            if Statistics::page_bytes(self.needs) > 0 {
                self.settle()?;
            }
        }
        // Within a block a cache only grows, unless windows slide.
        if self.ahead.is_none() || self.config.shape.growing_heads() < self.store.heads() {
            self.peak = self.peak.max(self.bytes_held());
        }
        Ok(())
    }

    /// Where the entries lie, for the backend that made it.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The same, to be filled where [`SequenceCache::make_room`] made room; what it holds of entries, and how many, is not
    /// to be changed otherwise.
    pub fn store_mut(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    /// Charges the pool for the next `tokens` tokens of all layers, so that appending them cannot fail for want of room:
    /// before a forward pass, in which it is too late. What is not used is returned at the end of the block.
    ///
    /// # Errors
    /// If the pool has no room; the cache is as it was then.
    pub fn reserve(&mut self, tokens: usize) -> Result<(), CacheError> {
        (self.ahead, self.ahead_tokens) = (None, AtomicUsize::new(0));
        self.settle()?;
        let ahead = self.config.pool.reserve(self.store.bytes_to_append(0..self.store.heads(), tokens))?;
        self.beside.resize(self.bytes_beside(|len| (len + tokens).div_ceil(PAGE)))?;
        (self.ahead, self.ahead_tokens) = (Some(ahead), AtomicUsize::new(tokens));
        Ok(())
    }

    /// What the next `n` tokens of `layer` may be charged to: what was charged ahead, or else what they need.
    fn take_reserved(&mut self, layer: usize, n: usize) -> Result<Reservation, CacheError> {
        let heads = self.config.shape.heads_of(layer);
        let of_page = Statistics::page_bytes(self.needs);
        if of_page == 0
            && n <= *self.ahead_tokens.get_mut()
            && let Some(ahead) = self.ahead.take()
        {
            return Ok(ahead);
        }
        let needed = self.store.bytes_to_append(heads.clone(), n);
        let charged = self.beside.bytes();
        if of_page > 0 && self.config.shape.layer(layer).grows() {
            let lens = heads.map(|g| self.store.len(g));
            let added: usize = lens.map(|len| (len + n).div_ceil(PAGE) - len.div_ceil(PAGE)).sum();
            // What was charged ahead may cover them already.
            self.beside.resize(charged.max(self.bytes_beside_now() + added * of_page))?;
        }
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.left() >= needed) {
            return Ok(ahead);
        }
        let reserved = self.config.pool.reserve(needed);
        if reserved.is_err() {
            self.beside.resize(charged)?;
        }
        Ok(reserved?)
    }

    /// Has the pool charged for what is beside pages, as it is now.
    fn settle(&mut self) -> Result<(), CacheError> {
        Ok(self.beside.resize(self.bytes_beside_now())?)
    }

    /// A cache with the same contents that goes its own way from here: several questions over one
    /// document. Pages are shared until one of the two writes to them.
    ///
    /// # Errors
    /// If the pool has no room for what is not shared.
    pub fn fork(&self) -> Result<SequenceCache, CacheError> {
        // Pages that are shared are copied before anything is added to them.
        self.ahead_tokens.store(0, Ordering::Relaxed);
        let mut fork = SequenceCache {
            config: self.config.clone(),
            store: self.store.fork(),
            layer_tokens: self.layer_tokens.clone(),
            frozen: self.frozen.clone(),
            value_scale: self.value_scale.clone(),
            query_power: self.query_power.clone(),
            needs: self.needs,
            statistics: self.statistics.clone(),
            compacted_at: self.compacted_at,
            expected_tokens: self.expected_tokens,
            recent: self.recent,
            peak: 0,
            scratch_peak: 0,
            beside: self.config.pool.lease(0)?,
            ahead: None,
            ahead_tokens: AtomicUsize::new(0),
        };
        fork.settle()?;
        fork.peak = fork.bytes_held();
        Ok(fork)
    }
}
