//! Typed access to what a model's file says of it: GGUF metadata, or an object of `config.json`.
//!
//! A missing key is `None`, a key of another type an error, so that a wrong value is never taken for a missing one.

use serde_json::{Map, Value};

use super::ConfigError;
use crate::files::gguf::{GgufError, Metadata};

/// The description of a model, in the words of its container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys<'a> {
    /// GGUF metadata.
    Gguf(GgufKeys<'a>),
    /// `config.json`.
    Json(JsonKeys<'a>),
}

/// Metadata under the prefix of the architecture: `size("block_count")` reads `llama.block_count`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgufKeys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) prefix: &'static str,
}

impl<'a> GgufKeys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The error for a key that must be there.
    pub(super) fn missing(&self, name: &str) -> ConfigError {
        GgufError::MissingKey(self.key(name)).into()
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        Ok(self.metadata.u32(&self.key(name))?.map(|n| n as usize))
    }

    pub(crate) fn need_size(&self, name: &str) -> Result<usize, ConfigError> {
        self.size(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, ConfigError> {
        Ok(self.metadata.f32(&self.key(name))?)
    }

    pub(super) fn str(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        Ok(self.metadata.str(&self.key(name))?)
    }

    /// One size for each of `layers`: an array of that length, or one number for all.
    pub(super) fn per_layer(&self, name: &str, layers: usize) -> Result<Option<Vec<usize>>, ConfigError> {
        let key = self.key(name);
        if !matches!(self.metadata.get(&key), Some(crate::files::gguf::Value::Numbers(_))) {
            return Ok(self.size(name)?.map(|size| vec![size; layers]));
        }
        let sizes = self.metadata.ints(&key)?.unwrap_or_default();
        let sizes: Option<Vec<usize>> = sizes.into_iter().map(|size| usize::try_from(size).ok()).collect();
        match sizes {
            Some(sizes) if sizes.len() == layers => Ok(Some(sizes)),
            Some(sizes) => Err(ConfigError::Invalid(format!("`{key}` has {} sizes for {layers} layers", sizes.len()))),
            None => Err(ConfigError::Invalid(format!("`{key}` holds a negative size"))),
        }
    }
}

/// An object of `config.json`, and the defaults of the class that wrote it. `null` counts as missing, but is not
/// replaced by a default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonKeys<'a> {
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> JsonKeys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
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

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a size", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(crate) fn need_size(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?.ok_or_else(|| missing(key))
    }

    /// The first of several keys that is there: newer and older spellings of one thing.
    pub(crate) fn need_any_size(&self, keys: [&str; 2]) -> Result<usize, ConfigError> {
        match self.size(keys[0])? {
            Some(size) => Ok(size),
            None => self.need_size(keys[1]),
        }
    }

    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        self.typed(key, "a number", |value| value.as_f64().map(|x| x as f32))
    }

    pub(crate) fn need_f32(&self, key: &str) -> Result<f32, ConfigError> {
        self.f32(key)?.ok_or_else(|| missing(key))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<JsonKeys<'a>>, ConfigError> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| JsonKeys { map }))
    }

    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.typed(key, "an array of sizes", |value| {
            value.as_array()?.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
        })
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        self.typed(key, "an array of numbers", |value| {
            value.as_array()?.iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
        })
    }

    /// Which layers slide, by `layer_types`.
    pub(crate) fn sliding_layers(&self) -> Result<Option<Vec<bool>>, ConfigError> {
        let kinds = self.typed("layer_types", "an array of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()
        })?;
        let Some(kinds) = kinds else { return Ok(None) };
        let slides = |kind: &str| match kind {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(ConfigError::Unsupported(format!("a layer of the kind `{other}`"))),
        };
        kinds.into_iter().map(slides).collect::<Result<_, _>>().map(Some)
    }
}

pub(super) fn missing(key: &str) -> ConfigError {
    ConfigError::Json(format!("`{key}` is missing"))
}
