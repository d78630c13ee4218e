//! Safetensors models: one file or several shards, beside a `config.json`.
//!
//! The header is checked by the `safetensors` crate (sizes against the file, no overlap, no gap); shard names
//! come from foreign JSON and may only name files of the same folder.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use chelsea_kv::Mapped;
use chelsea_linear::GgmlType;
use serde::Deserialize;

use crate::error::ModelError;
use crate::file::TensorEntry;

/// Name of a model in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the table of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The part of the index this reader uses.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The weight files of a model: the one given, or those that the index of the folder names.
pub(crate) fn weight_files(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let single = path.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index_path = path.join(INDEX);
    let text = fs::read_to_string(&index_path).map_err(|source| ModelError::Io { path: index_path.clone(), source })?;
    let broken = |why: String| ModelError::Safetensors { path: index_path.clone(), why };
    let index: Index = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(broken("the index names no files".into()));
    }
    shards
        .into_iter()
        .map(|shard| {
            let plain = !shard.contains(['/', '\\', ':']) && shard != ".." && shard != ".";
            match plain {
                true => Ok(path.join(shard)),
                false => Err(broken(format!("`{shard}` is not the name of a file in this folder"))),
            }
        })
        .collect()
}

/// Reads the header of file number `file`: its tensors, by canonical name.
pub(crate) fn read_tensors(path: &Path, mapped: &Mapped, file: usize) -> Result<Vec<TensorEntry>, ModelError> {
    let broken = |why: String| ModelError::Safetensors { path: path.to_path_buf(), why };
    let (header, metadata) = SafeTensors::read_metadata(mapped).map_err(|error| broken(explain(&error)))?;
    // Eight bytes of length, the header, the data.
    let data_start = 8 + header;
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let Some(canonical) = canonical_name(&name) else { continue };
        let ty = match info.dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => {
                return Err(broken(format!(
                    "tensor `{name}` has the unsupported type {other:?}; supported: F32, F16, BF16"
                )));
            }
        };
        let (start, end) = info.data_offsets;
        tensors.push(TensorEntry {
            canonical,
            shape: info.shape.clone(),
            ty,
            file,
            offset: data_start + start,
            bytes: end - start,
            name,
        });
    }
    Ok(tensors)
}

/// The name of a tensor as GGUF files have it; `None` for tables that can be computed. Names without a
/// counterpart stay as they are, to be reported by the loader.
fn canonical_name(name: &str) -> Option<String> {
    if name.ends_with(".rotary_emb.inv_freq") {
        return None;
    }
    let short = name.strip_prefix("model.").unwrap_or(name);
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
        let (module, kind) = rest.rsplit_once('.')?;
        let module = match module {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "post_attention_layernorm" => "ffn_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{module}.{kind}"))
    };
    Some(in_layer().unwrap_or_else(|| name.to_owned()))
}

/// The crate's errors, with what to do about them.
fn explain(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => {
            format!("the file is truncated or damaged ({error}); fetch it again")
        }
        SafeTensorError::HeaderTooLarge => {
            format!("not a safetensors file: its header would be absurdly long ({error})")
        }
        other => format!("not a valid safetensors file: {other}"),
    }
}
