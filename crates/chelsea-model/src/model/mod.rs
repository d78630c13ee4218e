//! A loaded model: weights in memory.
//!
//! [`Model::load`] packs the weights of a file; [`Model::forward`] runs one batch of chunks, each a run of
//! tokens of one sequence, through all layers. The model knows a cache by `append` and `attend` only; when to
//! compact it is the caller's decision.

mod load;
mod random;
mod scales;
mod weights;

use std::path::Path;
use std::sync::Arc;

use chelsea_kv::{Backend, CacheShape, Cpu, Dtype, Rotary};
use chelsea_linear::{GgmlType, Linear, Products};

pub use load::Progress;
pub use random::RandomModel;

use crate::blocks::Layer;
use crate::checkpoint::ModelFile;
use crate::config::Config;
use crate::device::{Accelerator, DenseLayer};
use crate::error::ModelError;

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// How weight products are computed: fast, or in f32 for reference values.
    pub products: Products,
}

/// A weight matrix as it lies in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTensor {
    /// Name in the file; of one that holds several matrices, with the part.
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
    /// Norms, biases and sinks.
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
    pub(crate) config: Config,
    pub(crate) shape: CacheShape,
    /// The different rotary embeddings of its layers.
    pub(crate) rotaries: Vec<Arc<Rotary>>,
    kv_dtype: Dtype,
    fingerprint: [u8; 16],
    packed: Vec<PackedTensor>,
    pub(crate) embedding: Linear,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    /// `None`: the embedding.
    pub(crate) output: Option<Linear>,
    /// Who has the weights of the layers and computes with them, if that is not this processor.
    pub(crate) device: Option<Arc<dyn Accelerator>>,
    /// What the weights take, once a device has them.
    moved: Option<WeightBytes>,
}

/// The different rotary embeddings of a model's layers, and which one each layer has.
fn rotaries(shape: &CacheShape) -> (Vec<Arc<Rotary>>, Vec<Option<usize>>) {
    let mut different: Vec<Arc<Rotary>> = Vec::new();
    let of_layers = shape.layers().iter().map(|layer| {
        if layer.rotary.inv_freq.is_empty() {
            return None;
        }
        let known = different.iter().position(|known| **known == *layer.rotary);
        Some(known.unwrap_or_else(|| {
            different.push(layer.rotary.clone());
            different.len() - 1
        }))
    });
    let of_layers = of_layers.collect();
    (different, of_layers)
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

    /// The layers as those of a plain transformer, for a device that has kernels for such.
    ///
    /// # Errors
    /// What the model has that those have not, in a few words.
    pub fn dense_layers(&self) -> Result<Vec<DenseLayer<'_>>, &'static str> {
        self.layers.iter().map(Layer::dense).collect()
    }

    /// The matrix that makes logits.
    pub fn output_weight(&self) -> &Linear {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The norm before it, `[hidden]`.
    pub fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    /// The same model, whose forward passes `device` computes, which has copies of its weights. Those here are dropped,
    /// but for the embedding.
    pub fn on(mut self, device: Arc<dyn Accelerator>) -> Model {
        self.moved = Some(self.memory());
        (self.layers, self.output_norm, self.output) = (Vec::new(), Vec::new(), None);
        self.device = Some(device);
        self
    }

    /// Who computes forward passes, if that is not this processor.
    pub fn device(&self) -> Option<&Arc<dyn Accelerator>> {
        self.device.as_ref()
    }

    /// Where caches for this model lie.
    pub fn backend(&self) -> Arc<dyn Backend> {
        self.device.as_ref().map_or_else(|| Arc::new(Cpu) as Arc<dyn Backend>, |device| device.backend())
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Shape of a cache for this model.
    pub fn cache_shape(&self) -> CacheShape {
        self.shape.clone()
    }

    /// How keys and values are best stored: bf16 where the weights are and the backend knows it, f16 otherwise.
    pub fn kv_dtype(&self) -> Dtype {
        if self.backend().supports(self.kv_dtype) { self.kv_dtype } else { Dtype::F16 }
    }

    /// Identifies the weights and how they are used; see [`ModelFile::fingerprint`].
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Every weight matrix as it lies in memory.
    pub fn packed_tensors(&self) -> &[PackedTensor] {
        &self.packed
    }

    /// Bytes that the weights take in memory.
    pub fn memory(&self) -> WeightBytes {
        if let Some(moved) = self.moved {
            return moved;
        }
        let mut bytes = WeightBytes {
            embedding: self.embedding.bytes(),
            output: self.output.as_ref().map_or(0, Linear::bytes),
            vectors: size_of_val(self.output_norm.as_slice()),
            ..WeightBytes::default()
        };
        for layer in &self.layers {
            let (attention, feed_forward, vectors) = layer.bytes();
            bytes.attention += attention;
            bytes.feed_forward += feed_forward;
            bytes.vectors += vectors;
        }
        bytes
    }
}
