//! Mistral: Llama with a sliding window on all layers, or without (since 7B v0.2).
//!
//! Its GGUF files call themselves `llama`; those of 7B v0.1 say the window in `llama.attention.sliding_window`.

use serde_json::json;

use crate::config::Architecture;

pub(super) static MISTRAL: Architecture = Architecture {
    name: "llama",
    model_types: &["mistral"],
    // 7B v0.1 leaves its window to the default; later ones say `null`.
    defaults: || json!({ "sliding_window": 4096, "use_sliding_window": true }),
    gguf_interleaved: true,
    ..Architecture::PLAIN
};
