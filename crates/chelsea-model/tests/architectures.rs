//! Every architecture against `transformers` in f32, on tiny checkpoints, from both containers.
//!
//! `scripts/reference/tiny_models.py` makes the checkpoints and their logits. Windows are 8 tokens and texts are longer,
//! so that most positions lie beyond the window.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use chelsea_kv::{CacheConfig, Dtype, SequenceCache};
use chelsea_linear::Products;
use chelsea_model::config::{FeedForward, Scaling};
use chelsea_model::{Chunk, LoadOptions, Model, ModelFile, Wanted, Workspace};

/// What f32 sums in another order come to, for logits of up to 25.
const TOLERANCE: f32 = 1e-4;

/// Logits of a text: `[tokens][vocab]`.
struct Golden {
    tokens: Vec<u32>,
    vocab: usize,
    logits: Vec<f32>,
}

impl Golden {
    fn read(path: &Path) -> Golden {
        let bytes = fs::read(path).unwrap();
        let words: Vec<[u8; 4]> = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        let count = u32::from_le_bytes(words[0]) as usize;
        let vocab = u32::from_le_bytes(words[1]) as usize;
        let tokens = words[2..2 + count].iter().map(|word| u32::from_le_bytes(*word)).collect();
        let logits: Vec<f32> = words[2 + count..].iter().map(|word| f32::from_le_bytes(*word)).collect();
        assert_eq!(logits.len(), count * vocab);
        Golden { tokens, vocab, logits }
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(name)
}

fn load(path: &Path, context: usize) -> Model {
    let file = ModelFile::open(path).unwrap().for_context(context);
    Model::from_file(&file, &LoadOptions { products: Products::F32 }, &mut |_, _| {}).unwrap()
}

fn cache(model: &Model) -> SequenceCache {
    SequenceCache::new(CacheConfig { dtype: Dtype::F32, ..CacheConfig::new(model.cache_shape()) }).unwrap()
}

/// Logits of all positions, read in blocks.
fn logits(model: &Model, tokens: &[u32], block: usize) -> Vec<f32> {
    let (mut cache, mut workspace, mut out) = (cache(model), Workspace::new(), Vec::new());
    for tokens in tokens.chunks(block) {
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits: Wanted::All }], &mut workspace).unwrap();
        out.extend_from_slice(workspace.logits());
    }
    out
}

#[track_caller]
fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|logit| logit.is_finite()));
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

/// Holds a checkpoint's files against its logits: read at once, in blocks shorter and longer than the window, and token
/// by token.
#[track_caller]
fn agrees(name: &str, length: usize, containers: &[&str]) {
    let golden = Golden::read(&folder(name).join(format!("logits-{length}.bin")));
    assert_eq!(golden.tokens.len(), length);
    let spread = golden.logits.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    assert!(spread > 4.0, "the logits are too flat to tell anything");
    for container in containers {
        let model = load(&folder(name).join(container), length);
        assert_eq!(model.config().vocab, golden.vocab);
        for block in [length, 13, 5, 1] {
            let difference = largest_difference(&logits(&model, &golden.tokens, block), &golden.logits);
            println!("{name}, {container}, {length} tokens in blocks of {block}: {difference:.1e} of {spread:.1}");
            assert!(difference <= TOLERANCE, "{name}/{container} in blocks of {block}: off by {difference}");
        }
    }
}

const BOTH: [&str; 2] = ["model.safetensors", "model.gguf"];
const SAFETENSORS: [&str; 1] = ["model.safetensors"];

#[test]
fn mistral_with_a_window_agrees() {
    agrees("mistral", 30, &BOTH);
}

#[test]
fn phi3_with_fused_projections_and_a_window_agrees() {
    agrees("phi3", 30, &BOTH);
}

#[test]
fn phi3_with_longrope_agrees_within_and_beyond_its_first_context() {
    agrees("phi3-longrope", 12, &BOTH);
    agrees("phi3-longrope", 30, &BOTH);
}

#[test]
fn gemma3_agrees() {
    agrees("gemma3", 30, &BOTH);
}

#[test]
fn smollm3_with_layers_that_do_not_know_positions_agrees() {
    agrees("smollm3", 30, &BOTH);
}

#[test]
fn qwen_with_windows_in_its_upper_layers_agrees() {
    agrees("qwen2-sliding", 30, &SAFETENSORS);
    agrees("qwen3-sliding", 30, &SAFETENSORS);
}

#[test]
fn qwen3_moe_agrees() {
    agrees("qwen3moe", 30, &BOTH);
    agrees("qwen3moe-dense-layer", 30, &SAFETENSORS);
}

#[test]
fn gpt_oss_agrees_in_floats() {
    agrees("gpt-oss", 30, &BOTH);
}

#[test]
fn gpt_oss_agrees_in_mxfp4() {
    agrees("gpt-oss-mxfp4", 30, &BOTH);
}

/// The checkpoints that have both containers.
const IN_BOTH: [&str; 8] =
    ["mistral", "phi3", "phi3-longrope", "gemma3", "smollm3", "qwen3moe", "gpt-oss", "gpt-oss-mxfp4"];

#[test]
fn both_containers_describe_the_same_layers() {
    for name in IN_BOTH {
        let [tensors, gguf] = BOTH.map(|container| ModelFile::open(&folder(name).join(container)).unwrap());
        let (tensors, gguf) = (tensors.config(), gguf.config());
        assert_eq!(tensors.architecture, gguf.architecture, "{name}");
        assert_eq!(tensors.cache_shape(), gguf.cache_shape(), "{name}");
        assert_eq!((tensors.hidden, tensors.vocab), (gguf.hidden, gguf.vocab), "{name}");
        assert_eq!(tensors.embedding_scale, gguf.embedding_scale, "{name}");
        for (tensors, gguf) in tensors.layers.iter().zip(&gguf.layers) {
            assert_eq!(tensors.feed_forward, gguf.feed_forward, "{name}");
        }
    }
}

#[test]
fn windows_and_rotary_embeddings_are_where_the_architecture_has_them() {
    let config = |name: &str| ModelFile::open(&folder(name).join("model.safetensors")).unwrap().config().clone();
    let windows = |name: &str| config(name).layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    let (slides, full) = (Some(8), None);
    assert_eq!(windows("gemma3"), [slides, slides, slides, slides, slides, full, slides]);
    assert_eq!(config("gemma3").full_and_sliding_layers(), (1, 6));
    assert_eq!(windows("gpt-oss"), [slides, full]);
    assert_eq!(windows("qwen2-sliding"), [full, slides, slides]);
    assert_eq!(windows("qwen3-sliding"), [full, full, slides]);
    assert_eq!(windows("mistral"), [slides; 3]);

    let has_rope: Vec<bool> = config("smollm3").layers.iter().map(|layer| layer.rope.is_some()).collect();
    assert_eq!(has_rope, [true, true, true, false, true]);
    let shape = config("smollm3").cache_shape();
    assert!(shape.layers()[3].rotary.inv_freq.is_empty() && !shape.layers()[2].rotary.inv_freq.is_empty());

    let bases: Vec<f32> = config("gemma3").layers.iter().map(|layer| layer.rope.as_ref().unwrap().base).collect();
    assert_eq!((bases[0], bases[5], bases[6]), (1e4, 1e6, 1e4));
    let dense: Vec<bool> = config("qwen3moe-dense-layer")
        .layers
        .iter()
        .map(|layer| matches!(layer.feed_forward, FeedForward::Dense { .. }))
        .collect();
    assert_eq!(dense, [false, true, false]);
}

#[test]
fn longrope_takes_its_frequencies_by_the_context_asked_for() {
    let file = ModelFile::open(&folder("phi3-longrope").join("model.gguf")).unwrap();
    let long = |config: &chelsea_model::Config| match config.layers[0].rope.as_ref().unwrap().scaling {
        Scaling::LongRope { long, .. } => long,
        _ => panic!("not longrope"),
    };
    assert!(long(file.config()), "trained to read 64, first trained on 16");
    assert!(!long(&file.config().clone().for_context(16)));
    assert!(long(&file.config().clone().for_context(17)));
    let fingerprints = [12, 30].map(|context| load(&folder("phi3-longrope"), context).fingerprint());
    assert_ne!(fingerprints[0], fingerprints[1], "their caches are not interchangeable");
}

/// Sequences beside it, at other positions, leave a sequence's logits as they are.
#[test]
fn sequences_of_a_batch_do_not_touch_each_other() {
    for name in ["gemma3", "qwen3moe", "gpt-oss"] {
        let model = load(&folder(name), 30);
        let golden = Golden::read(&folder(name).join("logits-30.bin"));
        let (first, second) = golden.tokens.split_at(19);
        let (mut a, mut b, mut workspace) = (cache(&model), cache(&model), Workspace::new());
        let mut step = |batch: &mut [Chunk<'_>]| {
            model.forward(batch, &mut workspace).unwrap();
            workspace.logits().to_vec()
        };
        step(&mut [Chunk { tokens: &golden.tokens[..11], cache: &mut b, logits: Wanted::None }]);
        let together = step(&mut [
            Chunk { tokens: first, cache: &mut a, logits: Wanted::Last },
            Chunk { tokens: &golden.tokens[11..14], cache: &mut b, logits: Wanted::All },
        ]);
        let rows = |range: std::ops::Range<usize>| {
            golden.logits[range.start * golden.vocab..range.end * golden.vocab].to_vec()
        };
        assert!(largest_difference(&together, &[rows(18..19), rows(11..14)].concat()) <= TOLERANCE, "{name}");
        let rest = step(&mut [
            Chunk { tokens: &golden.tokens[14..15], cache: &mut b, logits: Wanted::Last },
            Chunk { tokens: second, cache: &mut a, logits: Wanted::All },
        ]);
        assert!(largest_difference(&rest, &[rows(14..15), rows(19..30)].concat()) <= TOLERANCE, "{name}");
    }
}

/// The fast products round activations: no more than that may differ.
#[test]
fn fast_products_stay_near_the_reference() {
    for name in ["gemma3", "qwen3moe", "gpt-oss-mxfp4", "phi3"] {
        let golden = Golden::read(&folder(name).join("logits-30.bin"));
        let model = Model::load(&folder(name), &LoadOptions::default(), &mut |_, _| {}).unwrap();
        let found = logits(&model, &golden.tokens, 9);
        let error: f32 = found.iter().zip(&golden.logits).map(|(x, y)| (x - y).powi(2)).sum();
        let power: f32 = golden.logits.iter().map(|y| y * y).sum();
        println!("{name}: relative squared error {:.1e}", error / power);
        assert!(error / power < 2e-2, "{name}: relative squared error {}", error / power);
    }
}

/// A model for text and images nests the text model's configuration and names; the rest is passed over.
#[test]
fn the_text_model_inside_a_gemma3_for_text_and_images_loads() {
    let text: serde_json::Value =
        serde_json::from_slice(&fs::read(folder("gemma3").join("config.json")).unwrap()).unwrap();
    let bytes = fs::read(folder("gemma3").join("model.safetensors")).unwrap();
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..header_end]).unwrap();
    let golden = Golden::read(&folder("gemma3").join("logits-30.bin"));
    for prefix in ["language_model.model.", "model.language_model."] {
        let mut renamed = serde_json::Map::new();
        for (name, value) in &header {
            renamed.insert(name.replace("model.", prefix), value.clone());
        }
        let end = bytes.len() - header_end;
        renamed.insert(
            "vision_tower.vision_model.post_layernorm.weight".into(),
            serde_json::json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] }),
        );
        let config = serde_json::json!({
            "model_type": "gemma3", "text_config": text, "vision_config": { "hidden_size": 1152 },
        });
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("config.json"), config.to_string()).unwrap();
        let header = serde_json::Value::Object(renamed).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(&bytes[header_end..]);
        file.extend([0; 4]);
        fs::write(temp.path().join("model.safetensors"), file).unwrap();
        let model = load(temp.path(), 30);
        assert!(largest_difference(&logits(&model, &golden.tokens, 30), &golden.logits) <= TOLERANCE, "{prefix}");
    }
}
