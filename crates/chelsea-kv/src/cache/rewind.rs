//! Taking back the last tokens of a sequence: a turn that is asked again, a draft that was not accepted.

use super::{CacheError, SequenceCache};
use crate::{Head, LayerSpec};

impl SequenceCache {
    /// First token from which every head holds one entry for each token, so that a cache that had seen only the tokens
    /// before could be had back: [`SequenceCache::rewind`] goes back as far as here. Layers with a sliding window count,
    /// too: what left the window is gone.
    pub fn exact_from(&self) -> usize {
        let tokens = self.tokens();
        let of_head = |((index, layer), head): ((usize, &LayerSpec), &Head)| {
            // In the middle of a block, layers hold different numbers of tokens.
            let held = self.layer_tokens[index];
            let first = held - exact_tail(head, held);
            match layer.window {
                // The token that comes next sees the `window - 1` before it.
                Some(window) if first > 0 => (first + window - 1).min(tokens),
                _ => first.min(tokens),
            }
        };
        let heads = self.heads();
        self.config.shape.layer_of_heads().zip(heads.iter()).map(of_head).max().unwrap_or(0)
    }

    /// Takes back the last `tokens` tokens: the cache goes on as if they had never been appended. What was found out of
    /// their queries for policies stays, except for the queries themselves. So does what the keys of a text's first 64
    /// tokens are divided by where they are stored in 8 bits, unless all tokens are taken back: only where fewer than 64
    /// are left do those that follow differ by a rounding. What was [reserved](SequenceCache::reserve) is returned.
    ///
    /// # Errors
    /// If some of them were merged with others or dropped ([`SequenceCache::exact_from`]), a block is on its way through
    /// the layers, or the pool has no room for a page that is shared and must be cut.
    pub fn rewind(&mut self, tokens: usize) -> Result<(), CacheError> {
        let (seen, exact_from) = (self.tokens(), self.exact_from());
        if tokens > seen - exact_from || self.block() != 0 {
            return Err(CacheError::Rewind { tokens, exact_from, seen });
        }
        let reserved = self.config.pool.reserve(self.store.bytes_to_truncate(tokens))?;
        self.store.truncate(tokens, &reserved);
        drop(reserved);
        (self.ahead, *self.ahead_tokens.get_mut()) = (None, 0);
        let now = seen - tokens;
        self.layer_tokens.fill(now);
        self.compacted_at = self.compacted_at.min(now);
        let lens: Vec<usize> = (0..self.store.heads()).map(|g| self.store.len(g)).collect();
        self.statistics.rewind(now, &lens);
        self.frozen.iter_mut().zip(&lens).for_each(|(frozen, &len)| *frozen = (*frozen).min(len));
        self.settle()
    }
}

/// Entries at the end of a head of `tokens` tokens that stand for one token each and follow one another up to the last.
pub(super) fn exact_tail(head: &Head, tokens: usize) -> usize {
    let single = |&i: &usize| head.count(i) == 1 && head.position(i) == (tokens - (head.len() - i)) as f32;
    (0..head.len()).rev().take_while(single).count()
}
