//! Work shared out to the threads of the pool that the caller runs in.
//!
//! Threads take small items from one counter, in order, so that a core that is slowed down simply
//! takes fewer. Nothing is allocated.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work(i)` once for every `i < items`, on as many threads as the pool has.
pub(crate) fn for_each(items: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let drain = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= items {
                break;
            }
            work(i);
        }
    };
    fan(rayon::current_num_threads().min(items), &drain);
}

/// Runs `drain` on up to `threads` threads; one that comes late finds nothing left.
fn fan(threads: usize, drain: &(impl Fn() + Sync)) {
    if threads <= 1 {
        drain();
    } else {
        rayon::join(|| fan(threads / 2, drain), || fan(threads - threads / 2, drain));
    }
}

/// Calls `work(i, chunk)` for the first `chunks` runs of `stride` bytes; the last may be shorter. Where there is
/// `little` to do, threads are not woken for it.
pub(crate) fn for_each_chunk(
    bytes: &mut [u8],
    stride: usize,
    chunks: usize,
    little: bool,
    work: impl Fn(usize, &mut [u8]) + Sync + Send,
) {
    use rayon::prelude::*;
    if chunks <= 1 || little {
        bytes.chunks_mut(stride.max(1)).take(chunks).enumerate().for_each(|(i, chunk)| work(i, chunk));
        return;
    }
    bytes.par_chunks_mut(stride).take(chunks).enumerate().for_each(|(i, chunk)| work(i, chunk));
}
