//! The golden files, and the small vocabularies in them as GGUF files say them.

use super::gguf_writer::{GgufWriter, Meta};
use chelsea_model::gguf::Gguf;
use chelsea_model::tokenizer::{Tokenizer, TokenizerError};
use serde_json::Value;

pub fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden file is committed")).expect("JSON")
}

/// The same vocabulary as a GGUF says it.
pub fn llama3_gguf() -> GgufWriter {
    let json = &data("tokenizer-tiny.json")["llama3"]["tokenizer"];
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (token, id) in json["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens.push((id.as_u64().expect("an id"), token.clone(), 1));
    }
    for token in json["added_tokens"].as_array().expect("added tokens") {
        tokens.push((token["id"].as_u64().expect("an id"), token["content"].as_str().expect("text").into(), 3));
    }
    tokens.sort();
    let merge = |merge: &Value| {
        let half = |i: usize| merge[i].as_str().expect("half a merge");
        merge.as_str().map_or_else(|| format!("{} {}", half(0), half(1)), str::to_owned)
    };
    let merges = json["model"]["merges"].as_array().expect("merges").iter().map(merge).collect();
    let id = |name: &str| tokens.iter().find(|token| token.1 == name).expect("a token").0 as u32;
    let mut gguf = GgufWriter::new();
    gguf.set("tokenizer.ggml.model", Meta::str("gpt2"))
        .set("tokenizer.ggml.pre", Meta::str("llama-bpe"))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(id("<|begin_of_text|>")))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(id("<|end_of_text|>")))
        .set("tokenizer.ggml.tokens", Meta::Strs(tokens.iter().map(|token| token.1.clone()).collect()))
        .set("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|token| token.2).collect()))
        .set("tokenizer.ggml.merges", Meta::Strs(merges));
    gguf
}

pub fn llama2_gguf() -> GgufWriter {
    let pieces = data("tokenizer-tiny.json")["llama2"]["pieces"].as_array().expect("pieces").clone();
    let piece = |p: &Value| p[0].as_str().expect("a piece").to_owned();
    let mut gguf = GgufWriter::new();
    gguf.set("tokenizer.ggml.model", Meta::str("llama"))
        .set("tokenizer.ggml.tokens", Meta::Strs(pieces.iter().map(piece).collect()))
        .set("tokenizer.ggml.scores", Meta::F32s(pieces.iter().map(|p| p[1].as_f64().expect("f") as f32).collect()))
        .set(
            "tokenizer.ggml.token_type",
            Meta::I32s(pieces.iter().map(|p| p[2].as_i64().expect("i") as i32).collect()),
        );
    gguf
}

pub fn build(gguf: &GgufWriter) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(&Gguf::parse(&gguf.build()).expect("a well-formed file"))
}
