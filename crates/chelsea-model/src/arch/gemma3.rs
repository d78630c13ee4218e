//! Gemma 3: five layers with a sliding window to one that sees everything, each kind with its own rotary base; norms
//! before and after attention and feed-forward; a GELU gate; embeddings times the root of their size.
//!
//! Weights of norms are offsets from one in safetensors files and stored with the one in GGUF files. The models for text
//! and images (4B and up) keep the text model's configuration in `text_config`; their GGUF files hold the text model
//! alone.
//!
//! What GGUF files do not say, and is supplied here: the pattern of layers, the rotary base of windows, and the scale of
//! the 27B model, which is that of its hidden size divided by its heads.

use serde_json::json;

use crate::config::{Activation, Architecture, Config, ConfigError, Keys, Rope, Scaling};

/// Every sixth layer sees everything.
const PATTERN: usize = 6;
const LOCAL_BASE: f32 = 10_000.0;
const GLOBAL_BASE: f32 = 1_000_000.0;
/// Layers of the 27B model.
const LAYERS_27B: usize = 62;

pub(super) static GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_types: &["gemma3_text", "gemma3"],
    // The published files of the larger models leave out what the class has by default.
    defaults: || {
        json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131_072, "rope_theta": GLOBAL_BASE, "tie_word_embeddings": true,
            "sliding_window": 4096, "query_pre_attn_scalar": 256,
        })
    },
    describe,
    names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    not_text: &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."],
    activation: Activation::GeluTanh,
    hidden_act: "gelu_pytorch_tanh",
    qk_norm: true,
    post_norms: true,
    norm_offset: 1.0,
    ..Architecture::PLAIN
};

fn describe(keys: &Keys<'_>, config: &mut Config) -> Result<(), ConfigError> {
    // The reference computes the root in f32 where weights are f32.
    config.embedding_scale = (config.hidden as f32).sqrt();
    let (pattern, local_base, sliding, scale);
    match keys {
        Keys::Gguf(keys) => {
            if keys.f32("final_logit_softcapping")?.is_some_and(|cap| cap > 0.0) {
                return Err(ConfigError::Unsupported("a cap on logits in gemma3".into()));
            }
            pattern = keys.size("attention.sliding_window_pattern")?.unwrap_or(PATTERN);
            local_base = keys.f32("rope.freq_base_swa")?.unwrap_or(LOCAL_BASE);
            sliding = None;
            let heads = config.layers[0].q_heads;
            scale = (config.layers.len() == LAYERS_27B).then(|| 1.0 / ((config.hidden / heads.max(1)) as f32).sqrt());
        }
        Keys::Json(keys) => {
            for cap in ["final_logit_softcapping", "attn_logit_softcapping"] {
                if keys.f32(cap)?.is_some() {
                    return Err(ConfigError::Unsupported(format!("`{cap}` in gemma3")));
                }
            }
            if keys.bool("use_bidirectional_attention")?.unwrap_or(false) {
                return Err(ConfigError::Unsupported(
                    "attention to later tokens (`use_bidirectional_attention`)".into(),
                ));
            }
            pattern = match keys.size("sliding_window_pattern")? {
                Some(pattern) => pattern,
                None => keys.size("_sliding_window_pattern")?.unwrap_or(PATTERN),
            };
            let nested = match keys.object("rope_parameters")? {
                Some(parameters) => parameters.object("sliding_attention")?,
                None => None,
            };
            local_base = match nested.map(|keys| keys.f32("rope_theta")).transpose()?.flatten() {
                Some(base) => base,
                None => keys.f32("rope_local_base_freq")?.unwrap_or(LOCAL_BASE),
            };
            sliding = Some(keys.size("sliding_window")?);
            scale = Some(1.0 / keys.need_f32("query_pre_attn_scalar")?.sqrt());
            // `layer_types`, where the file has it, has been read already.
            if keys.sliding_layers()?.is_some() {
                return finish(config, local_base, scale);
            }
        }
    }
    if pattern == 0 {
        return Err(ConfigError::Invalid("the pattern of sliding windows is 0".into()));
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        let window = sliding.unwrap_or(layer.window);
        layer.window = window.filter(|_| !(index + 1).is_multiple_of(pattern));
    }
    finish(config, local_base, scale)
}

/// The rotary embedding of windows, which nothing stretches, and the scale.
fn finish(config: &mut Config, local_base: f32, scale: Option<f32>) -> Result<(), ConfigError> {
    for layer in &mut config.layers {
        if let Some(scale) = scale {
            layer.scale = scale;
        }
        if layer.window.is_some()
            && let Some(rope) = &mut layer.rope
        {
            *rope = Rope { base: local_base, dims: rope.dims, scaling: Scaling::None };
        }
    }
    Ok(())
}
