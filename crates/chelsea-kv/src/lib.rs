//! The clustered KV cache of one sequence: matching, merging, budgets, policies, attention over
//! weighted entries, and snapshots. No ML framework: plain slices in, plain slices out.
//!
//! # Shapes
//!
//! A cache has the KV heads of all its layers ([`LayerSpec`]; layers may differ), numbered layer by layer
//! ([`CacheShape::heads_of`]). Every head of a layer that sees the whole text owns an ordered list of *entries*: first
//! the attention sinks, then centroids (entries that stand for `count >= 1` tokens), then the recent window. Heads are
//! ragged: each has its own number of entries. Attention over a head is `softmax(scale q . k + ln count) . v`, with
//! `scale = 1 / sqrt(key_dim)` in most models. A head of a layer with a sliding window holds the entries of its window,
//! one for each token, and is never clustered.
//!
//! Keys and queries enter after RoPE, in the half-split layout (dimension `i` pairs with `i + d/2`).
//!
//! # Errors and panics
//!
//! What a caller may get wrong is an error that says so ([`CacheError`], [`BudgetError`], [`PolicyError`],
//! [`snapshot::SnapshotError`]). A function that panics says when, under "Panics". A cache
//! panics only if a policy answers with a plan that is not valid for the view it was given.
//!
//! # Use
//!
//! Whatever computes keys, values and queries, a cache stands where its attention was:
//!
//! ```
//! use chelsea_kv::{Budget, CacheConfig, CacheError, CacheShape, Rotary, SequenceCache};
//!
//! # fn projections(layer: usize, n: usize, width: usize) -> Vec<f32> {
//! #     (0..n * width).map(|i| ((i * 37 + layer * 11) % 19) as f32 / 19.0 - 0.5).collect()
//! # }
//! # fn main() -> Result<(), CacheError> {
//! let (layers, q_heads, kv_heads, head_dim) = (2, 4, 1, 32);
//! let shape = CacheShape::uniform(layers, q_heads, kv_heads, head_dim, Rotary::plain(head_dim, 10_000.0))?;
//! let config = CacheConfig { budget: Budget::EntryFraction(0.25), ..CacheConfig::new(shape) };
//! let mut cache = SequenceCache::new(config)?;
//!
//! let (blocks, n) = (8, 128);
//! // A fraction is met at the length of the whole text: nothing is merged before that many entries are there.
//! cache.expect_tokens(blocks * n, 0);
//! for _ in 0..blocks {
//!     for layer in 0..layers {
//!         // Of the block's n tokens: keys and values [n, kv_heads, head_dim], queries [n, q_heads, head_dim].
//!         let k = projections(layer, n, kv_heads * head_dim);
//!         let v = projections(layer + 1, n, kv_heads * head_dim);
//!         let q = projections(layer + 2, n, q_heads * head_dim);
//!         let mut out = vec![0.0; q.len()];
//!         cache.append(layer, &k, &v)?;
//!         cache.attend(layer, &q, &mut out)?;
//!         // ... the output product, the feed-forward, the next layer
//!     }
//!     // Between blocks, over all layers at once.
//!     cache.compact()?;
//! }
//! assert_eq!(cache.tokens(), 1024);
//! assert!(cache.entries() <= 1024 / 4 * layers * kv_heads);
//! assert!(cache.memory().total() < cache.full_bytes() / 2);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(feature = "internals"), allow(dead_code, reason = "some of it only tests and benches call"))]

pub mod backend;
mod cache;
mod convert;
mod cpu;
mod dtype;
mod form;
mod head;
mod layer;
mod mapped;
mod offset;
mod page;
pub mod policy;
mod pool;
mod query;
mod reference;
mod rotary;
mod simd;
pub mod snapshot;

// Tests, benches and fuzzing reach these; nothing of them is promised.
#[cfg(not(feature = "internals"))]
mod attention;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod attention;
#[cfg(not(feature = "internals"))]
mod budget;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod budget;
#[cfg(not(feature = "internals"))]
mod matching;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod matching;
#[cfg(not(feature = "internals"))]
mod merge;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod merge;
#[cfg(not(feature = "internals"))]
mod scratch;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod scratch;
#[cfg(not(feature = "internals"))]
use page::TILE;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use {
    page::TILE,
    query::{QueryMoments, QueryPower, RecentQueries},
};

pub use backend::Backend;
pub use budget::{Budget, BudgetError, LEAST_TOKENS, ReadPlan};
pub use cache::{
    AttendRequest, CacheConfig, CacheError, CompactReport, Forecast, HeadLayout, Importance, LAYOUT_CLASSES,
    MAX_TOKENS, MemoryReport, SequenceCache,
};
pub use cpu::Cpu;
pub use dtype::{Dims, Dtype};
pub use head::Head;
pub use layer::{CacheShape, LayerSpec, ShapeError};
pub use mapped::Mapped;
pub use page::{PAGE, Page};
pub use policy::{Policy, PolicyError, policy, registry};
pub use pool::{Lease, Pool, PoolFull, Reservation};
pub use reference::Reference;
pub use rotary::Rotary;
