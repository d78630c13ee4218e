//! A [`Config`] from GGUF metadata.

use super::{Architecture, Config, ConfigError, Rope, Scaling, yarn_attention_factor};
use crate::gguf::{EMBEDDING, GgufError, Metadata};

/// Divisors of the rotary frequencies that Llama 3 files carry as a tensor.
pub(crate) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Metadata under the prefix of the architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn size(&self, name: &str) -> Result<Option<usize>, GgufError> {
        Ok(self.metadata.u32(&self.key(name))?.map(|n| n as usize))
    }

    fn need_size(&self, name: &str) -> Result<usize, GgufError> {
        self.size(name)?.ok_or_else(|| GgufError::MissingKey(self.key(name)))
    }

    fn f32(&self, name: &str) -> Result<Option<f32>, GgufError> {
        self.metadata.f32(&self.key(name))
    }

    fn str(&self, name: &str) -> Result<Option<&str>, GgufError> {
        self.metadata.str(&self.key(name))
    }
}

impl Config {
    /// Reads the configuration of a GGUF file, or of the first of several. `vocab` are the rows of the embedding
    /// ([`embedding_rows`](crate::gguf::Gguf::embedding_rows)), `divisors` the values of the tensor `rope_freqs.weight`, where a file has one.
    ///
    /// # Errors
    /// [`ConfigError`] for another architecture, missing or contradictory keys, and features that the
    /// forward pass does not have.
    pub fn from_gguf(
        metadata: &Metadata,
        vocab: Option<usize>,
        divisors: Option<Vec<f32>>,
    ) -> Result<Config, ConfigError> {
        let found = metadata.need("general.architecture", Metadata::str)?;
        let architecture = Architecture::from_gguf(found).ok_or_else(|| ConfigError::Architecture(found.to_owned()))?;
        let keys = Keys { metadata, prefix: architecture.name() };

        let experts = keys.size("expert_count")?.unwrap_or(0);
        if experts > 0 {
            return Err(ConfigError::Unsupported(format!("a mixture of {experts} experts")));
        }
        let hidden = keys.need_size("embedding_length")?;
        let q_heads = keys.need_size("attention.head_count")?;
        let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(q_heads);
        let head_dim = match keys.size("attention.key_length")? {
            Some(size) => size,
            None => hidden.checked_div(q_heads).unwrap_or(0),
        };
        let value_dim = keys.size("attention.value_length")?.unwrap_or(head_dim);
        if value_dim != head_dim {
            return Err(ConfigError::Unsupported(format!(
                "a value size of {value_dim} beside a key size of {head_dim}"
            )));
        }
        let context = keys.need_size("context_length")?;
        let dims = keys.size("rope.dimension_count")?.unwrap_or(head_dim);
        let (scaling, context) = scaling(&keys, divisors, context)?;

        // A list of token strings must not be longer than the embedding.
        let vocab = vocab.ok_or_else(|| GgufError::MissingTensor(EMBEDDING.to_owned()))?;
        let listed = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len());
        if listed > vocab {
            return Err(ConfigError::Invalid(format!(
                "{listed} tokens are listed, but the embedding has {vocab} rows"
            )));
        }

        Config {
            architecture,
            name: metadata.str("general.name")?.map(str::to_owned),
            layers: keys.need_size("block_count")?,
            hidden,
            feed_forward: keys.need_size("feed_forward_length")?,
            q_heads,
            kv_heads,
            head_dim,
            vocab,
            norm_eps: match keys.f32("attention.layer_norm_rms_epsilon")? {
                Some(eps) => eps,
                None => return Err(GgufError::MissingKey(keys.key("attention.layer_norm_rms_epsilon")).into()),
            },
            rope: Rope { base: keys.f32("rope.freq_base")?.unwrap_or(10_000.0), dims, scaling },
            context_length: context,
            tied_embeddings: None,
            window: keys.size("attention.sliding_window")?.filter(|&window| window > 0),
        }
        .validate()
    }
}

/// Scaling of the rotary embedding, and the context it makes usable.
fn scaling(keys: &Keys<'_>, divisors: Option<Vec<f32>>, context: usize) -> Result<(Scaling, usize), ConfigError> {
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
            Err(ConfigError::Unsupported(format!("rotary scaling `{kind}` together with `{ROPE_DIVISORS}`")))
        }
        (kind, _) => Err(ConfigError::Unsupported(format!(
            "rotary scaling `{kind}` (supported: none, linear, yarn, and llama3 through `{ROPE_DIVISORS}`)"
        ))),
    }
}
