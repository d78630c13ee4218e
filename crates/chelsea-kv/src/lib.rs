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
