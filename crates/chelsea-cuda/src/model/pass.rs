//! One forward pass.
//!
//! First the books of all layers are kept: every cache makes room for its tokens, so that all lists that kernels read are
//! known and are sent in one copy. Then kernels are only enqueued, layer by layer, until logits are read. Where every sequence
//! takes in one token, they are listed, and enqueued as one graph ([`super::steps`]).
//!
//! Sequences whose keys are still weighed (in their first 64 tokens, where they are stored in 8 bits) are the exception: how
//! large keys are is found out on the host, so those come back in each layer, before they are written.

use super::layers::{Buffers, Heads, Rotary};
use super::lists::{Chunk, Lists, OfLayer};
use super::noted::{MOST_QUERIES, Noted};
use super::products::Spans;
use super::{CudaModel, Layer, Workspace};
use crate::cache::{self, CudaStore, Growth};
use crate::device::{Address, Device, DeviceError, Launcher, Recorder};
use crate::kernels::{self, part_numbers, rows};
use chelsea_kv::backend::Room;
use chelsea_kv::{CacheError, Head};
use chelsea_model::device::{HeldLogits, Pass};
use std::sync::Arc;

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

/// Takes a batch through all layers; see [`chelsea_model::device::Accelerator::forward`].
pub(super) fn forward(
    model: &CudaModel,
    workspace: &mut Workspace,
    pass: &mut Pass<'_, '_>,
    logits: &mut [f32],
) -> Result<Vec<Arc<dyn HeldLogits>>, PassError> {
    let shared = model.backend.shared().clone();
    if let Some(error) = shared.failed() {
        return Err(error.into());
    }
    let device = &shared.device;
    let layers = &model.weights.layers;
    let chunks = make_room(model, pass)?;
    let rows: usize = pass.batch.iter().map(|chunk| chunk.tokens.len()).sum();
    let spans = Spans::of(chunks.iter().map(|chunk| chunk.rows.len()), model.long);
    let buffers = model.buffers(workspace, rows, spans.has_long())?;
    device.write(buffers.x, bytemuck::cast_slice(pass.embedded))?;

    // Lists of the whole pass. Those of new pages come last: how many there are differs from step to step.
    let shape = pass.batch[0].cache.config().shape.clone();
    let of_layer = |layer: usize| {
        let spec = shape.layer(layer);
        OfLayer { layer, heads: shape.heads_of(layer), group: spec.group(), window: spec.window }
    };
    workspace.page_lists.resize_with(layers.len(), Vec::new);
    workspace.lists.begin();
    let rotary: Vec<_> = pass
        .rotary
        .iter()
        .map(|(cosines, sines)| (workspace.lists.put(cosines), workspace.lists.put(sines), cosines.len() / rows))
        .collect();
    let weighed = chunks.iter().any(|chunk| Head::weighs(chunk.ty.dtype(), chunk.first));
    let mut ahead: Vec<Lists> = Vec::new();
    if !weighed {
        let stores = stores(pass)?;
        let each = workspace.page_lists.iter_mut().take(layers.len()).enumerate();
        ahead = each
            .map(|(i, kept)| Lists::of(&of_layer(i), &chunks, &stores, &mut workspace.lists, (device, kept)))
            .collect::<Result<_, _>>()?;
        let sums = |(lists, layer): (&Lists, &Layer)| lists.most_parts * part_numbers(layer.spec.key_dim) * 4;
        workspace.sums.room(device, ahead.iter().zip(layers).map(sums).max().unwrap_or(0))?;
    }
    let clears: Vec<_> =
        chunks.iter().flat_map(|chunk| &chunk.growth).flat_map(|growth| growth.clears.clone()).collect();
    let clears = workspace.lists.clears(&clears);
    let base = workspace.lists.send(device)?;
    let rotary: Rotary = rotary.into_iter().map(|(c, s, pairs)| (base + c, base + s, pairs)).collect();
    cache::clear(&**device, shared.slab.start(), base, &clears)?;

    let mut noted = Noted::new(pass, rows);
    let decodes = chunks.iter().all(|chunk| chunk.rows.len() == 1) && pass.wanted.len() == rows;
    let is_step = model.graphs && decodes && !weighed && !spans.has_long() && noted.waits_to_the_end(layers);
    let recorder = Recorder::default();
    let launcher: &dyn Launcher = if is_step { &recorder } else { &**device };

    let last = layers.len() - 1;
    let (mut x, mut attended) = (buffers.x, buffers.attended);
    // Of the rows that are left in the end.
    let pass_wanted = pass.wanted;
    let wanted = |chunk: &Chunk| pass_wanted.iter().filter(|row| chunk.rows.contains(row)).count();
    let last_spans = Spans::of(chunks.iter().map(wanted), model.long);
    let mut left = &spans;
    for (index, layer) in layers.iter().enumerate() {
        // What the layer before adds to the residual stream is added here, on the way.
        let y = if index == 0 { 0 } else { buffers.y };
        let turns = layer.rotary.and_then(|rotary_of| rotary.get(rotary_of)).copied();
        model.queries_keys_values(launcher, layer, &buffers, y, &spans)?;
        let (lists, base) = match weighed {
            true => {
                // The host looks at keys that are turned.
                model.turn(launcher, layer, &buffers, turns, rows)?;
                weigh(model, layer, &of_layer(index), &chunks, pass, &buffers)?;
                workspace.of_layer.begin();
                let kept = (device, &mut workspace.page_lists[index]);
                let lists = Lists::of(&of_layer(index), &chunks, &stores(pass)?, &mut workspace.of_layer, kept)?;
                workspace.sums.room(device, lists.most_parts * part_numbers(layer.spec.key_dim) * 4)?;
                (lists, workspace.of_layer.send(device)?)
            }
            false => (std::mem::take(&mut ahead[index]), base),
        };
        let cut = index == last && pass.wanted.len() < rows;
        let noted_at = noted.place(device, workspace, layers, index)?.unwrap_or_default();
        let heads = Heads { lists: &lists, base, sums: workspace.sums.at().unwrap_or_default(), noted: noted_at, rows };
        let turns = turns.filter(|_| !weighed);
        let rounded = model.attend(launcher, layer, &heads, turns, &buffers, !cut && !spans.has_long())?;
        noted.settle(&**device, workspace, layers, pass, MOST_QUERIES)?;
        if cut {
            left = &last_spans;
            let width = layer.q.weight.rows();
            x = keep_rows(device, buffers.x, model.weights.hidden, pass.wanted, &mut workspace.kept_x)?;
            attended = keep_rows(device, buffers.attended, width, pass.wanted, &mut workspace.kept)?;
        }
        if left.rows() > 0 {
            model.finish_layer(launcher, layer, &Buffers { x, attended, ..buffers }, left, rounded)?;
        }
    }
    if left.rows() == 0 {
        noted.settle(&**device, workspace, layers, pass, 0)?;
        pass.batch.iter_mut().for_each(|chunk| chunk.cache.slide());
        return Ok(Vec::new());
    }
    let found = model.logits(launcher, &Buffers { x, ..buffers }, workspace, left, pass.held.contains(&true))?;
    if is_step {
        workspace.steps.run(device, rows, recorder.into_launches())?;
    }
    let held = read_logits(model, workspace, found, pass.held, logits)?;
    noted.settle(&**device, workspace, layers, pass, 0)?;
    pass.batch.iter_mut().for_each(|chunk| chunk.cache.slide());
    Ok(held)
}

/// Where logits lie, `[rows][vocab]`, and the likeliest of each row, where they were looked for.
pub(super) struct Found {
    pub logits: Address,
    pub likeliest: Option<Address>,
}

/// Reads rows of logits: whole, or the likeliest alone of those that stay.
fn read_logits(
    model: &CudaModel,
    workspace: &mut Workspace,
    found: Found,
    held: &[bool],
    logits: &mut [f32],
) -> Result<Vec<Arc<dyn HeldLogits>>, DeviceError> {
    let (device, vocab) = (&model.weights.device, model.weights.output.rows());
    let row = |i: usize| found.logits + (i * vocab * 4) as Address;
    let mut read = 0;
    // Rows that follow one another are read together.
    for run in (0..held.len()).collect::<Vec<_>>().chunk_by(|&a, &b| held[a] == held[b]) {
        if !held[run[0]] {
            let own = &mut logits[read..read + run.len() * vocab];
            device.read(row(run[0]), bytemuck::cast_slice_mut(own))?;
            read += own.len();
        }
    }
    let Some(likeliest) = found.likeliest else { return Ok(Vec::new()) };
    let mut pairs = vec![0u64; held.len() * rows::LIKELIEST];
    device.read(likeliest, bytemuck::cast_slice_mut(&mut pairs))?;
    let pair = |&bits: &u64| (f32::from_bits(bits as u32), (bits >> 32) as u32);
    let of_row = |i: usize| pairs[i * rows::LIKELIEST..][..rows::LIKELIEST].iter().map(pair).collect::<Vec<_>>();
    let stay = (0..held.len()).filter(|&i| held[i]);
    stay.map(|i| model.hold(&mut workspace.held, row(i), &of_row(i))).collect()
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

/// Finds out how large keys of sequences are that have just begun.
fn weigh(
    model: &CudaModel,
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
        model.device().read(from, bytemuck::cast_slice_mut(&mut keys))?;
        let store = asked.cache.store_mut().as_any_mut().downcast_mut::<CudaStore>();
        let store = store.ok_or(PassError::Elsewhere)?;
        store.weigh(of.heads.clone(), &keys, chunk.rows.len(), &layer.spec.rotary);
        if let Some(error) = store.lost() {
            return Err(error.clone().into());
        }
    }
    Ok(())
}
