//! The forward pass: tokens -> logits, for several sequences at once.
//!
//! The rows of all chunks lie under one another in every buffer, `[rows][width]`, so that each weight matrix
//! is read once a batch. Attention runs chunk by chunk, each on its own cache at its own positions. Rows whose
//! logits nobody wants end at the last layer's attention, which they still pass for the cache's sake.

use chelsea_kv::{AttendRequest, SequenceCache};
use chelsea_linear::{Activations, Linear, forward_many};
use rayon::prelude::*;

use super::clock::{Clock, Phase, Spent};
use super::{Layer, Model};
use crate::error::ModelError;
use crate::ops::{RotaryTable, add, add_bias, rms_norm, rms_norm_in_place, silu_mul};

/// Which positions of a chunk the caller wants logits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: a block of a prompt that goes on.
    None,
    /// The last one: to sample the next token.
    Last,
    /// All: to score a text.
    All,
}

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Token ids; at least one.
    pub tokens: &'a [u32],
    /// The sequence's cache; it has seen [`SequenceCache::tokens`] tokens, and sees these next.
    pub cache: &'a mut SequenceCache,
    /// Positions whose logits are wanted.
    pub logits: Wanted,
}

/// Buffers of a forward pass, kept from call to call: nothing is allocated once they have grown to the
/// largest batch.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Residual stream, `[rows][hidden]`.
    x: Buffer,
    /// Normed rows, then outputs of the products that go back into the residual stream, `[rows][hidden]`.
    y: Buffer,
    /// `[rows][q_heads * head_dim]`.
    q: Buffer,
    /// `[rows][kv_heads * head_dim]`.
    k: Buffer,
    /// `[rows][kv_heads * head_dim]`.
    v: Buffer,
    /// Output of attention, `[rows][q_heads * head_dim]`.
    attended: Buffer,
    /// `[rows][feed_forward]`.
    gate: Buffer,
    /// `[rows][feed_forward]`.
    up: Buffer,
    /// `[wanted rows][vocab]`.
    logits: Buffer,
    /// Numbers of `logits` that the last call filled.
    filled: usize,
    /// Rows whose logits are wanted, ascending.
    wanted: Vec<usize>,
    /// Rows of each chunk that still run: all, and at the end those whose logits are wanted.
    chunks: Vec<usize>,
    rotary: RotaryTable,
    activations: Activations,
    clock: Clock,
}

impl Workspace {
    /// Empty buffers.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// A workspace that holds these logits already, as if a call had just made them.
    pub fn with_logits(logits: &[f32]) -> Workspace {
        Workspace { logits: Buffer(logits.to_vec()), filled: logits.len(), ..Workspace::default() }
    }

    /// Logits of the last call: a row of [`Config::vocab`](crate::Config) numbers for every wanted position,
    /// in the order of chunks and positions.
    pub fn logits(&self) -> &[f32] {
        &self.logits.0[..self.filled]
    }

    /// The same, to be changed by a sampler.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits.0[..self.filled]
    }

    /// Holds these logits from now on, as if a call for one sequence had just made them.
    pub fn set_logits(&mut self, logits: &[f32]) {
        self.logits.take(logits.len()).copy_from_slice(logits);
        self.filled = logits.len();
    }

    /// From now on counts where calls spend their time, or no longer does; either way from zero.
    pub fn measure(&mut self, on: bool) {
        self.clock.set(on);
    }

    /// What calls have spent since [`Workspace::measure`] was told to count.
    pub fn spent(&self) -> Spent {
        self.clock.spent
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.x, &self.y, &self.q, &self.k, &self.v, &self.attended, &self.gate, &self.up, &self.logits];
        buffers.iter().map(|buffer| size_of_val(buffer.0.as_slice())).sum::<usize>()
            + self.rotary.bytes()
            + self.activations.bytes()
    }
}

/// Numbers that only ever grow in number.
#[derive(Debug, Default)]
struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `length` numbers, whatever they hold.
    fn take(&mut self, length: usize) -> &mut [f32] {
        if self.0.len() < length {
            self.0.resize(length, 0.0);
        }
        &mut self.0[..length]
    }

    /// Keeps the given rows of `width` only, in order; `rows` is ascending.
    fn keep_rows(&mut self, rows: &[usize], width: usize) {
        for (to, &from) in rows.iter().enumerate() {
            self.0.copy_within(from * width..(from + 1) * width, to * width);
        }
    }
}

impl Model {
    /// Runs a batch through the model: every cache takes in its chunk's tokens, and
    /// [`Workspace::logits`] holds the wanted logits. Runs on the caller's rayon pool.
    ///
    /// # Errors
    /// [`ModelError`] for an empty chunk, a token outside the vocabulary, a cache of another shape, and
    /// positions beyond [`Config::max_positions`](crate::Config::max_positions): all of these before any
    /// cache is touched. After [`ModelError::Cache`] the caches of the batch must be dropped.
    pub fn forward(&self, batch: &mut [Chunk<'_>], ws: &mut Workspace) -> Result<(), ModelError> {
        ws.filled = 0;
        ws.wanted.clear();
        ws.clock.start();
        let rows = self.check(batch, &mut ws.wanted)?;
        ws.chunks.clear();
        ws.chunks.extend(batch.iter().map(|chunk| chunk.tokens.len()));
        let (hidden, eps) = (self.config.hidden, self.config.norm_eps);

        let positions = batch.iter().flat_map(|chunk| (chunk.cache.tokens()..).take(chunk.tokens.len()));
        ws.rotary.fill(&self.rotary, positions);
        self.embed(batch, ws.x.take(rows * hidden));

        for (index, layer) in self.layers.iter().enumerate() {
            self.attention(index, layer, batch, rows, ws)?;
            let rows = if index + 1 == self.layers.len() { self.keep_wanted(ws) } else { rows };
            self.attention_output(layer, rows, ws);
            self.feed_forward(layer, rows, ws);
        }

        let rows = ws.wanted.len();
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let y = ws.y.take(rows * hidden);
        rms_norm(ws.x.take(rows * hidden), &self.output_norm, eps, y);
        ws.filled = rows * self.config.vocab;
        ws.clock.lap(Phase::Rest);
        product(output, y, &ws.chunks, ws.logits.take(ws.filled), &mut ws.activations);
        ws.clock.lap(Phase::Output);
        Ok(())
    }

    /// Checks a batch before anything is computed. Returns its rows, and lists those whose logits are wanted.
    fn check(&self, batch: &[Chunk<'_>], wanted: &mut Vec<usize>) -> Result<usize, ModelError> {
        let (vocab, limit) = (self.config.vocab, self.config.max_positions());
        let mut rows = 0;
        for chunk in batch {
            let count = chunk.tokens.len();
            if count == 0 {
                return Err(ModelError::EmptyChunk);
            }
            if let Some(&token) = chunk.tokens.iter().find(|&&token| token as usize >= vocab) {
                return Err(ModelError::Token { token, vocab });
            }
            if chunk.cache.config().shape != self.shape {
                let found = chunk.cache.config().shape.clone();
                return Err(ModelError::CacheShape { found, expected: self.cache_shape() });
            }
            let needed = chunk.cache.tokens().saturating_add(count);
            if needed > limit {
                return Err(match self.config.window {
                    Some(window) => ModelError::Window { window, needed },
                    None => ModelError::Position { needed, limit },
                });
            }
            match chunk.logits {
                Wanted::None => {}
                Wanted::Last => wanted.push(rows + count - 1),
                Wanted::All => wanted.extend(rows..rows + count),
            }
            rows += count;
        }
        Ok(rows)
    }

    /// The embedding of every token of the batch, `[rows][hidden]`.
    fn embed(&self, batch: &[Chunk<'_>], mut x: &mut [f32]) {
        let hidden = self.config.hidden;
        for chunk in batch {
            let (rows, rest) = x.split_at_mut(chunk.tokens.len() * hidden);
            let row = |(row, &token): (&mut [f32], &u32)| self.embedding.row(token as usize, row);
            match chunk.tokens.len() {
                // A few rows are not worth waking threads for.
                0..16 => rows.chunks_exact_mut(hidden).zip(chunk.tokens).for_each(row),
                _ => rows.par_chunks_exact_mut(hidden).zip(chunk.tokens).for_each(row),
            }
            x = rest;
        }
    }

    /// Norm, projections, rotary embedding, and attention of one layer: `ws.x` -> `ws.attended`.
    fn attention(
        &self,
        index: usize,
        layer: &Layer,
        batch: &mut [Chunk<'_>],
        rows: usize,
        ws: &mut Workspace,
    ) -> Result<(), ModelError> {
        let config = &self.config;
        let (eps, head_dim) = (config.norm_eps, config.head_dim);
        let (q_width, kv_width) = (config.q_heads * head_dim, config.kv_heads * head_dim);
        let (q, k, v) = (ws.q.take(rows * q_width), ws.k.take(rows * kv_width), ws.v.take(rows * kv_width));

        let y = ws.y.take(rows * config.hidden);
        rms_norm(ws.x.take(rows * config.hidden), &layer.attn_norm, eps, y);
        let parts = &mut [(&layer.q.weight, &mut *q), (&layer.k.weight, &mut *k), (&layer.v.weight, &mut *v)];
        ws.clock.lap(Phase::Rest);
        forward_many(parts, y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        for (projection, out) in [(&layer.q, &mut *q), (&layer.k, &mut *k), (&layer.v, &mut *v)] {
            if let Some(bias) = &projection.bias {
                add_bias(out, bias);
            }
        }
        if let Some(norm) = &layer.q_norm {
            rms_norm_in_place(q, norm, eps);
        }
        if let Some(norm) = &layer.k_norm {
            rms_norm_in_place(k, norm, eps);
        }
        ws.rotary.turn(q, config.q_heads, head_dim);
        ws.rotary.turn(k, config.kv_heads, head_dim);

        ws.clock.lap(Phase::Rest);

        let mut attended = ws.attended.take(rows * q_width);
        let (mut k, mut v) = (&*k, &*v);
        for chunk in batch.iter_mut() {
            let width = chunk.tokens.len() * kv_width;
            chunk.cache.append(index, &k[..width], &v[..width])?;
            (k, v) = (&k[width..], &v[width..]);
        }
        ws.clock.lap(Phase::Append);
        if let [chunk] = batch {
            chunk.cache.attend(index, q, attended);
            ws.clock.lap(Phase::Attention);
            return Ok(());
        }
        let mut q = &*q;
        let shares = batch.iter_mut().map(|chunk| {
            let width = chunk.tokens.len() * q_width;
            let (share, out);
            (share, q) = q.split_at(width);
            (out, attended) = std::mem::take(&mut attended).split_at_mut(width);
            AttendRequest { cache: chunk.cache, q: share, out }
        });
        SequenceCache::attend_many(index, &mut shares.collect::<Vec<_>>(), None);
        ws.clock.lap(Phase::Attention);
        Ok(())
    }

    /// Drops the rows whose logits nobody wants. Returns how many are left.
    fn keep_wanted(&self, ws: &mut Workspace) -> usize {
        ws.x.keep_rows(&ws.wanted, self.config.hidden);
        ws.attended.keep_rows(&ws.wanted, self.config.q_heads * self.config.head_dim);
        let (mut end, mut wanted) = (0, ws.wanted.iter().peekable());
        for rows in &mut ws.chunks {
            end += *rows;
            *rows = std::iter::from_fn(|| wanted.next_if(|&&row| row < end)).count();
        }
        ws.wanted.len()
    }

    /// Attention's output product, added to the residual stream.
    fn attention_output(&self, layer: &Layer, rows: usize, ws: &mut Workspace) {
        let config = &self.config;
        let y = ws.y.take(rows * config.hidden);
        let attended = ws.attended.take(rows * config.q_heads * config.head_dim);
        ws.clock.lap(Phase::Rest);
        product(&layer.output.weight, attended, &ws.chunks, y, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        if let Some(bias) = &layer.output.bias {
            add_bias(y, bias);
        }
        add(ws.x.take(rows * config.hidden), y);
    }

    /// The gated feed-forward, added to the residual stream.
    fn feed_forward(&self, layer: &Layer, rows: usize, ws: &mut Workspace) {
        let config = &self.config;
        let (x, y) = (ws.x.take(rows * config.hidden), ws.y.take(rows * config.hidden));
        let (gate, up) = (ws.gate.take(rows * config.feed_forward), ws.up.take(rows * config.feed_forward));
        rms_norm(x, &layer.ffn_norm, config.norm_eps, y);
        ws.clock.lap(Phase::Rest);
        forward_many(&mut [(&layer.gate, &mut *gate), (&layer.up, &mut *up)], y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        silu_mul(gate, up);
        ws.clock.lap(Phase::Rest);
        product(&layer.down, gate, &ws.chunks, y, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        add(x, y);
    }
}

/// One product, `[rows][in] -> [rows][out]`, of chunks of so many rows each.
fn product(linear: &Linear, x: &[f32], chunks: &[usize], y: &mut [f32], activations: &mut Activations) {
    forward_many(&mut [(linear, y)], x, chunks, activations);
}
