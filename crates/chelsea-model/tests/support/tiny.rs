//! Small random models and their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::gguf_writer::{GgufWriter, Meta};

/// Rotary scaling of a small model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TinyRope {
    Plain,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    Yarn { factor: f64, original: f64 },
}

/// What a small model looks like.
#[derive(Debug, Clone)]
pub struct Tiny {
    /// `llama`, `qwen2` or `qwen3`.
    pub arch: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub inner: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub tied: bool,
    pub qkv_bias: bool,
    pub qk_norm: bool,
    pub base: f64,
    pub rope: TinyRope,
    pub eps: f64,
    pub context: usize,
    pub window: Option<usize>,
    /// Weights by canonical name, rows in the half-split layout: shape and values.
    pub weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tiny {
    pub fn llama() -> Tiny {
        Tiny {
            arch: "llama",
            layers: 2,
            hidden: 32,
            inner: 48,
            q_heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocab: 40,
            tied: false,
            qkv_bias: false,
            qk_norm: false,
            base: 10_000.0,
            rope: TinyRope::Plain,
            eps: 1e-5,
            context: 256,
            window: None,
            weights: BTreeMap::new(),
        }
    }

    pub fn qwen2() -> Tiny {
        Tiny { arch: "qwen2", tied: true, qkv_bias: true, base: 1e6, eps: 1e-6, ..Tiny::llama() }
    }

    pub fn qwen3() -> Tiny {
        Tiny { arch: "qwen3", tied: true, qk_norm: true, head_dim: 16, base: 1e6, eps: 1e-6, ..Tiny::llama() }
    }

    /// Draws the weights.
    pub fn fill(mut self, seed: u64) -> Tiny {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut draw = |shape: &[usize], center: f32, spread: f32| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| center + spread * (rng.random::<f32>() * 2.0 - 1.0)).collect();
            (shape.to_vec(), values)
        };
        let mut weights = BTreeMap::new();
        let (h, inner, q, kv) = (self.hidden, self.inner, self.q_heads * self.head_dim, self.kv_heads * self.head_dim);
        weights.insert("token_embd.weight".to_owned(), draw(&[self.vocab, h], 0.0, 1.0));
        weights.insert("output_norm.weight".to_owned(), draw(&[h], 1.0, 0.3));
        if !self.tied {
            weights.insert("output.weight".to_owned(), draw(&[self.vocab, h], 0.0, 0.5));
        }
        for layer in 0..self.layers {
            let mut put = |name: &str, tensor| weights.insert(format!("blk.{layer}.{name}"), tensor);
            put("attn_norm.weight", draw(&[h], 1.0, 0.3));
            put("ffn_norm.weight", draw(&[h], 1.0, 0.3));
            put("attn_q.weight", draw(&[q, h], 0.0, 0.6));
            put("attn_k.weight", draw(&[kv, h], 0.0, 0.6));
            put("attn_v.weight", draw(&[kv, h], 0.0, 0.4));
            put("attn_output.weight", draw(&[h, q], 0.0, 0.4));
            put("ffn_gate.weight", draw(&[inner, h], 0.0, 0.4));
            put("ffn_up.weight", draw(&[inner, h], 0.0, 0.4));
            put("ffn_down.weight", draw(&[h, inner], 0.0, 0.3));
            if self.qkv_bias {
                put("attn_q.bias", draw(&[q], 0.0, 0.5));
                put("attn_k.bias", draw(&[kv], 0.0, 0.5));
                put("attn_v.bias", draw(&[kv], 0.0, 0.5));
            }
            if self.qk_norm {
                put("attn_q_norm.weight", draw(&[self.head_dim], 1.0, 0.3));
                put("attn_k_norm.weight", draw(&[self.head_dim], 1.0, 0.3));
            }
        }
        self.weights = weights;
        self
    }

    pub fn weight(&self, name: &str) -> &[f32] {
        &self.weights[name].1
    }

    /// A GGUF file of the model, with the rows of Q and K interleaved where the architecture wants it.
    pub fn gguf(&self) -> GgufWriter {
        let mut out = GgufWriter::new();
        let arch = self.arch;
        let size = |n: usize| Meta::U32(n as u32);
        out.set("general.architecture", Meta::str(arch))
            .set("general.name", Meta::str("tiny"))
            .set(&format!("{arch}.block_count"), size(self.layers))
            .set(&format!("{arch}.context_length"), size(self.context))
            .set(&format!("{arch}.embedding_length"), size(self.hidden))
            .set(&format!("{arch}.feed_forward_length"), size(self.inner))
            .set(&format!("{arch}.attention.head_count"), size(self.q_heads))
            .set(&format!("{arch}.attention.head_count_kv"), size(self.kv_heads))
            .set(&format!("{arch}.attention.layer_norm_rms_epsilon"), Meta::F32(self.eps as f32))
            .set(&format!("{arch}.rope.freq_base"), Meta::F32(self.base as f32));
        if self.head_dim * self.q_heads != self.hidden {
            out.set(&format!("{arch}.attention.key_length"), size(self.head_dim))
                .set(&format!("{arch}.attention.value_length"), size(self.head_dim));
        }
        if let Some(window) = self.window {
            out.set(&format!("{arch}.attention.sliding_window"), size(window));
        }
        match self.rope {
            TinyRope::Plain => {}
            TinyRope::Linear { factor } => {
                out.set(&format!("{arch}.rope.scaling.type"), Meta::str("linear"))
                    .set(&format!("{arch}.rope.scaling.factor"), Meta::F32(factor as f32));
            }
            TinyRope::Llama3 { .. } => {
                let plain = Tiny { rope: TinyRope::Plain, ..self.clone() };
                let divisors: Vec<f32> = (plain.frequencies().0.iter().zip(&self.frequencies().0))
                    .map(|(plain, scaled)| (plain / scaled) as f32)
                    .collect();
                out.f32_tensor("rope_freqs.weight", &[divisors.len() as u64], &divisors);
            }
            TinyRope::Yarn { factor, original } => {
                out.set(&format!("{arch}.rope.scaling.type"), Meta::str("yarn"))
                    .set(&format!("{arch}.rope.scaling.factor"), Meta::F32(factor as f32))
                    .set(&format!("{arch}.rope.scaling.original_context_length"), Meta::U32(original as u32));
            }
        }
        for (name, (shape, values)) in &self.weights {
            let dims: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
            let turned = name.contains("attn_q.") || name.contains("attn_k.");
            match arch == "llama" && turned {
                true => out.f32_tensor(name, &dims, &self.interleave(values, values.len() / shape[0])),
                false => out.f32_tensor(name, &dims, values),
            };
        }
        out
    }

    /// Half-split rows to interleaved ones: the first half of a head goes to its even rows.
    fn interleave(&self, values: &[f32], width: usize) -> Vec<f32> {
        let half = self.head_dim / 2;
        let mut out = Vec::new();
        for head in values.chunks(self.head_dim * width) {
            let rows: Vec<&[f32]> = head.chunks(width).collect();
            for pair in 0..half {
                out.extend(rows[pair]);
                out.extend(rows[half + pair]);
            }
        }
        out
    }

    /// `config.json` of the model.
    pub fn config_json(&self) -> Value {
        let mut config = json!({
            "model_type": self.arch,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.q_heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "rms_norm_eps": self.eps,
            "rope_theta": self.base,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
        });
        config["rope_scaling"] = match self.rope {
            TinyRope::Plain => Value::Null,
            TinyRope::Linear { factor } => json!({ "type": "linear", "factor": factor }),
            TinyRope::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            }),
            TinyRope::Yarn { factor, original } => json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original as u64,
            }),
        };
        config
    }

    /// Name of a tensor in safetensors files.
    fn safetensors_name(name: &str) -> String {
        let fixed = match name {
            "token_embd.weight" => "model.embed_tokens.weight",
            "output_norm.weight" => "model.norm.weight",
            "output.weight" => "lm_head.weight",
            _ => "",
        };
        if !fixed.is_empty() {
            return fixed.to_owned();
        }
        let parts: Vec<&str> = name.split('.').collect();
        let module = match parts[2] {
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            other => panic!("{other}"),
        };
        format!("model.layers.{}.{module}.{}", parts[1], parts[3])
    }

    /// Writes a folder with `config.json` and `shards` weight files of `dtype` (`F32`, `BF16`, `F16`).
    pub fn write_safetensors(&self, folder: &Path, shards: usize, dtype: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config_json().to_string()).unwrap();
        let names: Vec<&String> = self.weights.keys().collect();
        let mut map = serde_json::Map::new();
        for shard in 0..shards {
            let file = match shards {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
            };
            let mut header = serde_json::Map::new();
            let mut data = Vec::new();
            for name in names.iter().skip(shard).step_by(shards) {
                let (shape, values) = &self.weights[*name];
                let start = data.len();
                for &value in values {
                    match dtype {
                        "F32" => data.extend(value.to_le_bytes()),
                        "BF16" => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                        "F16" => data.extend(half::f16::from_f32(value).to_le_bytes()),
                        other => panic!("{other}"),
                    }
                }
                let name = Tiny::safetensors_name(name);
                map.insert(name.clone(), json!(file));
                header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }));
            }
            fs::write(folder.join(&file), safetensors_bytes(&Value::Object(header), &data)).unwrap();
        }
        if shards > 1 {
            let index = json!({ "metadata": {}, "weight_map": map });
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
        folder.to_path_buf()
    }
}

/// A safetensors file of this header and data.
pub fn safetensors_bytes(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}
