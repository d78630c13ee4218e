//! Qwen 2 and 2.5: biases on queries, keys and values; upper layers may have a sliding window.

use serde_json::json;

use crate::config::Architecture;

pub(super) static QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_types: &["qwen2"],
    defaults: || json!({ "sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28 }),
    needs_qkv_bias: true,
    ..Architecture::PLAIN
};
