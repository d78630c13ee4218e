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
//! // A share is met at the length of the whole text: nothing is merged before that many entries are there.
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

pub mod attention;
mod backend;
mod balance;
pub mod budget;
pub mod cache;
mod convert;
mod cpu;
mod dtype;
mod head;
mod layer;
mod mapped;
pub mod matching;
pub mod merge;
mod page;
pub mod policy;
mod pool;
mod query;
mod reference;
mod rotary;
pub mod scratch;
mod simd;
pub mod snapshot;

pub use backend::{Asked, Backend, Block, Change, Store};
pub use budget::{Budget, BudgetError, ReadPlan};
pub use cache::{
    AttendRequest, CacheConfig, CacheError, CompactReport, Forecast, Importance, MAX_TOKENS, MemoryReport, Schedule,
    SequenceCache,
};
pub use cpu::Cpu;
pub use dtype::{Dims, Dtype};
pub use head::Head;
pub use layer::{CacheShape, LayerSpec, ShapeError};
pub use mapped::Mapped;
pub use page::{PAGE, Page, TILE};
pub use policy::{Policy, PolicyError, policy, registry};
pub use pool::{Lease, Pool, PoolFull, Reservation};
pub use query::{QueryMoments, QueryPower, RecentQueries};
pub use reference::Reference;
pub use rotary::Rotary;
