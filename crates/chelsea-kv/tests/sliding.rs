//! Layers with a sliding window, beside layers that grow.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_kv::policy::{Needs, Plan, View};
use chelsea_kv::{
    Budget, BudgetError, CacheConfig, CacheError, CacheShape, Dtype, LEAST_TOKENS, LayerSpec, PAGE, Page, Policy,
    PoolFull, SequenceCache, snapshot,
};
use common::mixed::{Random, error, feed, layer, mixed, rows, state};
use common::policy;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Attention of one layer over the whole text, as it is defined, `[n, q_heads, value_dim]`.
fn by_definition(spec: &LayerSpec, layer: usize, n: usize, text: u64) -> Vec<f32> {
    let all = rows(spec, layer, 0..n, text);
    let mut out = Vec::with_capacity(n * spec.output_width());
    for t in 0..n {
        let first = spec.window.map_or(0, |window| (t + 1).saturating_sub(window));
        for h in 0..spec.q_heads {
            let q = &all.q[t * spec.query_width() + h * spec.key_dim..][..spec.key_dim];
            let g = h / spec.group();
            let score = |s: usize| {
                let k = &all.k[s * spec.key_width() + g * spec.key_dim..][..spec.key_dim];
                q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() * f64::from(spec.scale)
            };
            let scores: Vec<f64> = (first..=t).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let mut sum = vec![0.0f64; spec.value_dim];
            for (s, score) in (first..=t).zip(&scores) {
                let v = &all.v[s * spec.value_width() + g * spec.value_dim..][..spec.value_dim];
                sum.iter_mut().zip(v).for_each(|(sum, &x)| *sum += (score - top).exp() / total * f64::from(x));
            }
            out.extend(sum.iter().map(|&x| x as f32));
        }
    }
    out
}

fn shapes(which: usize, window: usize) -> CacheShape {
    let some = |window| layer(4, 2, 8, 16, window);
    let layers = match which {
        0 => vec![
            some(Some(window)),
            some(Some(window)),
            some(Some(window)),
            some(Some(window)),
            some(Some(window)),
            some(None),
        ],
        1 => vec![layer(2, 1, 16, 8, Some(window)), layer(4, 4, 8, 8, None), layer(6, 2, 4, 32, Some(window + 50))],
        2 => vec![layer(3, 1, 8, 8, Some(window)), layer(2, 2, 16, 16, Some(1))],
        _ => return mixed(),
    };
    CacheShape::new(layers).expect("layers of a cache")
}

/// What the layers with a window hold after a step.
fn check_windows(cache: &SequenceCache) {
    let (tokens, mut bytes) = (cache.tokens(), 0);
    for ((_, layer), head) in cache.config().shape.layer_of_heads().zip(cache.heads().iter()) {
        let Some(window) = layer.window else { continue };
        assert!(head.len() >= tokens.min(window - 1) && head.len() < window + PAGE, "{} of {window}", head.len());
        let first = tokens - head.len();
        assert!((0..head.len()).all(|i| head.count(i) == 1 && head.position(i) == (first + i) as f32));
        assert_eq!(head.pages().len(), head.len().div_ceil(PAGE));
        bytes += head.pages().len() * Page::bytes(layer.dims(), cache.config().dtype);
    }
    assert_eq!(cache.memory().sliding, bytes);
    let lens = cache.heads().iter().map(|head| head.len()).sum::<usize>();
    assert_eq!(cache.entries() + cache.sliding_entries(), lens);
}

/// Reads a text in chunks of these lengths, each layer held against the definition; of a compressed cache, the layers
/// with a window.
fn read(cache: &mut SequenceCache, chunks: &[usize], text: u64) {
    let (shape, dtype) = (cache.config().shape.clone(), cache.config().dtype);
    let n = chunks.iter().sum();
    let wanted: Vec<_> = shape.layers().iter().enumerate().map(|(l, spec)| by_definition(spec, l, n, text)).collect();
    let whole = cache.config().budget == Budget::EntryFraction(1.0);
    for &chunk in chunks {
        let at = cache.tokens();
        let held: Vec<usize> = cache.heads().iter().map(|head| head.len()).collect();
        let outputs = feed(cache, chunk, text).expect("room");
        for (l, (spec, out)) in shape.layers().iter().zip(&outputs).enumerate() {
            if spec.grows() && !whole {
                continue;
            }
            let wanted = &wanted[l][at * spec.output_width()..][..out.len()];
            let off = out.iter().zip(wanted).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(off <= error(dtype), "layer {l}, tokens {at}..{}, {dtype:?}: {off}", at + chunk);
        }
        for ((_, layer), held) in shape.layer_of_heads().zip(held) {
            assert!(layer.window.is_none_or(|window| held < window + PAGE));
        }
        check_windows(cache);
        cache.compact().expect("room");
        check_windows(cache);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_window_is_attention_to_the_tokens_within_it(
        which in 0usize..4, dtype in 0usize..5, window in 1usize..180, text: u64,
        chunks in prop::collection::vec(prop_oneof![1usize..4, 1usize..150], 1..6), decoded in 0usize..5,
    ) {
        let config = CacheConfig { dtype: Dtype::ALL[dtype], ..CacheConfig::new(shapes(which, window)) };
        let n: usize = chunks.iter().sum();
        for mut chunks in [vec![n], chunks] {
            chunks.extend(vec![1; decoded]);
            let mut cache = SequenceCache::new(config.clone()).expect("valid");
            read(&mut cache, &chunks, text);
            prop_assert_eq!(cache.full_bytes(), cache.config().shape.full_bytes(n + decoded));
            // A snapshot goes on as the cache does.
            let bytes = state(&cache);
            let (mut again, _) = snapshot::parse(&bytes).expect("a snapshot").cache(None).expect("a cache");
            prop_assert!(state(&again) == bytes);
            prop_assert_eq!(feed(&mut again, 3, 1).unwrap(), feed(&mut cache, 3, 1).unwrap());
            prop_assert!(state(&again) == state(&cache));
        }
    }

    #[test]
    fn budgets_cover_windows_and_cluster_what_grows_alone(
        which in 0usize..4, dtype in 0usize..5, window in 1usize..180, budget in 0usize..4, text: u64,
        chunks in prop::collection::vec(1usize..200, 4..10), name in 0usize..3,
    ) {
        let shape = shapes(which, window);
        let budget = [Budget::EntryFraction(0.3), Budget::Entries(100), Budget::Bytes(400_000), Budget::ByteFraction(0.6)][budget];
        let name = ["chelsea", "h2o", "streaming"][name];
        let config = CacheConfig {
            dtype: Dtype::ALL[dtype], sinks: 2, window: 20, decode_block: 8, budget, policy: policy(name).unwrap(),
            ..CacheConfig::new(shape.clone())
        };
        let mut cache = match SequenceCache::new(config) {
            Err(CacheError::Budget(BudgetError::Sliding { .. } | BudgetError::Bytes { .. })) => return Ok(()),
            cache => cache.unwrap(),
        };
        read(&mut cache, &chunks, text);
        let report = cache.compact_at_end().unwrap();
        prop_assert_eq!(report.after, cache.entries());
        let tokens = cache.tokens();
        let least = (2 + 20 + 1) * shape.growing_heads();
        match budget {
            Budget::EntryFraction(ratio) => prop_assert!(cache.entries() <= ((f64::from(ratio) * (tokens * shape.growing_heads()) as f64) as usize).max(least)),
            Budget::Entries(n) => prop_assert!(cache.entries() <= n * shape.growing_heads()),
            Budget::Bytes(bytes) => prop_assert!(cache.memory().total() <= bytes, "{} > {bytes}", cache.memory().total()),
            Budget::ByteFraction(share) => {
                let bytes = (f64::from(share) * shape.full_bytes(tokens.max(LEAST_TOKENS)) as f64) as usize;
                prop_assert!(cache.entries() <= least || cache.memory().total() <= bytes, "{} > {bytes}", cache.memory().total());
            }
        }
        // Never more than what is left after a compaction and what a step brings, in whole pages.
        let step = *chunks.iter().max().unwrap() + 8;
        let of_step: usize = shape.layer_of_heads().map(|(_, l)| (step.div_ceil(PAGE) + 1) * Page::bytes(l.dims(), cache.config().dtype)).sum();
        if let Budget::Bytes(bytes) = budget {
            let most = bytes + of_step + cache.memory().scratch_peak + step.div_ceil(PAGE) * PAGE * 4 * shape.heads();
            prop_assert!(cache.peak() <= most, "{} > {most}", cache.peak());
        }
    }
}

#[test]
fn a_budget_below_the_windows_alone_is_refused() {
    let shape = CacheShape::new(vec![layer(4, 2, 8, 8, None), layer(4, 2, 8, 8, Some(4000))]).unwrap();
    let config = CacheConfig { budget: Budget::Bytes(100_000), ..CacheConfig::new(shape.clone()) };
    let refused = SequenceCache::new(config.clone()).unwrap_err();
    let CacheError::Budget(BudgetError::Sliding { bytes: 100_000, needed }) = refused else { panic!("{refused}") };
    assert!(needed >= shape.full_window_bytes(10_000), "{needed}");
    // With that much, and room for what grows, it is held.
    let most = CacheConfig { budget: Budget::Bytes(needed + 100_000), ..config };
    let mut cache = SequenceCache::new(most).unwrap();
    for _ in 0..60 {
        feed(&mut cache, 100, 1).unwrap();
        cache.compact().unwrap();
        assert!(cache.memory().total() <= needed + 100_000 || !cache.is_within_budget());
    }
    cache.compact_at_end().unwrap();
    assert!(cache.memory().total() <= needed + 100_000);
}

#[derive(Debug)]
struct Watcher(Arc<dyn Policy>, Arc<AtomicUsize>);

impl Policy for Watcher {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn needs(&self) -> Needs {
        self.0.needs()
    }
    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        // Of `mixed`, layers 0 and 2 grow, with 2 heads and 1.
        assert_eq!(view.heads.len(), 3);
        assert_eq!(
            view.heads.iter().map(|head| (head.dims().key, head.dims().value)).collect::<Vec<_>>(),
            [(8, 16), (8, 16), (8, 8)]
        );
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.plan(view, target)
    }
}

#[test]
fn policies_see_heads_that_grow_and_no_others() {
    for name in ["chelsea", "h2o", "snapkv", "expected-attention"] {
        let plans = Arc::new(AtomicUsize::new(0));
        let policy = Arc::new(Watcher(policy(name).unwrap(), plans.clone()));
        let config =
            CacheConfig { policy, window: 20, budget: Budget::EntryFraction(0.3), ..CacheConfig::new(mixed()) };
        let mut cache = SequenceCache::new(config).unwrap();
        let mut random = Random(1);
        for _ in 0..10 {
            feed(&mut cache, 1 + random.below(100), 1).unwrap();
            cache.compact().unwrap();
            check_windows(&cache);
        }
        assert!(plans.load(Ordering::Relaxed) > 2);
    }
}
