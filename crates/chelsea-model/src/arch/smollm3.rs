//! SmolLM3: Llama with layers that do not know positions, every fourth unless the file says which.
//!
//! GGUF files do not say them: every fourth is supplied here, as in the published model.

use serde_json::json;

use crate::config::{Architecture, Config, ConfigError, Keys};

const INTERVAL: usize = 4;

pub(super) static SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    model_types: &["smollm3"],
    defaults: || json!({ "use_sliding_window": false, "tie_word_embeddings": true }),
    describe,
    gguf_interleaved: true,
    ..Architecture::PLAIN
};

fn describe(keys: &Keys<'_>, config: &mut Config) -> Result<(), ConfigError> {
    let (mut interval, mut turned) = (INTERVAL, None);
    if let Keys::Json(keys) = keys {
        interval = keys.size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
        turned = keys.sizes("no_rope_layers")?;
    }
    if let Some(turned) = &turned
        && turned.len() != config.layers.len()
    {
        let (found, layers) = (turned.len(), config.layers.len());
        return Err(ConfigError::Invalid(format!("`no_rope_layers` has {found} entries for {layers} layers")));
    }
    if interval == 0 {
        return Err(ConfigError::Invalid("`no_rope_layer_interval` is 0".into()));
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        // The list is of ones for layers with a rotary embedding.
        let has_rope = turned.as_ref().map_or(!(index + 1).is_multiple_of(interval), |turned| turned[index] != 0);
        if !has_rope {
            layer.rope = None;
        }
    }
    Ok(())
}
