//! A decode step's attention allocates nothing once its threads' buffers have grown.
#![allow(unsafe_code)]

use chelsea_kv::attention::{Attention, Request, attend_batch};
use chelsea_kv::{Dtype, Head};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting what is asked of it.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged; growing goes through `alloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

#[test]
fn a_decode_step_allocates_nothing() {
    let heads: Vec<Head> = [4000, 900]
        .into_iter()
        .map(|entries| {
            let mut head = Head::new(64, Dtype::F16);
            (0..entries).for_each(|i| head.push(&[0.1; 64], &[0.2; 64], 1, i as f32));
            head
        })
        .collect();
    let q = vec![0.5; 2 * 7 * 64];
    let mut out = vec![0.0; q.len()];
    let mut step = || {
        attend_batch(&mut [Request { heads: &heads, q: &q, n: 1, out: &mut out }], &Attention::full(7, 0.125));
    };
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            // Every thread of the pool must have had its share before its buffers have grown.
            (0..200).for_each(|_| step());
            let steps = 100;
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..steps).for_each(|_| step());
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            // With several threads the pool itself may grow a queue now and then.
            let allowed = if threads == 1 { 0 } else { steps / 10 };
            assert!(allocations <= allowed, "{allocations} allocations in {steps} steps on {threads} threads");
        });
    }
    assert!((out[0] - 0.2).abs() < 1e-3);
}
