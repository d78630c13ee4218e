//! Opening and loading files that are whole, and files that are not.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, ModelError, ModelFile};
use proptest::prelude::*;
use serde_json::json;
use support::gguf_writer::{GgufWriter, Meta};
use support::tiny::{Tiny, safetensors_bytes};
use tempfile::TempDir;

const OPTIONS: LoadOptions = LoadOptions { products: Products::F32 };

fn load(path: &Path) -> Result<Model, ModelError> {
    Model::load(path, &OPTIONS, &mut |_, _| {})
}

fn write(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("tiny.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

/// Loads a small model after a change of its file.
fn load_changed(tiny: &Tiny, change: impl FnOnce(&mut GgufWriter)) -> Result<Model, ModelError> {
    let mut writer = tiny.gguf();
    change(&mut writer);
    let folder = tempfile::tempdir().unwrap();
    load(&write(&folder, &writer.build()))
}

fn error_text(result: Result<Model, ModelError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn progress_ends_at_the_size_of_the_weights() {
    let tiny = Tiny::qwen2().fill(1);
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, &tiny.gguf().build());
    let mut calls = Vec::new();
    let model = Model::load(&path, &OPTIONS, &mut |done, total| calls.push((done, total))).unwrap();
    let total = 4 * tiny.weights.values().map(|(_, values)| values.len() as u64).sum::<u64>();
    assert_eq!(*calls.last().unwrap(), (total, total));
    assert!(calls.is_sorted() && calls.len() == tiny.weights.len());
    assert_eq!(model.memory().total() as u64, total, "f32 weights keep their size");
    assert_eq!(model.memory().output, 0, "tied");
    assert_eq!(model.packed_tensors().len(), 1 + 7 * tiny.layers);
}

#[test]
fn the_fingerprint_tells_weights_not_places() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let tiny = Tiny::llama().fill(1);
    let prints = folders.each_ref().map(|folder| {
        let path = write(folder, &tiny.gguf().build());
        (ModelFile::open(&path).unwrap().fingerprint(), load(&path).unwrap().fingerprint())
    });
    assert_eq!(prints[0], prints[1]);
    assert_eq!(prints[0].0, prints[0].1);
    let other = load_changed(&Tiny::llama().fill(2), |_| {}).unwrap();
    assert_ne!(other.fingerprint(), prints[0].0, "other weights");
    let stretched = load_changed(&tiny, |file| {
        file.set("llama.rope.freq_base", Meta::F32(5000.0));
    });
    assert_ne!(stretched.unwrap().fingerprint(), prints[0].0, "other frequencies");
}

#[test]
fn missing_misshapen_and_unknown_tensors_are_named() {
    let tiny = Tiny::qwen2().fill(1);
    for name in ["blk.1.attn_k.weight", "blk.0.attn_q.bias", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        let text = error_text(load_changed(&tiny, |file| file.tensors.retain(|tensor| tensor.name != name)));
        assert!(text.contains(name) && text.contains("missing"), "{text}");
    }
    let text = error_text(load_changed(&tiny, |file| {
        file.set("qwen2.feed_forward_length", Meta::U32(47));
    }));
    assert!(text.contains("blk.0.ffn_gate.weight") && text.contains("[48, 32]") && text.contains("[47, 32]"), "{text}");
    let text = error_text(load_changed(&tiny, |file| {
        file.f32_tensor("blk.0.attn_sub_norm.weight", &[32], &[1.0; 32]);
    }));
    assert!(text.contains("attn_sub_norm") && text.contains("qwen2"), "{text}");
    let text = error_text(load_changed(&tiny, |file| {
        file.set("qwen2.block_count", Meta::U32(1));
    }));
    assert!(text.contains("blk.1."), "a layer too many: {text}");
}

/// Writes the model in `parts` files, as `llama-gguf-split` does, the first of them with all metadata.
fn write_split(folder: &Path, whole: &GgufWriter, parts: usize) -> Vec<PathBuf> {
    let each = whole.tensors.len().div_ceil(parts);
    let part = |part: usize| {
        let mut writer = if part == 0 { whole.clone() } else { GgufWriter::new() };
        writer.tensors = whole.tensors.iter().skip(part * each).take(each).cloned().collect();
        writer
            .set("split.no", Meta::U32(part as u32))
            .set("split.count", Meta::U32(parts as u32))
            .set("split.tensors.count", Meta::I32(whole.tensors.len() as i32));
        let path = folder.join(format!("tiny-{:05}-of-{parts:05}.gguf", part + 1));
        fs::write(&path, writer.build()).unwrap();
        path
    };
    (0..parts).map(part).collect()
}

#[test]
fn parts_of_a_split_file_make_the_same_model_as_one_file() {
    let whole = Tiny::llama().fill(1).gguf();
    let folder = tempfile::tempdir().unwrap();
    let expected = load(&write(&folder, &whole.build())).unwrap().fingerprint();
    for parts in [2, 3, whole.tensors.len() + 1] {
        let folder = tempfile::tempdir().unwrap();
        let files = write_split(folder.path(), &whole, parts);
        for any in [folder.path(), files.first().unwrap(), files.last().unwrap()] {
            assert_eq!(load(any).unwrap().fingerprint(), expected, "{parts} parts by {}", any.display());
        }
    }
    let alone = load_changed(&Tiny::llama().fill(1), |file| {
        file.set("split.count", Meta::U32(1)).set("split.no", Meta::U32(0));
    });
    assert_eq!(alone.unwrap().fingerprint(), expected);
}

#[test]
fn parts_that_do_not_belong_together_are_named() {
    let whole = Tiny::llama().fill(1).gguf();
    let refused = |spoil: &dyn Fn(&[PathBuf])| {
        let folder = tempfile::tempdir().unwrap();
        let files = write_split(folder.path(), &whole, 3);
        spoil(&files);
        error_text(load(&files[0]))
    };
    let text = refused(&|files| fs::remove_file(&files[2]).unwrap());
    assert!(text.contains("part 1 of 3") && text.contains("tiny-00003-of-00003.gguf is missing"), "{text}");
    let text = refused(&|files| {
        fs::copy(&files[1], &files[2]).unwrap();
    });
    assert!(text.contains("tiny-00003-of-00003.gguf is not part 3"), "{text}");
    let text = refused(&|files| fs::write(&files[1], whole.build()).unwrap());
    assert!(text.contains("tiny-00002-of-00003.gguf is not part 2"), "{text}");
    let text = refused(&|files| fs::write(&files[1], b"GGUF").unwrap());
    assert!(text.contains("tiny-00002-of-00003.gguf") && text.contains("truncated"), "{text}");
    let text = refused(&|files| {
        let mut fewer = GgufWriter::new();
        fewer.set("split.no", Meta::U32(2)).set("split.count", Meta::U32(3));
        fs::write(&files[2], fewer.build()).unwrap();
    });
    assert!(text.contains("tensors together and should have"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let files = write_split(folder.path(), &whole, 3);
    let renamed = folder.path().join("model.gguf");
    fs::rename(&files[1], &renamed).unwrap();
    let text = error_text(load(&renamed));
    assert!(text.contains("part 2 of 3") && text.contains("-00002-of-00003.gguf"), "{text}");
    let many = load_changed(&Tiny::llama().fill(1), |file| {
        file.set("split.count", Meta::U32(u32::MAX)).set("split.no", Meta::U32(u32::MAX));
    });
    assert!(error_text(many).contains("should end in"));
}

#[test]
fn vectors_that_are_not_finite_are_refused() {
    let text = error_text(load_changed(&Tiny::llama().fill(1), |file| {
        let norm = file.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.attn_norm.weight").unwrap();
        norm.data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    }));
    assert!(text.contains("blk.1.attn_norm.weight") && text.contains("not finite"), "{text}");
}

#[test]
fn matrices_that_are_not_finite_are_refused() {
    let tiny = Tiny::llama().fill(1);
    let spoil = |name: &str, data: &dyn Fn(&mut support::gguf_writer::RawTensor)| {
        let text = error_text(load_changed(&tiny, |file| {
            data(file.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        }));
        assert!(text.contains(name) && text.contains("not finite"), "{text}");
    };
    spoil("blk.1.ffn_up.weight", &|tensor| tensor.data[400..404].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    // Q8_0: a scale in half precision and 32 codes a block. One scale of many is no number.
    spoil("blk.0.attn_v.weight", &|tensor| {
        let blocks = tensor.data.len() / 4 / 32;
        tensor.ty = 8;
        tensor.data = [[0x00, 0x20].as_slice(), &[1; 32]].concat().repeat(blocks);
        tensor.data[34 * (blocks - 1)..][..2].copy_from_slice(&[0x00, 0x7E]);
    });
}

#[test]
fn paths_that_are_no_models_say_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(&folder.path().join("absent.gguf")), Err(ModelError::Io { .. })));
    let text = error_text(load(folder.path()));
    assert!(text.contains("model.safetensors") && text.contains(".gguf"), "{text}");
    assert!(matches!(load(&write(&folder, b"")), Err(ModelError::Gguf { .. })));
    assert!(error_text(load(&write(&folder, b"<!doctype html>"))).contains("not a GGUF file"));
    let whole = Tiny::llama().fill(1).gguf().build();
    assert!(error_text(load(&write(&folder, &whole[..whole.len() - 1]))).contains("truncated"));
    write(&folder, &whole);
    load(folder.path()).expect("the only .gguf file of a folder");
    fs::write(folder.path().join("other.gguf"), &whole).unwrap();
    assert!(error_text(load(folder.path())).contains("2 .gguf files"));
}

#[test]
fn shards_make_the_same_model_as_one_file() {
    let tiny = Tiny { tied: true, ..Tiny::llama() }.fill(1);
    let prints = [1, 2, 5].map(|shards| {
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write_safetensors(folder.path(), shards, "F16");
        load(&path).unwrap().fingerprint()
    });
    assert!(prints.iter().all(|print| *print == prints[0]));
}

#[test]
fn a_safetensors_file_is_opened_with_the_configuration_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::qwen3().fill(1).write_safetensors(folder.path(), 1, "F32");
    let file = ModelFile::open(&folder.path().join("model.safetensors")).unwrap();
    assert_eq!(file.folder(), Some(folder.path()));
    assert!(file.gguf().is_none());
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(error_text(load(folder.path())).contains("config.json"));
}

#[test]
fn endings_are_compared_without_case() {
    let tiny = Tiny::llama().fill(1);
    let folder = tempfile::tempdir().unwrap();
    let upper = folder.path().join("TINY.GGUF");
    fs::write(&upper, tiny.gguf().build()).unwrap();
    assert!(ModelFile::open(folder.path()).unwrap().gguf().is_some());
    fs::remove_file(&upper).unwrap();
    tiny.write_safetensors(folder.path(), 1, "F32");
    let tensors = folder.path().join("M.SafeTensors");
    fs::rename(folder.path().join("model.safetensors"), &tensors).unwrap();
    assert!(ModelFile::open(&tensors).unwrap().gguf().is_none());
}

#[test]
fn broken_indexes_and_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::llama().fill(1).write_safetensors(folder.path(), 2, "F32");
    let shard = folder.path().join("model-00002-of-00002.safetensors");
    let whole = fs::read(&shard).unwrap();

    fs::write(&shard, &whole[..whole.len() - 4]).unwrap();
    assert!(error_text(load(folder.path())).contains("truncated"));
    fs::write(&shard, []).unwrap();
    assert!(error_text(load(folder.path())).contains("00002-of-00002"));
    let long = [u64::MAX.to_le_bytes().as_slice(), &[b'{'; 64]].concat();
    fs::write(&shard, long).unwrap();
    assert!(error_text(load(folder.path())).contains("absurdly long"));
    fs::remove_file(&shard).unwrap();
    assert!(matches!(load(folder.path()), Err(ModelError::Io { .. })));

    let index = folder.path().join("model.safetensors.index.json");
    for name in ["../../secret", "/etc/passwd", "a\\b", "..", "c:d"] {
        fs::write(&index, json!({ "weight_map": { "x": name } }).to_string()).unwrap();
        assert!(error_text(load(folder.path())).contains("not the name of a file"), "{name}");
    }
    for text in ["{", "[]", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"x": 1}}"#] {
        fs::write(&index, text).unwrap();
        assert!(matches!(load(folder.path()), Err(ModelError::Safetensors { .. })), "{text}");
    }
}

#[test]
fn tied_embeddings_follow_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::llama().fill(1);
    // The file carries an output tensor, the configuration says that the embedding serves.
    let path = Tiny { tied: true, ..tiny }.write_safetensors(folder.path(), 1, "F32");
    assert_eq!(load(&path).unwrap().memory().output, 0);
    let untied = Tiny { tied: false, ..Tiny { tied: true, ..Tiny::llama() }.fill(1) };
    let text = error_text(load(&untied.write_safetensors(folder.path(), 1, "F32")));
    assert!(text.contains("output.weight"), "{text}");
}

#[test]
fn types_without_a_product_are_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::llama().fill(1).write_safetensors(folder.path(), 1, "F32");
    let header = json!({ "model.norm.weight": { "dtype": "F8_E4M3", "shape": [32], "data_offsets": [0, 32] } });
    fs::write(folder.path().join("model.safetensors"), safetensors_bytes(&header, &[0; 32])).unwrap();
    let text = error_text(load(folder.path()));
    assert!(text.contains("model.norm.weight") && text.contains("F8_E4M3") && text.contains("BF16"), "{text}");
}

/// Positions and values of bytes to change.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Header bytes of a whole model are changed at random: it loads, or says why not.
    #[test]
    fn mutated_gguf_models_never_panic(changes in changes()) {
        let writer = Tiny::qwen3().fill(1).gguf();
        let (mut bytes, header) = (writer.build(), writer.header().len());
        for (index, byte) in changes {
            bytes[index.index(header)] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let _ = load(&write(&folder, &bytes));
    }

    #[test]
    fn mutated_safetensors_models_never_panic(changes in changes(), of_config in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        Tiny::llama().fill(1).write_safetensors(folder.path(), 1, "F32");
        let path = folder.path().join(if of_config { "config.json" } else { "model.safetensors" });
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len().min(3000);
        for (index, byte) in changes {
            bytes[index.index(length)] = byte;
        }
        fs::write(&path, bytes).unwrap();
        let _ = load(folder.path());
    }
}
