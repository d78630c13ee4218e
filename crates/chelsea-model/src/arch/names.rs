//! Names of tensors: those of safetensors files, turned into those of GGUF files, by which this crate knows them.

use crate::config::Architecture;

/// Modules of a layer that most architectures call the same.
const COMMON: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Experts that have a tensor each: `mlp.experts.7.gate_proj` is `ffn_gate.7`.
const EXPERT: [(&str, &str); 3] = [("gate_proj", "ffn_gate"), ("up_proj", "ffn_up"), ("down_proj", "ffn_down")];

/// The name of a tensor as GGUF files have it; `None` for tables that can be computed, and what is not text. Names
/// without a counterpart stay as they are, to be reported by the loader.
pub(crate) fn canonical_name(architecture: &Architecture, name: &str) -> Option<String> {
    if name.ends_with(".rotary_emb.inv_freq") || architecture.not_text.iter().any(|other| name.starts_with(other)) {
        return None;
    }
    // Models of text and images keep the text model one level deeper, on either side of `model`.
    let short = ["language_model.model.", "model.language_model.", "language_model.", "model."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let fixed = match short {
        "embed_tokens.weight" => Some("token_embd.weight"),
        "norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return Some(fixed.to_owned());
    }
    let in_layer = || {
        let (layer, rest) = short.strip_prefix("layers.")?.split_once('.')?;
        let known = |name: &str| architecture.names.iter().chain(&COMMON).find(|known| known.0 == name);
        if let Some((_, whole)) = known(rest).filter(|known| known.1.contains('.')) {
            return Some(format!("blk.{layer}.{whole}"));
        }
        let (module, kind) = rest.rsplit_once('.')?;
        if let Some(expert) = module.strip_prefix("mlp.experts.") {
            let (number, part) = expert.split_once('.')?;
            let (_, part) = EXPERT.iter().find(|known| known.0 == part)?;
            return Some(format!("blk.{layer}.{part}.{number}.{kind}"));
        }
        let (_, module) = known(module)?;
        Some(format!("blk.{layer}.{module}.{kind}"))
    };
    Some(in_layer().unwrap_or_else(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{gemma3::GEMMA3, gpt_oss::GPT_OSS, llama::LLAMA, qwen3moe::QWEN3_MOE};

    #[test]
    fn names_become_those_of_gguf_files() {
        let cases: [(&Architecture, &str, Option<&str>); 13] = [
            (&LLAMA, "model.layers.3.self_attn.q_proj.bias", Some("blk.3.attn_q.bias")),
            (&LLAMA, "model.layers.3.post_attention_layernorm.weight", Some("blk.3.ffn_norm.weight")),
            (&LLAMA, "model.layers.0.self_attn.rotary_emb.inv_freq", None),
            (&LLAMA, "lm_head.weight", Some("output.weight")),
            (&LLAMA, "model.layers.0.other.weight", Some("model.layers.0.other.weight")),
            (&GEMMA3, "model.layers.3.post_attention_layernorm.weight", Some("blk.3.post_attention_norm.weight")),
            (&GEMMA3, "language_model.model.layers.3.mlp.up_proj.weight", Some("blk.3.ffn_up.weight")),
            (&GEMMA3, "model.language_model.embed_tokens.weight", Some("token_embd.weight")),
            (&GEMMA3, "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None),
            (&QWEN3_MOE, "model.layers.1.mlp.gate.weight", Some("blk.1.ffn_gate_inp.weight")),
            (&QWEN3_MOE, "model.layers.1.mlp.experts.12.down_proj.weight", Some("blk.1.ffn_down.12.weight")),
            (&GPT_OSS, "model.layers.1.self_attn.sinks", Some("blk.1.attn_sinks.weight")),
            (&GPT_OSS, "model.layers.1.mlp.experts.down_proj_blocks", Some("blk.1.ffn_down_exps.blocks")),
        ];
        for (architecture, name, expected) in cases {
            assert_eq!(canonical_name(architecture, name).as_deref(), expected, "{name}");
        }
    }
}
