//! A [`Config`] from the `config.json` of a safetensors model.

use serde_json::{Map, Value};

use super::{Architecture, Config, ConfigError, Rope, Scaling, yarn_attention_factor};

/// An object of `config.json`, with typed getters. `null` counts as missing.
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(ConfigError::Json(format!("`{key}` is {value}, expected {expected}"))),
            },
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a size", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    fn need_size(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?.ok_or_else(|| missing(key))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        self.typed(key, "a number", |value| value.as_f64().map(|x| x as f32))
    }

    fn need_f32(&self, key: &str) -> Result<f32, ConfigError> {
        self.f32(key)?.ok_or_else(|| missing(key))
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(Keys))
    }
}

fn missing(key: &str) -> ConfigError {
    ConfigError::Json(format!("`{key}` is missing"))
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] for text that is not a JSON object, another architecture, missing or contradictory
    /// keys, and features that the forward pass does not have.
    pub fn from_json(text: &str) -> Result<Config, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
        let keys = Keys(value.as_object().ok_or_else(|| ConfigError::Json("not an object".into()))?);

        let found = keys.str("model_type")?.ok_or_else(|| missing("model_type"))?;
        let architecture =
            Architecture::from_model_type(found).ok_or_else(|| ConfigError::Architecture(found.to_owned()))?;
        if let Some(activation) = keys.str("hidden_act")?
            && activation != "silu"
        {
            return Err(ConfigError::Unsupported(format!("the activation `{activation}`")));
        }
        if let Some(quantization) = keys.object("quantization_config")? {
            let method = quantization.str("quant_method")?.unwrap_or("of an unnamed method");
            return Err(ConfigError::Unsupported(format!(
                "safetensors quantization {method} (use F32, F16 or BF16 weights, or a GGUF file)"
            )));
        }

        let hidden = keys.need_size("hidden_size")?;
        let q_heads = keys.need_size("num_attention_heads")?;
        let head_dim = match keys.size("head_dim")? {
            Some(size) => size,
            None => hidden.checked_div(q_heads).unwrap_or(0),
        };
        let trained = keys.need_size("max_position_embeddings")?;
        let (rope, context) = rope(&keys, head_dim, trained)?;

        Config {
            architecture,
            name: keys.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
            layers: keys.need_size("num_hidden_layers")?,
            hidden,
            feed_forward: keys.need_size("intermediate_size")?,
            q_heads,
            kv_heads: keys.size("num_key_value_heads")?.unwrap_or(q_heads),
            head_dim,
            vocab: keys.need_size("vocab_size")?,
            norm_eps: keys.need_f32("rms_norm_eps")?,
            rope,
            context_length: context,
            tied_embeddings: keys.bool("tie_word_embeddings")?,
            window: window(&keys, found)?,
        }
        .validate()
    }
}

/// The sliding window, if any layer has one.
///
/// A key that is missing has the default of `transformers`' configuration classes, a `null` says that there is none:
/// Mistral 7B v0.1 has its window by default, v0.2 has none by `null`.
fn window(keys: &Keys<'_>, model_type: &str) -> Result<Option<usize>, ConfigError> {
    const DEFAULT: usize = 4096;
    const DEFAULT_FIRST_LAYER: usize = 28;
    let window = match keys.size("sliding_window")? {
        Some(window) => window,
        None if keys.0.contains_key("sliding_window") || model_type == "llama" => return Ok(None),
        None => DEFAULT,
    };
    if let Some(kinds) = keys.typed("layer_types", "an array", Value::as_array)? {
        let slides = kinds.iter().any(|kind| kind.as_str() == Some("sliding_attention"));
        return Ok(slides.then_some(window));
    }
    // Only Mistral has the window without the switch, and on all layers.
    let is_mistral = model_type == "mistral";
    let uses = keys.bool("use_sliding_window")?.unwrap_or(is_mistral);
    // Layers below `max_window_layers` see everything.
    let layers = keys.need_size("num_hidden_layers")?;
    let first = keys.size("max_window_layers")?.unwrap_or(if is_mistral { 0 } else { DEFAULT_FIRST_LAYER });
    Ok((uses && first < layers).then_some(window))
}

/// The rotary embedding, and the context it makes usable.
///
/// `rope_scaling` with `rope_theta` beside it is the older form, `rope_parameters` with everything inside
/// the newer.
fn rope(keys: &Keys<'_>, head_dim: usize, trained: usize) -> Result<(Rope, usize), ConfigError> {
    let none = Map::new();
    let scaling_keys = match keys.object("rope_parameters")? {
        Some(parameters) => parameters,
        None => keys.object("rope_scaling")?.unwrap_or(Keys(&none)),
    };
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
        other => {
            return Err(ConfigError::Unsupported(format!(
                "rotary scaling `{other}` (supported: default, linear, llama3, yarn)"
            )));
        }
    };
    Ok((Rope { base, dims, scaling }, context))
}
