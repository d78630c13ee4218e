//! The seam between what a cache means and where its entries lie.
//!
//! A [`SequenceCache`](crate::SequenceCache) keeps account of tokens, budgets, statistics and bytes, and decides when to
//! compact. Its entries lie in a [`Store`], which a [`Backend`] makes and computes attention over. This crate has two
//! backends: [`Cpu`](crate::Cpu), with fast kernels, and [`Reference`](crate::Reference), which is slow, follows the
//! definitions line by line, and is what tests compare the first with.
//!
//! Policies never see a store: they plan over host heads ([`Store::export`]), which the CPU's store lends as they are and
//! another device copies out. What they answer, the roots of each head, is carried out by [`Store::apply`]. A store that can
//! cluster by itself, where its entries lie, is asked first ([`Store::cluster`]), if the policy says by what recipe.
//!
//! A device that computes whole forward passes keeps keys, values and queries to itself. It makes room for the tokens of
//! all layers before the pass ([`SequenceCache::make_room`](crate::SequenceCache::make_room)), fills that room and attends
//! to it by kernels of its own, and afterwards hands over the queries that statistics are made of, where any are
//! ([`SequenceCache::note_queries`](crate::SequenceCache::note_queries)).

pub use crate::attention::{Attention, Isa};
pub use crate::scratch::{Reserved, ScratchMeter};

use crate::policy::Chelsea;
use crate::query::key_scales;
use crate::{Dims, Dtype, Head, LayerSpec, Pool, PoolFull, Reservation, Rotary};
use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;

/// A device that holds entries and computes attention over them.
pub trait Backend: Debug + Send + Sync {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// Whether entries can be stored so.
    fn supports(&self, dtype: Dtype) -> bool;

    /// Whether it has kernels for heads of these sizes, shared by `group` query heads each.
    fn has_kernels_for(&self, _dims: Dims, _group: usize) -> bool {
        true
    }

    /// The ledger of its memory, for caches that are given no other limit; none where memory is the system's.
    fn pool(&self) -> Option<Pool> {
        None
    }

    /// Bytes that [`Backend::import`] takes of these heads, beyond what they hold already.
    fn bytes_to_import(&self, _heads: &[Head]) -> usize {
        0
    }

    /// A store with the entries of `heads`, the KV heads of all layers of one sequence.
    fn import(&self, heads: Vec<Head>, reserved: &Reservation) -> Box<dyn Store>;

    /// Attention of the queries of several sequences to one layer. What one is answered does not depend on the others.
    ///
    /// # Panics
    /// If the lengths of queries and outputs do not fit the heads: the cache has checked them.
    fn attend(&self, asked: &mut [Asked<'_>], attention: &Attention<'_>);
}

/// What one sequence of a batch asks of a layer.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Where the entries lie.
    pub store: &'a dyn Store,
    /// The layer's KV heads.
    pub heads: Range<usize>,
    /// Queries after RoPE, `[n, q_heads, key_dim]`; they belong to the last `n` entries.
    pub q: &'a [f32],
    /// Number of queries of each query head.
    pub n: usize,
    /// Outputs, `[n, q_heads, value_dim]`.
    pub out: &'a mut [f32],
}

/// Tokens that are added to a layer.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Keys after RoPE, `[n, kv_heads, key_dim]`.
    pub k: &'a [f32],
    /// Values, `[n, kv_heads, value_dim]`.
    pub v: &'a [f32],
    /// Tokens.
    pub n: usize,
    /// Position of the first of them.
    pub first: usize,
}

/// Tokens that a layer takes in before their keys and values are known: see
/// [`SequenceCache::make_room`](crate::SequenceCache::make_room).
#[derive(Debug)]
pub struct Room<'a> {
    /// Where the entries lie.
    pub store: &'a mut dyn Store,
    /// The layer's KV heads.
    pub heads: Range<usize>,
    /// The layer.
    pub layer: &'a LayerSpec,
    /// Tokens.
    pub n: usize,
    /// Position of the first of them.
    pub first: usize,
    /// What their memory is charged to.
    pub reserved: &'a Reservation,
}

/// What a plan changes in one head: of the entries `range`, `roots` says which survive and which join them
/// ([`Plan`](crate::policy::Plan)).
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The head.
    pub head: usize,
    /// Its candidates.
    pub range: Range<usize>,
    /// One root for each candidate.
    pub roots: &'a [u32],
}

/// What a store is to cluster by itself: the candidates of all heads together are to come down to `target` entries, as
/// `recipe` says, and to be merged.
#[derive(Debug, Clone)]
pub struct Clustering<'a> {
    /// Settings of the policy.
    pub recipe: &'a Chelsea,
    /// All heads that a plan is for, those without candidates included.
    pub heads: Vec<Candidates<'a>>,
    /// Candidates that are to be left, fewer than there are.
    pub target: usize,
}

/// The candidates of one head.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    /// The head.
    pub head: usize,
    /// Its entries that may be merged.
    pub range: Range<usize>,
    /// How keys were turned by their positions.
    pub rotary: &'a Rotary,
    /// Weights of the dimensions of keys in the cost: one each.
    pub query_power: Vec<f32>,
    /// Mean of `|value|^2` at the head's first compaction; none if this is the first.
    pub value_scale: Option<f32>,
}

impl Candidates<'_> {
    /// What the dimensions of keys before RoPE are multiplied by, `[key_dim]`, so that squared distances are costs.
    pub fn key_scales(&self, key_dim: usize) -> Vec<f32> {
        key_scales(&self.query_power, key_dim)
    }
}

/// The entries of one sequence: the KV heads of all layers, numbered layer by layer.
///
/// Memory is charged before it is taken: `bytes_to_*` say how much a call takes at most, the cache reserves it, and the
/// call takes it from there. None of the calls fails.
pub trait Store: Debug + Send + Sync {
    /// Number of heads.
    fn heads(&self) -> usize;

    /// Entries of head `g`.
    fn len(&self, g: usize) -> usize;

    /// Bytes that head `g` holds, what it shares with forks included. Asked for after every token: in a time that does not
    /// grow with the number of entries.
    fn bytes(&self, g: usize) -> usize;

    /// The part of [`Store::bytes`] that head `g` shares with forks.
    fn shared_bytes(&self, g: usize) -> usize;

    /// Bytes that adding `n` tokens to the heads takes at most.
    fn bytes_to_append(&self, heads: Range<usize>, n: usize) -> usize;

    /// Adds tokens at the end of the heads of a layer.
    fn append(&mut self, heads: Range<usize>, layer: &LayerSpec, block: Block<'_>, reserved: &Reservation);

    /// Drops entries of the heads that no later token sees, where one sees `window` tokens: all of them, or all but those
    /// that share a unit of memory with entries that are seen.
    fn slide(&mut self, heads: Range<usize>, window: usize);

    /// Bytes that [`Store::apply`] takes at most for changes of entries `from` on of head `g`, and for a while.
    fn bytes_to_change(&self, g: usize, from: usize, candidates: usize) -> (usize, usize);

    /// Carries out changes: members of a cluster become their count-weighted mean at the root's place, survivors keep
    /// their order and every bit. Room for `idle` entries that are given up may be kept for the next ones.
    fn apply(&mut self, changes: &[Change<'_>], idle: usize, scratch: &ScratchMeter, reserved: &Reservation);

    /// Plans and merges by itself, without a copy of the entries in host memory, if it can: then the answer is the mean of
    /// `|value|^2` over the candidates of each head, as given or else as found. What is taken for a while is counted in
    /// `scratch`, and pages that others own are copied out of `reserved`, as for [`Store::apply`].
    ///
    /// # Errors
    /// If the pool has no room for what is taken for a while; nothing is changed then.
    fn cluster(
        &mut self,
        _clustering: &Clustering<'_>,
        _scratch: &ScratchMeter,
        _reserved: &Reservation,
    ) -> Result<Option<Vec<Option<f32>>>, PoolFull> {
        Ok(None)
    }

    /// Bytes that dropping the last `n` entries of every head takes at most.
    fn bytes_to_truncate(&self, n: usize) -> usize;

    /// Drops the last `n` entries of every head.
    fn truncate(&mut self, n: usize, reserved: &Reservation);

    /// A store with the same entries that goes its own way from here; memory is shared until one of the two changes it.
    fn fork(&self) -> Box<dyn Store>;

    /// The heads as they lie in host memory: for policies, for statistics and for snapshots.
    fn export(&self) -> Cow<'_, [Head]>;

    /// Bytes of host memory that [`Store::export`] takes for a copy, until the next change.
    fn bytes_to_export(&self) -> usize {
        0
    }

    /// The store itself, for the backend that made it.
    fn as_any(&self) -> &dyn Any;

    /// The same, to be changed.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
