//! Files of other models, shortened, changed or made up.

use super::{SMALL, block, config, example, expected, small, small_in, small_of};
use crate::common::Uniform;
use crate::common::policy;
use chelsea_kv::snapshot::{
    Expected, MAX_NOTE, SnapshotError, SnapshotInfo, inspect, is_snapshot, load, parse, reseal, save, to_bytes,
};
use chelsea_kv::{Budget, CacheConfig, Dtype, Rotary, SequenceCache};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

#[test]
fn what_was_made_with_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
    save(&path, &cache, &info).unwrap();
    let right = expected(&info, cache.config());
    assert!(load(&path, Some(&right), None).is_ok());
    let error = load(&path, Some(&Expected { fingerprint: [0xab; 16], ..right.clone() }), None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&"ab".repeat(16)) && text.contains("7369787465656e"), "{text}");
    let shape = Uniform { layers: 4, ..SMALL }.shape();
    let error = load(&path, Some(&Expected { shape, ..right.clone() }), None).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherShape { .. }), "{error}");
    let shape = SMALL.turned_by(Rotary::plain(4, 500_000.0));
    let error = load(&path, Some(&Expected { shape, ..right.clone() }), None);
    assert!(matches!(error, Err(SnapshotError::OtherRotary)));
    let mut rotary = Rotary::plain(4, 10_000.0);
    rotary.inv_freq.iter_mut().for_each(|f| *f *= 1.0 + 1e-7);
    let shape = SMALL.turned_by(rotary);
    assert!(load(&path, Some(&Expected { shape, ..right }), None).is_ok(), "rounding is no other model");
}

#[test]
fn what_cannot_be_kept_is_not_saved() {
    let (mut cache, info) = example(config(SMALL, "chelsea", Budget::EntryFraction(0.5)), 100);
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

/// Small snapshots of every storage type and with every kind of statistics.
fn kinds() -> Vec<(String, Vec<u8>)> {
    let stored = [Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4].map(|dtype| (format!("{dtype:?}"), small_in(dtype)));
    let statistics = ["h2o", "snapkv:window=8", "expected-attention", "expected-attention:cov=0", "chelsea-best"];
    stored.into_iter().chain(statistics.map(|spec| (spec.to_owned(), small_of(spec)))).collect()
}

#[test]
fn statistics_that_lie_under_good_checksums_are_refused() {
    let (nan, minus) = (f32::NAN.to_le_bytes(), (-1f32).to_le_bytes());
    let section = |bytes: &[u8], len: usize| bytes.len() - len.next_multiple_of(64);
    let complain = |bytes: &[u8], at: usize, new: &[u8], word: &str| {
        let text = complaint_of(bytes.to_vec(), at, new);
        assert!(text.contains(word), "byte {at}, wanted `{word}`: {text}");
    };
    let entries = |bytes: &[u8]| parse(bytes).unwrap().summary().entries;
    let drawn = small_of("h2o");
    let at = section(&drawn, 4 * entries(&drawn));
    complain(&drawn, at, &nan, "has drawn an attention");
    complain(&drawn, at + 4 * entries(&drawn) - 4, &minus, "has drawn an attention");
    assert!(entries(&drawn) % 16 != 0, "there is padding");
    complain(&drawn, drawn.len() - 1, &[1], "nothing belongs");
    let repeated = small_of("kvzip");
    complain(&repeated, section(&repeated, 4 * entries(&repeated)), &minus, "second pass");
    // Of two layers: which positions are held, and eight queries of two heads each.
    let recent = small_of("snapkv:window=8");
    let at = section(&recent, 2 * (8 + 8 * 2 * 4 * 4));
    complain(&recent, at, &151u32.to_le_bytes(), "151..150 of 150");
    complain(&recent, at, &141u32.to_le_bytes(), "141..150 of 150");
    complain(&recent, at + 4, &151u32.to_le_bytes(), "142..151 of 150");
    complain(&recent, at + 2 * 8 + 40, &nan, "query is not finite");
    // Of two layers: how many queries, and means and sums of products of two heads.
    let moments = small_of("expected-attention");
    let at = section(&moments, 2 * (8 + 2 * (4 * 8 + 16 * 4)));
    complain(&moments, at, &151u64.to_le_bytes(), "more queries than 150");
    complain(&moments, at + 16, &f64::INFINITY.to_le_bytes(), "moments of queries are not finite");
    complain(&moments, at + 16 + 4 * 8, &nan, "moments of queries are not finite");
}

#[test]
fn what_the_header_says_of_statistics_is_held_against_the_file() {
    // The section is described at the end of the header, before zeros: window, moments, mass, importance, checksum.
    for (spec, described) in
        [("h2o", [0u32, 0, 1, 0]), ("snapkv:window=8", [8, 0, 0, 0]), ("expected-attention:cov=0", [0, 1, 0, 0])]
    {
        let bytes = small_of(spec);
        let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
        let wanted: Vec<u8> = described.iter().flat_map(|n| n.to_le_bytes()).collect();
        let at = (0..header - 16).rev().find(|&at| bytes[at..at + 16] == wanted[..]).unwrap();
        for (field, new, word) in [
            (0, u32::MAX, "for the last queries"),
            (0, 9, "statistics take"),
            (1, 2, "statistics take"),
            (1, 3, "moments of kind 3"),
            (2, 7, "neither yes"),
            (3, 1, ""),
        ] {
            let text = complaint_of(bytes.clone(), at + 4 * field, &new.to_le_bytes());
            assert!(text.contains(word), "{spec}, field {field} is {new}: {text}");
        }
        // The policy must find what it needs; one that needs nothing of it may take over.
        let mut none = bytes[..at].to_vec();
        none.extend([0; 16]);
        none.extend(&bytes[at + 16..header]);
        none.extend(&bytes[header..bytes.len() - section_bytes(&bytes, described)]);
        reseal(&mut none);
        let parsed = parse(&none).unwrap();
        assert!(parsed.cache(Some(policy("streaming").unwrap())).is_ok());
        let error = parsed.cache(None).unwrap_err().to_string();
        assert!(error.contains("statistics that its policy") && error.contains("missing"), "{error}");
    }
}

/// Bytes of the section that is described so, in a snapshot of the small shape.
fn section_bytes(bytes: &[u8], described: [u32; 4]) -> usize {
    let [window, moments, mass, _] = described.map(|n| n as usize);
    let recent = if window > 0 { 2 * (8 + window * 2 * 4 * 4) } else { 0 };
    let moments = if moments > 0 { 2 * (8 + 2 * 4 * 8) } else { 0 };
    (recent + moments + mass * 4 * parse(bytes).unwrap().summary().entries).next_multiple_of(64)
}

#[test]
fn every_changed_byte_is_noticed() {
    for (i, (name, bytes)) in kinds().into_iter().enumerate() {
        let mut changed = bytes.clone();
        // For the sake of time, one change to each byte will do where only the statistics are new.
        let bits: &[u8] = if i < 3 { &[0x01, 0x80, 0xff] } else { &[0x80] };
        for at in 0..bytes.len() {
            for &bit in bits {
                changed[at] ^= bit;
                assert!(parse(&changed).is_err(), "{name}, byte {at} ^ {bit:#x}");
                changed[at] = bytes[at];
            }
        }
        assert!(parse(&changed).is_ok());
    }
    assert!(matches!(parse(b"GGUF and more"), Err(SnapshotError::NotASnapshot)));
}

#[test]
fn other_formats_are_refused() {
    for version in [0, 1, 2, 3, 4, 5, 7] {
        let mut bytes = small();
        bytes[8] = version;
        reseal(&mut bytes);
        let error = parse(&bytes).map(|_| ()).unwrap_err();
        assert!(matches!(error, SnapshotError::Version { found, known: 6 } if found == u32::from(version)), "{error}");
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
    // One rotary embedding of two frequencies, two layers, then the settings.
    let rotary = 64 + 16;
    let layer = rotary + 24;
    let settings = layer + 2 * 28;
    for (at, new, word) in [
        (counts, 0u32.to_le_bytes(), "no token"),
        (counts + 4, 1_000_000u32.to_le_bytes(), "stands for"),
        (positions, f32::NAN.to_le_bytes(), "position NaN"),
        (positions, (-1.0f32).to_le_bytes(), "position -1"),
        (positions + 8, 150.0f32.to_le_bytes(), "position 150"),
        (room, [1; 4], "nothing belongs"),
        (rotary, u32::MAX.to_le_bytes(), "more bytes should follow"),
        (rotary + 4, f32::INFINITY.to_le_bytes(), "not finite"),
        (rotary + 8, u32::MAX.to_le_bytes(), "more bytes should follow"),
        (layer - 4, u32::MAX.to_le_bytes(), "more bytes should follow"),
        (layer - 4, 0u32.to_le_bytes(), "at least one layer"),
        (layer, u32::MAX.to_le_bytes(), "queries"),
        (layer, 0u32.to_le_bytes(), "at least one head"),
        (layer + 4, 3u32.to_le_bytes(), "2 query heads"),
        (layer + 8, 5u32.to_le_bytes(), "odd"),
        (layer + 8, 2u32.to_le_bytes(), "turns 4 dimensions"),
        (layer + 12, u32::MAX.to_le_bytes(), "values"),
        (layer + 16, f32::NAN.to_le_bytes(), "multiplies scores"),
        (layer + 24, 1u32.to_le_bytes(), "rotary embedding 1"),
        (settings, 9u32.to_le_bytes(), "storage type 9"),
        (settings + 4, 9u32.to_le_bytes(), "schedule 9"),
        (settings + 8, 9u32.to_le_bytes(), "of kind 9"),
        (settings + 20 + 4, 1u32.to_le_bytes(), "for sinks"),
        (settings + 28 + 4, 1u32.to_le_bytes(), "for the recent window"),
        (settings + 44, 151u32.to_le_bytes(), "last clustered at 151"),
        (settings + 60 + 4, 1u32.to_le_bytes(), "for the latest entries"),
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

#[test]
fn half_a_byte_belongs_to_an_entry_or_is_zero() {
    // 75 entries of 4 numbers: a full page, and one of a word of eight values and a word of three, in the low halves.
    let (cache, info) =
        example(CacheConfig { dtype: Dtype::K8V4, ..config(SMALL, "full", Budget::EntryFraction(1.0)) }, 75);
    let bytes = to_bytes(&cache, &info).unwrap();
    let header = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let page = 64 * 4 + 32 * 4 + 2 * 64 * 4;
    let word = header + page + 64 * 4 + 4 * 4;
    for (at, added, refused) in [
        (word, 0x10, true),
        (word + 2, 0x80, true),
        (word + 3, 0x01, true),
        (word + 4 * 4, 0x01, true),
        (word - 1, 0x10, false),
        (word + 2, 0x01, false),
        (word + 4, 0x01, false),
    ] {
        let mut other = bytes.clone();
        other[at] ^= added;
        reseal(&mut other);
        match parse(&other).map(|_| ()) {
            Ok(()) => assert!(!refused, "byte {at} ^ {added:#x}"),
            Err(error) => assert!(refused && error.to_string().contains("nothing belongs"), "{error}"),
        }
    }
    // Scales of values have signs, but are numbers; those of keys have none.
    let (keys, values) = (header + 64 * 4 + 32 * 4, header + 64 * 4 + 32 * 4 + 64 * 4);
    assert!(complaint_of(bytes.clone(), values, &f32::NAN.to_le_bytes()).contains("scale"));
    assert!(complaint_of(bytes.clone(), keys, &(-1f32).to_le_bytes()).contains("scale"));
    let mut negative = bytes;
    negative[values..values + 4].copy_from_slice(&(-1f32).to_le_bytes());
    reseal(&mut negative);
    assert!(parse(&negative).is_ok());
}

/// Uses a cache in every way there is: whatever passed the checks must not panic.
fn exercise(mut cache: SequenceCache) {
    let mut rng = SmallRng::seed_from_u64(3);
    for n in [1, 20] {
        block(&mut cache, n, &mut rng);
    }
    let _ = cache.memory();
    let mut fork = cache.fork().unwrap();
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
        (_, bytes) in prop::sample::select(kinds()),
    ) {
        let mut bytes = bytes;
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
            if cache.config().shape.layer(0).q_heads <= 64 {
                exercise(cache);
            }
        }
    }
}
