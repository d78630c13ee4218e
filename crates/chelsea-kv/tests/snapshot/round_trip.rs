//! What is loaded goes on exactly as what was saved.

use super::{LARGER, SMALL, block, config, example, expected, load_info, names};
use chelsea_kv::snapshot::{SnapshotError, inspect, load, parse, save, to_bytes};
use chelsea_kv::{Budget, CacheConfig, Dtype, Schedule, policy, registry};
use rand::SeedableRng;
use rand::rngs::SmallRng;

#[test]
fn a_loaded_cache_goes_on_exactly_as_the_saved_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let entries = Budget::Entries(90);
    for (i, (spec, budget, schedule, dtype)) in [
        ("chelsea", Budget::Keep(0.25), Schedule::Remerge, Dtype::F16),
        ("chelsea", Budget::Keep(0.4), Schedule::Once, Dtype::F16),
        ("chelsea:lam=0.5,floor=0,chunk=32", entries, Schedule::Remerge, Dtype::Bf16),
        ("chelsea-plain", Budget::Bytes(150_000), Schedule::Once, Dtype::F16),
        ("streaming", Budget::Keep(0.3), Schedule::Remerge, Dtype::F32),
        ("random:seed=7", entries, Schedule::Once, Dtype::F16),
        ("full", Budget::Keep(1.0), Schedule::Remerge, Dtype::F32),
        ("chelsea", Budget::Keep(0.25), Schedule::Remerge, Dtype::Q8),
        ("chelsea", Budget::Bytes(120_000), Schedule::Once, Dtype::Q8),
        ("chelsea", Budget::Share(0.6), Schedule::Once, Dtype::Q8),
        ("chelsea", Budget::Share(0.4), Schedule::Once, Dtype::K8V4),
    ]
    .into_iter()
    .enumerate()
    {
        let config = CacheConfig { schedule, dtype, ..config(LARGER, spec, budget) };
        let (mut cache, mut info) = example(config, 300);
        cache.expect_tokens(500, 0);
        let size = save(&path, &cache, &info).unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());
        let (mut loaded, found) = load(&path, Some(&expected(&info, cache.config())), None).unwrap();
        assert_eq!(found, info);
        assert_eq!(loaded.memory().total(), cache.memory().total(), "{spec}");
        assert_eq!(to_bytes(&loaded, &info).unwrap(), to_bytes(&cache, &info).unwrap(), "{spec}");
        let (mut one, mut other) = (SmallRng::seed_from_u64(i as u64), SmallRng::seed_from_u64(i as u64));
        for n in [1, 3, 64, 1, 1, 40, 7, 1, 1, 1] {
            assert_eq!(block(&mut cache, n, &mut one), block(&mut loaded, n, &mut other), "{spec}");
            assert_eq!(cache.memory().total(), loaded.memory().total(), "{spec}");
        }
        info.tokens.resize(cache.tokens(), 0);
        assert_eq!(to_bytes(&loaded, &info).unwrap(), to_bytes(&cache, &info).unwrap(), "{spec}");
    }
    assert_eq!(names(folder.path()), ["cache"], "temporary files are gone");
}

#[test]
fn an_empty_cache_comes_back_empty() {
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 0);
    let bytes = to_bytes(&cache, &info).unwrap();
    let (mut back, _) = parse(&bytes).unwrap().cache(None).unwrap();
    assert_eq!((back.tokens(), back.entries()), (0, 0));
    block(&mut back, 5, &mut SmallRng::seed_from_u64(0));
    assert_eq!(back.tokens(), 5);
}

#[test]
fn mapped_pages_are_copied_before_they_are_written() {
    [Dtype::F16, Dtype::Q8, Dtype::K8V4].into_iter().for_each(mapped_pages_are_copied);
}

fn mapped_pages_are_copied(dtype: Dtype) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let config = CacheConfig { dtype, ..config(LARGER, "chelsea", Budget::Keep(0.5)) };
    let (cache, info) = example(config, 333);
    save(&path, &cache, &info).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (mut loaded, mut info) = load(&path, None, None).unwrap();
    let fork = loaded.fork();
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
    let (cache, info) = example(config(LARGER, "streaming", Budget::Keep(0.5)), 200);
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
    let changed = ["chelsea:chunk=64,frac=0.1,floor=0.3,hcap=0.7,lam=0.05", "chelsea-plain:chunk=9", "random:seed=99"];
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
    let (cache, info) = example(config(LARGER, "chelsea:floor=0", Budget::Keep(0.25)), 400);
    let bytes = save(&path, &cache, &info).unwrap();
    let summary = inspect(&path).unwrap();
    let lens: Vec<usize> = cache.heads().iter().map(chelsea_kv::Head::len).collect();
    assert_eq!((summary.tokens, summary.entries, summary.bytes), (400, cache.entries(), bytes));
    assert_eq!(Some(&summary.entries_min), lens.iter().min());
    assert_eq!(Some(&summary.entries_max), lens.iter().max());
    assert_eq!(summary.entries_mean() * 6.0, cache.entries() as f64);
    assert_eq!((summary.shape, summary.dtype, summary.budget), (LARGER, Dtype::F16, Budget::Keep(0.25)));
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
