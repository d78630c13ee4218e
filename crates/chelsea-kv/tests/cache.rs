//! The cache of a sequence, seen from outside.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_kv::{
    AttendRequest, Budget, BudgetError, CacheConfig, CacheError, Dtype, Head, LAYOUT_CLASSES, PAGE, Page,
    SequenceCache, attention,
};
use common::{Uniform, policy};
use half::f16;

const SHAPE: Uniform = Uniform { layers: 3, kv_heads: 2, q_heads: 4, head_dim: 16 };

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn config(name: &str, budget: Budget) -> CacheConfig {
    CacheConfig { policy: policy(name).expect("registered"), budget, ..CacheConfig::new(SHAPE.shape()) }
}

fn feed(cache: &mut SequenceCache, n: usize, seed: u64) -> Vec<f32> {
    let mut outputs = Vec::new();
    for layer in 0..SHAPE.layers {
        let seed = seed + 10 * layer as u64;
        cache.append(layer, &noise(n * 32, seed), &noise(n * 32, seed + 1)).expect("in step");
        let mut out = vec![0.0; n * 64];
        cache.attend(layer, &noise(n * 64, seed + 2), &mut out).unwrap();
        outputs.extend(out);
    }
    outputs
}

#[test]
fn a_full_cache_is_plain_attention() {
    let full = CacheConfig { dtype: Dtype::F32, ..config("full", Budget::EntryFraction(1.0)) };
    let mut cache = SequenceCache::new(full).unwrap();
    for block in 0..5u64 {
        let outputs = feed(&mut cache, 70, 100 * block);
        assert!(!cache.compact().unwrap().compacted);
        if block == 4 {
            // The same from a head that was filled by hand.
            let mut head = Head::new(16, Dtype::F32);
            for b in 0..5u64 {
                let (k, v) = (noise(70 * 32, 100 * b), noise(70 * 32, 100 * b + 1));
                for t in 0..70 {
                    head.push(&k[t * 32..][..16], &v[t * 32..][..16], 1, 0.0);
                }
            }
            let q = noise(70 * 64, 402);
            let last = &q[69 * 64..][..32];
            let mut out = vec![0.0; 32];
            let request = attention::Request { heads: &[head], q: last, n: 1, out: &mut out };
            attention::reference::attend(request, &attention::Attention::full(2, 0.25));
            let got = &outputs[69 * 64..][..32];
            assert!(out.iter().zip(got).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    }
    assert_eq!(cache.tokens(), 350);
    assert_eq!(cache.entries(), 350 * 6);
    assert!(cache.heads().iter().all(|head| (0..350).all(|i| head.position(i) == i as f32)));
}

#[test]
fn sequences_attended_together_get_what_each_gets_alone() {
    let lengths = [300, 1, 70];
    let caches =
        || lengths.map(|n| SequenceCache::new(config("chelsea", Budget::EntryFraction(0.5))).map(|c| (c, n)).unwrap());
    let (mut alone, mut together) = (caches(), caches());
    let queries = lengths.map(|n| noise(2 * 64, n as u64));
    let mut expected = [const { Vec::new() }; 3];
    for (s, (cache, n)) in alone.iter_mut().enumerate() {
        feed(cache, *n, 7);
        cache.append(0, &noise(2 * 32, 1), &noise(2 * 32, 2)).unwrap();
        expected[s] = vec![0.0; 2 * 64];
        cache.attend(0, &queries[s], &mut expected[s]).unwrap();
    }
    let mut found = [const { Vec::new() }; 3];
    for (s, (cache, n)) in together.iter_mut().enumerate() {
        feed(cache, *n, 7);
        cache.append(0, &noise(2 * 32, 1), &noise(2 * 32, 2)).unwrap();
        found[s] = vec![0.0; 2 * 64];
    }
    let shares = together.iter_mut().zip(&queries).zip(&mut found);
    let mut requests: Vec<_> = shares.map(|(((cache, _), q), out)| AttendRequest { cache, q, out }).collect();
    SequenceCache::attend_many(0, &mut requests, None).unwrap();
    for (x, y) in expected.iter().flatten().zip(found.iter().flatten()) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
    SequenceCache::attend_many(0, &mut [], None).unwrap();
}

#[test]
fn keeping_everything_with_a_clustering_policy_is_the_full_cache() {
    let mut full = SequenceCache::new(config("full", Budget::EntryFraction(1.0))).unwrap();
    let mut chelsea = SequenceCache::new(config("chelsea", Budget::EntryFraction(1.0))).unwrap();
    for block in 0..4 {
        assert_eq!(feed(&mut full, 90, block), feed(&mut chelsea, 90, block));
        full.compact().unwrap();
        chelsea.compact().unwrap();
    }
}

#[test]
fn blocks_given_in_pieces_end_in_the_same_full_cache() {
    let mut whole = SequenceCache::new(config("full", Budget::EntryFraction(1.0))).unwrap();
    let mut pieces = SequenceCache::new(config("full", Budget::EntryFraction(1.0))).unwrap();
    let (k, v) = (noise(130 * 32, 1), noise(130 * 32, 2));
    for layer in 0..SHAPE.layers {
        whole.append(layer, &k, &v).unwrap();
    }
    for range in [0..1, 1..65, 65..66, 66..130] {
        for layer in 0..SHAPE.layers {
            pieces.append(layer, &k[range.start * 32..range.end * 32], &v[range.start * 32..range.end * 32]).unwrap();
        }
    }
    for (x, y) in whole.heads().iter().zip(pieces.heads().iter()) {
        for (x, y) in x.pages().iter().zip(y.pages()) {
            assert_eq!(x.keys::<f16>(), y.keys::<f16>());
            assert_eq!(x.values::<f16>(), y.values::<f16>());
            assert_eq!((x.counts(), x.positions()), (y.counts(), y.positions()));
        }
    }
}

#[test]
fn the_peak_of_a_run_is_budget_plus_one_block() {
    // Long enough that what each of two threads takes, however long the text, is small beside the cache.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
    pool.install(peak_is_budget_plus_one_block);
}

fn peak_is_budget_plus_one_block() {
    let (block, tokens) = (128, 16_384);
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.2))).expect("valid");
    cache.expect_tokens(tokens, 0);
    for b in 0..(tokens / block) as u64 {
        feed(&mut cache, block, b);
        cache.compact().unwrap();
    }
    assert_eq!(cache.tokens(), tokens);
    assert!(cache.entries() <= tokens * 6 / 5);
    // Budget and block in whole pages, the statistics, and what compaction took for a while.
    let entries = tokens.div_ceil(5) + block + PAGE;
    let bytes = entries.div_ceil(PAGE) * 6 * Page::bytes(16.into(), Dtype::F16) + cache.memory().fixed;
    assert!(cache.peak() <= bytes + cache.memory().scratch_peak, "{} > {bytes}", cache.peak());
    assert!(cache.memory().scratch_peak < bytes / 2, "{} of {bytes}", cache.memory().scratch_peak);
    assert!(cache.peak() < cache.full_bytes());
}

#[test]
fn pages_that_a_text_leaves_are_held_for_the_rest_of_it_and_counted() {
    let (step, steps) = (64, 40);
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.25))).unwrap();
    cache.expect_tokens(step * steps, 320);
    let waiting = |cache: &SequenceCache| {
        let pages: usize = cache.heads().iter().map(|head| head.pages().len()).sum();
        cache.memory().total() - cache.memory().fixed - pages * Page::bytes(16.into(), Dtype::F16)
    };
    let mut held = Vec::new();
    for b in 0..steps {
        feed(&mut cache, step, b as u64);
        if cache.compaction_is_due() {
            assert_eq!(waiting(&cache), 0, "all of them were filled again when the most is held");
            cache.compact().unwrap();
            held.push(waiting(&cache));
        }
    }
    assert!(held.len() > 2 && held.iter().any(|&bytes| bytes > 0), "{held:?}");
    assert_eq!(held.last(), Some(&0), "nothing is still to come");
    assert_eq!(waiting(&cache.fork().unwrap()), 0);
}

#[test]
fn at_the_end_of_a_text_the_budget_is_met_however_little_came_last() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.5))).unwrap();
    feed(&mut cache, 300, 0);
    assert!(cache.compact().unwrap().compacted);
    feed(&mut cache, 20, 1);
    assert!(!cache.compact().unwrap().compacted && !cache.is_within_budget());
    assert!(cache.compact_at_end().unwrap().compacted && cache.is_within_budget());
    assert!(!cache.compact_at_end().unwrap().compacted, "nothing is left to do");
    let mut twice = SequenceCache::new(config("kvzip", Budget::EntryFraction(0.5))).unwrap();
    feed(&mut twice, 300, 0);
    assert!(!twice.compact_at_end().unwrap().compacted, "it must read the text again first");
}

#[test]
fn a_fork_counts_beside_its_origin_but_for_the_pages_they_share() {
    let mut cache = SequenceCache::new(config("h2o", Budget::EntryFraction(0.5))).unwrap();
    feed(&mut cache, 150, 0);
    let alone = cache.peak();
    let mut fork = cache.fork().unwrap();
    cache.count_fork(&fork);
    assert_eq!(cache.peak(), alone + fork.memory().fixed, "all pages are shared");
    feed(&mut fork, 100, 1);
    cache.count_fork(&fork);
    // Of three pages of a head, the last has been copied.
    assert_eq!(cache.peak(), alone + fork.memory().total() - 2 * 6 * Page::bytes(16.into(), Dtype::F16));
    drop(fork);
    assert_eq!(cache.memory().total(), alone);
}

#[test]
fn an_absolute_budget_lets_the_text_grow_without_bound() {
    for name in ["chelsea", "streaming"] {
        let budget = Budget::Entries(160);
        let mut cache = SequenceCache::new(config(name, budget)).unwrap();
        let mut most = 0;
        for b in 0..60 {
            feed(&mut cache, 64, b);
            cache.compact().unwrap();
            most = most.max(cache.peak());
            assert!(cache.entries() <= 160 * 6);
        }
        assert_eq!(cache.entries(), 160 * 6);
        assert_eq!(cache.tokens(), 60 * 64);
        let one_block = (160usize + 64 + PAGE).div_ceil(PAGE) * 6 * Page::bytes(16.into(), Dtype::F16);
        assert!(most <= one_block + cache.memory().fixed + cache.memory().scratch_peak);
    }
}

#[test]
fn decoding_compacts_once_in_a_block() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::Entries(200))).unwrap();
    feed(&mut cache, 512, 0);
    assert!(cache.compact().unwrap().compacted);
    let mut compactions = 0;
    for t in 0..256 {
        feed(&mut cache, 1, t);
        compactions += usize::from(cache.compact().unwrap().compacted);
        assert!(cache.entries() <= (200 + 64) * 6);
    }
    assert_eq!(compactions, 4);
}

#[test]
fn a_share_leaves_earlier_centroids_alone() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.3))).unwrap();
    cache.expect_tokens(1024, 0);
    let mut compactions = 0;
    let mut clustered: Vec<Vec<u32>> = vec![Vec::new(); 6];
    for b in 0..8 {
        feed(&mut cache, 128, b);
        if cache.compact().unwrap().compacted {
            let now = counts(&cache, 64);
            for (now, before) in now.iter().zip(&clustered) {
                assert_eq!(now[..before.len()], before[..]);
            }
            clustered = now;
            compactions += 1;
        }
    }
    assert!(compactions > 3, "{compactions}");
}

#[test]
fn entries_stay_as_they_are_until_the_expected_length_may_keep_no_more() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.25))).unwrap();
    cache.expect_tokens(4096, 0);
    for b in 0..8 {
        feed(&mut cache, 128, b);
        assert!(!cache.compact().unwrap().compacted, "1,024 entries per head are what a quarter of 4,096 may hold");
    }
    feed(&mut cache, 128, 8);
    let report = cache.compact().unwrap();
    assert!(report.compacted && report.after <= 9 * 128 * 6 / 3, "then the rate of the whole holds: {report:?}");
    for b in 9..32 {
        feed(&mut cache, 128, b);
        cache.compact().unwrap();
        assert!(cache.entries() <= 1024 * 6);
    }
    assert!(cache.entries() > 1000 * 6);
}

#[test]
fn streaming_keeps_sinks_and_the_latest_entries() {
    let mut cache = SequenceCache::new(config("streaming", Budget::EntryFraction(0.25))).unwrap();
    for b in 0..8 {
        feed(&mut cache, 128, b);
        cache.compact().unwrap();
    }
    for head in cache.heads().iter() {
        let positions: Vec<f32> = (0..head.len()).map(|i| head.position(i)).collect();
        let wanted: Vec<f32> = (0..4).chain(1024 - 252..1024).map(|p| p as f32).collect();
        assert_eq!(positions, wanted);
    }
}

fn counts(cache: &SequenceCache, window: usize) -> Vec<Vec<u32>> {
    let all = |head: &Head| (0..head.len().saturating_sub(window)).map(|i| head.count(i)).collect();
    cache.heads().iter().map(all).collect()
}

#[test]
fn a_lower_budget_can_be_set_later() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.8))).unwrap();
    feed(&mut cache, 600, 0);
    cache.compact().unwrap();
    cache.set_budget(Budget::EntryFraction(0.2)).unwrap();
    feed(&mut cache, 100, 1);
    assert!(cache.compact().unwrap().compacted);
    assert!(cache.entries() <= 700 * 6 / 5);
    let report = cache.compact_now(Some(Budget::EntryFraction(0.12))).unwrap();
    assert!(report.compacted && report.after <= 84 * 6 && report.freed > 0);
    assert!(cache.heads().iter().all(|head| (0..head.len()).map(|i| head.count(i)).sum::<u32>() == 700));
}

#[test]
fn one_shot_compression_meets_the_ratio() {
    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(1.0))).unwrap();
    feed(&mut cache, 1000, 0);
    assert!(!cache.compact().unwrap().compacted);
    let report = cache.compact_now(Some(Budget::EntryFraction(0.25))).unwrap();
    assert_eq!((report.before, report.after), (6000, 1500));
}

#[test]
fn every_byte_is_somewhere() {
    for dtype in [Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4] {
        let config = CacheConfig { dtype, ..config("chelsea", Budget::EntryFraction(0.5)) };
        let mut cache = SequenceCache::new(config).unwrap();
        feed(&mut cache, 300, 0);
        cache.compact().unwrap();
        let memory = cache.memory();
        let entries = cache.entries();
        let (keys, values, scales) = match dtype {
            Dtype::F16 => (2 * 16, 2 * 16, 0),
            Dtype::Q8 => (16, 16, 8),
            // Whole groups of 32 numbers.
            Dtype::K5V4 => (20, 8, 8),
            _ => (16, 8, 8),
        };
        assert_eq!((memory.keys, memory.values), (entries * keys, entries * values));
        assert_eq!(memory.scales, entries * scales);
        assert_eq!((memory.counts, memory.ln_counts, memory.positions), (entries * 4, entries * 4, entries * 4));
        let pages: usize = cache.heads().iter().map(|head| head.pages().len()).sum();
        assert_eq!(memory.total(), pages * Page::bytes(16.into(), dtype) + memory.fixed);
        assert_eq!(memory.shared, 0);
        let fork = cache.fork().unwrap();
        assert_eq!(fork.memory().shared, pages * Page::bytes(16.into(), dtype));
        assert_eq!(cache.full_bytes(), 300 * 6 * 2 * 16 * 2, "compared with 16 bits, whatever the type");
    }
}

#[test]
fn a_share_of_the_bytes_keeps_more_entries_the_fewer_bits_they_have() {
    let kept = |dtype| {
        let mut cache =
            SequenceCache::new(CacheConfig { dtype, ..config("chelsea", Budget::ByteFraction(0.6)) }).unwrap();
        for b in 0..12 {
            feed(&mut cache, 128, b);
            cache.compact().unwrap();
        }
        cache.compact_now(None).unwrap();
        assert!(cache.memory().total() as f64 <= 0.6 * cache.full_bytes() as f64, "{dtype:?}");
        cache.entries()
    };
    let [wide, half, byte, less] = [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::K8V4].map(kept);
    assert!(byte as f64 > 1.3 * half as f64 && half as f64 > 1.5 * wide as f64, "{wide}, {half}, {byte}");
    assert!(less as f64 > 1.1 * byte as f64, "{byte}, {less}");
}

#[test]
fn a_value_term_needs_the_scale_of_values() {
    let mut cache = SequenceCache::new(config("chelsea:value_weight=0.3", Budget::EntryFraction(0.3))).unwrap();
    for b in 0..4 {
        feed(&mut cache, 128, b);
        cache.compact().unwrap();
    }
    assert!(cache.entries() <= 512 * 6 * 3 / 10);
}

#[test]
fn misuse_is_refused() {
    let new = |config| SequenceCache::new(config).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(new(config("chelsea", Budget::EntryFraction(0.0))).contains("keep ratio 0"));
    assert!(new(config("chelsea", Budget::Entries(10))).contains("132"));
    assert!(new(config("full", Budget::EntryFraction(0.5))).contains("keeps every entry"));
    let bytes = SequenceCache::new(config("chelsea", Budget::Bytes(1 << 10)));
    assert!(matches!(bytes, Err(CacheError::Budget(BudgetError::Bytes { .. }))));

    let mut cache = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.5))).unwrap();
    let token = noise(32, 0);
    assert!(matches!(cache.append(3, &token, &token), Err(CacheError::Layer { layer: 3, layers: 3 })));
    assert!(matches!(cache.append(0, &token[1..], &token[1..]), Err(CacheError::Length { .. })));
    assert!(matches!(cache.append(0, &token, &[]), Err(CacheError::Length { .. })));
    cache.append(0, &token, &token).unwrap();
    assert!(matches!(cache.append(0, &token, &token), Err(CacheError::OutOfStep { layer: 0, .. })));
    assert!(matches!(cache.append(1, &noise(64, 0), &noise(64, 0)), Err(CacheError::OutOfStep { layer: 1, .. })));
    assert!(!cache.compact().unwrap().compacted, "layers are out of step");
    assert_eq!(cache.tokens(), 0);
    cache.append(1, &token, &token).unwrap();
    cache.append(2, &token, &token).unwrap();
    assert_eq!(cache.tokens(), 1);
    assert!(cache.set_budget(Budget::EntryFraction(2.0)).is_err());
}

#[test]
fn a_layout_counts_every_entry_and_every_token_once() {
    let mut cache =
        SequenceCache::new(CacheConfig { sinks: 4, window: 16, ..config("chelsea", Budget::EntryFraction(0.25)) })
            .unwrap();
    cache.expect_tokens(600, 0);
    for block in 0..6 {
        feed(&mut cache, 100, block);
        let is_compacted = cache.compact().unwrap().compacted;
        let layout = cache.layout();
        assert_eq!(layout.len(), 6);
        let mut entries = 0;
        for (g, head) in layout.iter().enumerate() {
            assert_eq!((head.layer, head.head), (g / 2, g % 2));
            assert_eq!(head.sinks, 4);
            let clustered: usize = head.clustered.iter().sum();
            entries += head.sinks + clustered + head.recent;
            // Each class stands for so many tokens at least and at most; together for what is no sink and not recent.
            let tokens = cache.tokens() - head.sinks - head.recent;
            let most: u64 =
                head.clustered.iter().zip(LAYOUT_CLASSES).map(|(&n, most)| n as u64 * u64::from(most)).sum();
            let least: usize =
                head.clustered.iter().enumerate().map(|(c, &n)| n * ((1 << c) / 2 + 1).min(1 << c)).sum();
            assert!(least <= tokens && tokens as u64 <= most, "{least} {tokens} {most} {head:?}");
            assert!(head.recent >= 16);
        }
        assert_eq!(entries, cache.entries());
        assert!(block < 5 || is_compacted && layout.iter().any(|head| head.clustered[1..].iter().sum::<usize>() > 0));
    }
}

#[test]
fn a_policy_widens_the_recent_window_by_a_share_of_what_is_kept() {
    let recent = |spec: &str, budget: Budget, tokens: usize| {
        let mut cache = SequenceCache::new(config(spec, budget)).unwrap();
        feed(&mut cache, tokens, 0);
        assert!(cache.compact_now(None).unwrap().compacted);
        assert!(cache.is_within_budget());
        // Tokens that stand for themselves at the end of every head, on end.
        let alone = |head: &Head| {
            (0..head.len()).rev().take_while(|&i| head.count(i) == 1 && head.position(i).fract() == 0.0).count()
        };
        cache.heads().iter().map(alone).min().unwrap()
    };
    let half = Budget::EntryFraction(0.5);
    assert!((245..400).contains(&recent("chelsea", half, 2048)), "two fifths of the 614 beyond a fifth of the text");
    assert!(
        recent("chelsea:recent=0", half, 2048) < 245,
        "the window that was asked for, and what was not worth merging"
    );
    assert!(recent("chelsea:recent=0.8", half, 2048) >= 491);
    assert!(recent("chelsea:recent=1", half, 4096) < 1000, "512 at most");
    assert!(recent("chelsea", Budget::Entries(1024), 2048) >= 245, "other budgets, too");
    assert!(recent("chelsea", Budget::EntryFraction(0.15), 2048) < 200, "not where little is kept");
}
