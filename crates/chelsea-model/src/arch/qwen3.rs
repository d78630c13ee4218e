//! Qwen 3 (dense): norms of queries and keys; upper layers may have a sliding window.

use serde_json::json;

use crate::config::Architecture;

pub(super) static QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_types: &["qwen3"],
    defaults: || json!({ "sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28 }),
    qk_norm: true,
    ..Architecture::PLAIN
};
