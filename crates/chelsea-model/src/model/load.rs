//! Loading: tensors are checked against the configuration, packed one by one, and their pages released, so
//! that memory never holds much more than the packed weights.

use std::collections::HashSet;

use chelsea_linear::{GgmlType, Linear};

use super::{Layer, LoadOptions, Model, PackedTensor, Projection};
use crate::config::{Config, ROPE_DIVISORS};
use crate::error::ModelError;
use crate::file::{ModelFile, TensorEntry, decode};
use chelsea_kv::Dtype;

/// Called with the bytes packed so far and those of the whole model.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Takes tensors out of a file.
struct Loader<'a, 'p> {
    file: &'a ModelFile,
    options: &'a LoadOptions,
    progress: &'a mut Progress<'p>,
    /// Canonical names of the tensors that the architecture has a place for.
    used: HashSet<String>,
    packed: Vec<PackedTensor>,
    done: u64,
    total: u64,
}

impl<'a> Loader<'a, '_> {
    /// Finds a tensor and checks its shape.
    fn find(&mut self, name: &str, expected: &[usize]) -> Result<Option<&'a TensorEntry>, ModelError> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        if tensor.shape != expected {
            return Err(ModelError::Shape {
                name: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.used.insert(name.to_owned());
        Ok(Some(tensor))
    }

    fn finish(&mut self, tensor: &TensorEntry) {
        self.file.release(tensor);
        self.done += tensor.bytes as u64;
        (self.progress)(self.done, self.total);
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, order: Option<&[u32]>) -> Result<Linear, ModelError> {
        let tensor = self.find(name, &[rows, cols])?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        let linear = Linear::new(tensor.ty, self.file.data(tensor), rows, cols, self.options.products, order)
            .map_err(|source| ModelError::Linear { name: tensor.name.clone(), source })?;
        self.packed.push(PackedTensor {
            name: tensor.name.clone(),
            rows,
            cols,
            source_type: tensor.ty,
            format: linear.format(),
            bytes: linear.bytes(),
        });
        self.finish(tensor);
        Ok(linear)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.find(name, &[length])? else { return Ok(None) };
        let values = decode(tensor, self.file.data(tensor))?;
        self.finish(tensor);
        Ok(Some(values))
    }

    fn need_vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        self.vector(name, length)?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }

    /// A product with its bias, where the file has one.
    fn projection(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        order: Option<&[u32]>,
    ) -> Result<Projection, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols, order)?;
        let bias = self.vector(&format!("{name}.bias"), rows)?.map(|bias| match order {
            Some(order) => order.iter().map(|&row| bias[row as usize]).collect(),
            None => bias,
        });
        Ok(Projection { weight, bias })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let config = self.file.config();
        let (hidden, inner, head_dim) = (config.hidden, config.feed_forward, config.head_dim);
        let (q_rows, kv_rows) = (config.q_heads * head_dim, config.kv_heads * head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        let q_order = self.row_order(config.q_heads);
        let k_order = self.row_order(config.kv_heads);
        let has_norm = config.architecture.has_qk_norm();

        let layer = Layer {
            attn_norm: self.need_vector(&name("attn_norm.weight"), hidden)?,
            q: self.projection(&name("attn_q"), q_rows, hidden, q_order.as_deref())?,
            k: self.projection(&name("attn_k"), kv_rows, hidden, k_order.as_deref())?,
            v: self.projection(&name("attn_v"), kv_rows, hidden, None)?,
            q_norm: match has_norm {
                true => Some(self.need_vector(&name("attn_q_norm.weight"), head_dim)?),
                false => None,
            },
            k_norm: match has_norm {
                true => Some(self.need_vector(&name("attn_k_norm.weight"), head_dim)?),
                false => None,
            },
            output: self.projection(&name("attn_output"), hidden, q_rows, None)?,
            ffn_norm: self.need_vector(&name("ffn_norm.weight"), hidden)?,
            gate: self.matrix(&name("ffn_gate.weight"), inner, hidden, None)?,
            up: self.matrix(&name("ffn_up.weight"), inner, hidden, None)?,
            down: self.matrix(&name("ffn_down.weight"), hidden, inner, None)?,
        };
        if config.architecture.needs_qkv_bias() {
            for (part, projection) in [("attn_q", &layer.q), ("attn_k", &layer.k), ("attn_v", &layer.v)] {
                if projection.bias.is_none() {
                    return Err(ModelError::MissingTensor(name(&format!("{part}.bias"))));
                }
            }
        }
        Ok(layer)
    }

    /// The order that turns interleaved rows of `heads` heads into half-split ones; `None` where they are.
    fn row_order(&self, heads: usize) -> Option<Vec<u32>> {
        let config = self.file.config();
        let interleaved = self.file.gguf().is_some() && config.architecture.gguf_rows_interleaved();
        interleaved.then(|| half_split_order(config, heads))
    }

    /// Every tensor must have found its place: one that is ignored would make wrong logits.
    fn check_all_used(&self) -> Result<(), ModelError> {
        let unknown = self.file.tensors().iter().find(|tensor| !self.used.contains(&tensor.canonical));
        match unknown {
            None => Ok(()),
            Some(tensor) => Err(ModelError::UnknownTensor {
                name: tensor.name.clone(),
                architecture: self.file.config().architecture.name(),
            }),
        }
    }
}

/// Row `i` of the half-split layout is row `order[i]` of the interleaved one, in which the two halves of
/// rotary pair `p` lie beside each other.
fn half_split_order(config: &Config, heads: usize) -> Vec<u32> {
    let (head_dim, dims) = (config.head_dim, config.rope.dims);
    let in_head = |i: usize| match i {
        i if i < dims / 2 => 2 * i,
        i if i < dims => 2 * (i - dims / 2) + 1,
        i => i,
    };
    (0..heads * head_dim).map(|row| (row / head_dim * head_dim + in_head(row % head_dim)) as u32).collect()
}

/// Packs all weights of a file.
pub(super) fn load(file: &ModelFile, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Model, ModelError> {
    let config = file.config().clone();
    // Samples of the data are read before their pages are released.
    let fingerprint = file.fingerprint();
    let mut loader = Loader {
        file,
        options,
        progress,
        used: HashSet::from([ROPE_DIVISORS.to_owned()]),
        packed: Vec::new(),
        done: 0,
        total: file.tensors().iter().map(|tensor| tensor.bytes as u64).sum(),
    };

    let embedding = loader.matrix("token_embd.weight", config.vocab, config.hidden, None)?;
    // The other large matrix comes next: its source pages are gone before memory fills up with the layers.
    let output = match (config.tied_embeddings, file.tensor("output.weight").is_some()) {
        (Some(true), _) => {
            // A copy of the embedding that some files carry all the same.
            loader.find("output.weight", &[config.vocab, config.hidden])?;
            None
        }
        (None, false) => None,
        (Some(false), _) | (None, true) => Some(loader.matrix("output.weight", config.vocab, config.hidden, None)?),
    };
    let mut layers = Vec::new();
    for index in 0..config.layers {
        layers.push(loader.layer(index)?);
    }
    let output_norm = loader.need_vector("output_norm.weight", config.hidden)?;
    loader.check_all_used()?;
    if loader.done < loader.total {
        // Tensors that need no packing: rotary divisors, a second copy of the embedding.
        (loader.progress)(loader.total, loader.total);
    }

    let keys = file.tensor("blk.0.attn_k.weight").map(|tensor| tensor.ty);
    Ok(Model {
        shape: config.cache_shape(),
        rotary: config.rotary(),
        kv_dtype: if keys == Some(GgmlType::BF16) { Dtype::Bf16 } else { Dtype::F16 },
        packed: loader.packed,
        config,
        fingerprint,
        embedding,
        layers,
        output_norm,
        output,
    })
}
