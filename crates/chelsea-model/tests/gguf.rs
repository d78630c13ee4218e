//! The GGUF reader on files that are whole, and on files that are not.

#![allow(clippy::unwrap_used)]

#[path = "support/gguf_writer.rs"]
#[allow(dead_code)]
mod gguf_writer;

use chelsea_model::gguf::{Gguf, GgufError, Metadata};
use gguf_writer::{GgufWriter, Meta, write_str};
use proptest::prelude::*;

/// A small file with every kind of value.
fn sample() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", Meta::str("llama"))
        .set("a.u8", Meta::U8(200))
        .set("a.i32", Meta::I32(-7))
        .set("a.u32", Meta::U32(4_000_000_000))
        .set("a.u64", Meta::U64(1 << 40))
        .set("a.f32", Meta::F32(1.5))
        .set("a.f64", Meta::F64(0.25))
        .set("a.bool", Meta::Bool(true))
        .set("tokens", Meta::Strs(["", "a", "émoji 🦀"].map(str::to_owned).to_vec()))
        .set("types", Meta::I32s(vec![1, -2, 3]))
        .set("scores", Meta::F32s(vec![0.5, -1.0]))
        .f32_tensor("vector", &[3], &[1.0, 2.0, 3.0])
        .tensor("blocks", &[64, 2], 8, (0..136).collect());
    writer
}

#[test]
fn what_was_written_is_read() {
    for version in [2, 3] {
        let mut writer = sample();
        writer.version = version;
        let file = writer.build();
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!(gguf.version, version);
        let meta = &gguf.metadata;
        assert_eq!(meta.str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(meta.u32("a.u8").unwrap(), Some(200));
        assert_eq!(meta.u32("a.u32").unwrap(), Some(4_000_000_000));
        assert_eq!(meta.u64("a.u64").unwrap(), Some(1 << 40));
        assert_eq!(meta.f32("a.f32").unwrap(), Some(1.5));
        assert_eq!(meta.f32("a.f64").unwrap(), Some(0.25));
        assert_eq!(meta.bool("a.bool").unwrap(), Some(true));
        let tokens: Vec<&str> = meta.strings("tokens").unwrap().unwrap().iter().collect();
        assert_eq!(tokens, ["", "a", "émoji 🦀"]);
        assert_eq!(meta.ints("types").unwrap(), Some(vec![1, -2, 3]));
        assert_eq!(meta.floats("scores").unwrap(), Some(vec![0.5, -1.0]));
        assert_eq!(meta.u32("absent").unwrap(), None);

        let vector = gguf.tensor("vector").unwrap();
        assert_eq!((vector.dims.as_slice(), vector.elements(), vector.ty.name()), ([3].as_slice(), 3, "F32"));
        assert_eq!(&vector.data(&file)[4..8], 2.0f32.to_le_bytes());
        let blocks = gguf.tensor("blocks").unwrap();
        assert_eq!(blocks.data(&file), (0..136).collect::<Vec<u8>>());
        assert_eq!(blocks.offset % 32, 0);
    }
}

#[test]
fn wrong_types_are_told_from_missing_keys() {
    let file = sample().build();
    let meta = Gguf::parse(&file).unwrap().metadata;
    assert!(matches!(meta.u32("a.i32"), Err(GgufError::WrongType { .. })), "negative");
    assert!(matches!(meta.u32("a.u64"), Err(GgufError::WrongType { .. })), "too large");
    assert!(matches!(meta.str("a.u8"), Err(GgufError::WrongType { .. })));
    assert!(matches!(meta.strings("types"), Err(GgufError::WrongType { .. })));
    assert!(matches!(meta.ints("scores"), Err(GgufError::WrongType { .. })));
    assert_eq!(meta.need("absent", Metadata::u32), Err(GgufError::MissingKey("absent".into())));
}

#[test]
fn other_files_and_versions_are_named() {
    assert!(matches!(Gguf::parse(b""), Err(GgufError::Magic { .. })));
    assert!(matches!(Gguf::parse(b"PK\x03\x04 a zip file"), Err(GgufError::Magic { .. })));
    let with_version = |version: u32| {
        let mut writer = sample();
        writer.version = version;
        Gguf::parse(&writer.build()).unwrap_err()
    };
    assert_eq!(with_version(1), GgufError::Version(1));
    assert_eq!(with_version(9), GgufError::Version(9));
    assert_eq!(with_version(3u32.swap_bytes()), GgufError::BigEndian);
}

#[test]
fn every_truncation_is_an_error() {
    let file = sample().build();
    Gguf::parse(&file).unwrap();
    for length in 0..file.len() {
        let error = Gguf::parse(&file[..length]).unwrap_err();
        let expected = matches!(error, GgufError::Truncated { .. } | GgufError::Magic { .. });
        assert!(expected, "{length} bytes: {error}");
    }
}

#[test]
fn absurd_counts_and_lengths_allocate_nothing() {
    let head = |tensors: u64, keys: u64| {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(keys.to_le_bytes());
        out
    };
    for huge in [1 << 20, 1 << 40, u64::MAX / 2, u64::MAX] {
        assert!(matches!(Gguf::parse(&head(huge, 0)), Err(GgufError::Truncated { .. })));
        assert!(matches!(Gguf::parse(&head(0, huge)), Err(GgufError::Truncated { .. })));

        let mut long_key = head(0, 1);
        long_key.extend(huge.to_le_bytes());
        long_key.extend([0; 64]);
        assert!(matches!(Gguf::parse(&long_key), Err(GgufError::Truncated { .. })));

        for element in [8u32, 4, 12, 0] {
            let mut long_array = head(0, 1);
            write_str(&mut long_array, b"key");
            long_array.extend(9u32.to_le_bytes());
            long_array.extend(element.to_le_bytes());
            long_array.extend(huge.to_le_bytes());
            long_array.extend([0; 64]);
            assert!(matches!(Gguf::parse(&long_array), Err(GgufError::Truncated { .. })), "{element} {huge}");
        }
    }
}

#[test]
fn broken_headers_say_what_is_wrong() {
    let error = |change: &dyn Fn(&mut GgufWriter)| {
        let mut writer = sample();
        change(&mut writer);
        Gguf::parse(&writer.build()).unwrap_err()
    };
    let twice = error(&|writer| writer.metadata.push(("a.u8".into(), Meta::U8(1))));
    assert_eq!(twice, GgufError::Duplicate { what: "metadata key", name: "a.u8".into() });
    let twice = error(&|writer| {
        writer.f32_tensor("vector", &[1], &[0.0]);
    });
    assert_eq!(twice, GgufError::Duplicate { what: "tensor", name: "vector".into() });
    for alignment in [0, 4, 24, 1 << 30] {
        assert_eq!(
            error(&|writer| {
                writer.set("general.alignment", Meta::U32(alignment));
            }),
            GgufError::Alignment(alignment.into())
        );
    }
    let shape = |dims: &'static [u64]| error(&|writer| writer.tensors[1].dims = dims.to_vec());
    for dims in [&[][..], &[64, 0], &[64, u64::MAX], &[1 << 33, 1 << 33], &[1, 1, 1, 1, 1], &[48, 2]] {
        assert!(matches!(shape(dims), GgufError::Shape { .. }), "{dims:?}");
    }
    assert!(matches!(shape(&[64, 3]), GgufError::Truncated { .. }), "longer than its data");
    let unknown = error(&|writer| writer.tensors[1].ty = 19);
    let text = unknown.to_string();
    assert!(text.contains("blocks") && text.contains("IQ1_S") && text.contains("Q4_K"), "{text}");
    // Offsets are written in steps of 16, the file says nothing, so the reader asks for 32.
    let unaligned = error(&|writer| writer.alignment = 16);
    assert!(matches!(unaligned, GgufError::Unaligned { .. }), "{unaligned}");
}

#[test]
fn alignment_is_taken_from_the_file() {
    let mut writer = sample();
    writer.alignment = 128;
    writer.set("general.alignment", Meta::U32(128));
    let file = writer.build();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.tensor("blocks").unwrap().offset % 128, 0);
    assert_eq!(gguf.tensor("blocks").unwrap().data(&file)[5], 5);
}

#[test]
fn text_that_is_not_utf8_is_an_error() {
    let file = sample().build();
    let at = file.windows(4).position(|window| window == b"a.u8").unwrap();
    let mut broken = file.clone();
    broken[at] = 0xff;
    assert!(matches!(Gguf::parse(&broken), Err(GgufError::NotUtf8(_))));
}

/// Of a key, but not of a description: that one is shown as far as it can be.
#[test]
fn a_value_that_is_not_utf8_is_read_as_far_as_it_is() {
    let mut writer = sample();
    writer.set("general.description", Meta::str("a cafXE model"));
    let mut file = writer.build();
    let at = file.windows(2).position(|window| window == b"XE").unwrap();
    file[at..at + 2].copy_from_slice(b"\xe9 ");
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.metadata.str("general.description"), Ok(Some("a caf\u{fffd}  model")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(&bytes);
        let _ = Gguf::parse(&bytes);
        let _ = Gguf::parse(&file);
    }

    #[test]
    fn mutated_files_never_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8)) {
        let mut file = sample().build();
        for (index, byte) in changes {
            let at = index.index(file.len());
            file[at] = byte;
        }
        if let Ok(gguf) = Gguf::parse(&file) {
            for tensor in gguf.tensors() {
                prop_assert_eq!(tensor.data(&file).len() as u64, tensor.bytes);
            }
            for (_, value) in gguf.metadata.iter() {
                let _ = value.to_string();
            }
        }
    }
}
