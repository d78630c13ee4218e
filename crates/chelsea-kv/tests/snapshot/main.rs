//! Caches as files: they come back as they were, bad files are refused, and what fails leaves nothing half-written.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod refused;
mod round_trip;

use chelsea_kv::snapshot::{Expected, SnapshotInfo, parse, to_bytes};
use chelsea_kv::{Budget, CacheConfig, Dtype, Importance, SequenceCache};
use common::{Uniform, policy};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;

const SMALL: Uniform = Uniform { layers: 2, kv_heads: 1, q_heads: 2, head_dim: 4 };
const LARGER: Uniform = Uniform { layers: 3, kv_heads: 2, q_heads: 4, head_dim: 32 };

fn config(shape: Uniform, spec: &str, budget: Budget) -> CacheConfig {
    CacheConfig {
        policy: policy(spec).unwrap(),
        budget,
        sinks: 2,
        window: 16,
        decode_block: 8,
        ..CacheConfig::new(shape.shape())
    }
}

/// Passes one block of `n` tokens through `cache`, compacts it, and returns what attention answered.
fn block(cache: &mut SequenceCache, n: usize, rng: &mut SmallRng) -> Vec<f32> {
    let shape = cache.config().shape.clone();
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let mut answers = Vec::new();
    for (layer, spec) in shape.layers().iter().enumerate() {
        let rows = n * spec.key_width();
        cache.append(layer, &numbers(rows), &numbers(rows)).unwrap();
        let q = numbers(n * spec.query_width());
        let mut out = vec![0.0; q.len()];
        cache.attend(layer, &q, &mut out).unwrap();
        answers.extend(out);
    }
    cache.compact().unwrap();
    answers
}

/// A cache that has read `tokens` random tokens in blocks of 40, and what belongs to it.
fn example(config: CacheConfig, tokens: usize) -> (SequenceCache, SnapshotInfo) {
    let mut cache = SequenceCache::new(config).unwrap();
    let mut rng = SmallRng::seed_from_u64(tokens as u64);
    while cache.tokens() < tokens {
        let n = (tokens - cache.tokens()).min(40);
        block(&mut cache, n, &mut rng);
    }
    let info = SnapshotInfo {
        fingerprint: *b"sixteen bytes!!!",
        tokens: (0..tokens as u32).map(|i| i * 7).collect(),
        note: r#"{"system":null}"#.into(),
    };
    (cache, info)
}

/// A second pass over what `cache` has read, in two chunks, with made-up words.
fn repeat(cache: &mut SequenceCache) {
    let (tokens, mut rng) = (cache.tokens(), SmallRng::seed_from_u64(8));
    let mut all: Option<Importance> = None;
    for chunk in [0..tokens / 2, tokens / 2..tokens] {
        let mut fork = cache.fork().unwrap();
        fork.watch(chunk);
        block(&mut fork, 50, &mut rng);
        let found = fork.watched().unwrap();
        match &mut all {
            None => all = Some(found),
            Some(all) => all.take_greater(&found),
        }
    }
    cache.set_importance(all.unwrap()).unwrap();
}

fn small() -> Vec<u8> {
    small_in(Dtype::F16)
}

fn small_in(dtype: Dtype) -> Vec<u8> {
    let config = CacheConfig { dtype, ..config(SMALL, "chelsea", Budget::EntryFraction(0.5)) };
    let (cache, info) = example(config, 150);
    to_bytes(&cache, &info).unwrap()
}

/// A small snapshot with the statistics of the policy `spec`.
fn small_of(spec: &str) -> Vec<u8> {
    let (mut cache, info) = example(config(SMALL, spec, Budget::EntryFraction(0.5)), 150);
    if cache.config().policy.needs().repetition.is_some() {
        repeat(&mut cache);
        cache.compact_now(None).unwrap();
    }
    to_bytes(&cache, &info).unwrap()
}

fn expected(info: &SnapshotInfo, config: &CacheConfig) -> Expected {
    Expected { fingerprint: info.fingerprint, shape: config.shape.clone() }
}

fn load_info(bytes: &[u8]) -> SnapshotInfo {
    parse(bytes).unwrap().cache(None).unwrap().1
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
