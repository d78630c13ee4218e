//! What a sequence pays for its cache beside attention: taking in a block, and compacting.
//!
//! Sizes are those of a small model (24 layers, 2 KV heads of 64). "online" is one block of 512 tokens
//! on top of a cache that was clustered all along; "one shot" is the whole prompt at once.

use chelsea_kv::{Budget, CacheConfig, CacheShape, Rotary, SequenceCache, policy};
use criterion::{BatchSize, Criterion};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const LAYERS: usize = 24;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const BLOCK: usize = 512;

/// A cache after `tokens` tokens in blocks, compacted after each but the last.
fn filled(name: &str, budget: Budget, tokens: usize) -> SequenceCache {
    let config = CacheConfig {
        policy: policy(name).expect("registered"),
        budget,
        ..CacheConfig::new(
            CacheShape::uniform(LAYERS, 14, KV_HEADS, HEAD_DIM, Rotary::plain(HEAD_DIM, 1e6)).expect("a shape"),
        )
    };
    let mut cache = SequenceCache::new(config).expect("valid");
    cache.expect_tokens(tokens, 0);
    let mut rng = StdRng::seed_from_u64(1);
    let row = KV_HEADS * HEAD_DIM;
    let mut key = vec![0.0f32; row];
    for start in (0..tokens).step_by(BLOCK) {
        cache.compact().expect("room");
        let n = BLOCK.min(tokens - start);
        for layer in 0..LAYERS {
            let mut keys = Vec::with_capacity(n * row);
            for _ in 0..n {
                key.iter_mut().for_each(|x| *x = 0.9 * *x + rng.random::<f32>() - 0.5);
                keys.extend_from_slice(&key);
            }
            let values: Vec<f32> = (0..n * row).map(|_| rng.random::<f32>() - 0.5).collect();
            cache.append(layer, &keys, &values).expect("in step");
        }
    }
    cache
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let c = &mut criterion;
    let row = BLOCK * KV_HEADS * HEAD_DIM;
    let (k, v) = (vec![0.5; row], vec![0.25; row]);
    let empty = filled("full", Budget::EntryFraction(1.0), 0);
    c.bench_function("append 512 tokens to 24 layers", |b| {
        let append = |mut cache: SequenceCache| {
            (0..LAYERS).for_each(|layer| cache.append(layer, &k, &v).expect("in step"));
            cache
        };
        b.iter_batched(|| empty.fork().expect("room"), append, BatchSize::LargeInput);
    });
    for name in ["chelsea", "streaming"] {
        let cache = filled(name, Budget::EntryFraction(0.25), 8192);
        c.bench_function(&format!("online {name}, block of 512 at 8192, keep 25%"), |b| {
            b.iter_batched(
                || cache.fork().expect("room"),
                |mut cache| cache.compact().expect("room"),
                BatchSize::LargeInput,
            );
        });
    }
    let full = filled("full", Budget::EntryFraction(1.0), 8192);
    for name in ["chelsea", "chelsea-plain", "streaming"] {
        let cache = filled(name, Budget::EntryFraction(1.0), 8192);
        assert_eq!(cache.entries(), full.entries());
        c.bench_function(&format!("one shot {name}, 8192 to 25%"), |b| {
            let compact = |mut cache: SequenceCache| cache.compact_now(Some(Budget::EntryFraction(0.25)));
            b.iter_batched(|| cache.fork().expect("room"), compact, BatchSize::LargeInput);
        });
    }
    criterion.final_summary();
}
