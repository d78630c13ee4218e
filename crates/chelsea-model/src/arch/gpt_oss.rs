//! gpt-oss: a mixture of experts with biases and a clamped gate in every layer; a learned sink per head; every other
//! layer, from the first on, with a sliding window; YaRN.
//!
//! Experts are in MXFP4 blocks. Safetensors files hold them as `_blocks` and `_scales`, with gate and up rows one after
//! the other in turn; files of floats have them transposed. GGUF files do not say that the ends of YaRN's ramp are not
//! rounded, nor which layers slide: supplied here.

use serde_json::json;

use crate::config::{Activation, Architecture, Config, ConfigError, FeedForward, Keys, Routing, Scaling};

pub(super) static GPT_OSS: Architecture = Architecture {
    name: "gpt-oss",
    model_types: &["gpt_oss"],
    defaults: || json!({ "sliding_window": 128, "use_sliding_window": true, "head_dim": 64, "num_experts_per_tok": 4 }),
    describe,
    names: &[
        ("self_attn.sinks", "attn_sinks.weight"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("mlp.router", "ffn_gate_inp"),
        ("mlp.experts.gate_up_proj", "ffn_gate_up_exps.weight"),
        ("mlp.experts.gate_up_proj_bias", "ffn_gate_up_exps.bias"),
        ("mlp.experts.gate_up_proj_blocks", "ffn_gate_up_exps.blocks"),
        ("mlp.experts.gate_up_proj_scales", "ffn_gate_up_exps.scales"),
        ("mlp.experts.down_proj", "ffn_down_exps.weight"),
        ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
        ("mlp.experts.down_proj_blocks", "ffn_down_exps.blocks"),
        ("mlp.experts.down_proj_scales", "ffn_down_exps.scales"),
    ],
    activation: Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 },
    needs_qkv_bias: true,
    sinks: true,
    ffn_norm: "post_attention_norm",
    ..Architecture::PLAIN
};

fn describe(keys: &Keys<'_>, config: &mut Config) -> Result<(), ConfigError> {
    let (count, used, inner);
    let mut pattern_known = false;
    match keys {
        Keys::Gguf(keys) => {
            count = keys.need_size("expert_count")?;
            used = keys.need_size("expert_used_count")?;
            inner = keys.need_size("expert_feed_forward_length")?;
            for layer in &mut config.layers {
                if let Some(rope) = &mut layer.rope
                    && let Scaling::Yarn { truncate, .. } = &mut rope.scaling
                {
                    *truncate = false;
                }
            }
        }
        Keys::Json(keys) => {
            count = keys.need_any_size(["num_local_experts", "num_experts"])?;
            used = keys.need_size("num_experts_per_tok")?;
            inner = keys.need_size("intermediate_size")?;
            pattern_known = keys.sliding_layers()?.is_some();
        }
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.feed_forward = FeedForward::Experts { count, used, inner, routing: Routing::SoftmaxOfChosen };
        if !pattern_known && !index.is_multiple_of(2) {
            layer.window = None;
        }
    }
    Ok(())
}
