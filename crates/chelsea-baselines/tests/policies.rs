//! What every policy keeps to, and what each is there for.

#![allow(clippy::unwrap_used)]

#[path = "../../chelsea-kv/tests/common/mod.rs"]
mod common;

use chelsea_kv::policy::{Needs, Settings};
use chelsea_kv::{Budget, CacheConfig, CacheError, Dtype, Head, Rotary, SequenceCache};
use common::{Uniform, policy, registry};

const SHAPE: Uniform = Uniform { layers: 2, kv_heads: 2, q_heads: 4, head_dim: 16 };
const Q: usize = SHAPE.q_heads * SHAPE.head_dim;
const KV: usize = SHAPE.kv_heads * SHAPE.head_dim;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn config(spec: &str, keep: f32) -> CacheConfig {
    CacheConfig {
        policy: policy(spec).expect("registered"),
        budget: Budget::EntryFraction(keep),
        sinks: 2,
        window: 8,
        decode_block: 8,
        dtype: Dtype::F32,
        ..CacheConfig::new(SHAPE.shape())
    }
}

/// What one layer is given of a block.
struct Block {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn blocks(tokens: usize, seed: u64) -> Vec<Block> {
    let layer = |l: u64| Block {
        q: noise(tokens * Q, seed + 10 * l),
        k: noise(tokens * KV, seed + 10 * l + 1),
        v: noise(tokens * KV, seed + 10 * l + 2),
    };
    (0..SHAPE.layers as u64).map(layer).collect()
}

fn feed(cache: &mut SequenceCache, blocks: &[Block]) {
    for (layer, block) in blocks.iter().enumerate() {
        cache.append(layer, &block.k, &block.v).expect("in step");
        cache.attend(layer, &block.q, &mut vec![0.0; block.q.len()]).unwrap();
    }
}

fn contents(cache: &SequenceCache) -> Vec<Vec<(Vec<f32>, u32, f32)>> {
    let entry = |head: &Head, i: usize| {
        let mut row = vec![0.0; 2 * SHAPE.head_dim];
        let (key, value) = row.split_at_mut(SHAPE.head_dim);
        head.read_key(i, key);
        head.read_value(i, value);
        (row, head.count(i), head.position(i))
    };
    cache.heads().iter().map(|head| (0..head.len()).map(|i| entry(head, i)).collect()).collect()
}

/// Positions that every head keeps, as long as each stands for one token.
fn positions(cache: &SequenceCache) -> Vec<Vec<usize>> {
    cache.heads().iter().map(|head| (0..head.len()).map(|i| head.position(i) as usize).collect()).collect()
}

/// A second pass over the 200 tokens of `cache` in two chunks, with made-up words.
fn repeat(cache: &mut SequenceCache) {
    let mut all = None;
    for chunk in [0..100, 100..200] {
        let mut fork = cache.fork().unwrap();
        fork.watch(chunk.clone());
        feed(&mut fork, &blocks(120, 900 + chunk.start as u64));
        let found = fork.watched().expect("watched");
        match &mut all {
            None => all = Some(found),
            Some(all) => chelsea_kv::Importance::take_greater(all, &found),
        }
    }
    cache.set_importance(all.expect("two chunks")).expect("the same cache");
}

#[test]
fn a_specification_with_settings_is_read_back_as_it_is_written() {
    for spec in
        ["snapkv:window=32,kernel=7,pool=max,heads=adaptive,floor=0.1", "h2o:recent=0,average=1", "tova:heads=pooled"]
    {
        let made = policy(spec).unwrap();
        assert_eq!(format!("{made:?}"), format!("{:?}", policy(&made.spec()).unwrap()), "{}", made.spec());
    }
}

#[test]
fn every_policy_answers_to_its_name_with_the_defaults_it_states() {
    chelsea_baselines::register();
    chelsea_baselines::register();
    let all = registry();
    assert_eq!(all.iter().map(|info| info.name).collect::<std::collections::BTreeSet<_>>().len(), all.len());
    for info in all {
        let made = policy(info.name).unwrap();
        assert_eq!(made.name(), info.name);
        assert!(!info.about.is_empty() && !info.source.is_empty());
        assert_eq!(made.needs().repetition.is_some(), info.one_shot_only);
        let mut settings = Settings::default();
        info.settings.iter().for_each(|s| settings.set(s.name, s.default));
        assert_eq!(format!("{:?}", info.make(&settings).unwrap()), format!("{made:?}"));
        assert_eq!(format!("{:?}", policy(&made.spec()).unwrap()), format!("{made:?}"), "{}", made.spec());
    }
}

#[test]
fn every_policy_compresses_in_one_go_and_while_reading() {
    for info in registry().iter().filter(|info| info.name != "full") {
        let mut cache = SequenceCache::new(config(info.name, 0.3)).expect("valid");
        for b in 0..5 {
            feed(&mut cache, &blocks(40, b));
            assert_eq!(cache.compact().unwrap().compacted, !info.one_shot_only, "{}", info.name);
        }
        if !info.one_shot_only {
            assert!(cache.entries() <= 60 * SHAPE.heads(), "{}", info.name);
        }
        let mut cache = SequenceCache::new(config(info.name, 0.3)).expect("valid");
        feed(&mut cache, &blocks(200, 7));
        if info.one_shot_only {
            repeat(&mut cache);
        }
        let report = cache.compact_now(None).expect("possible");
        assert!(report.compacted && report.after == 60 * SHAPE.heads(), "{}: {report:?}", info.name);
        let ends = |head: &Head| (head.position(1), head.position(head.len() - 8));
        assert!(cache.heads().iter().all(|head| ends(head) == (1.0, 192.0)), "{}", info.name);
    }
}

#[test]
fn one_reading_serves_every_policy_as_well_as_its_own() {
    let needs = registry().iter().fold(Needs::default(), |n, i| n.and(policy(i.name).expect("made").needs()));
    let mut shared = SequenceCache::new(config("full", 1.0)).expect("valid");
    shared.gather(needs).unwrap();
    (0..4).for_each(|b| feed(&mut shared, &blocks(50, b)));
    repeat(&mut shared);
    for info in registry().iter().filter(|info| info.name != "full") {
        let mut own = SequenceCache::new(config(info.name, 0.3)).expect("valid");
        (0..4).for_each(|b| feed(&mut own, &blocks(50, b)));
        if info.one_shot_only {
            repeat(&mut own);
        }
        own.compact_now(None).expect("possible");
        let mut fork = shared.fork().unwrap();
        fork.reconfigure(policy(info.name).expect("made"), Budget::EntryFraction(0.3)).expect("fits");
        fork.compact_now(None).expect("possible");
        assert_eq!(contents(&fork), contents(&own), "{}", info.name);
        assert_eq!(fork.memory().fixed, own.memory().fixed, "{}: what others need is dropped", info.name);
    }
}

#[test]
fn statistics_are_counted_where_they_are_kept() {
    let fixed = |spec: &str| {
        let mut cache = SequenceCache::new(config(spec, 0.5)).expect("valid");
        feed(&mut cache, &blocks(130, 0));
        cache.memory().fixed
    };
    let plain = fixed("streaming");
    let (layers, d) = (SHAPE.layers, SHAPE.head_dim);
    assert!(fixed("snapkv:window=32") >= plain + layers * 32 * Q * 4);
    assert!(fixed("expected-attention") >= plain + layers * SHAPE.q_heads * (d * d * 4 + d * 8));
    assert!(fixed("expected-attention:cov=0") < plain + layers * SHAPE.q_heads * d * d * 4);
    assert_eq!(fixed("h2o"), plain + SHAPE.heads() * 192 * 4, "whole pages of 64");
}

/// Attention of every query to every entry of a cache that keeps all, by its definition: for each head sums
/// over queries, and the mean over the last query alone.
fn by_definition(keys: &[f32], queries: &[f32], h: usize, tokens: usize) -> Vec<f64> {
    let (d, group) = (SHAPE.head_dim, SHAPE.group());
    let mut sums = vec![0.0; tokens];
    for t in 0..tokens {
        for j in 0..group {
            let query = &queries[t * Q + (h * group + j) * d..][..d];
            let score = |i: usize| {
                let key = &keys[i * KV + h * d..][..d];
                (query.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / 4.0).exp()
            };
            let scores: Vec<f64> = (0..=t).map(score).collect();
            let total: f64 = scores.iter().sum();
            sums.iter_mut().zip(&scores).for_each(|(sum, s)| *sum += s / total);
        }
    }
    sums
}

#[test]
fn heavy_hitters_are_those_of_the_definition_however_the_text_was_cut() {
    let tokens = 150;
    let whole = blocks(tokens, 3);
    for cuts in [vec![150], vec![1, 2, 60, 87], vec![64, 64, 22]] {
        let mut cache = SequenceCache::new(config("h2o:recent=0", 0.3)).expect("valid");
        let mut at = 0;
        for n in cuts {
            let part = |b: &Block| Block {
                q: b.q[at * Q..(at + n) * Q].to_vec(),
                k: b.k[at * KV..(at + n) * KV].to_vec(),
                v: b.v[at * KV..(at + n) * KV].to_vec(),
            };
            feed(&mut cache, &whole.iter().map(part).collect::<Vec<_>>());
            at += n;
        }
        cache.compact_now(None).expect("possible");
        for (g, kept) in positions(&cache).iter().enumerate() {
            let block = &whole[g / SHAPE.kv_heads];
            let sums = by_definition(&block.k, &block.q, g % SHAPE.kv_heads, tokens);
            let mut order: Vec<usize> = (2..tokens - 8).collect();
            order.sort_by(|&x, &y| sums[y].total_cmp(&sums[x]));
            let mut wanted: Vec<usize> = (0..2).chain(tokens - 8..tokens).chain(order[..35].iter().copied()).collect();
            wanted.sort_unstable();
            assert_eq!(kept, &wanted, "head {g}");
        }
    }
}

/// A text whose keys are noise, but for those at `special`, which are three times `direction`; the queries from
/// position `asked` on ask for that direction.
fn planted(tokens: usize, special: &[usize], asked: std::ops::Range<usize>) -> Vec<Block> {
    let direction: Vec<f32> = (0..SHAPE.head_dim).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let mut all = blocks(tokens, 11);
    for block in &mut all {
        for &p in special {
            let row = block.k[p * KV..][..KV].chunks_mut(SHAPE.head_dim);
            row.for_each(|row| row.iter_mut().zip(&direction).for_each(|(x, d)| *x = 3.0 * d));
        }
        for p in asked.clone() {
            let row = block.q[p * Q..][..Q].chunks_mut(SHAPE.head_dim);
            row.for_each(|row| row.copy_from_slice(&direction));
        }
    }
    all
}

fn kept_after(spec: &str, keep: f32, text: &[Block]) -> Vec<Vec<usize>> {
    let mut cache = SequenceCache::new(config(spec, keep)).expect("valid");
    feed(&mut cache, text);
    cache.compact_now(None).expect("possible");
    positions(&cache)
}

#[test]
fn what_the_last_queries_ask_for_is_kept_by_those_that_listen_to_them() {
    let text = planted(200, &[50, 120], 192..200);
    for spec in ["snapkv:window=8", "snapkv:window=8,pool=max", "tova", "snapkv:window=8,heads=pooled"] {
        for kept in kept_after(spec, 0.2, &text) {
            assert!(kept.contains(&50) && kept.contains(&120), "{spec}: {kept:?}");
        }
    }
    // A pyramid has room for it at its foot.
    for kept in &kept_after("pyramidkv:window=8", 0.2, &text)[..SHAPE.kv_heads] {
        assert!(kept.contains(&50) && kept.contains(&120), "{kept:?}");
    }
    // Neighbours are kept with it.
    for kept in kept_after("snapkv:window=8", 0.2, &text) {
        assert!((48..53).all(|p| kept.contains(&p)), "{kept:?}");
    }
}

#[test]
fn what_was_asked_for_all_along_is_kept_by_heavy_hitters_and_expected() {
    let text = planted(200, &[50, 120], 20..180);
    // Queries before RoPE are one and the same only where RoPE does not turn them.
    for spec in ["h2o", "h2o:average=1"] {
        for kept in kept_after(spec, 0.3, &text) {
            assert!(kept.contains(&50) && kept.contains(&120), "{spec}: {kept:?}");
        }
    }
    let still = Rotary { inv_freq: vec![0.0; 8], scale: 1.0 };
    for spec in ["expected-attention", "expected-attention:cov=0,vnorm=0"] {
        let mut cache = SequenceCache::new(CacheConfig { shape: SHAPE.turned_by(still.clone()), ..config(spec, 0.3) })
            .expect("valid");
        feed(&mut cache, &text);
        cache.compact_now(None).expect("possible");
        for kept in positions(&cache) {
            assert!(kept.contains(&50) && kept.contains(&120), "{spec}: {kept:?}");
        }
    }
}

#[test]
fn what_keys_say_of_themselves_decides_where_no_query_is_heard() {
    let mut text = planted(200, &[50, 120], 0..0);
    // Long keys are the first to go by norm; they all point elsewhere than the mean.
    for kept in kept_after("knorm", 0.3, &text) {
        assert!(!kept.contains(&50) && !kept.contains(&120));
    }
    for block in &mut text {
        block.k.chunks_mut(SHAPE.head_dim).for_each(|key| key[1] += 4.0);
    }
    for spec in ["keydiff", "leverage", "leverage:heads=pooled"] {
        for kept in kept_after(spec, 0.3, &text) {
            assert!(kept.contains(&50) && kept.contains(&120), "{spec}: {kept:?}");
        }
    }
}

#[test]
fn a_second_pass_is_asked_for_and_finds_what_repeating_takes() {
    let mut cache = SequenceCache::new(config("kvzip", 0.3)).expect("valid");
    feed(&mut cache, &planted(200, &[50, 120], 0..0));
    assert_eq!(cache.compact_now(None), Err(CacheError::NoImportance("kvzip")));
    let before = contents(&cache);
    let mut fork = cache.fork().unwrap();
    fork.watch(0..200);
    feed(&mut fork, &planted(20, &[], 5..6));
    let found = fork.watched().expect("watched");
    assert!(fork.watched().is_none());
    for g in 0..SHAPE.heads() {
        let mut order: Vec<usize> = (0..200).collect();
        order.sort_by(|&x, &y| found.head(g)[y].total_cmp(&found.head(g)[x]));
        let mut best = order[..2].to_vec();
        best.sort_unstable();
        assert_eq!(best, [50, 120]);
    }
    assert_eq!(contents(&cache), before, "a fork reads, the cache stays as it was");
    cache.set_importance(found.clone()).expect("the same cache");
    assert!(cache.has_importance());
    cache.compact_now(None).expect("possible");
    assert!(positions(&cache).iter().all(|kept| kept.contains(&50) && kept.contains(&120)));
    // What is read afterwards stays: nothing is known of it.
    feed(&mut cache, &blocks(40, 5));
    assert!(!cache.compact().unwrap().compacted);
    assert_eq!(cache.compact_now(None), Err(CacheError::NoImportance("kvzip")));
    assert_eq!(cache.entries(), (60 + 40) * SHAPE.heads());
    let mut other = SequenceCache::new(config("kvzip", 0.3)).expect("valid");
    assert_eq!(other.set_importance(found), Err(CacheError::OtherEntries));
}

#[test]
fn pooled_neighbours_stand_for_the_same_number_of_tokens() {
    let mut cache = SequenceCache::new(config("pool", 0.25)).expect("valid");
    feed(&mut cache, &blocks(200, 0));
    cache.compact_now(None).expect("possible");
    for head in cache.heads().iter() {
        let counts: Vec<u32> = (2..head.len() - 8).map(|i| head.count(i)).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u32>()), (40, 190));
        assert!(counts.iter().all(|n| (4..=5).contains(n)), "{counts:?}");
        // Where runs were pooled before, sizes stay as even as whole runs allow.
        assert!((3..head.len() - 8).all(|i| head.position(i) > head.position(i - 1)));
    }
    feed(&mut cache, &blocks(200, 1));
    cache.compact_now(Some(Budget::EntryFraction(0.1))).expect("possible");
    for head in cache.heads().iter() {
        let counts: Vec<u32> = (2..head.len() - 8).map(|i| head.count(i)).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u32>()), (30, 390));
        assert!(counts.iter().all(|n| (9..=17).contains(n)), "{counts:?}");
    }
}

#[test]
fn merged_heavy_hitters_lose_fewer_tokens_than_dropped_ones() {
    let total = |spec: &str| {
        let mut cache = SequenceCache::new(config(spec, 0.3)).expect("valid");
        feed(&mut cache, &blocks(200, 1));
        cache.compact_now(None).expect("possible");
        let counts = |head: &Head| (0..head.len()).map(|i| head.count(i)).sum::<u32>();
        cache.heads().iter().map(counts).sum::<u32>()
    };
    assert_eq!(total("h2o"), 60 * SHAPE.heads() as u32);
    let merged = total("d2o") as usize;
    assert!(merged > 100 * SHAPE.heads() && merged < 180 * SHAPE.heads(), "{merged}");
}

#[test]
fn what_repeating_takes_stays_alone_and_the_rest_is_clustered() {
    let after = |spec: &str, keep: f32| {
        let mut cache = SequenceCache::new(config(spec, keep)).expect("valid");
        feed(&mut cache, &blocks(200, 7));
        repeat(&mut cache);
        cache.compact_now(None).expect("possible");
        cache
    };
    // Sinks and windows take 10 entries per head: 25 of 35 and half of 50 of 60 are chosen by their score.
    let exact = after("kvzip", 0.1751);
    let best = after("chelsea-best:exact=0.5,recent=0", 0.3);
    assert_eq!((exact.entries(), best.entries()), (35 * SHAPE.heads(), 60 * SHAPE.heads()));
    for (kept, both) in contents(&exact).iter().zip(contents(&best)) {
        assert!(kept.iter().all(|entry| both.contains(entry)), "what is kept is the same as without clusters");
        assert_eq!(both.iter().map(|(_, n, _)| n).sum::<u32>(), 200, "nothing is dropped");
    }
    // However little is left for the rest, every head has room for a cluster, and the budget is met.
    for (keep, entries) in [(0.0551, 11), (0.0601, 12), (0.1001, 20)] {
        assert_eq!(after("chelsea-best:exact=1,recent=0", keep).entries(), entries * SHAPE.heads(), "{keep}");
    }
}
