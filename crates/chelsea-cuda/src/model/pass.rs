//! One forward pass.
//!
//! First the books of all layers are kept: every cache makes room for its tokens, so that all lists that kernels read are
//! known and are sent in one copy. Then kernels are only enqueued, layer by layer, until logits are read.
//!
//! Sequences whose keys are still weighed (in their first 64 tokens, where they are stored in 8 bits) are the exception: how
//! large keys are is found out on the host, so those come back in each layer, before they are written.

use super::lists::{Chunk, Lists, OfLayer};
use super::weights::{Rounded, Spans};
use super::{CudaModel, Layer, Workspace};
use crate::cache::{self, CudaStore, Growth};
use crate::device::{Address, Device, DeviceError};
use crate::kernels::rows::{self, Activation, Add, Norm, Rope, ScaleHeads};
use crate::kernels::{self, Append, Decode, Join, Prefill, part_numbers};
use chelsea_kv::backend::Room;
use chelsea_kv::{CacheError, Head};
use chelsea_model::device::Pass;
use std::sync::Arc;

/// Bytes of queries that wait on the device before statistics are made of them.
const MOST_QUERIES: usize = 64 << 20;

/// What can go wrong in a pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error("a cache lies elsewhere than the model")]
    Elsewhere,
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Addresses of what a pass works on.
struct Buffers {
    x: Address,
    y: Address,
    q: Address,
    k: Address,
    v: Address,
    attended: Address,
    gate: Address,
    up: Address,
    /// Rows in bytes, and their scales.
    rounded: (Address, Address),
}

/// Where the tables of the rotary embedding lie.
type Rotary = Vec<(Address, Address, usize)>;

/// Takes a batch through all layers; see [`chelsea_model::device::Accelerator::forward`].
pub(super) fn forward(
    model: &CudaModel,
    workspace: &mut Workspace,
    pass: &mut Pass<'_, '_>,
    logits: &mut [f32],
) -> Result<(), PassError> {
    let shared = model.backend.shared().clone();
    if let Some(error) = shared.failed() {
        return Err(error.into());
    }
    let device = &shared.device;
    let chunks = make_room(model, pass)?;
    let pass_wanted = pass.wanted;
    let rows: usize = pass.batch.iter().map(|chunk| chunk.tokens.len()).sum();
    let buffers = model.buffers(workspace, rows)?;
    device.write(buffers.x, bytemuck::cast_slice(pass.embedded))?;

    // Lists of the whole pass.
    let shape = pass.batch[0].cache.config().shape.clone();
    let of_layer = |layer: usize| {
        let spec = shape.layer(layer);
        OfLayer { layer, heads: shape.heads_of(layer), group: spec.group(), window: spec.window }
    };
    workspace.lists.begin();
    let rotary: Vec<_> = pass
        .rotary
        .iter()
        .map(|(cosines, sines)| (workspace.lists.put(cosines), workspace.lists.put(sines), cosines.len() / rows))
        .collect();
    let clears: Vec<_> =
        chunks.iter().flat_map(|chunk| &chunk.growth).flat_map(|growth| growth.clears.clone()).collect();
    let clears = workspace.lists.clears(&clears);
    let weighed = chunks.iter().any(|chunk| Head::weighs(chunk.ty.dtype(), chunk.first));
    let mut ahead: Vec<Lists> = Vec::new();
    if !weighed {
        let stores = stores(pass)?;
        ahead = (0..model.weights.layers.len())
            .map(|layer| Lists::of(&of_layer(layer), &chunks, &stores, &mut workspace.lists))
            .collect();
    }
    let base = workspace.lists.send(device)?;
    let rotary: Rotary = rotary.into_iter().map(|(c, s, pairs)| (base + c, base + s, pairs)).collect();
    cache::clear(&**device, shared.slab.start(), base, &clears)?;

    let mut noted = Noted::new(pass, rows);
    let last = model.weights.layers.len() - 1;
    let (mut x, mut attended) = (buffers.x, buffers.attended);
    let spans = Spans::of(chunks.iter().map(|chunk| chunk.rows.len()));
    // Of the rows that are left in the end.
    let wanted = |chunk: &Chunk| pass_wanted.iter().filter(|row| chunk.rows.contains(row)).count();
    let last_spans = Spans::of(chunks.iter().map(wanted));
    let mut left = &spans;
    for (index, layer) in model.weights.layers.iter().enumerate() {
        model.queries_keys_values(layer, &buffers, &rotary, &spans)?;
        noted.keep(device, workspace, &model.weights.layers, index, buffers.q)?;
        let (lists, base) = match weighed {
            true => {
                model.weigh(layer, &of_layer(index), &chunks, pass, &buffers)?;
                workspace.of_layer.begin();
                let lists = Lists::of(&of_layer(index), &chunks, &stores(pass)?, &mut workspace.of_layer);
                (lists, workspace.of_layer.send(device)?)
            }
            false => (std::mem::take(&mut ahead[index]), base),
        };
        model.attend(layer, &lists, base, &buffers, workspace, rows)?;
        noted.settle(&**device, workspace, &model.weights.layers, pass, MOST_QUERIES)?;
        if index == last && pass.wanted.len() < rows {
            left = &last_spans;
            let width = layer.q.weight.rows();
            x = keep_rows(device, buffers.x, model.weights.hidden, pass.wanted, &mut workspace.kept_x)?;
            attended = keep_rows(device, buffers.attended, width, pass.wanted, &mut workspace.kept)?;
        }
        if left.rows() > 0 {
            model.finish_layer(layer, &Buffers { x, attended, ..buffers }, left)?;
        }
    }
    if left.rows() > 0 {
        model.logits(&Buffers { x, ..buffers }, workspace, left, logits)?;
    }
    noted.settle(&**device, workspace, &model.weights.layers, pass, 0)?;
    pass.batch.iter_mut().for_each(|chunk| chunk.cache.slide());
    Ok(())
}

/// The stores of a batch.
fn stores<'p>(pass: &'p Pass<'_, '_>) -> Result<Vec<&'p CudaStore>, PassError> {
    let store = |cache: &'p chelsea_kv::SequenceCache| {
        cache.store().as_any().downcast_ref::<CudaStore>().ok_or(PassError::Elsewhere)
    };
    pass.batch.iter().map(|chunk| store(chunk.cache)).collect()
}

/// Has every cache make room for its tokens in all layers.
fn make_room(model: &CudaModel, pass: &mut Pass<'_, '_>) -> Result<Vec<Chunk>, PassError> {
    let own = |store: &&CudaStore| Arc::ptr_eq(store.shared(), model.backend.shared());
    if !stores(pass)?.iter().all(own) {
        return Err(PassError::Elsewhere);
    }
    let mut row = 0;
    let mut chunks = Vec::with_capacity(pass.batch.len());
    for chunk in pass.batch.iter_mut() {
        let (n, first) = (chunk.tokens.len(), chunk.cache.tokens());
        let ty = kernels::PageType::of(chunk.cache.config().dtype).ok_or(PassError::Elsewhere)?;
        let mut growth = Vec::new();
        chunk.cache.make_room(n, |room| {
            let Room { store, heads, n, first, reserved, .. } = room;
            let mut of_layer = Growth::default();
            if let Some(store) = store.as_any_mut().downcast_mut::<CudaStore>() {
                store.grow(heads, (row, n, first), reserved, &mut of_layer);
            }
            growth.push(of_layer);
        })?;
        chunks.push(Chunk { rows: row..row + n, ty, first, growth });
        row += n;
    }
    match stores(pass)?.iter().find_map(|store| store.lost()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(chunks),
    }
}

/// Copies rows of `width` numbers one behind the other.
fn keep_rows(
    device: &Arc<dyn Device>,
    from: Address,
    width: usize,
    rows: &[usize],
    to: &mut cache::Growing,
) -> Result<Address, DeviceError> {
    let bytes = width * 4;
    let to = to.room(device, rows.len() * bytes)?;
    for (i, &row) in rows.iter().enumerate() {
        device.copy(from + (row * bytes) as Address, to + (i * bytes) as Address, bytes)?;
    }
    Ok(to)
}

impl CudaModel {
    fn device(&self) -> &dyn Device {
        &*self.weights.device
    }

    fn buffers(&self, workspace: &mut Workspace, rows: usize) -> Result<Buffers, DeviceError> {
        let device = &self.weights.device;
        let hidden = self.weights.hidden;
        let most = |width: fn(&Layer) -> usize| self.weights.layers.iter().map(width).max().unwrap_or(0);
        let (q, kv) = (most(|layer| layer.q.weight.rows()), most(|layer| layer.k.weight.rows()));
        let inner = most(|layer| layer.gate.rows());
        let (bytes, scales) = Rounded::room(rows, hidden.max(q).max(inner));
        let w = workspace;
        Ok(Buffers {
            x: w.x.room(device, rows * hidden * 4)?,
            y: w.y.room(device, rows * hidden * 4)?,
            q: w.q.room(device, rows * q * 4)?,
            k: w.k.room(device, rows * kv * 4)?,
            v: w.v.room(device, rows * kv * 4)?,
            attended: w.attended.room(device, rows * q * 4)?,
            gate: w.gate.room(device, rows * inner * 4)?,
            up: w.up.room(device, rows * inner * 4)?,
            rounded: (w.bytes.room(device, bytes)?, w.scales.room(device, scales)?),
        })
    }

    /// `out = norm(x) * weight`, of rows of `width` numbers one behind the other.
    fn norm(
        &self,
        x: Address,
        weight: Address,
        out: Address,
        (rows, width): (usize, usize),
    ) -> Result<(), DeviceError> {
        let width = width as u32;
        let norm = Norm {
            x,
            weight,
            out,
            width,
            rows: rows as u32,
            x_stride: width,
            out_stride: width,
            eps: self.weights.eps,
            unused: 0,
        };
        rows::rms_norm(self.device(), &norm)
    }

    fn turn(
        &self,
        x: Address,
        rows: usize,
        (heads, dim): (usize, usize),
        (cosines, sines, pairs): (Address, Address, usize),
    ) -> Result<(), DeviceError> {
        let rope = Rope {
            x,
            cosines,
            sines,
            tokens: rows as u32,
            heads: heads as u32,
            dim: dim as u32,
            pairs: pairs as u32,
            stride: (heads * dim) as u32,
            unused: 0,
        };
        rows::rope(self.device(), &rope)
    }

    /// `x` -> queries, keys and values after norms and the rotary embedding.
    fn queries_keys_values(
        &self,
        layer: &Layer,
        buffers: &Buffers,
        rotary: &Rotary,
        spans: &Spans,
    ) -> Result<(), DeviceError> {
        let (device, hidden, rows) = (self.device(), self.weights.hidden, spans.rows());
        let &Buffers { x, y, q, k, v, rounded, .. } = buffers;
        self.norm(x, layer.attn_norm.at(), y, (rows, hidden))?;
        let normed = Rounded::of(device, y, (spans, hidden), rounded)?;
        layer.q.multiply(device, normed, q)?;
        layer.k.multiply(device, normed, k)?;
        layer.v.multiply(device, normed, v)?;
        let (q_heads, kv_heads, dim) = (layer.spec.q_heads, layer.spec.kv_heads, layer.spec.key_dim);
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            self.norm(q, q_norm.at(), q, (rows * q_heads, dim))?;
            self.norm(k, k_norm.at(), k, (rows * kv_heads, dim))?;
        }
        if let Some(table) = layer.rotary.and_then(|rotary_of| rotary.get(rotary_of)) {
            self.turn(q, rows, (q_heads, dim), *table)?;
            self.turn(k, rows, (kv_heads, dim), *table)?;
        }
        Ok(())
    }

    /// Finds out how large keys of sequences are that have just begun.
    fn weigh(
        &self,
        layer: &Layer,
        of: &OfLayer,
        chunks: &[Chunk],
        pass: &mut Pass<'_, '_>,
        buffers: &Buffers,
    ) -> Result<(), PassError> {
        let width = layer.k.weight.rows();
        for (chunk, asked) in chunks.iter().zip(pass.batch.iter_mut()) {
            if !Head::weighs(chunk.ty.dtype(), chunk.first) {
                continue;
            }
            let mut keys = vec![0.0f32; chunk.rows.len() * width];
            let from = buffers.k + (chunk.rows.start * width * 4) as Address;
            self.device().read(from, bytemuck::cast_slice_mut(&mut keys))?;
            let store = asked.cache.store_mut().as_any_mut().downcast_mut::<CudaStore>();
            let store = store.ok_or(PassError::Elsewhere)?;
            store.weigh(of.heads.clone(), &keys, chunk.rows.len(), &layer.spec.rotary);
            if let Some(error) = store.lost() {
                return Err(error.clone().into());
            }
        }
        Ok(())
    }

    /// Keys and values become entries, and queries are answered.
    fn attend(
        &self,
        layer: &Layer,
        lists: &Lists,
        base: Address,
        buffers: &Buffers,
        workspace: &mut Workspace,
        rows: usize,
    ) -> Result<(), DeviceError> {
        let (device, spec) = (self.device(), &layer.spec);
        let (dim, group, stride) = (spec.key_dim as u32, spec.group() as u32, spec.query_width() as u32);
        let pool = self.backend.shared().slab.start();
        for runs in &lists.runs {
            let append = Append {
                pool,
                runs: base + runs.at,
                keys: buffers.k,
                values: buffers.v,
                balances: pool,
                dim,
                stride: spec.key_width() as u32,
            };
            kernels::append(device, runs.ty, runs.count, &append)?;
        }
        if let Some(balances) = lists.balances {
            let scale = ScaleHeads {
                x: buffers.q,
                factors: pool,
                which: base + balances,
                rows: rows as u32,
                kv_heads: spec.kv_heads as u32,
                group,
                dim,
                stride,
                unused: 0,
            };
            rows::scale_heads(device, &scale)?;
        }
        let of_row = |start: Address, row: usize| start + (row * spec.query_width() * 4) as Address;
        let sums = workspace.sums.room(&self.weights.device, lists.most_parts * part_numbers(spec.key_dim) * 4)?;
        for single in &lists.single {
            let decode = Decode {
                pool,
                pages: base + single.pages,
                parts: base + single.parts.1,
                queries: of_row(buffers.q, single.rows.start),
                sums,
                dim,
                group,
                scale: spec.scale,
                unused: 0,
            };
            kernels::decode(device, single.ty, single.parts.0, &decode)?;
            let out = of_row(buffers.attended, single.rows.start);
            let (firsts, q_heads) = (base + single.firsts, spec.q_heads as u32);
            let join = Join { sums, firsts, sinks: 0, out, dim, group, q_heads, unused: 0 };
            kernels::join(device, single.rows.len() * spec.q_heads, &join)?;
        }
        for several in &lists.several {
            let prefill = Prefill {
                pool,
                pages: base + several.pages,
                reaches: base + several.reaches,
                queries: of_row(buffers.q, several.rows.start),
                sinks: 0,
                out: of_row(buffers.attended, several.rows.start),
                dim,
                group,
                tokens: several.rows.len() as u32,
                stride,
                out_stride: stride,
                window: spec.window.unwrap_or(0) as u32,
                scale: spec.scale,
                unused: 0,
            };
            kernels::prefill(device, several.ty, spec.kv_heads, &prefill)?;
        }
        Ok(())
    }

    /// What follows attention: its output product and the feed-forward, each added to the residual stream.
    fn finish_layer(&self, layer: &Layer, buffers: &Buffers, spans: &Spans) -> Result<(), DeviceError> {
        let (device, hidden, rows) = (self.device(), self.weights.hidden, spans.rows());
        let &Buffers { x, y, attended, gate, up, rounded, .. } = buffers;
        let count = (rows * hidden) as u32;
        let heads = Rounded::of(device, attended, (spans, layer.q.weight.rows()), rounded)?;
        layer.output.multiply(device, heads, y)?;
        rows::add(device, &Add { x, y, count, period: count })?;
        self.norm(x, layer.ffn_norm.at(), y, (rows, hidden))?;
        let normed = Rounded::of(device, y, (spans, hidden), rounded)?;
        layer.gate.multiply(device, normed, gate)?;
        layer.up.multiply(device, normed, up)?;
        let inner = layer.gate.rows();
        rows::gate(device, Activation::Silu, gate, up, (rows * inner) as u32)?;
        let gated = Rounded::of(device, gate, (spans, inner), rounded)?;
        layer.down.multiply(device, gated, y)?;
        rows::add(device, &Add { x, y, count, period: count })
    }

    /// The last norm and product, and what they give on the host.
    fn logits(
        &self,
        buffers: &Buffers,
        workspace: &mut Workspace,
        spans: &Spans,
        logits: &mut [f32],
    ) -> Result<(), DeviceError> {
        let (device, hidden, rows) = (self.device(), self.weights.hidden, spans.rows());
        self.norm(buffers.x, self.weights.output_norm.at(), buffers.y, (rows, hidden))?;
        let normed = Rounded::of(device, buffers.y, (spans, hidden), buffers.rounded)?;
        let out = workspace.logits.room(&self.weights.device, size_of_val(logits))?;
        self.weights.output.multiply(device, normed, out)?;
        device.read(out, bytemuck::cast_slice_mut(logits))
    }
}

/// Queries that statistics are made of, gathered over layers: reading them back once costs one wait.
struct Noted {
    /// Chunks whose caches want any: which, and their rows.
    wanted: Vec<(usize, std::ops::Range<usize>)>,
    rows: usize,
    /// Layers whose queries wait, and where each begins, in bytes.
    waiting: Vec<(usize, usize)>,
    bytes: usize,
}

impl Noted {
    fn new(pass: &Pass<'_, '_>, rows: usize) -> Self {
        let mut row = 0;
        let mut wanted = Vec::new();
        for (i, chunk) in pass.batch.iter().enumerate() {
            if chunk.cache.notes_queries() {
                wanted.push((i, row..row + chunk.tokens.len()));
            }
            row += chunk.tokens.len();
        }
        Noted { wanted, rows, waiting: Vec::new(), bytes: 0 }
    }

    /// Sets the queries of a layer aside.
    fn keep(
        &mut self,
        device: &Arc<dyn Device>,
        workspace: &mut Workspace,
        layers: &[Layer],
        index: usize,
        q: Address,
    ) -> Result<(), DeviceError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let bytes = self.rows * layers[index].q.weight.rows() * 4;
        // As much in every layer: what waits there must not be lost.
        let most = layers.iter().map(|layer| self.rows * layer.q.weight.rows() * 4).max().unwrap_or(0);
        let at = workspace.queries.room(device, MOST_QUERIES.min(layers.len() * most) + most)?;
        device.copy(q, at + self.bytes as Address, bytes)?;
        self.waiting.push((index, self.bytes));
        self.bytes += bytes;
        Ok(())
    }

    /// Tells caches of the queries that wait, once they are more than `most` bytes.
    fn settle(
        &mut self,
        device: &dyn Device,
        workspace: &mut Workspace,
        layers: &[Layer],
        pass: &mut Pass<'_, '_>,
        most: usize,
    ) -> Result<(), PassError> {
        if self.bytes <= most {
            return Ok(());
        }
        let mut queries = vec![0.0f32; self.bytes / 4];
        let at = workspace.queries.at().unwrap_or_default();
        device.read(at, bytemuck::cast_slice_mut(&mut queries))?;
        for (index, from) in self.waiting.drain(..) {
            let width = layers[index].q.weight.rows();
            let of_layer = &queries[from / 4..][..self.rows * width];
            for (chunk, rows) in &self.wanted {
                let own = &of_layer[rows.start * width..rows.end * width];
                pass.batch[*chunk].cache.note_queries(index, own)?;
            }
        }
        self.bytes = 0;
        Ok(())
    }
}
