//! The peak of a run by the cache's own accounting, held against the process's peak memory. Alone in its
//! file, so that nothing else runs in the process.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;

use chelsea_kv::{Budget, CacheConfig, Dtype, PAGE, Page, SequenceCache};
use common::Uniform;

const SHAPE: Uniform = Uniform { layers: 8, kv_heads: 4, q_heads: 4, head_dim: 64 };
const TOKENS: usize = 8192;
/// Entries beyond the budget, of which a quarter arrive at once.
const BLOCK: usize = 512;
const STEP: usize = BLOCK / 4;
const KEEP: f32 = 0.2;
/// What the test itself takes for queries, keys, values and outputs of a block, attention for its
/// working memory, and the allocator for what lies idle between.
const ALLOWANCE: usize = 6 << 20;

/// A line of `/proc/self/status`, in bytes.
fn status(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("readable on Linux");
    let line = text.lines().find(|line| line.starts_with(field)).expect("a line of the status");
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number of kB");
    kib * 1024
}

#[test]
fn the_process_takes_what_the_cache_accounts_for() {
    let mut state = 1u64;
    let mut noise = |len: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    };
    let row = SHAPE.kv_heads * SHAPE.head_dim;
    let config = CacheConfig { budget: Budget::EntryFraction(KEEP), ..CacheConfig::new(SHAPE.shape()) };
    // One thread: every further one would hold buffers of its own.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let (mut cache, before) = pool.install(|| {
        let (k, v, q) = (noise(STEP * row), noise(STEP * row), noise(STEP * row));
        let mut out = vec![0.0; q.len()];
        // Threads and attention's buffers are set up before the measurement starts.
        let mut warm = SequenceCache::new(config.clone()).expect("valid");
        (0..SHAPE.layers).for_each(|layer| warm.append(layer, &k, &v).expect("in step"));
        warm.attend(0, &q, &mut out).unwrap();
        drop(warm);
        let before = status("VmRSS:");
        let mut cache = SequenceCache::new(config).expect("valid");
        cache.expect_tokens(TOKENS, BLOCK - STEP);
        for _ in 0..TOKENS / STEP {
            for layer in 0..SHAPE.layers {
                cache.append(layer, &noise(STEP * row), &noise(STEP * row)).expect("in step");
                cache.attend(layer, &noise(STEP * row), &mut out).unwrap();
            }
            cache.compact().unwrap();
        }
        (cache, before)
    });
    let peak = status("VmHWM:") - before;
    let swapped = status("VmSwap:");
    assert_eq!(cache.tokens(), TOKENS);
    assert_eq!(cache.full_bytes(), SHAPE.shape().bytes(TOKENS, Dtype::F16));

    // By its own accounting: budget and one block, in whole pages, and what compaction needs for a while.
    let entries = (f64::from(KEEP) * TOKENS as f64) as usize + BLOCK + PAGE;
    let bound =
        entries.div_ceil(PAGE) * SHAPE.heads() * Page::bytes(SHAPE.head_dim.into(), Dtype::F16) + cache.memory().fixed;
    assert!(cache.peak() <= bound + cache.memory().scratch_peak, "{} > {bound}", cache.peak());
    assert!(cache.memory().scratch_peak < cache.full_bytes() / 40, "scratch {}", cache.memory().scratch_peak);

    // By the process: no more than that, and not much less, so that nothing is counted that is not there.
    assert!(peak <= cache.peak() + ALLOWANCE, "the process took {peak} bytes, the cache says {}", cache.peak());
    assert!(
        peak + swapped + ALLOWANCE >= cache.peak(),
        "the process took {peak} bytes, the cache says {}",
        cache.peak()
    );
    assert!(peak < cache.full_bytes() / 2);
    println!("process {peak}, cache {}, full {}", cache.peak(), cache.full_bytes());
    cache.compact_now(None).expect("nothing to do");
}
