//! The clustered KV cache of one sequence: matching, merging, budgets, policies, attention over
//! weighted entries, and snapshots. No ML framework: plain slices in, plain slices out.
//!
//! # Shapes
//!
//! A cache has `layers x kv_heads` heads (`g = layer * kv_heads + head`). Every head owns an ordered
//! list of *entries*: first the attention sinks, then centroids (entries that stand for `count >= 1`
//! tokens), then the recent window. Heads are ragged: each has its own number of entries.
//! Attention over a head is `softmax(q . k / sqrt(d) + ln count) . v`.
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
//! let shape = CacheShape { layers: 2, kv_heads: 1, q_heads: 4, head_dim: 32 };
//! let rotary = Rotary::plain(shape.head_dim, 10_000.0);
//! let config = CacheConfig { budget: Budget::Keep(0.25), ..CacheConfig::new(shape, rotary) };
//! let mut cache = SequenceCache::new(config)?;
//!
//! let (blocks, n) = (8, 128);
//! // A share is met at the length of the whole text: nothing is merged before that many entries are there.
//! cache.expect_tokens(blocks * n, 0);
//! for _ in 0..blocks {
//!     for layer in 0..shape.layers {
//!         // Of the block's n tokens: keys and values [n, kv_heads, head_dim], queries [n, q_heads, head_dim].
//!         let k = projections(layer, n, shape.kv_heads * shape.head_dim);
//!         let v = projections(layer + 1, n, shape.kv_heads * shape.head_dim);
//!         let q = projections(layer + 2, n, shape.q_heads * shape.head_dim);
//!         let mut out = vec![0.0; q.len()];
//!         cache.append(layer, &k, &v)?;
//!         cache.attend(layer, &q, &mut out);
//!         // ... the output product, the feed-forward, the next layer
//!     }
//!     // Between blocks, over all layers at once.
//!     cache.compact();
//! }
//! assert_eq!(cache.tokens(), 1024);
//! assert!(cache.entries() <= 1024 / 4 * shape.layers * shape.kv_heads);
//! assert!(cache.memory().total() < cache.full_bytes() / 2);
//! # Ok(())
//! # }
//! ```

pub mod attention;
mod balance;
pub mod budget;
pub mod cache;
mod convert;
mod head;
mod mapped;
pub mod matching;
pub mod merge;
mod page;
pub mod policy;
mod query;
mod rotary;
pub mod scratch;
mod shape;
mod simd;
pub mod snapshot;

pub use budget::{Budget, BudgetError};
pub use cache::{
    CacheConfig, CacheError, CompactReport, Importance, MAX_TOKENS, MemoryReport, Schedule, SequenceCache, Share,
};
pub use head::Head;
pub use mapped::Mapped;
pub use page::{PAGE, Page, TILE};
pub use policy::{Policy, PolicyError, policy, registry};
pub use query::{QueryMoments, QueryPower, RecentQueries};
pub use shape::{CacheShape, Dtype, Rotary, ShapeError};
