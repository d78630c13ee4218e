//! Configurations as they are found in the wild, from `config.json` and from GGUF metadata.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_model::Config;
use chelsea_model::config::{ConfigError, LayerConfig, Rope, Scaling};
use chelsea_model::gguf::Gguf;
use serde_json::{Value, json};
use support::gguf_writer::Meta;
use support::tiny::{Tiny, TinyRope};

/// The `config.json` of Llama-3.2-1B, in its essentials.
fn llama32() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "attention_bias": false, "mlp_bias": false, "head_dim": 64, "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": { "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3" },
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
    })
}

/// The `config.json` of Qwen2.5-7B, in its essentials.
fn qwen25() -> Value {
    json!({
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": false, "use_sliding_window": false,
        "vocab_size": 152064,
    })
}

fn parse(config: &Value) -> Config {
    Config::from_json(&config.to_string()).unwrap()
}

/// The rotary embedding of the first layer.
fn rope(config: &Config) -> &Rope {
    rope_of(&config.layers[0])
}

fn rope_of(layer: &LayerConfig) -> &Rope {
    layer.rope.as_ref().unwrap()
}

fn error(config: &Value) -> ConfigError {
    Config::from_json(&config.to_string()).unwrap_err()
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn without(mut config: Value, key: &str) -> Value {
    config.as_object_mut().unwrap().remove(key);
    config
}

#[test]
fn llama3_scaling_is_read_and_stretches_low_frequencies_only() {
    let config = parse(&llama32());
    assert_eq!(config.architecture.name(), "llama");
    let layer = &config.layers[0];
    assert_eq!((layer.head_dim, layer.kv_heads, config.vocab), (64, 8, 128256));
    assert_eq!(config.context_length, 131072);
    assert_eq!(config.tied_embeddings, Some(true));
    let rotary = rope(&config).rotary();
    let plain = Rope { scaling: Scaling::None, ..rope(&config).clone() }.rotary();
    assert_eq!(rotary.inv_freq[0], 1.0);
    assert_eq!(rotary.inv_freq[31], plain.inv_freq[31] / 32.0);
    // Values of transformers' `_compute_llama3_parameters` for this configuration.
    for (pair, expected) in [(13, 4.839_421_2e-3), (15, 1.290_548e-3), (16, 4.295_567e-4), (31, 9.418_306_5e-8)] {
        assert!((rotary.inv_freq[pair] / expected - 1.0).abs() < 1e-5, "{pair}: {}", rotary.inv_freq[pair]);
    }
}

#[test]
fn yarn_is_read_in_all_its_spellings() {
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
    let config = parse(&with(qwen25(), "rope_scaling", yarn));
    assert_eq!(config.context_length, 131072, "the stretched context");
    let Scaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, attention_factor } =
        rope(&config).scaling.clone()
    else {
        panic!("{:?}", config.layers[0])
    };
    assert_eq!((factor, original_context, beta_fast, beta_slow, truncate), (4.0, 32768.0, 32.0, 1.0, true));
    assert!((attention_factor - 1.138_629_4).abs() < 1e-6);

    let rotary = rope(&config).rotary();
    // Values of transformers' `_compute_yarn_parameters` for this configuration.
    for (pair, expected) in
        [(0, 1.0), (28, 1.848_276_6e-3), (32, 6.029_411_5e-4), (36, 1.798_411_5e-4), (63, 3.102_344_4e-7)]
    {
        assert!((rotary.inv_freq[pair] / expected - 1.0).abs() < 1e-5, "{pair}: {}", rotary.inv_freq[pair]);
    }

    // The newer spelling keeps everything, the base included, in one object.
    let newer = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
        "rope_theta": 1000000.0 });
    let newer = parse(&with(without(qwen25(), "rope_theta"), "rope_parameters", newer));
    assert_eq!(rope(&newer).rotary(), rotary);

    let mscale = json!({ "rope_type": "yarn", "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 1.0,
        "beta_fast": 16, "beta_slow": 2, "truncate": false });
    let config = parse(&with(qwen25(), "rope_scaling", mscale));
    let Scaling::Yarn { beta_fast, beta_slow, truncate, attention_factor, .. } = rope(&config).scaling else {
        panic!("{:?}", config.layers[0])
    };
    assert_eq!((beta_fast, beta_slow, truncate), (16.0, 2.0, false));
    let expected = (0.1 * 0.707 * 4.0f64.ln() + 1.0) / (0.1 * 4.0f64.ln() + 1.0);
    assert!((f64::from(attention_factor) - expected).abs() < 1e-6);

    let given = json!({ "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5 });
    assert_eq!(rope(&parse(&with(qwen25(), "rope_scaling", given))).rotary().scale, 1.5);
}

#[test]
fn linear_and_default_scaling_are_read() {
    let linear = json!({ "type": "linear", "factor": 2.0 });
    let config = parse(&with(qwen25(), "rope_scaling", linear));
    assert_eq!(rope(&config).rotary().inv_freq[0], 0.5);
    let default = json!({ "rope_type": "default" });
    assert_eq!(parse(&with(qwen25(), "rope_scaling", default)), parse(&qwen25()));
    assert_eq!(rope(&parse(&without(qwen25(), "rope_theta"))).base, 10_000.0);
}

#[test]
fn head_size_and_kv_heads_are_derived_where_they_are_missing() {
    let config = parse(&without(without(llama32(), "head_dim"), "num_key_value_heads"));
    assert_eq!((config.layers[0].head_dim, config.layers[0].kv_heads), (64, 32));
    assert_eq!(parse(&qwen25()).layers[0].head_dim, 128);
}

#[test]
fn the_sliding_window_counts_only_where_layers_use_it() {
    /// Layers without and with a window, and the window.
    fn windows(config: &Value) -> (usize, usize, Option<usize>) {
        let config = parse(config);
        let (full, sliding) = config.full_and_sliding_layers();
        (full, sliding, config.smallest_window())
    }
    assert_eq!(windows(&qwen25()), (28, 0, None), "switched off");
    let on = with(qwen25(), "use_sliding_window", json!(true));
    assert_eq!(windows(&on), (28, 0, None), "above the last layer");
    let upper = with(on.clone(), "max_window_layers", json!(20));
    assert_eq!(windows(&upper), (28, 0, None), "no smaller than the context");
    let window = |config: Value| with(config, "sliding_window", json!(8192));
    assert_eq!(windows(&window(upper)), (20, 8, Some(8192)));
    let kinds = json!([vec!["full_attention"; 27], vec!["sliding_attention"]].concat());
    assert_eq!(windows(&window(with(qwen25(), "layer_types", kinds))), (27, 1, Some(8192)));
    let few = with(qwen25(), "layer_types", json!(["full_attention"]));
    assert!(error(&few).to_string().contains("1 entries for 28 layers"));
    let odd = with(qwen25(), "layer_types", json!(["linear_attention"]));
    assert!(error(&odd).to_string().contains("linear_attention"));
    let mistral = with(with(llama32(), "model_type", json!("mistral")), "sliding_window", json!(4096));
    assert_eq!(parse(&mistral).architecture.name(), "llama");
    assert_eq!(windows(&mistral), (0, 16, Some(4096)));
    assert_eq!(windows(&with(mistral.clone(), "sliding_window", Value::Null)), (16, 0, None));
    assert_eq!(windows(&without(mistral, "sliding_window")), (0, 16, Some(4096)), "the default of its class");
    assert_eq!(windows(&llama32()), (16, 0, None));
    let unsaid = without(qwen25(), "sliding_window");
    assert_eq!(windows(&unsaid), (28, 0, None), "switched off");
    let on = with(without(unsaid, "max_window_layers"), "use_sliding_window", json!(true));
    assert_eq!(windows(&on), (28, 0, None), "the first 28 see everything unless it is said");
    assert_eq!(windows(&with(on.clone(), "num_hidden_layers", json!(36))), (28, 8, Some(4096)));
    assert_eq!(windows(&with(on, "max_window_layers", json!(20))), (20, 8, Some(4096)));
}

/// What the `config.json` of the larger Gemma 3 say: they leave out most of what their class has by default.
#[test]
fn gemma3_for_text_and_images_is_read_from_little() {
    let config = parse(&json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": { "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
            "sliding_window": 1024 },
        "vision_config": { "hidden_size": 1152, "num_hidden_layers": 27 },
    }));
    assert_eq!((config.hidden, config.layers.len(), config.vocab, config.context_length), (2560, 34, 262208, 131072));
    assert_eq!(config.full_and_sliding_layers(), (5, 29));
    let (local, global) = (&config.layers[0], &config.layers[5]);
    assert_eq!((local.window, global.window), (Some(1024), None));
    assert_eq!((global.q_heads, global.kv_heads, global.head_dim, global.scale), (8, 4, 256, 1.0 / 16.0));
    let local = local.rope.clone().unwrap();
    assert_eq!((local.base, local.scaling), (1e4, Scaling::None));
    assert_eq!((rope_of(global).base, rope_of(global).scaling.clone()), (1e6, Scaling::Linear { factor: 8.0 }));
    assert_eq!(config.embedding_scale, 2560f32.sqrt());
    assert_eq!(config.tied_embeddings, Some(true));
}

#[test]
fn what_is_not_supported_is_named() {
    let text = error(&with(llama32(), "model_type", json!("mamba"))).to_string();
    assert!(text.contains("mamba") && text.contains("llama, qwen2, qwen3, phi3, gemma3"), "{text}");
    let text = error(&with(llama32(), "hidden_act", json!("gelu"))).to_string();
    assert!(text.contains("gelu"), "{text}");
    let dynamic = json!({ "rope_type": "dynamic", "factor": 2.0 });
    let text = error(&with(llama32(), "rope_scaling", dynamic)).to_string();
    assert!(text.contains("dynamic") && text.contains("yarn"), "{text}");
    let longrope = json!({ "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0] });
    let text = error(&with(llama32(), "rope_scaling", longrope)).to_string();
    assert!(text.contains("1 rotary divisors for 32 pairs"), "{text}");
    let text = error(&with(llama32(), "quantization_config", json!({ "quant_method": "gptq" }))).to_string();
    assert!(text.contains("gptq") && text.contains("GGUF"), "{text}");
}

#[test]
fn nonsense_is_an_error_that_names_the_key() {
    for key in ["hidden_size", "vocab_size", "rms_norm_eps", "num_hidden_layers", "max_position_embeddings"] {
        assert!(error(&without(llama32(), key)).to_string().contains(key));
        assert!(error(&with(llama32(), key, json!("many"))).to_string().contains(key));
        assert!(matches!(error(&with(llama32(), key, json!(0))), ConfigError::Invalid(_)), "{key} is 0");
        assert!(matches!(error(&with(llama32(), key, json!(1u64 << 50))), ConfigError::Invalid(_)), "{key} is huge");
    }
    assert!(matches!(error(&with(llama32(), "hidden_size", json!(-5))), ConfigError::Json(_)));
    assert!(matches!(error(&with(llama32(), "head_dim", json!(63))), ConfigError::Invalid(_)));
    assert!(matches!(error(&with(llama32(), "num_key_value_heads", json!(5))), ConfigError::Invalid(_)));
    assert!(matches!(error(&with(llama32(), "rope_theta", json!(-1.0))), ConfigError::Invalid(_)));
    let zero = json!({ "rope_type": "linear", "factor": 0.0 });
    assert!(matches!(error(&with(llama32(), "rope_scaling", zero)), ConfigError::Invalid(_)));
    assert!(matches!(Config::from_json("[]"), Err(ConfigError::Json(_))));
    assert!(matches!(Config::from_json("{"), Err(ConfigError::Json(_))));
}

/// Configuration of a GGUF file without weights but the embedding, after a change of its metadata.
fn gguf(tiny: &Tiny, divisors: Option<Vec<f32>>, changes: &[(&str, Option<Meta>)]) -> Result<Config, ConfigError> {
    let mut writer = tiny.gguf();
    for (key, value) in changes {
        match value {
            Some(value) => {
                writer.set(key, value.clone());
            }
            None => writer.remove(key),
        }
    }
    let gguf = Gguf::parse(&writer.build()).unwrap();
    Config::from_gguf(&gguf.metadata, gguf.embedding_rows(), divisors)
}

#[test]
fn gguf_and_json_say_the_same_of_a_model() {
    let yarn = TinyRope::Yarn { factor: 4.0, original: 64.0 };
    for tiny in [
        Tiny::llama(),
        Tiny { rope: TinyRope::Linear { factor: 4.0 }, ..Tiny::llama() },
        Tiny { rope: yarn, context: 64, ..Tiny::qwen2() },
        Tiny::qwen3(),
    ] {
        let tiny = tiny.fill(1);
        let from_gguf = gguf(&tiny, None, &[]).unwrap();
        let from_json = parse(&tiny.config_json());
        assert_eq!(Config { name: None, tied_embeddings: Some(tiny.tied), ..from_gguf }, from_json);
    }
}

#[test]
fn gguf_rotary_keys_are_read() {
    let tiny = Tiny::llama().fill(1);
    let old = gguf(&tiny, None, &[("llama.rope.scale_linear", Some(Meta::F32(4.0)))]).unwrap();
    assert_eq!(rope(&old).scaling, Scaling::Linear { factor: 4.0 });
    let partial = gguf(&tiny, None, &[("llama.rope.dimension_count", Some(Meta::U32(4)))]).unwrap();
    assert_eq!(rope(&partial).rotary().inv_freq.len(), 2);
    let divided = gguf(&tiny, Some(vec![1.0, 1.0, 2.0, 8.0]), &[]).unwrap();
    let plain = rope(&gguf(&tiny, None, &[]).unwrap()).rotary().inv_freq;
    assert_eq!(rope(&divided).rotary().inv_freq, [plain[0], plain[1], plain[2] / 2.0, plain[3] / 8.0]);
    assert!(matches!(gguf(&tiny, Some(vec![1.0; 3]), &[]), Err(ConfigError::Invalid(_))));
    assert!(matches!(gguf(&tiny, Some(vec![1.0, 1.0, 0.0, 1.0]), &[]), Err(ConfigError::Invalid(_))));
    let unknown = gguf(&tiny, None, &[("llama.rope.scaling.type", Some(Meta::str("longrope")))]);
    assert!(unknown.unwrap_err().to_string().contains("longrope"));
}

#[test]
fn gguf_nonsense_is_an_error_that_names_the_key() {
    let tiny = Tiny::llama().fill(1);
    let error = |key: &str, value: Option<Meta>| gguf(&tiny, None, &[(key, value)]).unwrap_err().to_string();
    let text = error("general.architecture", Some(Meta::str("rwkv")));
    assert!(text.contains("rwkv") && text.contains("qwen2"), "{text}");
    for key in ["llama.block_count", "llama.embedding_length", "llama.attention.head_count", "llama.context_length"] {
        assert!(error(key, None).contains(key));
        assert!(error(key, Some(Meta::str("many"))).contains(key));
        assert!(error(key, Some(Meta::U32(0))).contains("not usable"), "{key} is 0");
        assert!(error(key, Some(Meta::U32(u32::MAX))).contains("not usable"), "{key} is huge");
    }
    assert!(error("llama.expert_count", Some(Meta::U32(8))).contains("8 experts"));
    assert!(error("llama.attention.value_length", Some(Meta::U32(4))).contains("value size"));
    let tokens = Meta::Strs(vec!["a".into(); 41]);
    assert!(error("tokenizer.ggml.tokens", Some(tokens)).contains("41 tokens"));
}
