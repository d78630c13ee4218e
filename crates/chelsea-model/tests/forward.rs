//! The forward pass on small random models, against the definition.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use chelsea_kv::{CacheConfig, Dtype, SequenceCache};
use chelsea_linear::Products;
use chelsea_model::{Chunk, LoadOptions, Model, ModelError, Wanted, Workspace};
use support::tiny::{Tiny, TinyRope};

const TOKENS: [u32; 21] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 39, 0, 2, 3, 8, 4];

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { products: Products::F32 }, &mut |_, _| {}).unwrap()
}

fn load_gguf(tiny: &Tiny) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny.gguf().build()).unwrap();
    load(&path)
}

fn load_safetensors(tiny: &Tiny) -> Model {
    let folder = tempfile::tempdir().unwrap();
    load(&tiny.write_safetensors(folder.path(), 1, "F32"))
}

fn cache(model: &Model) -> SequenceCache {
    let config = CacheConfig::new(model.cache_shape());
    SequenceCache::new(CacheConfig { dtype: Dtype::F32, ..config }).unwrap()
}

/// Logits of all positions of `tokens`, read in blocks.
fn logits(model: &Model, tokens: &[u32], block: usize) -> Vec<f32> {
    let (mut cache, mut workspace, mut out) = (cache(model), Workspace::new(), Vec::new());
    for tokens in tokens.chunks(block) {
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits: Wanted::All }], &mut workspace).unwrap();
        out.extend_from_slice(workspace.logits());
    }
    out
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{i}: {found} instead of {expected}");
    }
}

/// Holds both file formats of a model against the definition.
#[track_caller]
fn assert_matches_definition(tiny: &Tiny) {
    let expected: Vec<f32> = tiny.logits(&TOKENS).into_iter().flatten().map(|logit| logit as f32).collect();
    let spread = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    assert!(spread > 1.0, "the logits are too flat to tell anything");
    assert_close(&logits(&load_gguf(tiny), &TOKENS, TOKENS.len()), &expected, 1e-4);
    assert_close(&logits(&load_safetensors(tiny), &TOKENS, TOKENS.len()), &expected, 1e-4);
}

#[test]
fn llama_follows_the_definition() {
    assert_matches_definition(&Tiny::llama().fill(1));
    assert_matches_definition(&Tiny { tied: true, kv_heads: 4, ..Tiny::llama() }.fill(2));
    assert_matches_definition(&Tiny { kv_heads: 1, q_heads: 3, hidden: 24, ..Tiny::llama() }.fill(3));
}

#[test]
fn llama_with_a_bias_follows_the_definition() {
    // The bias of interleaved rows has to move with them.
    assert_matches_definition(&Tiny { qkv_bias: true, ..Tiny::llama() }.fill(4));
}

#[test]
fn qwen2_with_biases_follows_the_definition() {
    assert_matches_definition(&Tiny::qwen2().fill(5));
    assert_matches_definition(&Tiny { tied: false, ..Tiny::qwen2() }.fill(6));
}

#[test]
fn qwen3_with_qk_norm_and_its_own_head_size_follows_the_definition() {
    assert_matches_definition(&Tiny::qwen3().fill(7));
    assert_matches_definition(&Tiny { qkv_bias: true, ..Tiny::qwen3() }.fill(8));
}

#[test]
fn every_rotary_scaling_follows_the_definition() {
    let base = 100.0;
    let llama3 = TinyRope::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
    let yarn = TinyRope::Yarn { factor: 4.0, original: 64.0 };
    for rope in [TinyRope::Linear { factor: 2.0 }, llama3, yarn] {
        assert_matches_definition(&Tiny { rope, base, head_dim: 16, ..Tiny::llama() }.fill(9));
        assert_matches_definition(&Tiny { rope, base, head_dim: 16, ..Tiny::qwen2() }.fill(10));
    }
}

#[test]
fn blocks_of_any_size_give_the_logits_of_one_pass() {
    let model = load_gguf(&Tiny::qwen3().fill(11));
    let whole = logits(&model, &TOKENS, TOKENS.len());
    for block in [1, 2, 5, 16] {
        assert_close(&logits(&model, &TOKENS, block), &whole, 2e-5);
    }
}

#[test]
fn sequences_of_a_batch_do_not_touch_each_other() {
    let model = load_gguf(&Tiny::llama().fill(12));
    let (first, second) = TOKENS.split_at(9);
    let vocab = model.config().vocab;
    let (mut a, mut b, mut workspace) = (cache(&model), cache(&model), Workspace::new());
    // The two run at different positions: the second has read three tokens before they meet.
    let alone = &mut [Chunk { tokens: &second[..3], cache: &mut b, logits: Wanted::None }];
    model.forward(alone, &mut workspace).unwrap();
    assert!(workspace.logits().is_empty());
    let together = &mut [
        Chunk { tokens: first, cache: &mut a, logits: Wanted::All },
        Chunk { tokens: &second[3..], cache: &mut b, logits: Wanted::Last },
    ];
    model.forward(together, &mut workspace).unwrap();
    assert_eq!((a.tokens(), b.tokens()), (first.len(), second.len()));
    let (of_a, of_b) = workspace.logits().split_at(first.len() * vocab);
    assert_close(of_a, &logits(&model, first, first.len()), 2e-5);
    let expected = logits(&model, second, second.len());
    assert_close(of_b, &expected[expected.len() - vocab..], 2e-5);
}

#[test]
fn unwanted_rows_still_reach_every_layer_of_the_cache() {
    let model = load_gguf(&Tiny::llama().fill(13));
    let (mut cache, mut workspace) = (cache(&model), Workspace::new());
    for (tokens, logits) in [(&TOKENS[..10], Wanted::None), (&TOKENS[10..], Wanted::Last)] {
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits }], &mut workspace).unwrap();
    }
    let expected = logits(&model, &TOKENS, TOKENS.len());
    assert_close(workspace.logits(), &expected[expected.len() - model.config().vocab..], 2e-5);
}

#[test]
fn fast_products_stay_near_the_definition() {
    // Sizes that are not whole blocks for any kernel.
    let tiny = Tiny { inner: 80, vocab: 50, ..Tiny::llama() }.fill(14);
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write_safetensors(folder.path(), 3, "BF16");
    let fast = Model::load(&path, &LoadOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(fast.kv_dtype(), Dtype::Bf16);
    let (found, expected) = (logits(&fast, &TOKENS, 8), tiny.logits(&TOKENS).concat());
    let error: f64 = found.iter().zip(&expected).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    let power: f64 = expected.iter().map(|y| y * y).sum();
    assert!(error / power < 4e-3, "relative squared error {}", error / power);
}

#[test]
fn buffers_stop_growing_after_the_largest_batch() {
    let model = load_gguf(&Tiny::qwen2().fill(15));
    let (mut cache, mut workspace) = (cache(&model), Workspace::new());
    let mut bytes = Vec::new();
    for tokens in [&TOKENS[..], &TOKENS[..1], &TOKENS[..7], &TOKENS[..1]] {
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits: Wanted::All }], &mut workspace).unwrap();
        bytes.push(workspace.bytes());
    }
    assert!(bytes[0] > 0 && bytes.iter().all(|&later| later == bytes[0]), "{bytes:?}");
}

#[test]
fn bad_batches_are_refused_before_a_cache_is_touched() {
    let model = load_gguf(&Tiny::llama().fill(16));
    let (mut a, mut b, mut workspace) = (cache(&model), cache(&model), Workspace::new());
    let mut refused = |tokens: &[u32]| {
        let batch = &mut [
            Chunk { tokens: &TOKENS[..3], cache: &mut a, logits: Wanted::All },
            Chunk { tokens, cache: &mut b, logits: Wanted::Last },
        ];
        let error = model.forward(batch, &mut workspace).unwrap_err();
        assert_eq!((a.tokens(), b.tokens(), workspace.logits().len()), (0, 0, 0));
        error
    };
    assert!(matches!(refused(&[]), ModelError::EmptyChunk));
    assert!(matches!(refused(&[3, 40]), ModelError::Token { token: 40, vocab: 40 }));
    assert!(matches!(refused(&[u32::MAX]), ModelError::Token { .. }));

    let other = load_gguf(&Tiny::qwen3().fill(17));
    let mut foreign = cache(&other);
    let batch = &mut [Chunk { tokens: &[1], cache: &mut foreign, logits: Wanted::Last }];
    assert!(matches!(model.forward(batch, &mut workspace), Err(ModelError::CacheShape { .. })));
}

#[test]
fn a_sliding_window_follows_the_definition() {
    for window in [1, 4, 8, TOKENS.len(), 100] {
        let tiny = Tiny { window: Some(window), ..Tiny::llama() }.fill(18);
        let model = load_gguf(&tiny);
        let expected: Vec<f32> = tiny.logits(&TOKENS).into_iter().flatten().map(|logit| logit as f32).collect();
        for block in [1, 7, TOKENS.len()] {
            assert_close(&logits(&model, &TOKENS, block), &expected, 1e-4);
        }
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error_that_names_the_layer() {
    // Large enough that a product of two overflows, and finite all the same.
    for layer in 0..2 {
        let mut tiny = Tiny::llama().fill(19);
        for part in ["ffn_up", "ffn_gate", "ffn_down"] {
            tiny.weights.get_mut(&format!("blk.{layer}.{part}.weight")).unwrap().1.fill(1e30);
        }
        let model = load_gguf(&tiny);
        let (mut cache, mut workspace) = (cache(&model), Workspace::new());
        let mut chunk = [Chunk { tokens: &TOKENS, cache: &mut cache, logits: Wanted::Last }];
        let error = model.forward(&mut chunk, &mut workspace).unwrap_err();
        assert!(matches!(error, ModelError::Logits { layer: Some(found), layers: 2 } if found == layer), "{error}");
        assert!(error.to_string().contains(&format!("is {layer} of 2")), "{error}");
        assert!(workspace.logits().is_empty());
    }
}
