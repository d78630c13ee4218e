//! Caches as files: they come back as they were, and bad files are refused.

#![allow(clippy::unwrap_used)]

use chelsea_kv::snapshot::{
    Expected, MAX_NOTE, SnapshotError, SnapshotInfo, inspect, is_snapshot, load, parse, reseal, save, to_bytes,
};
use chelsea_kv::{Budget, CacheConfig, CacheShape, Dtype, Rotary, Schedule, SequenceCache, policy, registry};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::Arc;

const SMALL: CacheShape = CacheShape { layers: 2, kv_heads: 1, q_heads: 2, head_dim: 4 };
const LARGER: CacheShape = CacheShape { layers: 3, kv_heads: 2, q_heads: 4, head_dim: 32 };

fn config(shape: CacheShape, spec: &str, budget: Budget) -> CacheConfig {
    CacheConfig {
        policy: policy(spec).unwrap(),
        budget,
        sinks: 2,
        window: 16,
        decode_block: 8,
        ..CacheConfig::new(shape, Rotary::plain(shape.head_dim, 10_000.0))
    }
}

/// Passes one block of `n` tokens through `cache`, compacts it, and returns what attention answered.
fn block(cache: &mut SequenceCache, n: usize, rng: &mut SmallRng) -> Vec<f32> {
    let shape = cache.config().shape;
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let mut answers = Vec::new();
    for layer in 0..shape.layers {
        let rows = n * shape.kv_heads * shape.head_dim;
        cache.append(layer, &numbers(rows), &numbers(rows)).unwrap();
        let q = numbers(n * shape.q_heads * shape.head_dim);
        let mut out = vec![0.0; q.len()];
        cache.attend(layer, &q, &mut out);
        answers.extend(out);
    }
    cache.compact();
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

fn small() -> Vec<u8> {
    small_in(Dtype::F16)
}

fn small_in(dtype: Dtype) -> Vec<u8> {
    let config = CacheConfig { dtype, ..config(SMALL, "chelsea", Budget::Keep(0.5)) };
    let (cache, info) = example(config, 150);
    to_bytes(&cache, &info).unwrap()
}

fn expected(info: &SnapshotInfo, config: &CacheConfig) -> Expected {
    Expected { fingerprint: info.fingerprint, shape: config.shape, rotary: config.rotary.clone() }
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

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
    [Dtype::F16, Dtype::Q8].into_iter().for_each(mapped_pages_are_copied);
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

fn load_info(bytes: &[u8]) -> SnapshotInfo {
    parse(bytes).unwrap().cache(None).unwrap().1
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

#[test]
fn what_was_made_with_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    let right = expected(&info, cache.config());
    assert!(load(&path, Some(&right), None).is_ok());
    let error = load(&path, Some(&Expected { fingerprint: [0xab; 16], ..right.clone() }), None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&"ab".repeat(16)) && text.contains("7369787465656e"), "{text}");
    let shape = CacheShape { layers: 4, ..SMALL };
    let error = load(&path, Some(&Expected { shape, ..right.clone() }), None).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherShape { .. }), "{error}");
    let error = load(&path, Some(&Expected { rotary: Rotary::plain(4, 500_000.0), ..right.clone() }), None);
    assert!(matches!(error, Err(SnapshotError::OtherRotary)));
    let mut rotary = right.rotary.clone();
    rotary.inv_freq.iter_mut().for_each(|f| *f *= 1.0 + 1e-7);
    assert!(load(&path, Some(&Expected { rotary, ..right }), None).is_ok(), "rounding is no other model");
}

#[test]
fn what_cannot_be_kept_is_not_saved() {
    let (mut cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    let short = SnapshotInfo { tokens: vec![1; 99], ..info.clone() };
    assert!(matches!(to_bytes(&cache, &short), Err(SnapshotError::Tokens { given: 99, cache: 100 })));
    let wordy = SnapshotInfo { note: " ".repeat(MAX_NOTE + 1), ..info.clone() };
    assert!(matches!(to_bytes(&cache, &wordy), Err(SnapshotError::TooLarge { field: "the size of the note", .. })));
    cache.append(0, &[0.0; 4], &[0.0; 4]).unwrap();
    assert!(matches!(to_bytes(&cache, &info), Err(SnapshotError::MidBlock)));
}

#[test]
fn every_shorter_or_longer_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let bytes = small();
    for len in 0..bytes.len() {
        match parse(&bytes[..len]).unwrap_err() {
            SnapshotError::NotASnapshot => assert_eq!(len, 0),
            SnapshotError::Truncated { have, need } => {
                assert_eq!((have, need), (len as u64, if len < 64 { 64 } else { bytes.len() as u64 }));
            }
            other => panic!("{len}: {other}"),
        }
        if len % 41 == 0 {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(inspect(&path).is_err() && load(&path, None, None).is_err());
            assert_eq!(is_snapshot(&path), len >= 8);
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(parse(&longer), Err(SnapshotError::TooLong { .. })));
}

#[test]
fn every_changed_byte_is_noticed() {
    for dtype in [Dtype::F16, Dtype::Q8] {
        let bytes = small_in(dtype);
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80, 0xff] {
                changed[at] ^= bit;
                assert!(parse(&changed).is_err(), "{dtype:?}, byte {at} ^ {bit:#x}");
                changed[at] = bytes[at];
            }
        }
        assert!(parse(&changed).is_ok());
    }
    assert!(matches!(parse(b"GGUF and more"), Err(SnapshotError::NotASnapshot)));
}

#[test]
fn other_formats_are_refused() {
    for version in [0, 1, 2, 4] {
        let mut bytes = small();
        bytes[8] = version;
        reseal(&mut bytes);
        let error = parse(&bytes).map(|_| ()).unwrap_err();
        assert!(matches!(error, SnapshotError::Version { found, known: 3 } if found == u32::from(version)), "{error}");
        assert!(error.to_string().contains("build the cache again"), "{error}");
    }
}

#[test]
fn keys_divided_by_zero_are_refused() {
    let bytes = small_in(Dtype::Q8);
    let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    // The header ends with these numbers and zeros up to its size.
    let last = bytes[..header].iter().rposition(|&byte| byte != 0).unwrap() / 4 * 4;
    for new in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = complaint_of(bytes.clone(), last, &new.to_le_bytes());
        assert!(error.contains("head 1 are divided by"), "{error}");
    }
}

/// Writes `new` at byte `at`, makes the checksums right, and returns the complaint.
fn complaint(at: usize, new: &[u8]) -> String {
    complaint_of(small(), at, new)
}

fn complaint_of(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> String {
    bytes[at..at + new.len()].copy_from_slice(new);
    reseal(&mut bytes);
    parse(&bytes).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn files_that_lie_under_good_checksums_are_refused() {
    let bytes = small();
    let mut same = bytes.clone();
    reseal(&mut same);
    assert!(same == bytes, "nothing to make right");
    let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let page = 2 * 64 * 4 * 2;
    let len = parse(&bytes).unwrap().cache(None).unwrap().0.heads()[0].len();
    assert!(len > 64 && !len.is_multiple_of(64), "two pages, the second with room left");
    let (counts, positions) = (header + 2 * page, header + 2 * page + 4 * len);
    let room = header + page + (64 - 1) * 4 * 2 + page / 2;
    let shape = 64 + 16;
    for (at, new, word) in [
        (counts, 0u32.to_le_bytes(), "no token"),
        (counts + 4, 1_000_000u32.to_le_bytes(), "stands for"),
        (positions, f32::NAN.to_le_bytes(), "position NaN"),
        (positions, (-1.0f32).to_le_bytes(), "position -1"),
        (positions + 8, 150.0f32.to_le_bytes(), "position 150"),
        (room, [1; 4], "nothing belongs"),
        (shape, u32::MAX.to_le_bytes(), "most that makes sense"),
        (shape, 0u32.to_le_bytes(), "makes no sense"),
        (shape + 4, 3u32.to_le_bytes(), "2 query heads"),
        (shape + 8, u32::MAX.to_le_bytes(), "queries"),
        (shape + 12, 3u32.to_le_bytes(), "odd"),
        (shape + 12, 2u32.to_le_bytes(), "makes no sense"),
        (shape + 16, 9u32.to_le_bytes(), "storage type 9"),
        (shape + 20, 9u32.to_le_bytes(), "schedule 9"),
        (shape + 24, 9u32.to_le_bytes(), "of kind 9"),
        (shape + 36 + 4, 1u32.to_le_bytes(), "for sinks"),
        (shape + 44 + 4, 1u32.to_le_bytes(), "for the recent window"),
        (shape + 60, 151u32.to_le_bytes(), "last clustered at 151"),
        (shape + 76, f32::INFINITY.to_le_bytes(), "not finite"),
        (shape + 80, u32::MAX.to_le_bytes(), "more bytes should follow"),
    ] {
        let text = complaint(at, &new);
        assert!(text.contains(word), "byte {at}, wanted `{word}`: {text}");
    }
}

#[test]
fn scales_are_finite_and_belong_to_entries() {
    let bytes = small_in(Dtype::Q8);
    let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let (numbers, scales) = (2 * 64 * 4, 2 * 64 * 4);
    let last = header + numbers + scales + numbers;
    for (at, new, word) in [
        (header + numbers, f32::NAN, "scale"),
        (header + numbers + 64 * 4, f32::INFINITY, "scale"),
        (header + numbers + 8, -1.0, "scale"),
        (last + 63 * 4, 1.0, "nothing belongs"),
        (last + (64 + 63) * 4, 1.0, "nothing belongs"),
    ] {
        let text = complaint_of(bytes.clone(), at, &new.to_le_bytes());
        assert!(text.contains(word), "byte {at}, wanted `{word}`: {text}");
    }
}

/// Uses a cache in every way there is: whatever passed the checks must not panic.
fn exercise(mut cache: SequenceCache) {
    let mut rng = SmallRng::seed_from_u64(3);
    for n in [1, 20] {
        block(&mut cache, n, &mut rng);
    }
    let _ = cache.memory();
    let mut fork = cache.fork();
    block(&mut fork, 2, &mut rng);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), dressed: bool) {
        let mut bytes = bytes;
        if dressed {
            let good = small();
            let n = bytes.len().min(16);
            bytes[..n].copy_from_slice(&good[..n]);
            reseal(&mut bytes);
        }
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_file_under_good_checksums_is_refused_or_usable(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
        dtype in prop::sample::select(vec![Dtype::F16, Dtype::Q8]),
    ) {
        let mut bytes = small_in(dtype);
        let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
        for (at, new, in_header) in changes {
            let at = at.index(if in_header { header } else { bytes.len() });
            bytes[at] = new;
        }
        reseal(&mut bytes);
        if let Ok(parsed) = parse(&bytes)
            && let Ok((cache, info)) = parsed.cache(None)
        {
            let again = to_bytes(&cache, &info).unwrap();
            // A policy may be written in several ways; nothing else may.
            prop_assert!(again == bytes || parsed.summary().policy != cache.config().policy.spec());
            // A header may claim thousands of query heads; only the time that queries take grows with them.
            if cache.config().shape.q_heads <= 64 {
                exercise(cache);
            }
        }
    }
}

#[test]
fn a_failed_save_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    let missing = folder.path().join("missing").join("cache");
    let error = save(&missing, &cache, &info).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!missing.parent().unwrap().exists());
    let error = save(folder.path(), &cache, &info).unwrap_err();
    assert!(matches!(error, SnapshotError::NotAFile(_)), "{error}");
    assert!(names(folder.path()).is_empty());
    assert!(matches!(load(&missing, None, None), Err(SnapshotError::Io { action: "read", .. })));
    assert!(matches!(load(folder.path(), None, None), Err(SnapshotError::Io { .. })));
    assert!(matches!(inspect(folder.path()), Err(SnapshotError::NotAFile(_))));
    assert!(!is_snapshot(folder.path()) && !is_snapshot(&missing));
}

/// A limit on the size of files stands in for a full disk: writing fails half-way. It holds for a whole
/// process, so the save happens in a second one, which is this test again.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_old_file() {
    const CHILD: &str = "SAVE_WITH_LITTLE_ROOM";
    let larger = || example(config(LARGER, "full", Budget::Keep(1.0)), 500);
    if let Some(path) = std::env::var_os(CHILD) {
        let (cache, info) = larger();
        let error = save(Path::new(&path), &cache, &info).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { action: "write", .. }), "{error}");
        println!("refused: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    let before = std::fs::read(&path).unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 100; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_disk_that_fills_up_leaves_the_old_file", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("refused"), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(names(folder.path()), ["cache"]);
    let (cache, info) = larger();
    assert!(save(&path, &cache, &info).unwrap() > 100 << 10, "there was too little room for it");
}

#[cfg(unix)]
#[test]
fn a_link_leads_to_the_file_that_is_replaced_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("cache"), folder.path().join("link"));
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&path, &link).unwrap();
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 120);
    save(&link, &cache, &info).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(inspect(&path).unwrap().tokens, 120);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(matches!(save(Path::new("/dev/null"), &cache, &info), Err(SnapshotError::NotAFile(_))));
}

#[test]
fn many_threads_may_save_to_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = Arc::new(folder.path().join("cache"));
    let (cache, info) = example(config(SMALL, "chelsea", Budget::Keep(0.5)), 100);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert!(save(&path, &cache, &info).unwrap() > 0)));
        }
    });
    assert!(load(&path, None, None).is_ok());
    assert_eq!(names(folder.path()), ["cache"]);
}
