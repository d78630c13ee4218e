//! The forward pass: tokens -> logits, for several sequences at once.
//!
//! The rows of all chunks lie under one another in every buffer, `[rows][width]`, so that each weight matrix
//! is read once per batch. Attention runs chunk by chunk, each on its own cache at its own positions. Rows whose
//! logits nobody wants end at the last layer's attention, which they still pass for the cache's sake.

use chelsea_kv::{CacheConfig, SequenceCache};
use rayon::prelude::*;

use crate::blocks::{Chunk, Layer, Phase, RotaryTable, Wanted, Workspace, add, products, rms_norm, rms_norm_in_place};
use crate::device::{Accelerator, Pass};
use crate::error::ModelError;
use crate::model::Model;

impl Model {
    /// Runs a batch through the model: every cache takes in its chunk's tokens, and
    /// [`Workspace::logits`] holds the wanted logits. Runs on the caller's rayon pool.
    ///
    /// # Errors
    /// [`ModelError`] for an empty chunk, a token outside the vocabulary, a cache of another shape, and
    /// positions beyond [`Config::max_positions`](crate::Config::max_positions): all of these before any
    /// cache is touched. After [`ModelError::Cache`], [`ModelError::Device`], and [`ModelError::Logits`] for logits that
    /// are no numbers, the caches of the batch must be dropped.
    pub fn forward(&self, batch: &mut [Chunk<'_>], ws: &mut Workspace) -> Result<(), ModelError> {
        ws.filled = 0;
        ws.held.clear();
        ws.clock.start();
        self.check(batch, ws)?;
        self.begin(batch, ws);
        if let Some(device) = &self.device {
            return self.forward_on(&**device, batch, ws);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(index, layer, batch, ws)?;
            if index + 1 == self.layers.len() {
                self.keep_wanted(ws);
            }
            self.finish_layer(layer, ws);
        }

        let rows = ws.wanted.len();
        let hidden = self.config.hidden;
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let y = ws.y.take(rows * hidden);
        rms_norm(ws.x.take(rows * hidden), &self.output_norm, self.config.norm_eps, y);
        let logits = ws.logits.take(rows * self.config.vocab);
        ws.clock.lap(Phase::Rest);
        products(&mut [(output, &mut *logits)], y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Output);
        if !are_finite(logits) {
            return Err(ModelError::Logits { layer: self.first_odd_layer(batch), layers: self.layers.len() });
        }
        ws.filled = logits.len();
        Ok(())
    }

    /// What follows on a device: it is given the embeddings, and what comes back are logits.
    fn forward_on(
        &self,
        device: &dyn Accelerator,
        batch: &mut [Chunk<'_>],
        ws: &mut Workspace,
    ) -> Result<(), ModelError> {
        let rows: usize = ws.chunks.iter().sum();
        let rotary: Vec<_> = ws.rotary[..self.rotaries.len()].iter().map(RotaryTable::tables).collect();
        let embedded = ws.x.take(rows * self.config.hidden);
        let come = ws.may_stay.iter().filter(|&&stays| !stays).count();
        let logits = ws.logits.take(come * self.config.vocab);
        let mut pass = Pass { batch, embedded, rotary: &rotary, wanted: &ws.wanted, held: &ws.may_stay };
        ws.clock.lap(Phase::Rest);
        ws.held = device.forward(&mut pass, logits).map_err(ModelError::Device)?;
        ws.clock.lap(Phase::Products);
        // What is not finite comes first among the likeliest.
        let odd = ws.held.iter().any(|held| held.likeliest().first().is_none_or(|(_, logit)| !logit.is_finite()));
        if odd || !are_finite(logits) {
            return Err(ModelError::Device(format!("the logits that {} computed are not finite", device.name())));
        }
        ws.filled = logits.len();
        Ok(())
    }

    /// Checks a batch before anything is computed, and lists the rows of its chunks and those whose logits are wanted.
    fn check(&self, batch: &[Chunk<'_>], ws: &mut Workspace) -> Result<(), ModelError> {
        let (vocab, limit) = (self.config.vocab, self.config.max_positions());
        ws.chunks.clear();
        ws.wanted.clear();
        ws.wanted_of_chunks.clear();
        ws.may_stay.clear();
        let mut rows = 0;
        for chunk in batch {
            let count = chunk.tokens.len();
            if count == 0 {
                return Err(ModelError::EmptyChunk);
            }
            if let Some(&token) = chunk.tokens.iter().find(|&&token| token as usize >= vocab) {
                return Err(ModelError::Token { token, vocab });
            }
            let found = &chunk.cache.config().shape;
            if *found != self.shape {
                return Err(ModelError::CacheShape { found: found.clone(), expected: self.shape.clone() });
            }
            let needed = chunk.cache.tokens().saturating_add(count);
            if needed > limit {
                return Err(ModelError::Position { needed, limit });
            }
            let first = match chunk.logits {
                Wanted::None => count,
                Wanted::Last | Wanted::Held => count - 1,
                Wanted::All => 0,
            };
            ws.wanted.extend(rows + first..rows + count);
            ws.may_stay.resize(ws.wanted.len(), chunk.logits == Wanted::Held);
            if first < count {
                ws.wanted_of_chunks.push(count - first);
            }
            ws.chunks.push(count);
            rows += count;
        }
        Ok(())
    }

    /// Rotary tables of the batch's positions, and the embedding of its tokens in `ws.x`.
    fn begin(&self, batch: &[Chunk<'_>], ws: &mut Workspace) {
        ws.rotary.resize_with(self.rotaries.len().max(ws.rotary.len()), Default::default);
        for (table, rotary) in ws.rotary.iter_mut().zip(&self.rotaries) {
            let positions = batch.iter().flat_map(|chunk| (chunk.cache.tokens()..).take(chunk.tokens.len()));
            table.fill(rotary, positions);
        }
        let (hidden, scale) = (self.config.hidden, self.config.embedding_scale);
        let rows: usize = ws.chunks.iter().sum();
        let mut x = ws.x.take(rows * hidden);
        for chunk in batch {
            let (rows, rest) = x.split_at_mut(chunk.tokens.len() * hidden);
            let row = |(row, &token): (&mut [f32], &u32)| {
                self.embedding.row(token as usize, row);
                if scale != 1.0 {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            };
            match chunk.tokens.len() {
                // A few rows are not worth waking threads for.
                0..16 => rows.chunks_exact_mut(hidden).zip(chunk.tokens).for_each(row),
                _ => rows.par_chunks_exact_mut(hidden).zip(chunk.tokens).for_each(row),
            }
            x = rest;
        }
    }

    /// Norm and attention of one layer: `ws.x` -> `ws.attended`.
    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        batch: &mut [Chunk<'_>],
        ws: &mut Workspace,
    ) -> Result<(), ModelError> {
        let numbers = ws.chunks.iter().sum::<usize>() * self.config.hidden;
        rms_norm(ws.x.take(numbers), &layer.attn_norm, self.config.norm_eps, ws.y.take(numbers));
        ws.clock.lap(Phase::Rest);
        layer.attention.attend(index, batch, ws)
    }

    /// Drops the rows whose logits nobody wants.
    fn keep_wanted(&self, ws: &mut Workspace) {
        if let Some(last) = self.layers.last() {
            ws.attended.keep_rows(&ws.wanted, last.attention.q_width());
        }
        ws.x.keep_rows(&ws.wanted, self.config.hidden);
        ws.chunks.clone_from(&ws.wanted_of_chunks);
    }

    /// What follows attention: its output product and the feed-forward, each added to the residual stream.
    fn finish_layer(&self, layer: &Layer, ws: &mut Workspace) {
        let (hidden, eps) = (self.config.hidden, self.config.norm_eps);
        let numbers = ws.chunks.iter().sum::<usize>() * hidden;
        layer.attention.project(ws);
        let (x, y) = (ws.x.take(numbers), ws.y.take(numbers));
        if let Some(norm) = &layer.post_attention_norm {
            rms_norm_in_place(y, norm, eps);
        }
        add(x, y);
        rms_norm(x, &layer.ffn_norm, eps, y);
        ws.clock.lap(Phase::Rest);
        layer.feed_forward.forward(ws);
        let (x, y) = (ws.x.take(numbers), ws.y.take(numbers));
        if let Some(norm) = &layer.post_ffn_norm {
            rms_norm_in_place(y, norm, eps);
        }
        add(x, y);
    }

    /// The first layer whose output is not finite, when the tokens of `batch` are read anew, each chunk into a cache of
    /// its own. Asked only when something is wrong, so it takes its time.
    fn first_odd_layer(&self, batch: &[Chunk<'_>]) -> Option<usize> {
        let firsts = batch.iter().map(|chunk| {
            let config = chunk.cache.config();
            let mut fresh = CacheConfig::new(self.shape.clone());
            fresh.dtype = config.dtype;
            let mut cache = SequenceCache::new(fresh).ok()?;
            let mut batch = [Chunk { tokens: chunk.tokens, cache: &mut cache, logits: Wanted::All }];
            let mut ws = Workspace::new();
            self.check(&batch, &mut ws).ok()?;
            self.begin(&batch, &mut ws);
            let numbers = chunk.tokens.len() * self.config.hidden;
            self.layers.iter().enumerate().position(|(index, layer)| {
                let attended = self.attend(index, layer, &mut batch, &mut ws);
                self.finish_layer(layer, &mut ws);
                attended.is_err() || !are_finite(ws.x.take(numbers))
            })
        });
        firsts.flatten().min()
    }
}

/// Numbers that a thread looks through by itself.
const MANY: usize = 1 << 14;

/// Whether all of them are numbers. A sum of zeros times each is one exactly then, and needs no branch a number.
fn are_finite(x: &[f32]) -> bool {
    const LANES: usize = 16;
    if x.len() > MANY {
        let (left, right) = x.split_at(x.len() / 2);
        let (left, right) = rayon::join(|| are_finite(left), || are_finite(right));
        return left && right;
    }
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * 0.0;
        }
    }
    lanes.iter().chain(rest).all(|x| x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::are_finite;

    #[test]
    fn one_odd_number_anywhere_is_found() {
        let numbers = [1.0f32, -0.0, f32::MAX, f32::MIN_POSITIVE, -3.5].repeat(9);
        assert!(are_finite(&numbers) && are_finite(&[]));
        for at in 0..numbers.len() {
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut numbers = numbers.clone();
                numbers[at] = odd;
                assert!(!are_finite(&numbers), "{odd} at {at}");
            }
        }
    }
}
