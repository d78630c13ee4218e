//! A model of random weights as a folder, for tests of verbs that need a tokenizer: every byte is a token, there is one
//! control token, and none ends a turn, so an answer is as long as it may be.

use serde_json::{Map, Value, json};
use std::path::Path;

const LAYERS: usize = 2;
const HIDDEN: usize = 64;
const INNER: usize = 96;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const BYTES: usize = 256;
/// A control token.
pub const MARK: &str = "<|mark|>";
const VOCAB: usize = BYTES + 1;

/// Writes the model into `folder` and returns its name for `-m`.
pub fn model(folder: &Path) -> String {
    let path = folder.join("model");
    std::fs::create_dir(&path).unwrap();
    for (name, json) in [("config.json", config()), ("tokenizer.json", tokenizer())] {
        std::fs::write(path.join(name), json.to_string()).unwrap();
    }
    std::fs::write(path.join("model.safetensors"), weights()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HIDDEN / HEAD_DIM, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "max_position_embeddings": 1 << 20, "tie_word_embeddings": true,
    })
}

/// Byte-level BPE without merges.
fn tokenizer() -> Value {
    let prints = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let letter = |byte: u32| char::from_u32(if prints(byte) { byte } else { others.next().unwrap() }).unwrap();
    let letters: Vec<char> = (0..BYTES as u32).map(letter).collect();
    let vocab: Map<String, Value> = letters.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0",
        "added_tokens": [{
            "id": BYTES, "content": MARK, "special": true, "normalized": false, "single_word": false, "lstrip": false,
            "rstrip": false,
        }], "normalizer": null, "pre_tokenizer": bytes, "decoder": bytes,
        "post_processor": null, "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

fn weights() -> Vec<u8> {
    let (mut header, mut data, mut state) = (Map::new(), Vec::new(), 1u64);
    let mut put = |name: String, shape: &[usize], middle: f32, spread: f32| {
        let start = data.len();
        for i in 0..shape.iter().product::<usize>() {
            // The control token's row of the embedding is zero: it is hardly ever the most likely.
            if i >= BYTES * HIDDEN {
                data.extend(0f32.to_le_bytes());
                continue;
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            data.extend((middle + spread * unit).to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    };
    let kv = KV_HEADS * HEAD_DIM;
    put("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], 0.0, 1.0);
    put("model.norm.weight".into(), &[HIDDEN], 1.0, 0.3);
    for layer in 0..LAYERS {
        let mut put = |name: &str, shape: &[usize], middle, spread| {
            put(format!("model.layers.{layer}.{name}.weight"), shape, middle, spread);
        };
        put("input_layernorm", &[HIDDEN], 1.0, 0.3);
        put("post_attention_layernorm", &[HIDDEN], 1.0, 0.3);
        put("self_attn.q_proj", &[HIDDEN, HIDDEN], 0.0, 0.3);
        put("self_attn.k_proj", &[kv, HIDDEN], 0.0, 0.3);
        put("self_attn.v_proj", &[kv, HIDDEN], 0.0, 0.3);
        put("self_attn.o_proj", &[HIDDEN, HIDDEN], 0.0, 0.3);
        put("mlp.gate_proj", &[INNER, HIDDEN], 0.0, 0.3);
        put("mlp.up_proj", &[INNER, HIDDEN], 0.0, 0.3);
        put("mlp.down_proj", &[HIDDEN, INNER], 0.0, 0.3);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}
