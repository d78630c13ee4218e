//! A loaded model: weights in memory and the forward pass over them.
//!
//! [`Model::load`] packs the weights of a file; [`Model::forward`] runs one batch of chunks, each a run of
//! tokens of one sequence, through all layers. The model knows a cache by `append` and `attend` only; when to
//! compact it is the caller's decision.

mod clock;
mod forward;
mod load;
mod random;

use std::path::Path;

use chelsea_kv::{CacheShape, Dtype, Rotary};
use chelsea_linear::{GgmlType, Linear, Products};

pub use clock::Spent;
pub use forward::{Chunk, Wanted, Workspace};
pub use load::Progress;
pub use random::RandomModel;

use crate::config::Config;
use crate::error::ModelError;
use crate::file::ModelFile;

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// How weight products are computed: fast, or in f32 for reference values.
    pub products: Products,
}

/// A product and the bias that is added to it.
#[derive(Debug)]
struct Projection {
    weight: Linear,
    bias: Option<Vec<f32>>,
}

/// Weights of one transformer layer.
#[derive(Debug)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Projection,
    k: Projection,
    v: Projection,
    /// Norms of each head's query and key (qwen3).
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    output: Projection,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A weight matrix as it lies in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTensor {
    /// Name in the file.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Type in the file.
    pub source_type: GgmlType,
    /// How it lies in memory.
    pub format: &'static str,
    /// Bytes in memory.
    pub bytes: usize,
}

/// Bytes that the weights take in memory, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightBytes {
    /// The embedding (which is the output product too where they are tied).
    pub embedding: usize,
    /// Attention projections of all layers.
    pub attention: usize,
    /// Feed-forward products of all layers.
    pub feed_forward: usize,
    /// The output product, where it is not the embedding.
    pub output: usize,
    /// Norms and biases.
    pub vectors: usize,
}

impl WeightBytes {
    /// All of them.
    pub fn total(&self) -> usize {
        self.embedding + self.attention + self.feed_forward + self.output + self.vectors
    }
}

/// A language model in memory.
#[derive(Debug)]
pub struct Model {
    config: Config,
    shape: CacheShape,
    rotary: Rotary,
    kv_dtype: Dtype,
    fingerprint: [u8; 16],
    packed: Vec<PackedTensor>,
    embedding: Linear,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None`: the embedding.
    output: Option<Linear>,
}

impl Model {
    /// Opens and loads a `.gguf` file, a `.safetensors` file, or a folder. Packing runs on the caller's
    /// rayon pool; `progress` is told the bytes done and those of the whole model.
    ///
    /// # Errors
    /// [`ModelError`] for files that are missing, damaged, or of an unsupported kind, and for tensors that
    /// contradict the configuration.
    pub fn load(path: &Path, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Model, ModelError> {
        Model::from_file(&ModelFile::open(path)?, options, progress)
    }

    /// Loads a file opened before.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_file(
        file: &ModelFile,
        options: &LoadOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Model, ModelError> {
        load::load(file, options, progress)
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sizes of a cache for this model.
    pub fn cache_shape(&self) -> CacheShape {
        self.shape.clone()
    }

    /// Rotary frequencies.
    pub fn rotary(&self) -> Rotary {
        self.rotary.clone()
    }

    /// How keys and values are best stored: bf16 where the weights are, f16 otherwise.
    pub fn kv_dtype(&self) -> Dtype {
        self.kv_dtype
    }

    /// Identifies the weights; see [`ModelFile::fingerprint`].
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Every weight matrix as it lies in memory.
    pub fn packed_tensors(&self) -> &[PackedTensor] {
        &self.packed
    }

    /// Bytes that the weights take in memory.
    pub fn memory(&self) -> WeightBytes {
        let floats = |vector: &Vec<f32>| size_of_val(vector.as_slice());
        let mut bytes = WeightBytes {
            embedding: self.embedding.bytes(),
            output: self.output.as_ref().map_or(0, Linear::bytes),
            vectors: floats(&self.output_norm),
            ..WeightBytes::default()
        };
        for layer in &self.layers {
            let projections = [&layer.q, &layer.k, &layer.v, &layer.output];
            bytes.attention += projections.iter().map(|projection| projection.weight.bytes()).sum::<usize>();
            bytes.feed_forward += layer.gate.bytes() + layer.up.bytes() + layer.down.bytes();
            let biases = projections.iter().filter_map(|projection| projection.bias.as_ref());
            let norms = [&layer.attn_norm, &layer.ffn_norm].into_iter().chain(&layer.q_norm).chain(&layer.k_norm);
            bytes.vectors += biases.chain(norms).map(floats).sum::<usize>();
        }
        bytes
    }
}
