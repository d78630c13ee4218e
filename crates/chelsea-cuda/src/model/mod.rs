//! A model whose forward passes a device computes: weights are copied there once, and from the embeddings of a batch's
//! tokens to the likeliest of the next nothing comes back, but for the queries that statistics are made of where a policy asks
//! for some.

mod by_lot;
mod held;
mod kept;
mod layers;
mod lists;
mod noted;
mod pass;
mod products;
mod steps;
mod weights;

use crate::cache::{CudaBackend, Growing, Tables};
use crate::device::{Buffer, Device, DeviceError};
use crate::kernels::rows::{LIKELIEST, likeliest_bytes};
use chelsea_kv::{Backend, Dims, LayerSpec};
use chelsea_linear::LinearError;
use chelsea_model::Model;
use chelsea_model::device::{Accelerator, DenseLayer, HeldLogits, Pass};
use std::sync::{Arc, Mutex, PoisonError};
use weights::{Biased, Weight};

/// Entries of a block: steps of 512 tokens, each of which reads all weights once.
const READ_BLOCK: usize = 4096;

/// Why a device does not take a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelRefused {
    /// It has parts that there are no kernels for.
    #[error("models with {0} run on the CPU only")]
    Architecture(&'static str),
    /// Its heads have a shape that there are no kernels for.
    #[error("models whose heads have {dim} numbers, shared by {group} query heads, run on the CPU only")]
    Heads {
        /// Numbers of a key.
        dim: usize,
        /// Query heads that share a KV head.
        group: usize,
    },
    /// Its weights were packed for the CPU.
    #[error("the weights were packed for the CPU: they are to be loaded as `Products::Source`")]
    Packed,
    /// Its weights have a type that there are no kernels for.
    #[error("weights in {0} run on the CPU only")]
    Type(&'static str),
    /// Its weights are damaged.
    #[error(transparent)]
    Weights(LinearError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// One layer.
#[derive(Debug)]
struct Layer {
    spec: LayerSpec,
    attn_norm: Buffer,
    q: Biased,
    k: Biased,
    v: Biased,
    qk_norm: Option<(Buffer, Buffer)>,
    output: Biased,
    rotary: Option<usize>,
    ffn_norm: Buffer,
    gate: Weight,
    up: Weight,
    down: Weight,
}

impl Layer {
    fn upload(device: &Arc<dyn Device>, spec: &LayerSpec, layer: &DenseLayer<'_>) -> Result<Self, ModelRefused> {
        let vector = |numbers: &[f32]| Buffer::with(device, numbers);
        let qk_norm = layer.qk_norm.map(|(q, k)| Ok::<_, DeviceError>((vector(q)?, vector(k)?))).transpose()?;
        Ok(Layer {
            spec: spec.clone(),
            attn_norm: vector(layer.attn_norm)?,
            q: Biased::upload(device, &layer.q)?,
            k: Biased::upload(device, &layer.k)?,
            v: Biased::upload(device, &layer.v)?,
            qk_norm,
            output: Biased::upload(device, &layer.output)?,
            rotary: layer.rotary,
            ffn_norm: vector(layer.ffn_norm)?,
            gate: Weight::upload(device, layer.gate)?,
            up: Weight::upload(device, layer.up)?,
            down: Weight::upload(device, layer.down)?,
        })
    }

    fn bytes(&self) -> usize {
        let products = [&self.q, &self.k, &self.v, &self.output].map(Biased::bytes);
        let gated = [&self.gate, &self.up, &self.down].map(Weight::bytes);
        products.into_iter().chain(gated).sum()
    }
}

/// The weights of a model in a device's memory.
#[derive(Debug)]
pub struct CudaWeights {
    device: Arc<dyn Device>,
    layers: Vec<Layer>,
    output_norm: Buffer,
    output: Weight,
    hidden: usize,
    eps: f32,
}

impl CudaWeights {
    /// Copies the weights of `model` to the device. Packing runs on the caller's rayon pool.
    ///
    /// # Errors
    /// [`ModelRefused`]: if the model has something that there are no kernels for, if its weights were not kept as they lie
    /// in the file ([`chelsea_linear::Products::Source`]), and if the device has no room for them.
    pub fn upload(device: &Arc<dyn Device>, model: &Model) -> Result<Self, ModelRefused> {
        let layers = model.dense_layers().map_err(ModelRefused::Architecture)?;
        let shape = model.cache_shape();
        for layer in shape.layers() {
            let Dims { key: dim, value } = layer.dims();
            if dim != value || !CudaBackend::has_kernels(dim, layer.group()) {
                return Err(ModelRefused::Heads { dim, group: layer.group() });
            }
        }
        let upload = |(spec, layer)| Layer::upload(device, spec, layer);
        Ok(CudaWeights {
            layers: shape.layers().iter().zip(&layers).map(upload).collect::<Result<_, _>>()?,
            output_norm: Buffer::with(device, model.output_norm())?,
            output: Weight::upload(device, model.output_weight())?,
            hidden: model.config().hidden,
            eps: model.config().norm_eps,
            device: Arc::clone(device),
        })
    }

    /// Bytes of the device's memory that matrices and biases take.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum::<usize>() + self.output.bytes()
    }

    /// Bytes of the device's memory that a pass of `rows` tokens works in, logits of `logits` of them included.
    pub fn workspace_bytes(&self, rows: usize, logits: usize) -> usize {
        let widest = |width: fn(&Layer) -> usize| self.layers.iter().map(width).max().unwrap_or(0);
        let attention = widest(|layer| layer.q.weight.rows() * 2 + layer.k.weight.rows() * 2);
        let inner = widest(|layer| layer.gate.rows());
        // Residual stream, norms, attention, both halves of the gate, and rows in bytes and in 16 bits: each may be as large
        // again, since buffers grow by powers of two. So may a strip of opened weights.
        let row = 4 * (2 * self.hidden + attention + 2 * inner) + 4 * inner.max(self.hidden) + 4;
        // Logits of a pass, those that sequences hold on to, and the likeliest of them.
        let vocab = self.output.rows();
        let logits = logits * (2 * vocab + 2 * LIKELIEST) * 4 + likeliest_bytes(logits, vocab);
        2 * (rows * row + logits + self.strip_bytes())
    }

    /// Bytes of the largest strip of opened weights.
    fn strip_bytes(&self) -> usize {
        let of_layer = |layer: &Layer| {
            let Layer { q, k, v, output, gate, up, down, .. } = layer;
            let weights = [&q.weight, &k.weight, &v.weight, &output.weight, gate, up, down];
            weights.map(products::strip_bytes).into_iter().max().unwrap_or(0)
        };
        let layers = self.layers.iter().map(of_layer).max().unwrap_or(0);
        layers.max(products::strip_bytes(&self.output))
    }
}

/// Room that passes work in, kept from one to the next.
#[derive(Debug, Default)]
struct Workspace {
    /// Residual stream, `[rows][hidden]`.
    x: Growing,
    /// Normed rows, and outputs of products that join the residual stream.
    y: Growing,
    q: Growing,
    k: Growing,
    v: Growing,
    attended: Growing,
    gate: Growing,
    up: Growing,
    /// Rows in bytes and their scales.
    bytes: Growing,
    scales: Growing,
    /// Rows of long chunks in halves and their units, and a strip of opened weights.
    halves: Growing,
    units: Growing,
    opened: Growing,
    /// Rows of the residual stream and of attention's output whose logits are wanted.
    kept_x: Growing,
    kept: Growing,
    logits: Growing,
    /// The likeliest of each row, and what is left behind on the way to them.
    likeliest: Growing,
    stages: Growing,
    /// Rows of logits that sequences hold on to.
    held: held::Rows,
    /// Graphs of decode steps.
    steps: steps::Steps,
    /// What parts of attention leave behind.
    sums: Growing,
    /// Queries of all layers, for statistics.
    queries: Growing,
    /// Lists of each layer that are kept from step to step.
    page_lists: Vec<Vec<kept::Kept>>,
    /// Lists for all layers, and for one of them.
    lists: Tables,
    of_layer: Tables,
}

/// A model on a device.
#[derive(Debug)]
pub struct CudaModel {
    name: String,
    weights: CudaWeights,
    backend: CudaBackend,
    workspace: Mutex<Workspace>,
    /// Whether decode steps become graphs.
    graphs: bool,
    /// Tokens of a chunk from which on weights are opened for it.
    long: usize,
    /// Whether opened weights are multiplied by the device's library, where it has one.
    library: bool,
}

impl CudaModel {
    /// A model of these weights, whose caches lie where `backend` has room, on the same device.
    pub fn new(name: String, weights: CudaWeights, backend: CudaBackend) -> Self {
        CudaModel {
            name,
            weights,
            backend,
            workspace: Mutex::default(),
            graphs: true,
            long: products::LONG,
            library: true,
        }
    }

    /// The same, which enqueues the kernels of a decode step one by one: to measure or to test what a graph of them changes.
    pub fn without_graphs(self) -> Self {
        CudaModel { graphs: false, ..self }
    }

    /// The same, which opens weights to 16 bits for chunks of so many tokens and more: `usize::MAX` for none, 1 for all, so that
    /// nothing is rounded to bytes and no step is a graph. To measure or to test what opening them changes.
    pub fn opening_from(self, tokens: usize) -> Self {
        CudaModel { long: tokens, ..self }
    }

    /// The same, which multiplies opened weights by kernels of its own, whatever library the device has: to measure or to test.
    pub fn without_library(self) -> Self {
        CudaModel { library: false, ..self }
    }
}

impl Accelerator for CudaModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn block(&self) -> usize {
        READ_BLOCK
    }

    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.backend.clone())
    }

    fn forward(&self, pass: &mut Pass<'_, '_>, logits: &mut [f32]) -> Result<Vec<Arc<dyn HeldLogits>>, String> {
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        pass::forward(self, &mut workspace, pass, logits).map_err(|error| format!("{}: {error}", self.name))
    }
}
