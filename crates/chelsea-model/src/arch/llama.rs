//! Llama 2 and 3.x, SmolLM2, and every model that calls itself one of them.

use crate::config::Architecture;

pub(super) static LLAMA: Architecture =
    Architecture { name: "llama", model_types: &["llama"], gguf_interleaved: true, ..Architecture::PLAIN };
