//! Merging: a cluster of entries becomes one entry, its count-weighted centroid.
//!
//! Who joins whom is written as *roots*, one number for each entry of a candidate range: `roots[i] == i`
//! survives, `roots[i] == j` joins j (which must survive), [`EVICT`] is removed. A cluster sits at its
//! root's place; survivors keep their order; counts add up.

use crate::pool::Reservation;
use crate::scratch::ScratchMeter;
use crate::{Dims, Head};
use std::ops::Range;

/// Root of an entry that is dropped without joining another.
pub const EVICT: u32 = u32::MAX;

/// Whether every root is a survivor of the same range, or [`EVICT`].
pub fn are_roots(roots: &[u32]) -> bool {
    roots.iter().all(|&r| r == EVICT || roots.get(r as usize) == Some(&r))
}

/// Number of entries that survive.
pub fn survivors(roots: &[u32]) -> usize {
    roots.iter().enumerate().filter(|&(i, &r)| r as usize == i).count()
}

/// Sums over the members of one cluster.
#[derive(Clone, Copy, Default)]
struct Cluster {
    members: u32,
    count: u64,
    /// Sum of count times position.
    moment: f64,
    /// Row of this cluster's sums of keys and values, when it has several members.
    row: u32,
}

/// Carries out `roots` over the entries `range` of `head` and closes the gaps; entries outside the
/// range and entries that stay alone keep every bit. Returns how many of the range survive.
///
/// # Panics
/// If `roots` does not fit the range or names a root that does not survive.
pub fn merge_head(head: &mut Head, range: Range<usize>, roots: &[u32], scratch: &ScratchMeter) -> usize {
    merge_from(head, range, roots, scratch, &Reservation::unbound())
}

/// Most bytes that [`merge_head`] takes for a while, of `len` candidates in a head with entries of these sizes: less than
/// one cluster for each two of them is written anew.
pub(crate) fn scratch_bytes(len: usize, dims: Dims) -> usize {
    len / 2 * (dims.key + dims.value) * 4 + len * size_of::<Cluster>()
}

/// [`merge_head`], with pages that have to be copied charged to `reserved`.
///
/// # Panics
/// As [`merge_head`].
pub(crate) fn merge_from(
    head: &mut Head,
    range: Range<usize>,
    roots: &[u32],
    scratch: &ScratchMeter,
    reserved: &Reservation,
) -> usize {
    assert!(roots.len() == range.len() && range.end <= head.len(), "one root for every candidate entry");
    assert!(are_roots(roots), "an entry joins an entry that survives");
    if survivors(roots) == roots.len() {
        return roots.len();
    }
    let Dims { key: key_dim, value: value_dim } = head.dims();
    let dim = key_dim + value_dim;
    let mut clusters = vec![Cluster::default(); roots.len()];
    for (i, &root) in roots.iter().enumerate().filter(|&(_, &r)| r != EVICT) {
        let cluster = &mut clusters[root as usize];
        let count = head.count(range.start + i);
        cluster.members += 1;
        cluster.count += u64::from(count);
        cluster.moment += f64::from(count) * f64::from(head.position(range.start + i));
    }
    let mut rows = 0;
    for cluster in clusters.iter_mut().filter(|c| c.members > 1) {
        cluster.row = rows;
        rows += 1;
    }
    let _held = scratch.count(rows as usize * dim * 4 + clusters.len() * size_of::<Cluster>());
    let mut sums = vec![0.0f32; rows as usize * dim];
    let (mut key, mut value) = (vec![0.0; key_dim], vec![0.0; value_dim]);
    for (i, &root) in roots.iter().enumerate().filter(|&(_, &r)| r != EVICT) {
        let cluster = clusters[root as usize];
        if cluster.members > 1 {
            head.read_key(range.start + i, &mut key);
            head.read_value(range.start + i, &mut value);
            let weight = head.count(range.start + i) as f32;
            let (keys, values) = sums[cluster.row as usize * dim..][..dim].split_at_mut(key_dim);
            keys.iter_mut().zip(&key).for_each(|(sum, x)| *sum += weight * x);
            values.iter_mut().zip(&value).for_each(|(sum, x)| *sum += weight * x);
        }
    }
    // Survivors move to the front in order: what is overwritten was moved, or summed up, before. Those that stay alone move
    // with their neighbours.
    let mut at = range.start;
    let mut i = 0;
    while i < clusters.len() {
        let alone = clusters[i..].iter().take_while(|cluster| cluster.members == 1).count();
        head.move_down(at, range.start + i, alone, reserved);
        at += alone;
        i += alone;
        let Some(cluster) = clusters.get(i) else { break };
        if cluster.members > 1 {
            let total = cluster.count as f32;
            let mean = &mut sums[cluster.row as usize * dim..][..dim];
            mean.iter_mut().for_each(|x| *x /= total);
            let count = u32::try_from(cluster.count).expect("a sequence has fewer than 2^32 tokens");
            let position = (cluster.moment / cluster.count as f64) as f32;
            head.set(at, &mean[..key_dim], &mean[key_dim..], count, position, reserved);
            at += 1;
        }
        i += 1;
    }
    let left = at - range.start;
    head.move_down(at, range.end, head.len() - range.end, reserved);
    at += head.len() - range.end;
    head.truncate_from(at, reserved);
    left
}
