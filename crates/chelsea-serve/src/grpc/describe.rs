//! What a router has to know of a model to count its tokens and lay out its chats, as a folder in the usual format.
//!
//! A router makes tokens of texts itself. It reads the tokenizer and the chat template from a folder as models in
//! safetensors have; one that lies in a GGUF file has none, so one is written for it. Its name follows from what it holds:
//! routers take servers for equal only where they name the same folder, also after one was started anew.

use crate::Serving;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Writes the folder, somewhere in `root`, and says where: `tokenizer.json`, `tokenizer_config.json`,
/// `generation_config.json` and `config.json`. One that is there already is checked, and kept.
///
/// # Errors
/// If the tokenizer cannot be written down, or the system refuses.
pub fn describe(serving: &Serving, root: &Path) -> io::Result<PathBuf> {
    let files = files(serving)?;
    let mut hash = Xxh3::new();
    files.iter().for_each(|(_, text)| hash.update(text.as_bytes()));
    let folder = root.join(format!("{:032x}", hash.digest128()));
    let is_there = |folder: &Path| {
        files.iter().all(|(name, text)| std::fs::read(folder.join(name)).is_ok_and(|bytes| bytes == text.as_bytes()))
    };
    if is_there(&folder) {
        return Ok(folder);
    }
    std::fs::create_dir_all(root)?;
    // It appears under its name as a whole: another server may look for it now.
    let beside = tempfile::Builder::new().prefix(".tokenizer-").tempdir_in(root)?;
    for (name, text) in &files {
        std::fs::write(beside.path().join(name), text)?;
    }
    let renamed = std::fs::rename(beside.path(), &folder);
    match renamed {
        Ok(()) => {
            let _moved = beside.keep();
            Ok(folder)
        }
        // Another server was quicker.
        Err(_) if is_there(&folder) => Ok(folder),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
    }
}

/// What the folder holds.
fn files(serving: &Serving) -> io::Result<[(&'static str, String); 4]> {
    let tokenizer = &serving.tokenizer;
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
    let config = serving.model.config();
    let layer = config.layers.first();
    let ends = tokenizer.turn_ends();
    let mut json: Value = serde_json::from_str(&tokenizer.to_json().map_err(io::Error::other)?)?;
    json["post_processor"] = before(tokenizer.prefix(), &|id| text(Some(id)).unwrap_or_default().to_owned());
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos().or(ends.first().copied())),
        "model_max_length": serving.context(),
        "chat_template": serving.template.as_ref().map(|template| template.source()),
        "clean_up_tokenization_spaces": false,
    });
    let described = json!({
        "model_type": config.architecture.to_string(),
        "architectures": ["ChelseaForCausalLM"],
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers.len(),
        "num_attention_heads": layer.map(|layer| layer.q_heads),
        "num_key_value_heads": layer.map(|layer| layer.kv_heads),
        "head_dim": layer.map(|layer| layer.head_dim),
        "intermediate_size": layer.map(|layer| layer.feed_forward.inner()),
        "max_position_embeddings": serving.context(),
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos().or(ends.first().copied()),
        "torch_dtype": "bfloat16",
    });
    Ok([
        ("tokenizer.json", json.to_string()),
        ("tokenizer_config.json", tokenizer_config.to_string()),
        ("generation_config.json", json!({"bos_token_id": tokenizer.bos(), "eos_token_id": ends}).to_string()),
        ("config.json", described.to_string()),
    ])
}

/// What is put before a text: the tokens that the model expects there.
fn before(prefix: &[u32], text: &dyn Fn(u32) -> String) -> Value {
    if prefix.is_empty() {
        return Value::Null;
    }
    let special = |&id: &u32| json!({"SpecialToken": {"id": text(id), "type_id": 0}});
    let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let single: Vec<Value> = prefix.iter().map(special).chain([sequence("A", 0)]).collect();
    let pair: Vec<Value> = single.iter().cloned().chain([sequence("B", 1)]).collect();
    let named = |&id: &u32| (text(id), json!({"id": text(id), "ids": [id], "tokens": [text(id)]}));
    let tokens: serde_json::Map<String, Value> = prefix.iter().map(named).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_begins_as_the_model_expects_it() {
        assert_eq!(before(&[], &|_| String::new()), Value::Null);
        let told = before(&[1], &|_| "<s>".into());
        assert_eq!(told["single"][0]["SpecialToken"]["id"], "<s>");
        assert_eq!(told["single"][1]["Sequence"]["id"], "A");
        assert_eq!(told["special_tokens"]["<s>"]["ids"], json!([1]));
    }
}
