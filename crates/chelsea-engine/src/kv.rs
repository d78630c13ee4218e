//! What the engine asks of a cache that may refuse: room for the tokens to come, and a compaction.

use chelsea_kv::{CacheError, CompactReport, MAX_TOKENS, SequenceCache};

/// Makes sure that `tokens` more can be appended to every layer.
///
/// # Errors
/// [`CacheError`] if they cannot be; the cache is as it was.
pub(crate) fn reserve(cache: &mut SequenceCache, tokens: usize) -> Result<(), CacheError> {
    if cache.tokens().saturating_add(tokens) > MAX_TOKENS { Err(CacheError::TooLong(MAX_TOKENS)) } else { Ok(()) }
}

/// Which compaction a sequence is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compaction {
    /// The one that fell due while tokens piled up.
    Due,
    /// The one at the end of a text, however few tokens have piled up.
    AtEnd,
}

impl Compaction {
    /// Carries it out.
    ///
    /// # Errors
    /// [`CacheError`] if it needs more memory than there is; the cache is as it was.
    pub(crate) fn carry_out(self, cache: &mut SequenceCache) -> Result<CompactReport, CacheError> {
        Ok(match self {
            Compaction::Due => cache.compact(),
            Compaction::AtEnd => cache.compact_at_end(),
        })
    }
}
