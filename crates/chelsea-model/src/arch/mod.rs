//! The architectures: one file each, with the names and switches in which it differs from a plain transformer.
//!
//! | architecture | models | layers |
//! |---|---|---|
//! | `llama` | Llama 2 and 3.x, SmolLM2 | full attention |
//! | `mistral` | Mistral 7B, Nemo, Small (GGUF files say `llama`) | full attention, or a window on all layers |
//! | `qwen2`, `qwen3` | Qwen 2, 2.5, 3 | QKV bias; QK norm; windows where a model says so |
//! | `phi3` | Phi-3, 3.5, 4 | fused projections, windows, LongRoPE |
//! | `gemma3` | Gemma 3 (text) | five windows to one full layer, two rotary embeddings, four norms |
//! | `smollm3` | SmolLM3 | every fourth layer without rotary embedding |
//! | `qwen3moe` | Qwen 3 MoE | mixture of experts |
//! | `gpt-oss` | gpt-oss | mixture of experts, sinks, every other layer a window |
//!
//! A new architecture is a new file here (copy the nearest), a line in [`ALL`], and a tiny checkpoint in
//! `scripts/reference/tiny_models.py` that proves it.

mod gemma3;
mod gpt_oss;
mod llama;
mod mistral;
mod names;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod smollm3;

pub(crate) use names::canonical_name;

use crate::config::{Architecture, Config, ConfigError, GgufDescription, from_gguf, from_json};
use crate::files::gguf::Metadata;

/// All of them.
pub const ALL: [&Architecture; 9] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &phi3::PHI3,
    &gemma3::GEMMA3,
    &smollm3::SMOLLM3,
    &qwen3moe::QWEN3_MOE,
    &gpt_oss::GPT_OSS,
];

fn unsupported(found: &str) -> ConfigError {
    let mut names: Vec<&str> = ALL.map(Architecture::name).to_vec();
    names.dedup();
    ConfigError::Architecture { found: found.to_owned(), supported: names.join(", ") }
}

/// The architecture of that name in GGUF files; the first, where several share it.
pub(crate) fn named(name: &str) -> Option<&'static Architecture> {
    ALL.into_iter().find(|known| known.name == name)
}

impl Config {
    /// Reads the configuration of a GGUF file, or of the first of several, with what its tensors say of it.
    pub(crate) fn from_gguf_file(metadata: &Metadata, description: GgufDescription) -> Result<Config, ConfigError> {
        let found = metadata.need("general.architecture", Metadata::str)?;
        let architecture = named(found).ok_or_else(|| unsupported(found))?;
        from_gguf(architecture, metadata, description)
    }

    /// Reads the configuration of a GGUF file, or of the first of several. `vocab` are the rows of the embedding
    /// ([`embedding_rows`](crate::gguf::Gguf::embedding_rows)), `divisors` the values of the tensor
    /// `rope_freqs.weight`, where a file has one.
    ///
    /// # Errors
    /// [`ConfigError`] for another architecture, missing or contradictory keys, and features that the
    /// forward pass does not have.
    pub fn from_gguf(
        metadata: &Metadata,
        vocab: Option<usize>,
        divisors: Option<Vec<f32>>,
    ) -> Result<Config, ConfigError> {
        Config::from_gguf_file(metadata, GgufDescription { vocab, divisors, long_rope: None })
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not a JSON object, another architecture, missing or contradictory
    /// keys, and features that the forward pass does not have.
    pub fn from_json(text: &str) -> Result<Config, ConfigError> {
        from_json(text, |found| {
            ALL.into_iter().find(|known| known.model_types.contains(&found)).ok_or_else(|| unsupported(found))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_type_has_one_architecture() {
        let mut types: Vec<&str> = ALL.iter().flat_map(|known| known.model_types).copied().collect();
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count);
        assert!(ALL.iter().all(|known| !known.name.is_empty() && !known.model_types.is_empty()));
    }
}
