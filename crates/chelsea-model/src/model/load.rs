//! Loading: which tensors make which block.

use chelsea_kv::Dtype;
use chelsea_linear::{GgmlType, Linear};

use super::weights::{Rows, Weights, is_float};
use super::{LoadOptions, Model, rotaries};
use crate::blocks::{Attention, ExpertProjection, Experts, FeedForward, Layer, Mlp, Projection};
use crate::checkpoint::ModelFile;
use crate::config::{self, Config, LayerConfig};
use crate::error::ModelError;
use crate::files::TensorEntry;

/// Called with the bytes packed so far and those of the whole model.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Packs all weights of a file.
pub(super) fn load(file: &ModelFile, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Model, ModelError> {
    let config = file.config().clone();
    // Samples of the data are read before their pages are released.
    let fingerprint = file.fingerprint();
    let mut weights = Weights::new(file, options, progress);

    let embedding = weights.matrix("token_embd.weight", config.vocab, config.hidden, None)?;
    // The other large matrix comes next: its source pages are gone before memory fills up with the layers.
    let output = match (config.tied_embeddings, weights.has("output.weight")) {
        (Some(true), _) => {
            // A copy of the embedding that some files carry all the same.
            weights.find("output.weight", &[config.vocab, config.hidden])?;
            None
        }
        (None, false) => None,
        (Some(false), _) | (None, true) => Some(weights.matrix("output.weight", config.vocab, config.hidden, None)?),
    };
    let shape = config.cache_shape();
    let (rotaries, rotary_of) = rotaries(&shape);
    let mut layers = Vec::with_capacity(config.layers.len());
    for (index, rotary) in rotary_of.into_iter().enumerate() {
        let mut layer = LayerLoader { weights: &mut weights, config: &config, layer: &config.layers[index], index };
        layers.push(layer.load(rotary)?);
    }
    let output_norm = weights.norm("output_norm.weight", config.hidden)?;
    weights.check_all_used()?;

    let keys = ["blk.0.attn_k.weight", "blk.0.attn_qkv.weight"].iter().find_map(|name| file.tensor(name));
    Ok(Model {
        kv_dtype: if keys.is_some_and(|keys| keys.ty == GgmlType::BF16) { Dtype::Bf16 } else { Dtype::F16 },
        packed: weights.packed,
        shape,
        rotaries,
        config,
        fingerprint,
        embedding,
        layers,
        output_norm,
        output,
        device: None,
        moved: None,
    })
}

/// Loads one layer.
struct LayerLoader<'a, 'f, 'p> {
    weights: &'a mut Weights<'f, 'p>,
    config: &'a Config,
    layer: &'a LayerConfig,
    index: usize,
}

impl LayerLoader<'_, '_, '_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.index)
    }

    fn norm(&mut self, part: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let name = self.name(&format!("{part}.weight"));
        self.weights.norm(&name, length)
    }

    fn norm_if(&mut self, wanted: bool, part: &str, length: usize) -> Result<Option<Vec<f32>>, ModelError> {
        if wanted { self.norm(part, length).map(Some) } else { Ok(None) }
    }

    fn load(&mut self, rotary: Option<usize>) -> Result<Layer, ModelError> {
        let (hidden, architecture) = (self.config.hidden, self.config.architecture);
        Ok(Layer {
            attn_norm: self.norm("attn_norm", hidden)?,
            attention: self.attention(rotary)?,
            post_attention_norm: self.norm_if(architecture.post_norms, "post_attention_norm", hidden)?,
            ffn_norm: self.norm(architecture.ffn_norm, hidden)?,
            feed_forward: match self.layer.feed_forward {
                config::FeedForward::Dense { inner } => FeedForward::Dense(self.mlp(inner)?),
                config::FeedForward::Experts { .. } => FeedForward::Experts(self.experts()?),
            },
            post_ffn_norm: self.norm_if(architecture.post_norms, "post_ffw_norm", hidden)?,
        })
    }

    fn attention(&mut self, rotary: Option<usize>) -> Result<Attention, ModelError> {
        let (hidden, architecture, layer) = (self.config.hidden, self.config.architecture, self.layer);
        let head_dim = layer.head_dim;
        let (q_rows, kv_rows) = (layer.q_heads * head_dim, layer.kv_heads * head_dim);
        let [q, k, v] = if architecture.fused && self.weights.has(&self.name("attn_qkv.weight")) {
            let name = self.name("attn_qkv.weight");
            let parts = self.weights.stacked(&name, [q_rows, kv_rows, kv_rows], hidden)?;
            parts.map(|weight| Projection { weight, bias: None })
        } else {
            let (q_order, k_order) = (self.row_order(layer.q_heads), self.row_order(layer.kv_heads));
            let names = ["attn_q", "attn_k", "attn_v"].map(|part| self.name(part));
            let q = self.weights.projection(&names[0], q_rows, hidden, q_order.as_deref())?;
            let k = self.weights.projection(&names[1], kv_rows, hidden, k_order.as_deref())?;
            [q, k, self.weights.projection(&names[2], kv_rows, hidden, None)?]
        };
        if architecture.needs_qkv_bias {
            for (part, projection) in [("attn_q", &q), ("attn_k", &k), ("attn_v", &v)] {
                if projection.bias.is_none() {
                    return Err(ModelError::MissingTensor(self.name(&format!("{part}.bias"))));
                }
            }
        }
        let (output, sinks) = (self.name("attn_output"), self.name("attn_sinks.weight"));
        Ok(Attention {
            q,
            k,
            v,
            q_norm: self.norm_if(architecture.qk_norm, "attn_q_norm", head_dim)?,
            k_norm: self.norm_if(architecture.qk_norm, "attn_k_norm", head_dim)?,
            output: self.weights.projection(&output, hidden, q_rows, None)?,
            sinks: match architecture.sinks {
                true => Some(self.weights.need_vector(&sinks, layer.q_heads)?),
                false => None,
            },
            head_dim,
            rotary,
            eps: self.config.norm_eps,
        })
    }

    fn mlp(&mut self, inner: usize) -> Result<Mlp, ModelError> {
        let (hidden, architecture) = (self.config.hidden, self.config.architecture);
        let [gate, up, down] = ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"].map(|part| self.name(part));
        let [gate, up] = if architecture.fused && !self.weights.has(&gate) {
            self.weights.stacked(&up, [inner, inner], hidden)?
        } else {
            [self.weights.matrix(&gate, inner, hidden, None)?, self.weights.matrix(&up, inner, hidden, None)?]
        };
        let down = self.weights.matrix(&down, hidden, inner, None)?;
        Ok(Mlp { gate, up, down, activation: architecture.activation })
    }

    fn experts(&mut self) -> Result<Experts, ModelError> {
        let config::FeedForward::Experts { count, used, inner, routing } = self.layer.feed_forward else {
            return Err(ModelError::MissingTensor(self.name("ffn_gate_inp.weight")));
        };
        let hidden = self.config.hidden;
        let router = self.name("ffn_gate_inp");
        let router = Projection {
            weight: self.weights.exact_matrix(&format!("{router}.weight"), count, hidden)?,
            bias: self.weights.vector(&format!("{router}.bias"), count)?,
        };
        let one = [Rows::From(0)];
        let [gate, up] = if self.weights.has(&self.name("ffn_gate.0.weight")) {
            [
                self.experts_one_by_one("ffn_gate", count, inner, hidden)?,
                self.experts_one_by_one("ffn_up", count, inner, hidden)?,
            ]
        } else if self.weights.has(&self.name("ffn_gate_up_exps.weight")) {
            let kinds = [Rows::EverySecond(0), Rows::EverySecond(1)];
            self.merged("ffn_gate_up_exps", count, 2 * inner, hidden, kinds)?
        } else {
            let [gate] = self.merged("ffn_gate_exps", count, inner, hidden, one)?;
            let [up] = self.merged("ffn_up_exps", count, inner, hidden, one)?;
            [gate, up]
        };
        let down = if self.weights.has(&self.name("ffn_down.0.weight")) {
            self.experts_one_by_one("ffn_down", count, hidden, inner)?
        } else {
            let [down] = self.merged("ffn_down_exps", count, hidden, inner, one)?;
            down
        };
        Ok(Experts { router, gate, up, down, used, routing, activation: self.config.architecture.activation })
    }

    /// Matrices of experts that have tensors of their own.
    fn experts_one_by_one(
        &mut self,
        part: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<ExpertProjection, ModelError> {
        let matrix = |index: usize| {
            let name = self.name(&format!("{part}.{index}.weight"));
            self.weights.matrix(&name, rows, cols, None)
        };
        let matrices = (0..count).map(matrix).collect::<Result<_, _>>()?;
        self.together(&format!("{part}.0.weight"), matrices, None)
    }

    fn together(
        &self,
        part: &str,
        matrices: Vec<Linear>,
        biases: Option<Vec<f32>>,
    ) -> Result<ExpertProjection, ModelError> {
        let weights = chelsea_linear::Experts::from_matrices(matrices)
            .map_err(|source| ModelError::Linear { name: self.name(part), source })?;
        Ok(ExpertProjection { weights, biases })
    }

    /// Experts whose matrices lie in one tensor: for each of `kinds`, which rows of an expert's are meant. The tensor is
    /// `[experts, rows, cols]`; safetensors files of floats have `[experts, cols, rows]`.
    fn merged<const N: usize>(
        &mut self,
        part: &str,
        count: usize,
        rows: usize,
        cols: usize,
        kinds: [Rows; N],
    ) -> Result<[ExpertProjection; N], ModelError> {
        let name = self.name(&format!("{part}.weight"));
        let turned = self.weights.file.gguf().is_none()
            && self.weights.file.tensor(&name).is_some_and(|tensor| is_float(tensor.ty));
        let shape = if turned { [count, cols, rows] } else { [count, rows, cols] };
        let tensor = self.weights.need(&name, &shape)?;
        let biases = self.weights.values(&self.name(&format!("{part}.bias")), &[count, rows])?;
        let each = rows / N;
        let mut all = Vec::with_capacity(N);
        for kind in kinds {
            let mut matrices = Vec::with_capacity(count);
            for expert in 0..count {
                matrices.push(self.expert_matrix(tensor, expert, kind, (each, cols), turned)?);
            }
            let of_expert = |biases: &[f32]| match kind {
                Rows::From(first) => biases[first..][..each].to_vec(),
                Rows::EverySecond(first) => biases[first..].iter().step_by(2).copied().collect(),
            };
            let biases = biases.as_ref().map(|biases| biases.chunks_exact(rows).flat_map(of_expert).collect());
            all.push(self.together(&format!("{part}.weight"), matrices, biases)?);
        }
        self.weights.finish(tensor);
        // As many were pushed as there are kinds.
        all.try_into().map_err(|_| ModelError::MissingTensor(name))
    }

    fn expert_matrix(
        &mut self,
        tensor: &TensorEntry,
        expert: usize,
        kind: Rows,
        (rows, cols): (usize, usize),
        turned: bool,
    ) -> Result<Linear, ModelError> {
        let data = match turned {
            true => self.weights.expert_turned(tensor, expert, kind, rows).into(),
            false => self.weights.expert_rows(tensor, expert, kind, rows)?,
        };
        self.weights.pack(tensor, &format!(" [{expert}]"), &data, (rows, cols), None)
    }

    /// The order that turns interleaved rows of `heads` heads into half-split ones; `None` where they are.
    fn row_order(&self, heads: usize) -> Option<Vec<u32>> {
        let interleaved = self.weights.file.gguf().is_some() && self.config.architecture.gguf_interleaved;
        // Layers without a rotary embedding have their rows in the same order as the others.
        let dims = self.layer.rope.as_ref().map_or(self.layer.head_dim, |rope| rope.dims);
        interleaved.then(|| half_split_order(self.layer.head_dim, dims, heads))
    }
}

/// Row `i` of the half-split layout is row `order[i]` of the interleaved one, in which the two halves of
/// rotary pair `p` lie beside each other.
fn half_split_order(head_dim: usize, dims: usize, heads: usize) -> Vec<u32> {
    let in_head = |i: usize| match i {
        i if i < dims / 2 => 2 * i,
        i if i < dims => 2 * (i - dims / 2) + 1,
        i => i,
    };
    (0..heads * head_dim).map(|row| (row / head_dim * head_dim + in_head(row % head_dim)) as u32).collect()
}
