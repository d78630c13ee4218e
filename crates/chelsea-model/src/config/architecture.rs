//! What one architecture is, beside the sizes of a model: names and switches.

use std::fmt;

use serde_json::Value;

use super::keys::Keys;
use super::{Config, ConfigError};

/// A family of models with the same names and switches. The instances are in `arch`, one file each.
pub struct Architecture {
    /// Name in GGUF metadata (`general.architecture`), and the prefix of its keys there.
    pub(crate) name: &'static str,
    /// Names in `config.json` (`model_type`).
    pub(crate) model_types: &'static [&'static str],
    /// What the configuration class of `transformers` takes for keys that a `config.json` leaves out.
    pub(crate) defaults: fn() -> Value,
    /// Changes what both containers say of a plain dense model (one kind of layers) to what this one is.
    pub(crate) describe: fn(&Keys<'_>, &mut Config) -> Result<(), ConfigError>,
    /// Names of modules or tensors of a layer in safetensors files that GGUF files call otherwise, beside those that
    /// all architectures have: `("mlp.gate", "ffn_gate_inp")`.
    pub(crate) names: &'static [(&'static str, &'static str)],
    /// Beginnings of tensors' names that safetensors files hold for other purposes than text.
    pub(crate) not_text: &'static [&'static str],
    /// The gate of the feed-forward.
    pub(crate) activation: Activation,
    /// Its name in `config.json`.
    pub(crate) hidden_act: &'static str,
    /// Whether query, key and value projections must have a bias (where it is not needed, a file may have one).
    pub(crate) needs_qkv_bias: bool,
    /// Whether queries and keys are normalised per head before the rotary embedding.
    pub(crate) qk_norm: bool,
    /// Whether heads have a learned sink: a logit that joins the softmax's denominator.
    pub(crate) sinks: bool,
    /// Whether query, key and value rows, and gate and up rows, lie in one tensor each.
    pub(crate) fused: bool,
    /// Norm before the feed-forward, by its name in GGUF files.
    pub(crate) ffn_norm: &'static str,
    /// Whether attention's and the feed-forward's outputs are normed before they join the residual stream
    /// (`post_attention_norm`, `post_ffw_norm`).
    pub(crate) post_norms: bool,
    /// Added to every norm's weight that comes from a safetensors file.
    pub(crate) norm_offset: f32,
    /// Whether GGUF files store the rows of Q and K for the interleaved rotary layout.
    pub(crate) gguf_interleaved: bool,
}

/// How the two halves of a gated feed-forward meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, with the approximation of GELU by a hyperbolic tangent.
    GeluTanh,
    /// `gate * sigmoid(alpha gate) * (up + 1)`, the gate at most `limit`, up between `-limit` and `limit`.
    ClampedSwiglu {
        /// Steepness of the gate.
        alpha: f32,
        /// The bound.
        limit: f32,
    },
}

impl Architecture {
    /// A plain pre-norm transformer, from which the files of `arch` differ.
    pub(crate) const PLAIN: Architecture = Architecture {
        name: "",
        model_types: &[],
        defaults: || Value::Null,
        describe: |_, _| Ok(()),
        names: &[],
        not_text: &[],
        activation: Activation::Silu,
        hidden_act: "silu",
        needs_qkv_bias: false,
        qk_norm: false,
        sinks: false,
        fused: false,
        ffn_norm: "ffn_norm",
        post_norms: false,
        norm_offset: 0.0,
        gguf_interleaved: false,
    };

    /// Its name, as GGUF files say it.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Architectures are known by their first `model_type`: two may have one name in GGUF files.
impl PartialEq for Architecture {
    fn eq(&self, other: &Architecture) -> bool {
        self.name == other.name
    }
}

impl Eq for Architecture {}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
