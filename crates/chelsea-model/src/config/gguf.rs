//! A [`Config`] from GGUF metadata: the keys that all architectures have.

use super::keys::GgufKeys;
use super::{
    Architecture, Config, ConfigError, FeedForward, Keys, LayerConfig, Rope, Scaling, check_layer_count,
    yarn_attention_factor,
};
use crate::files::gguf::{EMBEDDING, GgufError, Metadata};

/// What a GGUF model says of itself outside its metadata.
#[derive(Debug, Clone, Default)]
pub(crate) struct GgufDescription {
    /// Rows of the embedding.
    pub(crate) vocab: Option<usize>,
    /// Values of `rope_freqs.weight`: divisors of the rotary frequencies, as Llama 3 files have them.
    pub(crate) divisors: Option<Vec<f32>>,
    /// Values of `rope_factors_short.weight` and `rope_factors_long.weight`, as Phi-3 files have them.
    pub(crate) long_rope: Option<(Vec<f32>, Vec<f32>)>,
}

/// Reads the configuration of a GGUF file, or of the first of several.
pub(crate) fn from_gguf(
    architecture: &'static Architecture,
    metadata: &Metadata,
    description: GgufDescription,
) -> Result<Config, ConfigError> {
    let keys = GgufKeys { metadata, prefix: architecture.name };
    let count = keys.need_size("block_count")?;
    check_layer_count(count)?;
    let hidden = keys.need_size("embedding_length")?;
    let missing = |name: &str| keys.missing(name);
    let q_heads = keys.per_layer("attention.head_count", count)?.ok_or_else(|| missing("attention.head_count"))?;
    let kv_heads = keys.per_layer("attention.head_count_kv", count)?;
    let inner = keys.per_layer("feed_forward_length", count)?;
    let first_heads = q_heads.first().copied().unwrap_or(0);
    let head_dim = match keys.size("attention.key_length")? {
        Some(size) => size,
        None => hidden.checked_div(first_heads).unwrap_or(0),
    };
    let value_dim = keys.size("attention.value_length")?.unwrap_or(head_dim);
    if value_dim != head_dim {
        return Err(ConfigError::Unsupported(format!("a value size of {value_dim} beside a key size of {head_dim}")));
    }
    let context = keys.need_size("context_length")?;
    let dims = keys.size("rope.dimension_count")?.unwrap_or(head_dim);
    let base = keys.f32("rope.freq_base")?.unwrap_or(10_000.0);
    let (scaling, context_length) = scaling(&keys, description.divisors, description.long_rope, context)?;

    // A list of token strings must not be longer than the embedding.
    let vocab = description.vocab.ok_or_else(|| GgufError::MissingTensor(EMBEDDING.to_owned()))?;
    let listed = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len());
    if listed > vocab {
        return Err(ConfigError::Invalid(format!("{listed} tokens are listed, but the embedding has {vocab} rows")));
    }

    let scale = match keys.f32("attention.scale")?.filter(|&scale| scale != 0.0) {
        Some(scale) => scale,
        None => 1.0 / (head_dim as f32).sqrt(),
    };
    let window = keys.size("attention.sliding_window")?.filter(|&window| window > 0);
    let rope = Rope { base, dims, scaling };
    let layer = |index: usize| LayerConfig {
        q_heads: q_heads[index],
        kv_heads: kv_heads.as_ref().map_or(q_heads[index], |heads| heads[index]),
        head_dim,
        scale,
        window,
        rope: Some(rope.clone()),
        // Files of mixtures without a dense layer need not say its size.
        feed_forward: FeedForward::Dense { inner: inner.as_ref().map_or(0, |inner| inner[index]) },
    };
    let mut config = Config {
        architecture,
        name: metadata.str("general.name")?.map(str::to_owned),
        hidden,
        vocab,
        norm_eps: keys
            .f32("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?,
        embedding_scale: 1.0,
        context_length,
        tied_embeddings: None,
        layers: (0..count).map(layer).collect(),
    };
    (architecture.describe)(&Keys::Gguf(keys), &mut config)?;
    let experts = keys.size("expert_count")?.unwrap_or(0);
    let dense = |layer: &LayerConfig| matches!(layer.feed_forward, FeedForward::Dense { .. });
    if experts > 0 && config.layers.iter().all(dense) {
        return Err(ConfigError::Unsupported(format!("a mixture of {experts} experts in this architecture")));
    }
    if inner.is_none() && config.layers.iter().any(dense) {
        return Err(missing("feed_forward_length"));
    }
    config.with_trained_context().validate()
}

/// Scaling of the rotary embedding, and the context it makes usable.
fn scaling(
    keys: &GgufKeys<'_>,
    divisors: Option<Vec<f32>>,
    long_rope: Option<(Vec<f32>, Vec<f32>)>,
    context: usize,
) -> Result<(Scaling, usize), ConfigError> {
    if let Some((short_factors, long_factors)) = long_rope {
        // The type is not in the metadata; the two tensors say it.
        let original_context = keys.need_size("rope.scaling.original_context_length")?;
        let attention_factor = match keys.f32("rope.scaling.attn_factor")? {
            Some(factor) => factor,
            None => super::rope::longrope_attention_factor(context as f32 / original_context as f32, original_context),
        };
        let scaling =
            Scaling::LongRope { short_factors, long_factors, original_context, attention_factor, long: false };
        return Ok((scaling, context));
    }
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key of files written before `rope.scaling.*` existed.
        None => keys.f32("rope.scale_linear")?,
    };
    let kind = match keys.str("rope.scaling.type")? {
        Some(kind) => kind,
        None if factor.is_some() => "linear",
        None => "none",
    };
    // A factor of 0 stands for "not set" in files written by some converters.
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    match (kind, divisors) {
        ("none", None) => Ok((Scaling::None, context)),
        ("none", Some(divisors)) => Ok((Scaling::Divisors(divisors), context)),
        ("linear", None) => Ok((Scaling::Linear { factor }, context)),
        ("yarn", None) => {
            let original = keys.size("rope.scaling.original_context_length")?.unwrap_or(context);
            let scaling = Scaling::Yarn {
                factor,
                original_context: original as f32,
                beta_fast: keys.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                // The stored factor multiplies the one that follows from the stretch.
                attention_factor: keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0)
                    * yarn_attention_factor(factor, 1.0),
            };
            Ok((scaling, context.max((original as f32 * factor) as usize)))
        }
        (kind @ ("linear" | "yarn"), Some(_)) => {
            Err(ConfigError::Unsupported(format!("rotary scaling `{kind}` together with a tensor of divisors")))
        }
        (kind, _) => Err(ConfigError::Unsupported(format!(
            "rotary scaling `{kind}` (supported: none, linear, yarn, llama3 and longrope through their tensors)"
        ))),
    }
}
