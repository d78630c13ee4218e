//! Tokens that are taken back: the cache goes on as if they had never come.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_kv::{Budget, CacheConfig, CacheError, CacheShape, Dtype, MemoryReport, SequenceCache};
use common::mixed::{Random, entries, feed, layer, mixed, state};
use common::{policy, registry};
use proptest::prelude::*;

fn config(shape: CacheShape, dtype: Dtype, name: &str, budget: Budget) -> CacheConfig {
    let policy = policy(name).expect("registered");
    CacheConfig { dtype, sinks: 3, window: 40, decode_block: 8, policy, budget, ..CacheConfig::new(shape) }
}

/// Layers of several sizes; the windows are wider than any text here.
fn shape() -> CacheShape {
    let layers = vec![layer(4, 2, 8, 16, None), layer(2, 1, 16, 8, Some(1000)), layer(2, 2, 8, 8, None)];
    CacheShape::new(layers).expect("layers of a cache")
}

/// First token from which all heads hold every token, looked at one by one.
fn exact_from(cache: &SequenceCache) -> usize {
    let (tokens, shape) = (cache.tokens(), cache.config().shape.clone());
    let single = |g: usize, token: usize| {
        let head = &cache.heads()[g];
        (0..head.len()).any(|i| head.count(i) == 1 && head.position(i) == token as f32)
    };
    let whole = |from: usize| {
        shape.layer_of_heads().enumerate().all(|(g, (_, layer))| {
            // What the token `from` sees must be there, too.
            let first = match layer.window {
                Some(window) => (from + 1).saturating_sub(window),
                None => from,
            };
            (first..tokens).all(|token| single(g, token))
        })
    };
    (0..=tokens).find(|&from| whole(from)).expect("nothing is whole from the end on")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_follows_is_what_would_have_followed(
        which in 0usize..5, first in 64usize..300, more in 1usize..200, back in 1usize..200, forked: bool, keep_fork: bool,
    ) {
        let dtype = Dtype::ALL[which];
        let new = || SequenceCache::new(config(shape(), dtype, "full", Budget::EntryFraction(1.0))).expect("valid");
        let (mut cache, mut twin) = (new(), new());
        feed(&mut cache, first, 1).unwrap();
        feed(&mut twin, first, 1).unwrap();
        // In the same steps, as keys of 8 bits are weighed by their first tokens.
        let kept = if forked { Some(cache.fork().unwrap()) } else { None };
        let fork_before = kept.as_ref().map(state);
        let kept = kept.filter(|_| keep_fork);
        feed(&mut cache, more, 2).unwrap();
        // Back to the first text or into it.
        let into = (back.min(first - 64)).min(first);
        cache.rewind(more + into).unwrap();
        prop_assert_eq!(cache.tokens(), first - into);
        if into == 0 {
            prop_assert!(state(&cache) == state(&twin), "{:?}", dtype);
        } else {
            // What was there before is there as it was.
            for (head, twin) in cache.heads().iter().zip(twin.heads().iter()) {
                let whole = entries(twin);
                prop_assert_eq!(&entries(head)[..], &whole[..entries(head).len()]);
            }
            feed(&mut cache, into, 1).unwrap();
        }
        prop_assert_eq!(feed(&mut cache, 33, 3).unwrap(), feed(&mut twin, 33, 3).unwrap());
        prop_assert!(state(&cache) == state(&twin), "{:?}", dtype);
        prop_assert_eq!(cache.memory().total(), twin.memory().total());
        if let Some(kept) = &kept {
            prop_assert!(Some(state(kept)) == fork_before, "a fork is left alone");
        }
    }

    #[test]
    fn what_was_merged_or_left_the_window_cannot_be_had_back(
        seed: u64, index: prop::sample::Index, which in 0usize..5, blocks in prop::collection::vec(1usize..120, 2..8),
    ) {
        let names: Vec<_> = registry().into_iter().filter(|info| !info.one_shot_only && info.name != "full").collect();
        let name = names[index.index(names.len())].name;
        let mut cache = SequenceCache::new(config(mixed(), Dtype::ALL[which], name, Budget::EntryFraction(0.4))).expect("valid");
        let mut random = Random(seed);
        for n in blocks {
            feed(&mut cache, n, seed).unwrap();
            cache.compact().unwrap();
            let (exact, tokens) = (cache.exact_from(), cache.tokens());
            prop_assert_eq!(exact, exact_from(&cache), "{}", name);
            let before = state(&cache);
            if exact > 0 {
                let refused = cache.rewind(tokens - exact + 1);
                prop_assert_eq!(refused, Err(CacheError::Rewind { tokens: tokens - exact + 1, exact_from: exact, seen: tokens }));
            }
            prop_assert!(cache.rewind(tokens + 1).is_err());
            prop_assert!(state(&cache) == before);
            let mut fork = cache.fork().unwrap();
            fork.rewind(tokens - exact).unwrap();
            prop_assert_eq!(fork.tokens(), exact);
            feed(&mut fork, 5, seed ^ 1).unwrap();
            prop_assert!(state(&cache) == before, "a fork goes back alone");
            cache.rewind(random.below(tokens - exact + 1) / 2).unwrap();
        }
    }
}

#[test]
fn statistics_of_entries_go_with_them() {
    for name in ["h2o", "snapkv", "expected-attention", "chelsea", "tova"] {
        let new = || SequenceCache::new(config(shape(), Dtype::F16, name, Budget::EntryFraction(0.5))).expect("valid");
        let (mut cache, mut twin) = (new(), new());
        for cache in [&mut cache, &mut twin] {
            feed(cache, 200, 1).unwrap();
            cache.compact().unwrap();
        }
        feed(&mut cache, 30, 2).unwrap();
        cache.rewind(30).unwrap();
        // How much a compaction takes at once depends on how its threads meet.
        let held = |cache: &SequenceCache| MemoryReport { scratch_peak: 0, ..cache.memory() };
        assert_eq!(held(&cache), held(&twin), "{name}");
        // The entries are the same; what other queries drew out of them stays drawn.
        assert_eq!(feed(&mut cache, 50, 1).unwrap(), feed(&mut twin, 50, 1).unwrap(), "{name}");
        for (head, twin) in cache.heads().iter().zip(twin.heads().iter()) {
            assert_eq!(entries(head), entries(twin));
        }
        cache.compact_now(None).unwrap();
        twin.compact_now(None).unwrap();
        assert_eq!(cache.entries(), twin.entries());
    }
}

#[test]
fn a_cache_of_which_everything_was_taken_back_is_as_new() {
    for dtype in Dtype::ALL {
        let new = || SequenceCache::new(config(shape(), dtype, "full", Budget::EntryFraction(1.0))).expect("valid");
        let (mut cache, mut twin) = (new(), new());
        feed(&mut cache, 100, 1).unwrap();
        cache.rewind(100).unwrap();
        assert!(state(&cache) == state(&twin), "{dtype:?}");
        assert_eq!(feed(&mut cache, 40, 2).unwrap(), feed(&mut twin, 40, 2).unwrap());
        assert!(state(&cache) == state(&twin), "{dtype:?}");
    }
}

#[test]
fn nothing_is_taken_back_in_the_middle_of_a_block() {
    let mut cache = SequenceCache::new(config(shape(), Dtype::F16, "full", Budget::EntryFraction(1.0))).expect("valid");
    feed(&mut cache, 10, 1).unwrap();
    let spec = cache.config().shape.layer(0).clone();
    cache.append(0, &vec![0.5; 20 * spec.key_width()], &vec![0.5; 20 * spec.value_width()]).unwrap();
    assert_eq!(cache.exact_from(), 0);
    assert!(matches!(cache.rewind(1), Err(CacheError::Rewind { .. })));
    assert_eq!(cache.tokens(), 10);
}
