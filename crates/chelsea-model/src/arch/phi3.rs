//! Phi-3, 3.5 and 4: query, key and value rows in one tensor, gate and up rows in another, in both containers; a sliding
//! window on all layers; LongRoPE in models of 128K; a part of each head turned in some.
//!
//! GGUF files hold the two sets of LongRoPE's divisors as tensors and name no scaling type. Phi-4 says a window of 0:
//! it has none.

use serde_json::json;

use crate::config::Architecture;

pub(super) static PHI3: Architecture = Architecture {
    name: "phi3",
    model_types: &["phi3"],
    defaults: || json!({ "use_sliding_window": true, "original_max_position_embeddings": 4096 }),
    names: &[("self_attn.qkv_proj", "attn_qkv"), ("mlp.gate_up_proj", "ffn_up")],
    fused: true,
    ..Architecture::PLAIN
};
