//! The compactions that the engine asks of a cache.

use chelsea_kv::{CacheError, CompactReport, SequenceCache};

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
        match self {
            Compaction::Due => cache.compact(),
            Compaction::AtEnd => cache.compact_at_end(),
        }
    }
}
