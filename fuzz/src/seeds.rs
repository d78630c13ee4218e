//! The seeds of each corpus: small valid inputs (`ok-*`) and typical broken ones (`bad-*`).

use std::sync::Arc;

use chelsea_kv::{Budget, CacheConfig, CacheShape, Dtype, Rotary, SequenceCache, policy, snapshot};
use chelsea_linear::GgmlType;
use chelsea_serve::transfer::stream::{self, About};

use crate::mutate::Random;

#[path = "../../crates/chelsea-model/tests/support/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub)]
mod gguf_writer;
use gguf_writer::{GgufWriter, Meta};

/// The `config.json` beside fuzzed safetensors files.
pub const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
 "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 4, "head_dim": 4,
 "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The seeds of the target called `name`, with their file names.
pub fn of(name: &str) -> Seeds {
    match name {
        "gguf" => gguf(),
        "safetensors" => safetensors(),
        "config" => config(),
        "tokenizer" => tokenizer(),
        "snapshot" => snapshots(),
        "handover" => handovers(),
        "samples" => samples(),
        "results" => results(),
        "weights" => weights(),
        _ => Vec::new(),
    }
}

fn strings(items: &[&str]) -> Meta {
    Meta::Strs(items.iter().map(|s| s.to_string()).collect())
}

/// Metadata and tensors of a model with one layer and hardly any weights.
fn small_model(architecture: &str) -> GgufWriter {
    let key = |name: &str| format!("{architecture}.{name}");
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", Meta::str(architecture))
        .set(&key("block_count"), Meta::U32(1))
        .set(&key("context_length"), Meta::U32(64))
        .set(&key("embedding_length"), Meta::U32(8))
        .set(&key("feed_forward_length"), Meta::U32(16))
        .set(&key("attention.head_count"), Meta::U32(2))
        .set(&key("attention.head_count_kv"), Meta::U32(1))
        .set(&key("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5))
        .set(&key("rope.freq_base"), Meta::F32(1e4))
        .f32_tensor("token_embd.weight", &[8, 12], &[0.25; 96])
        .f32_tensor("output_norm.weight", &[8], &[1.0; 8])
        // One block of 32 weights at 8 bits: a scale and 32 numbers.
        .tensor("blk.0.ffn_down.weight", &[32, 1], 8, vec![1; 34]);
    writer
}

fn gguf() -> Seeds {
    let vocab = ["<|im_start|>", "<|im_end|>", "H", "e", "l", "o", "Ġ", "1", "2", "3", "He", "ll"];
    let mut byte_level = small_model("llama");
    byte_level
        .set("tokenizer.ggml.model", Meta::str("gpt2"))
        .set("tokenizer.ggml.pre", Meta::str("smollm"))
        .set("tokenizer.ggml.tokens", strings(&vocab))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
        .set("tokenizer.ggml.merges", strings(&["H e", "l l"]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(0))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.add_bos_token", Meta::Bool(false))
        .set(
            "tokenizer.chat_template",
            Meta::str("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"),
        );
    let mut qwen = small_model("qwen2");
    qwen.version = 2;
    qwen.set("qwen2.rope.scaling.type", Meta::str("yarn"))
        .set("qwen2.rope.scaling.factor", Meta::F32(4.0))
        .set("qwen2.rope.scaling.original_context_length", Meta::U32(32))
        .set("tokenizer.ggml.model", Meta::str("gpt2"))
        .set("tokenizer.ggml.pre", Meta::str("qwen2"))
        .set("tokenizer.ggml.tokens", strings(&vocab))
        .set("tokenizer.ggml.merges", strings(&["H e"]));
    let mut pieces = small_model("llama");
    pieces
        .set("tokenizer.ggml.model", Meta::str("llama"))
        .set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "<0x41>", "▁", "H", "e", "He", "▁He"]))
        .set("tokenizer.ggml.scores", Meta::F32s(vec![0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -1.5, -1.0]))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 6, 1, 1, 1, 1, 1]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    let mut aligned = small_model("qwen3");
    aligned.alignment = 64;
    aligned
        .set("general.alignment", Meta::U32(64))
        .set("qwen3.attention.key_length", Meta::U32(4))
        .set("qwen3.attention.value_length", Meta::U32(4));
    let mut alone = GgufWriter::new();
    alone.set("a", Meta::U64(1)).set("b", Meta::F64(0.5)).set("c", Meta::U8(3));
    let cut = byte_level.build()[..700].to_vec();
    vec![
        ("ok-byte-level.gguf", byte_level.build()),
        ("ok-version-2-yarn.gguf", qwen.build()),
        ("ok-sentencepiece.gguf", pieces.build()),
        ("ok-aligned-64.gguf", aligned.build()),
        ("bad-no-model.gguf", alone.build()),
        ("bad-truncated.gguf", cut),
        ("bad-counts.gguf", [&b"GGUF\x03\0\0\0"[..], &[0xff; 16]].concat()),
    ]
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn safetensors() -> Seeds {
    let two = r#"{"__metadata__":{"format":"pt"},"model.norm.weight":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"model.embed_tokens.weight":{"dtype":"F16","shape":[4,8],"data_offsets":[32,96]}}"#;
    let layer = r#"{"model.layers.0.self_attn.q_proj.weight":{"dtype":"BF16","shape":[8,8],"data_offsets":[0,128]},"lm_head.weight":{"dtype":"F32","shape":[0,8],"data_offsets":[128,128]}}"#;
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let outside = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,18446744073709551615]}}"#;
    vec![
        ("ok-two.safetensors", with_header(two, 96)),
        ("ok-layer.safetensors", with_header(layer, 128)),
        ("ok-empty.safetensors", with_header("{}", 0)),
        ("bad-overlap.safetensors", with_header(overlap, 12)),
        ("bad-outside.safetensors", with_header(outside, 8)),
        ("bad-length.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
    ]
}

fn config() -> Seeds {
    let llama3 = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_attention_heads":4,"num_key_value_heads":2,"num_hidden_layers":2,"vocab_size":100,"max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":500000.0,"rope_scaling":{"factor":8.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"},"torch_dtype":"bfloat16"}"#;
    let qwen = r#"{"model_type":"qwen2","hidden_act":"silu","hidden_size":64,"intermediate_size":96,"max_position_embeddings":32768,"max_window_layers":24,"num_attention_heads":4,"num_hidden_layers":24,"num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_scaling":{"factor":4.0,"original_max_position_embeddings":32768,"type":"yarn"},"rope_theta":1000000.0,"sliding_window":32768,"tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":151936}"#;
    vec![
        ("ok-small.json", CONFIG.as_bytes().to_vec()),
        ("ok-llama3.json", llama3.as_bytes().to_vec()),
        ("ok-qwen2-yarn.json", qwen.as_bytes().to_vec()),
        ("bad-architecture.json", br#"{"model_type":"mamba","hidden_size":64}"#.to_vec()),
        ("bad-array.json", b"[1, 2]".to_vec()),
    ]
}

fn tokenizer() -> Seeds {
    let byte_level = r#"{"version":"1.0","added_tokens":[{"id":8,"content":"<|im_start|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}|\\s+|\\p{L}+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}]},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,"byte_fallback":false,"vocab":{"H":0,"e":1,"l":2,"o":3,"Ġ":4,"1":5,"He":6,"ll":7},"merges":["H e",["l","l"]]}}"#;
    let unigram = r#"{"added_tokens":[],"model":{"type":"Unigram","vocab":[["a",0.0]]}}"#;
    let pieces = r#"{"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE","fuse_unk":true,"byte_fallback":true,"vocab":{"<s>":0,"▁":1,"H":2,"e":3,"<0x41>":4,"▁H":5,"▁He":6},"merges":["▁ H","▁H e"]}}"#;
    // What made the `tokenizers` crate panic.
    let precompiled = r#"{"added_tokens":[],"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":"%%%"}]},"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},"model":{"type":"BPE","vocab":{"H":0," ":1,"<s>":2},"merges":[]}}"#;
    let fixed_length = r#"{"added_tokens":[],"pre_tokenizer":{"type":"FixedLength","length":0},"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},"model":{"type":"BPE","vocab":{"H":0," ":1,"<s>":2},"merges":[]}}"#;
    let stripping = r#"{"added_tokens":[{"id":2,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true},{"id":1,"content":" ","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":false}],"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},"model":{"type":"BPE","vocab":{"H":0," ":1,"<s>":2},"merges":[]}}"#;
    vec![
        ("ok-byte-level.json", byte_level.as_bytes().to_vec()),
        ("ok-sentencepiece.json", pieces.as_bytes().to_vec()),
        ("bad-precompiled.json", precompiled.as_bytes().to_vec()),
        ("bad-fixed-length.json", fixed_length.as_bytes().to_vec()),
        ("bad-stripping-space.json", stripping.as_bytes().to_vec()),
        ("bad-unigram.json", unigram.as_bytes().to_vec()),
        ("bad-empty.json", b"{}".to_vec()),
    ]
}

/// A cache of `tokens` tokens of two layers, clustered down to `keep`.
fn cache(policy_name: &str, dtype: Dtype, tokens: usize, keep: f32) -> Option<Vec<u8>> {
    let shape = CacheShape::uniform(2, 2, 1, 4, Rotary { inv_freq: vec![1.0, 0.01], scale: 1.0 }).expect("a shape");
    chelsea_baselines::register();
    let policy: Arc<dyn chelsea_kv::Policy> = policy(policy_name).ok()?;
    let config = CacheConfig {
        dtype,
        sinks: 2,
        window: 8,
        policy,
        budget: Budget::EntryFraction(keep),
        ..CacheConfig::new(shape)
    };
    let mut cache = SequenceCache::new(config).ok()?;
    let mut random = Random::new(tokens as u64);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(2000) as f32 / 1000.0 - 1.0).collect() };
    for layer in 0..2 {
        cache.append(layer, &numbers(tokens * 4), &numbers(tokens * 4)).ok()?;
        let queries = numbers(tokens * 8);
        let mut out = vec![0.0; queries.len()];
        cache.attend(layer, &queries, &mut out).expect("queries of a token");
    }
    cache.compact().expect("room");
    let info = snapshot::SnapshotInfo {
        fingerprint: *b"a model of seeds",
        tokens: (0..tokens as u32).collect(),
        note: "{}".into(),
    };
    snapshot::to_bytes(&cache, &info).ok()
}

fn snapshots() -> Seeds {
    let kinds = [
        ("ok-chelsea-f16.kv", cache("chelsea", Dtype::F16, 96, 0.5)),
        ("ok-full-f32.kv", cache("full", Dtype::F32, 20, 1.0)),
        ("ok-streaming-bf16.kv", cache("streaming", Dtype::Bf16, 64, 0.5)),
        ("ok-chelsea-q8.kv", cache("chelsea", Dtype::Q8, 90, 0.5)),
        ("ok-chelsea-k8v4.kv", cache("chelsea", Dtype::K8V4, 87, 0.5)),
        ("ok-chelsea-k5v4.kv", cache("chelsea", Dtype::K5V4, 87, 0.5)),
        ("ok-h2o-f16.kv", cache("h2o", Dtype::F16, 70, 0.5)),
        ("ok-expected-attention-f16.kv", cache("expected-attention", Dtype::F16, 70, 0.5)),
    ];
    let mut seeds: Seeds = kinds.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
    if let Some((_, first)) = seeds.first() {
        let cut = first[..first.len() / 2].to_vec();
        let mut version = first.clone();
        version[8] = 9;
        seeds.extend([("bad-truncated.kv", cut), ("bad-version.kv", version)]);
    }
    seeds.push(("bad-text.kv", b"CHELSEA".to_vec()));
    seeds
}

/// Caches with what is sent after them.
fn handovers() -> Seeds {
    let sent = |dtype, tokens: usize, logits: &[f32]| {
        let about = About { settings: "chelsea ByteFraction(0.5) 2 8".into(), cuts: vec![64, tokens - 64] };
        let trailer = stream::encode(&about, logits).ok()?;
        Some((cache("chelsea", dtype, tokens, 0.5)?, trailer))
    };
    let logits = [0.5, -3.0, 1e9, 0.0];
    let whole = |parts: Option<(Vec<u8>, Vec<u8>)>| parts.map(|(cache, trailer)| [cache, trailer].concat());
    let kinds = [
        ("ok-f16.handover", whole(sent(Dtype::F16, 70, &logits))),
        ("ok-q8.handover", whole(sent(Dtype::Q8, 90, &logits))),
        ("ok-no-logits.handover", whole(sent(Dtype::F16, 66, &[]))),
        ("bad-logit.handover", whole(sent(Dtype::F16, 66, &[f32::NAN]))),
    ];
    let mut seeds: Seeds = kinds.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
    if let Some((mut cache, trailer)) = sent(Dtype::F16, 66, &logits) {
        let short = [&cache[..], &trailer[..trailer.len() - 1]].concat();
        let mut unknown = trailer.clone();
        // A field of another name: `cuts` begins with another letter.
        let at = unknown.windows(4).position(|four| four == b"cuts").unwrap_or(0);
        unknown[at] = b'n';
        let unknown = [&cache[..], &unknown].concat();
        cache.truncate(40);
        let hardly = [&cache[..], &trailer].concat();
        seeds.extend([
            ("bad-truncated.handover", short),
            ("bad-field.handover", unknown),
            ("bad-no-cache.handover", hardly),
        ]);
    }
    seeds
}

fn samples() -> Seeds {
    let ruler = r#"{"index": 0, "input": "A text. One of the special magic numbers for x is: 12.\nWhat is the special magic number for x mentioned in the provided text? The special magic number for x mentioned in the provided text is", "outputs": ["12"], "length": 40}"#;
    let prefixed = r#"{"index": "a", "task": "qa_1", "input": "Answer the question based on the given documents.\n\nDocument 1:\nFoxes.\n\nAnswer the question based on the given documents.\n\nQuestion: Who?", "answer_prefix": " Answer:", "outputs": ["fox", 3], "max_length": 4096}"#;
    let longbench = r#"{"input": "Who?", "context": "The fox. It was 12.", "answers": ["the fox"], "length": 5, "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "ab"}"#;
    let classes = r#"{"input": "x", "context": "c", "answers": ["It"], "dataset": "trec", "all_classes": ["It", "fox", "\u00e9"], "_id": 4}"#;
    let summary = r#"{"input": "", "context": "c", "answers": ["The fox is. It is 12. Three."], "dataset": "gov_report", "_id": "g"}"#;
    let own = r#"{"input": "Doc. Which?", "question": "Which?", "outputs": ["a"], "metric": "edit-similarity", "max_new_tokens": 5}"#;
    let many = r#"{"_id": "m", "context": "c", "questions": [{"input": "Who?\n(A) fox\n(B) it", "answers": ["(A) fox"]}, {"input": "When?", "answers": "12"}]}"#;
    vec![
        ("ok-many.jsonl", many.as_bytes().to_vec()),
        ("ok-ruler.jsonl", format!("{ruler}\n{prefixed}\n").into_bytes()),
        ("ok-longbench.jsonl", [longbench, classes, summary].join("\n").into_bytes()),
        ("ok-own.jsonl", own.as_bytes().to_vec()),
        ("bad-deep.jsonl", [b"[".repeat(5000), b"{".repeat(50)].concat()),
        ("bad-empty.jsonl", br#"{"input": "x\nQuestion: y", "outputs": [], "context": null}"#.to_vec()),
    ]
}

/// Three rows of two blocks (or 64 floats) of every type.
fn weights() -> Seeds {
    let matrix = |ty: GgmlType, products: u8| {
        let cols = 2 * ty.block_len().max(32);
        let [low, high] = (cols as u16).to_le_bytes();
        let bytes = ty.bytes_for(3, cols).unwrap_or(0);
        // Bits of which neither exponents nor scales are all ones.
        let data = (0..bytes).map(|i| (i * 37 % 251) as u8 & 0x3b);
        [ty.id() as u8, 3, low, high, products].into_iter().chain(data).collect::<Vec<u8>>()
    };
    let mut short = matrix(GgmlType::MXFP4, 0);
    short.pop();
    vec![
        ("ok-f32.bin", matrix(GgmlType::F32, 0)),
        ("ok-bf16.bin", matrix(GgmlType::BF16, 1)),
        ("ok-q4-0.bin", matrix(GgmlType::Q4_0, 0)),
        ("ok-q5-1.bin", matrix(GgmlType::Q5_1, 0)),
        ("ok-q8-0.bin", matrix(GgmlType::Q8_0, 1)),
        ("ok-q2-k.bin", matrix(GgmlType::Q2K, 0)),
        ("ok-q3-k.bin", matrix(GgmlType::Q3K, 0)),
        ("ok-q4-k.bin", matrix(GgmlType::Q4K, 0)),
        ("ok-q6-k.bin", matrix(GgmlType::Q6K, 0)),
        ("ok-iq4-nl.bin", matrix(GgmlType::IQ4NL, 0)),
        ("ok-iq4-xs.bin", matrix(GgmlType::IQ4XS, 0)),
        ("ok-mxfp4.bin", matrix(GgmlType::MXFP4, 0)),
        ("bad-short.bin", short),
        ("bad-type.bin", vec![16, 1, 0, 1, 0]),
        ("bad-empty.bin", vec![8, 0, 32, 0, 0]),
    ]
}

fn results() -> Seeds {
    let line = r#"{"v":2,"model":"m","fingerprint":"00ff","task":"niah","sample":"3#00c0ffee","policy":"chelsea","keep":0.25,"mode":"one-shot","spec":"chelsea","seed":0,"setup":"sinks=4,window=64,block=512,f16","length":4096,"tokens":4000,"score":0.5,"kv_bytes":1000,"kv_bytes_full":4000,"seconds":1.5,"asked":[{"expected":["12","13"],"answer":"12","score":0.5,"nll":0.25,"depth":0.5}]}"#;
    let scored = r#"{"v":2,"model":"m","fingerprint":"","task":"continuation","sample":"0","policy":"full","keep":1.0,"mode":"aware-online","spec":"full","seed":7,"setup":"","length":0,"tokens":0,"score":1.0,"kv_bytes":0,"kv_bytes_full":0,"seconds":0.0,"asked":[{"score":1.0,"nll":2.5,"kl":0.0,"exact":true}]}"#;
    vec![
        ("ok-two.jsonl", format!("{line}\n{scored}\n").into_bytes()),
        ("ok-torn.jsonl", format!("{scored}\n{}", &line[..90]).into_bytes()),
        ("bad-version.jsonl", line.replace("\"v\":2", "\"v\":1").into_bytes()),
        ("bad-number.jsonl", line.replace("0.25", "1e999").into_bytes()),
    ]
}
