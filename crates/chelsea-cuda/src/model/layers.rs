//! What the layers of a pass consist of: which kernels are started with what.

use super::lists::Lists;
use super::pass::Found;
use super::products::{Onto, Room, Rounded, Spans, Way, multiply};
use super::{CudaModel, Layer, Workspace};
use crate::device::{Address, Device, DeviceError, Launcher};
use crate::kernels::linear;
use crate::kernels::rows::{self, Activation, Norm, Rope};
use crate::kernels::{self, Append, Decode, Enter, Join, Prefill};

/// Addresses of what a pass works on.
pub(super) struct Buffers {
    pub x: Address,
    pub y: Address,
    pub q: Address,
    pub k: Address,
    pub v: Address,
    pub attended: Address,
    pub gate: Address,
    pub up: Address,
    /// Rows on their way into products.
    pub rounded: Room,
}

/// Tables of a rotary embedding: cosines, sines, and pairs of numbers that are turned.
pub(super) type Turns = (Address, Address, usize);

/// Where the tables of the rotary embedding lie.
pub(super) type Rotary = Vec<Turns>;

/// What attention of a layer goes over.
pub(super) struct Heads<'a> {
    pub lists: &'a Lists,
    /// Where addresses of the lists are counted from.
    pub base: Address,
    /// Room for what parts leave behind.
    pub sums: Address,
    /// Where queries are set aside for statistics, or 0.
    pub noted: Address,
    /// Rows of the pass.
    pub rows: usize,
}

impl CudaModel {
    pub(super) fn device(&self) -> &dyn Device {
        &*self.weights.device
    }

    /// Room for so many rows; `long`: for chunks that weights are opened for, too.
    pub(super) fn buffers(&self, workspace: &mut Workspace, rows: usize, long: bool) -> Result<Buffers, DeviceError> {
        let device = &self.weights.device;
        let hidden = self.weights.hidden;
        let most = |width: fn(&Layer) -> usize| self.weights.layers.iter().map(width).max().unwrap_or(0);
        let (q, kv) = (most(|layer| layer.q.weight.rows()), most(|layer| layer.k.weight.rows()));
        let inner = most(|layer| layer.gate.rows());
        let widest = hidden.max(q).max(inner);
        let w = workspace;
        let (bytes, scales) = Room::of_bytes(rows, widest);
        let (bytes, scales) = (w.bytes.room(device, bytes)?, w.scales.room(device, scales)?);
        let mut rounded = Room { bytes, scales, ..Room::default() };
        if long {
            let (halves, units) = Room::of_halves(rows, widest);
            rounded.halves = w.halves.room(device, halves)?;
            rounded.units = w.units.room(device, units)?;
            rounded.opened = w.opened.room(device, self.weights.strip_bytes())?;
        }
        Ok(Buffers {
            x: w.x.room(device, rows * hidden * 4)?,
            y: w.y.room(device, rows * hidden * 4)?,
            q: w.q.room(device, rows * q * 4)?,
            k: w.k.room(device, rows * kv * 4)?,
            v: w.v.room(device, rows * kv * 4)?,
            attended: w.attended.room(device, rows * q * 4)?,
            gate: w.gate.room(device, rows * inner * 4)?,
            up: w.up.room(device, rows * inner * 4)?,
            rounded,
        })
    }

    /// `x += y`, where there is a `y`; the norm of `x` times `weight`, rounded.
    fn norm<'a>(
        &self,
        launcher: &dyn Launcher,
        (x, y, weight): (Address, Address, Address),
        spans: &'a Spans,
        room: Room,
    ) -> Result<Rounded<'a>, DeviceError> {
        let width = self.weights.hidden;
        Rounded::normed(launcher, (x, y, weight), (spans, width), room, self.weights.eps)
    }

    fn multiply(&self, launcher: &dyn Launcher, products: &[Onto<'_>], x: Rounded<'_>) -> Result<(), DeviceError> {
        multiply(Way { launcher, device: self.device(), library: self.library }, products, x)
    }

    /// `x += y`, where there is a `y`; `x` -> queries, keys and values, before the rotary embedding.
    pub(super) fn queries_keys_values(
        &self,
        launcher: &dyn Launcher,
        layer: &Layer,
        buffers: &Buffers,
        y: Address,
        spans: &Spans,
    ) -> Result<(), DeviceError> {
        let &Buffers { x, q, k, v, rounded, .. } = buffers;
        let normed = self.norm(launcher, (x, y, layer.attn_norm.at()), spans, rounded)?;
        let of = [(&layer.q, q), (&layer.k, k), (&layer.v, v)].map(|(product, out)| product.onto(out));
        self.multiply(launcher, &of, normed)?;
        let Some((q_norm, k_norm)) = &layer.qk_norm else { return Ok(()) };
        let (rows, dim) = (spans.rows(), layer.spec.key_dim as u32);
        let of_heads = |x, weight, heads: usize| {
            let (rows, eps) = ((rows * heads) as u32, self.weights.eps);
            let norm = Norm { x, weight, out: x, width: dim, rows, x_stride: dim, out_stride: dim, eps, unused: 0 };
            rows::rms_norm(launcher, &norm)
        };
        of_heads(q, q_norm.at(), layer.spec.q_heads)?;
        of_heads(k, k_norm.at(), layer.spec.kv_heads)
    }

    /// Turns queries and keys in place, where the host looks at them before they are stored.
    pub(super) fn turn(
        &self,
        launcher: &dyn Launcher,
        layer: &Layer,
        buffers: &Buffers,
        turns: Option<Turns>,
        rows: usize,
    ) -> Result<(), DeviceError> {
        let Some((cosines, sines, pairs)) = turns else { return Ok(()) };
        let (tokens, dim, pairs) = (rows as u32, layer.spec.key_dim as u32, pairs as u32);
        for (x, heads) in [(buffers.q, layer.spec.q_heads as u32), (buffers.k, layer.spec.kv_heads as u32)] {
            let rope = Rope { x, cosines, sines, tokens, heads, dim, pairs, stride: heads * dim, unused: 0 };
            rows::rope(launcher, &rope)?;
        }
        Ok(())
    }

    /// Queries and keys are turned (unless they were before: no `turns`), keys and values become entries, and queries are
    /// answered. Returns whether the answers were rounded to bytes at once, as they are wherever they can be and `round` says
    /// that they may.
    pub(super) fn attend(
        &self,
        launcher: &dyn Launcher,
        layer: &Layer,
        heads: &Heads<'_>,
        turns: Option<Turns>,
        buffers: &Buffers,
        round: bool,
    ) -> Result<bool, DeviceError> {
        let &Heads { lists, base, sums, noted, rows } = heads;
        let spec = &layer.spec;
        let (dim, group, stride) = (spec.key_dim as u32, spec.group() as u32, spec.query_width() as u32);
        let pool = self.backend.shared().slab.start();
        let (cosines, sines, pairs) = turns.unwrap_or_default();
        for (i, runs) in lists.runs.iter().enumerate() {
            let append = Append {
                pool,
                runs: base + runs.at,
                keys: buffers.k,
                values: buffers.v,
                balances: pool,
                dim,
                stride: spec.key_width() as u32,
            };
            let enter = Enter {
                append,
                queries: buffers.q,
                cosines,
                sines,
                noted,
                which: lists.balances.map_or(0, |balances| base + balances),
                pairs: pairs as u32,
                runs: runs.count as u32,
                // The queries of all rows go with the first type.
                rows: if i == 0 { rows as u32 } else { 0 },
                q_heads: spec.q_heads as u32,
                group,
                unused: 0,
            };
            kernels::enter(launcher, runs.ty, &enter)?;
        }
        let of_row = |start: Address, row: usize| start + (row * spec.query_width() * 4) as Address;
        let round = round && lists.several.is_empty() && spec.key_dim.is_multiple_of(linear::BLOCK);
        for single in &lists.single {
            let decode = Decode {
                pool,
                pages: single.pages,
                parts: single.parts.1,
                queries: of_row(buffers.q, single.rows.start),
                sums,
                dim,
                group,
                scale: spec.scale,
                unused: 0,
            };
            kernels::decode(launcher, single.ty, single.parts.0, &decode)?;
            let blocks = (single.rows.start * spec.query_width() / linear::BLOCK) as Address;
            let join = Join {
                sums,
                firsts: single.firsts,
                sinks: 0,
                out: of_row(buffers.attended, single.rows.start),
                bytes: if round { buffers.rounded.bytes + blocks * linear::BLOCK as Address } else { 0 },
                scales: if round { buffers.rounded.scales + blocks * 16 } else { 0 },
                dim,
                group,
                q_heads: spec.q_heads as u32,
                unused: 0,
            };
            kernels::join(launcher, single.rows.len() * spec.q_heads, &join)?;
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
            kernels::prefill(launcher, several.ty, spec.kv_heads, &prefill)?;
        }
        Ok(round)
    }

    /// What follows attention: its output product, added to the residual stream, and the feed-forward, whose output is left
    /// in `y`, to be added by whoever reads the stream next. `is_rounded`: attention's output was rounded to bytes.
    pub(super) fn finish_layer(
        &self,
        launcher: &dyn Launcher,
        layer: &Layer,
        buffers: &Buffers,
        spans: &Spans,
        is_rounded: bool,
    ) -> Result<(), DeviceError> {
        let &Buffers { x, y, attended, gate, up, rounded, .. } = buffers;
        let width = layer.q.weight.rows();
        let heads = match is_rounded {
            true => Rounded::at(rounded, spans, width),
            false => Rounded::of(launcher, attended, (spans, width), rounded)?,
        };
        self.multiply(launcher, &[layer.output.onto(y)], heads)?;
        let normed = self.norm(launcher, (x, y, layer.ffn_norm.at()), spans, rounded)?;
        self.multiply(launcher, &[layer.gate.onto(gate), layer.up.onto(up)], normed)?;
        let gated = Rounded::of_gate(launcher, (Activation::Silu, gate, up), (spans, layer.gate.rows()), rounded)?;
        self.multiply(launcher, &[layer.down.onto(y)], gated)
    }

    /// The last norm and product; where `likeliest` are wanted, those too.
    pub(super) fn logits(
        &self,
        launcher: &dyn Launcher,
        buffers: &Buffers,
        workspace: &mut Workspace,
        spans: &Spans,
        likeliest: bool,
    ) -> Result<Found, DeviceError> {
        let (device, rows, vocab) = (&self.weights.device, spans.rows(), self.weights.output.rows());
        let weight = self.weights.output_norm.at();
        let normed = self.norm(launcher, (buffers.x, buffers.y, weight), spans, buffers.rounded)?;
        let logits = workspace.logits.room(device, rows * vocab * 4)?;
        self.multiply(launcher, &[self.weights.output.onto(logits)], normed)?;
        let mut found = Found { logits, likeliest: None };
        if likeliest {
            let room = workspace.stages.room(device, rows::likeliest_bytes(rows, vocab))?;
            let out = workspace.likeliest.room(device, rows * rows::LIKELIEST * 8)?;
            rows::likeliest(launcher, logits, (rows, vocab), room, out)?;
            found.likeliest = Some(out);
        }
        Ok(found)
    }
}
