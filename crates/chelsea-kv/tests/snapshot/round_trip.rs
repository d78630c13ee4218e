//! What is loaded goes on exactly as what was saved.

use super::{LARGER, SMALL, block, config, example, expected, load_info, names, repeat};
use crate::common::{policy, registry};
use chelsea_kv::policy::Needs;
use chelsea_kv::snapshot::{SnapshotError, SnapshotInfo, inspect, load, parse, save, to_bytes};
use chelsea_kv::{Budget, CacheConfig, Dtype, SequenceCache};
use rand::SeedableRng;
use rand::rngs::SmallRng;

#[test]
fn a_loaded_cache_goes_on_exactly_as_the_saved_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let entries = Budget::Entries(90);
    for (i, (spec, budget, dtype)) in [
        ("chelsea", Budget::EntryFraction(0.25), Dtype::F16),
        ("chelsea", Budget::EntryFraction(0.4), Dtype::F16),
        ("chelsea:value_weight=0.5,floor=0,chunk=32", entries, Dtype::Bf16),
        ("chelsea-plain", Budget::Bytes(150_000), Dtype::F16),
        ("streaming", Budget::EntryFraction(0.3), Dtype::F32),
        ("random:seed=7", entries, Dtype::F16),
        ("full", Budget::EntryFraction(1.0), Dtype::F32),
        ("chelsea", Budget::EntryFraction(0.25), Dtype::Q8),
        ("chelsea", Budget::Bytes(120_000), Dtype::Q8),
        ("chelsea", Budget::ByteFraction(0.6), Dtype::Q8),
        ("chelsea", Budget::ByteFraction(0.4), Dtype::K8V4),
        ("chelsea", Budget::ByteFraction(0.3), Dtype::K5V4),
    ]
    .into_iter()
    .enumerate()
    {
        let config = CacheConfig { dtype, ..config(LARGER, spec, budget) };
        let (mut cache, info) = example(config, 300);
        cache.expect_tokens(500, 30);
        let size = save(&path, &cache, &info).unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());
        let (loaded, found) = load(&path, Some(&expected(&info, cache.config())), None).unwrap();
        assert_eq!(found, info);
        go_on_alike(cache, loaded, info, i as u64);
    }
    assert_eq!(names(folder.path()), ["cache"], "temporary files are gone");
}

/// Feeds both caches the same, and compresses them further.
fn go_on_alike(mut cache: SequenceCache, mut loaded: SequenceCache, mut info: SnapshotInfo, seed: u64) {
    let spec = cache.config().policy.spec();
    let alike = |cache: &SequenceCache, loaded: &SequenceCache, info: &SnapshotInfo| {
        assert_eq!(cache.memory().total(), loaded.memory().total(), "{spec}");
        assert!(to_bytes(loaded, info).unwrap() == to_bytes(cache, info).unwrap(), "{spec}");
    };
    alike(&cache, &loaded, &info);
    let (mut one, mut other) = (SmallRng::seed_from_u64(seed), SmallRng::seed_from_u64(seed));
    for n in [1, 3, 64, 1, 1, 40, 7, 1, 1, 1] {
        assert_eq!(block(&mut cache, n, &mut one), block(&mut loaded, n, &mut other), "{spec}");
        assert_eq!(cache.memory().total(), loaded.memory().total(), "{spec}");
    }
    info.tokens.resize(cache.tokens(), 0);
    alike(&cache, &loaded, &info);
    if spec != "full" {
        let less = Some(Budget::EntryFraction(0.2));
        let (mut fork, mut other) = (cache.fork().unwrap(), loaded.fork().unwrap());
        assert_eq!(fork.compact_now(less).map(|r| r.after), other.compact_now(less).map(|r| r.after), "{spec}");
        alike(&fork, &other, &info);
    }
}

#[test]
fn what_any_policy_found_out_comes_back_with_the_cache() {
    for (i, policy) in registry().iter().filter(|policy| !policy.one_shot_only).enumerate() {
        let budget = Budget::EntryFraction(if policy.name == "full" { 1.0 } else { 0.4 });
        let (cache, info) = example(config(LARGER, policy.name, budget), 300);
        let loaded = parse(&to_bytes(&cache, &info).unwrap()).unwrap().cache(None).unwrap().0;
        // What it says of the text read, before anything else is.
        if policy.name != "full" {
            let less = Some(Budget::EntryFraction(0.3));
            let (mut fork, mut other) = (cache.fork().unwrap(), loaded.fork().unwrap());
            assert!(fork.compact_now(less).unwrap().compacted && other.compact_now(less).unwrap().compacted);
            assert!(to_bytes(&fork, &info).unwrap() == to_bytes(&other, &info).unwrap(), "{}", policy.name);
        }
        go_on_alike(cache, loaded, info, i as u64);
    }
}

#[test]
fn what_a_second_pass_found_comes_back_with_the_cache() {
    for policy in registry().iter().filter(|policy| policy.one_shot_only) {
        let (mut cache, info) = example(config(LARGER, policy.name, Budget::EntryFraction(0.4)), 300);
        let again = |cache: &SequenceCache| parse(&to_bytes(cache, &info).unwrap()).unwrap().cache(None).unwrap().0;
        assert!(!again(&cache).has_importance());
        repeat(&mut cache);
        for compressed in [false, true] {
            if compressed {
                assert!(cache.compact_now(None).unwrap().compacted);
            }
            let loaded = again(&cache);
            assert!(loaded.has_importance() && loaded.entries() == cache.entries());
            let less = Some(Budget::EntryFraction(0.3));
            let (mut fork, mut other) = (cache.fork().unwrap(), loaded.fork().unwrap());
            assert!(fork.compact_now(less).unwrap().compacted && other.compact_now(less).unwrap().compacted);
            assert!(to_bytes(&fork, &info).unwrap() == to_bytes(&other, &info).unwrap(), "{}", policy.name);
            go_on_alike(cache.fork().unwrap(), loaded, info.clone(), 9);
        }
    }
}

#[test]
fn another_policy_finds_what_was_gathered_for_it() {
    let mut cache = SequenceCache::new(config(LARGER, "full", Budget::EntryFraction(1.0))).unwrap();
    let names = ["h2o", "snapkv", "expected-attention", "chelsea"];
    cache.gather(names.iter().fold(Needs::default(), |needs, name| needs.and(policy(name).unwrap().needs()))).unwrap();
    let info = SnapshotInfo { tokens: vec![0; 200], ..SnapshotInfo::default() };
    block(&mut cache, 200, &mut SmallRng::seed_from_u64(2));
    let bytes = to_bytes(&cache, &info).unwrap();
    for name in names {
        let mut fork = cache.fork().unwrap();
        fork.reconfigure(policy(name).unwrap(), Budget::EntryFraction(0.3)).unwrap();
        let mut loaded = parse(&bytes).unwrap().cache(Some(policy(name).unwrap())).unwrap().0;
        loaded.set_budget(Budget::EntryFraction(0.3)).unwrap();
        assert_eq!(loaded.memory().total(), fork.memory().total(), "{name}: what others need is dropped");
        fork.compact_now(None).unwrap();
        loaded.compact_now(None).unwrap();
        assert!(to_bytes(&fork, &info).unwrap() == to_bytes(&loaded, &info).unwrap(), "{name}");
    }
}

#[test]
fn an_empty_cache_comes_back_empty() {
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 0);
    let bytes = to_bytes(&cache, &info).unwrap();
    let (mut back, _) = parse(&bytes).unwrap().cache(None).unwrap();
    assert_eq!((back.tokens(), back.entries()), (0, 0));
    block(&mut back, 5, &mut SmallRng::seed_from_u64(0));
    assert_eq!(back.tokens(), 5);
}

#[test]
fn mapped_pages_are_copied_before_they_are_written() {
    [Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4].into_iter().for_each(mapped_pages_are_copied);
}

fn mapped_pages_are_copied(dtype: Dtype) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let config = CacheConfig { dtype, ..config(LARGER, "chelsea", Budget::EntryFraction(0.5)) };
    let (cache, info) = example(config, 333);
    save(&path, &cache, &info).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (mut loaded, mut info) = load(&path, None, None).unwrap();
    let fork = loaded.fork().unwrap();
    let mut rng = SmallRng::seed_from_u64(5);
    (0..6).for_each(|_| drop(block(&mut loaded, 50, &mut rng)));
    assert!(std::fs::read(&path).unwrap() == before, "the file is never written through the map");
    assert!(to_bytes(&fork, &info).unwrap() == before, "nor are pages that a fork reads");
    // The cache goes on reading the file that was under the name when it was loaded.
    info.tokens.resize(loaded.tokens(), 1);
    save(&path, &loaded, &info).unwrap();
    assert!(std::fs::read(&path).unwrap() == to_bytes(&loaded, &info).unwrap());
    assert!(to_bytes(&fork, &load_info(&before)).unwrap() == before);
}

#[test]
fn another_policy_may_take_over() {
    let (cache, info) = example(config(LARGER, "streaming", Budget::EntryFraction(0.5)), 200);
    let bytes = to_bytes(&cache, &info).unwrap();
    let (mut back, _) = parse(&bytes).unwrap().cache(Some(policy("chelsea").unwrap())).unwrap();
    assert_eq!(back.config().policy.name(), "chelsea");
    block(&mut back, 80, &mut SmallRng::seed_from_u64(1));
    assert!(back.entries() <= 280 * 6 / 2);
    let error = parse(&bytes).unwrap().cache(Some(policy("full").unwrap())).unwrap_err();
    assert!(matches!(error, SnapshotError::Cache(_)), "{error}");
}

#[test]
fn a_policy_is_made_again_from_its_specification() {
    let changed =
        ["chelsea:chunk=64,round_share=0.1,floor=0.3,value_weight=0.05", "chelsea-plain:chunk=9", "random:seed=99"];
    for spec in registry().iter().map(|info| info.name).chain(changed) {
        let made = policy(spec).unwrap();
        let again = policy(&made.spec()).unwrap();
        assert_eq!(format!("{made:?}"), format!("{again:?}"), "{spec}");
    }
}

#[test]
fn inspect_reads_the_header_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, info) = example(config(LARGER, "chelsea:floor=0", Budget::EntryFraction(0.25)), 400);
    let bytes = save(&path, &cache, &info).unwrap();
    let summary = inspect(&path).unwrap();
    let lens: Vec<usize> = cache.heads().iter().map(chelsea_kv::Head::len).collect();
    assert_eq!((summary.tokens, summary.entries, summary.bytes), (400, cache.entries(), bytes));
    assert_eq!(Some(&summary.entries_min), lens.iter().min());
    assert_eq!(Some(&summary.entries_max), lens.iter().max());
    assert_eq!(summary.entries_mean() * 6.0, cache.entries() as f64);
    assert_eq!(
        (summary.shape.clone(), summary.dtype, summary.budget),
        (LARGER.shape(), Dtype::F16, Budget::EntryFraction(0.25))
    );
    assert!(summary.policy.starts_with("chelsea:") && summary.policy.contains("floor=0,"), "{}", summary.policy);
    assert_eq!((summary.fingerprint, &summary.note), (info.fingerprint, &info.note));
    assert_eq!(parse(&std::fs::read(&path).unwrap()).unwrap().summary(), summary);
    // Damage behind the header is found by loading.
    let mut damaged = std::fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    assert_eq!(inspect(&path).unwrap(), summary);
    let error = load(&path, None, None).unwrap_err();
    assert!(matches!(error, SnapshotError::HeadCorrupted { layer: 2, head: 1 }), "{error}");
}
