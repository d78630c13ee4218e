//! A [`Config`] from the `config.json` of a safetensors model: the keys that all architectures have.

use serde_json::{Map, Value};

use super::keys::{JsonKeys, missing};
use super::rope::longrope_attention_factor;
use super::{
    Architecture, Config, ConfigError, FeedForward, Keys, LayerConfig, Rope, Scaling, check_layer_count,
    yarn_attention_factor,
};

/// Reads `config.json`; `find` knows the architecture of a `model_type`.
///
/// A model of text and images keeps what it says of text in `text_config`; that is what is read then.
pub(crate) fn from_json(
    text: &str,
    find: impl FnOnce(&str) -> Result<&'static Architecture, ConfigError>,
) -> Result<Config, ConfigError> {
    let value: Value = serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
    let outer = value.as_object().ok_or_else(|| ConfigError::Json("not an object".into()))?;
    let outer_keys = JsonKeys { map: outer };
    let found = outer_keys.str("model_type")?.ok_or_else(|| missing("model_type"))?;
    let architecture = find(found)?;
    let mut map = match outer_keys.object("text_config")? {
        Some(inner) => inner.map.clone(),
        None => outer.clone(),
    };
    for key in ["quantization_config", "tie_word_embeddings"] {
        if let Some(value) = outer.get(key) {
            map.entry(key).or_insert_with(|| value.clone());
        }
    }
    if let Value::Object(defaults) = (architecture.defaults)() {
        for (key, value) in defaults {
            map.entry(key).or_insert(value);
        }
    }
    read(architecture, JsonKeys { map: &map })
}

fn read(architecture: &'static Architecture, keys: JsonKeys<'_>) -> Result<Config, ConfigError> {
    let activation = match keys.str("hidden_act")? {
        Some(activation) => Some(activation),
        None => keys.str("hidden_activation")?,
    };
    if let Some(activation) = activation
        && activation != architecture.hidden_act
    {
        return Err(ConfigError::Unsupported(format!("the activation `{activation}` in {architecture}")));
    }
    if let Some(quantization) = keys.object("quantization_config")? {
        let method = quantization.str("quant_method")?.unwrap_or("of an unnamed method");
        if method != "mxfp4" {
            return Err(ConfigError::Unsupported(format!(
                "safetensors quantization {method} (use F32, F16, BF16 or MXFP4 weights, or a GGUF file)"
            )));
        }
    }

    let count = keys.need_size("num_hidden_layers")?;
    check_layer_count(count)?;
    let hidden = keys.need_size("hidden_size")?;
    let q_heads = keys.need_size("num_attention_heads")?;
    let head_dim = match keys.size("head_dim")? {
        Some(size) => size,
        None => hidden.checked_div(q_heads).unwrap_or(0),
    };
    let trained = keys.need_size("max_position_embeddings")?;
    let (rope, context_length) = rope(&keys, head_dim, trained)?;
    let layer = LayerConfig {
        q_heads,
        kv_heads: keys.size("num_key_value_heads")?.unwrap_or(q_heads),
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        rope: Some(rope),
        feed_forward: FeedForward::Dense { inner: keys.need_size("intermediate_size")? },
    };
    let windows = windows(&keys, count)?;
    let mut config = Config {
        architecture,
        name: keys.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
        hidden,
        vocab: keys.need_size("vocab_size")?,
        norm_eps: keys.need_f32("rms_norm_eps")?,
        embedding_scale: 1.0,
        context_length,
        tied_embeddings: keys.bool("tie_word_embeddings")?,
        layers: windows.into_iter().map(|window| LayerConfig { window, ..layer.clone() }).collect(),
    };
    (architecture.describe)(&Keys::Json(keys), &mut config)?;
    config.with_trained_context().validate()
}

/// The sliding window of each layer.
///
/// `layer_types` says which layers slide. Without it, and with the switch `use_sliding_window` (architectures that have
/// none set it in their defaults), those from `max_window_layers` on. A `null` window is none: Mistral 7B v0.1 has its
/// window by default, v0.2 has none by `null`.
fn windows(keys: &JsonKeys<'_>, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let kinds = keys.sliding_layers()?;
    let Some(window) = keys.size("sliding_window")? else {
        if kinds.is_some_and(|kinds| kinds.contains(&true)) {
            return Err(ConfigError::Json("layers slide, but `sliding_window` is missing".into()));
        }
        return Ok(vec![None; layers]);
    };
    match kinds {
        Some(kinds) if kinds.len() < layers => {
            Err(ConfigError::Invalid(format!("`layer_types` has {} entries for {layers} layers", kinds.len())))
        }
        Some(kinds) => Ok(kinds.into_iter().take(layers).map(|slides| slides.then_some(window)).collect()),
        None => {
            let uses = keys.bool("use_sliding_window")?.unwrap_or(false);
            let first = keys.size("max_window_layers")?.unwrap_or(0);
            Ok((0..layers).map(|layer| (uses && layer >= first).then_some(window)).collect())
        }
    }
}

/// The rotary embedding, and the context it makes usable.
///
/// `rope_scaling` with `rope_theta` beside it is the older form, `rope_parameters` with everything inside the newer,
/// and with an object for each kind of layer where they differ.
fn rope(keys: &JsonKeys<'_>, head_dim: usize, trained: usize) -> Result<(Rope, usize), ConfigError> {
    let none = Map::new();
    let mut scaling_keys = match keys.object("rope_parameters")? {
        Some(parameters) => parameters,
        None => keys.object("rope_scaling")?.unwrap_or(JsonKeys { map: &none }),
    };
    if let Some(full) = scaling_keys.object("full_attention")? {
        scaling_keys = full;
    }
    let base = match scaling_keys.f32("rope_theta")? {
        Some(base) => base,
        None => keys.f32("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = match scaling_keys.f32("partial_rotary_factor")? {
        Some(partial) => partial,
        None => keys.f32("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let dims = (head_dim as f32 * partial) as usize;
    let kind = match scaling_keys.str("rope_type")? {
        Some(kind) => kind,
        None => scaling_keys.str("type")?.unwrap_or("default"),
    };

    let mut context = trained;
    let original = |default: usize| -> Result<usize, ConfigError> {
        match scaling_keys.size("original_max_position_embeddings")? {
            Some(original) => Ok(original),
            None => Ok(keys.size("original_max_position_embeddings")?.unwrap_or(default)),
        }
    };
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: scaling_keys.need_f32("factor")? },
        "llama3" => Scaling::Llama3 {
            factor: scaling_keys.need_f32("factor")?,
            low_freq_factor: scaling_keys.need_f32("low_freq_factor")?,
            high_freq_factor: scaling_keys.need_f32("high_freq_factor")?,
            original_context: original(trained)? as f32,
        },
        "yarn" => {
            let original = original(trained)?;
            let factor = match scaling_keys.f32("factor")? {
                Some(factor) => factor,
                None => trained as f32 / original as f32,
            };
            context = trained.max((original as f32 * factor) as usize);
            let positive = |key: &str| Ok::<_, ConfigError>(scaling_keys.f32(key)?.filter(|&value| value != 0.0));
            let attention_factor = match scaling_keys.f32("attention_factor")? {
                Some(factor) => factor,
                None => match (positive("mscale")?, positive("mscale_all_dim")?) {
                    (Some(mscale), Some(all)) => {
                        yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, all)
                    }
                    _ => yarn_attention_factor(factor, 1.0),
                },
            };
            Scaling::Yarn {
                factor,
                original_context: original as f32,
                beta_fast: positive("beta_fast")?.unwrap_or(32.0),
                beta_slow: positive("beta_slow")?.unwrap_or(1.0),
                truncate: scaling_keys.bool("truncate")?.unwrap_or(true),
                attention_factor,
            }
        }
        // `su` is what the first Phi-3 files call it.
        "longrope" | "su" => {
            let factors = |key: &str| scaling_keys.floats(key)?.ok_or_else(|| missing(key));
            let original = original(trained)?;
            let attention_factor = match scaling_keys.f32("attention_factor")? {
                Some(factor) => factor,
                None => {
                    // Files that name no original context say the stretch instead.
                    let stretch = trained as f32 / original as f32;
                    let stretch =
                        if original == trained { scaling_keys.f32("factor")?.unwrap_or(1.0) } else { stretch };
                    longrope_attention_factor(stretch, original)
                }
            };
            Scaling::LongRope {
                short_factors: factors("short_factor")?,
                long_factors: factors("long_factor")?,
                original_context: original,
                attention_factor,
                long: false,
            }
        }
        other => {
            return Err(ConfigError::Unsupported(format!(
                "rotary scaling `{other}` (supported: default, linear, llama3, yarn, longrope)"
            )));
        }
    };
    Ok((Rope { base, dims, scaling }, context))
}
