//! Attention over weighted entries: `softmax(q . k * scale + ln count) . v`.
//!
//! # Shapes
//!
//! The caller gives the KV heads of one layer (ragged: each with its own number of entries) and `n`
//! queries that belong to the last `n` entries of every head. Queries and outputs are
//! `[n, heads * group, d]`; query head `h` reads KV head `h / group`. Attention is causal: query `i`
//! sees entries `0 ..= len - n + i`.

pub mod reference;

use crate::Head;

/// Attention of `n` queries over the `heads` of one layer.
///
/// `q` and `out` are `[n, heads.len() * group, d]`; scores are multiplied by `scale` (usually
/// `1 / sqrt(d)`) before `ln count` is added.
///
/// # Panics
/// If the lengths of `q` and `out` do not fit the shapes, the heads differ in head size, or a head has
/// fewer than `n` entries.
pub fn attend(heads: &[Head], q: &[f32], n: usize, group: usize, scale: f32, out: &mut [f32]) {
    reference::attend(heads, q, n, group, scale, out);
}

/// Holds the caller to the shapes that the module's introduction states.
fn check(heads: &[Head], q: &[f32], n: usize, group: usize, out: &[f32]) {
    let d = heads.first().map_or(0, Head::head_dim);
    assert!(heads.iter().all(|head| head.head_dim() == d), "the heads of a layer share one head size");
    assert!(heads.iter().all(|head| head.len() >= n), "every query belongs to an entry of every head");
    assert_eq!(q.len(), n * heads.len() * group * d, "queries are [n, heads * group, d]");
    assert_eq!(out.len(), q.len(), "outputs have the shape of the queries");
}
