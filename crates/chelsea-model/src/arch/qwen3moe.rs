//! Qwen 3 MoE: Qwen 3 with a mixture of experts in place of the feed-forward of most or all layers.
//!
//! GGUF files say neither how weights of chosen experts are normed nor which layers are dense: they sum to one and none
//! are, as in the published models.

use serde_json::json;

use crate::config::{Architecture, Config, ConfigError, FeedForward, Keys, Routing};

pub(super) static QWEN3_MOE: Architecture = Architecture {
    name: "qwen3moe",
    model_types: &["qwen3_moe"],
    defaults: || {
        json!({
            "sliding_window": 4096, "use_sliding_window": false, "norm_topk_prob": false, "decoder_sparse_step": 1,
            "num_experts_per_tok": 8,
        })
    },
    describe,
    names: &[("mlp.gate", "ffn_gate_inp")],
    qk_norm: true,
    ..Architecture::PLAIN
};

fn describe(keys: &Keys<'_>, config: &mut Config) -> Result<(), ConfigError> {
    let (count, used, inner);
    let (mut routing, mut step, mut dense) = (Routing::SoftmaxOfChosen, 1, Vec::new());
    match keys {
        Keys::Gguf(keys) => {
            count = keys.need_size("expert_count")?;
            used = keys.need_size("expert_used_count")?;
            inner = keys.need_size("expert_feed_forward_length")?;
        }
        Keys::Json(keys) => {
            count = keys.need_any_size(["num_experts", "num_local_experts"])?;
            used = keys.need_size("num_experts_per_tok")?;
            inner = keys.need_size("moe_intermediate_size")?;
            if !keys.bool("norm_topk_prob")?.unwrap_or(false) {
                routing = Routing::Softmax;
            }
            step = keys.size("decoder_sparse_step")?.unwrap_or(1);
            dense = keys.sizes("mlp_only_layers")?.unwrap_or_default();
        }
    }
    if step == 0 {
        return Err(ConfigError::Invalid("`decoder_sparse_step` is 0".into()));
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        if (index + 1).is_multiple_of(step) && !dense.contains(&index) {
            layer.feed_forward = FeedForward::Experts { count, used, inner, routing };
        }
    }
    Ok(())
}
