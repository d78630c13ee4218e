//! What a forward pass is asked to do.

use chelsea_kv::SequenceCache;

/// Which positions of a chunk the caller wants logits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: a block of a prompt that goes on.
    None,
    /// The last one.
    Last,
    /// The last one, to sample the next token: a device may keep them, and [`Workspace::held`](super::Workspace::held) has what
    /// it does keep. Otherwise as [`Wanted::Last`].
    Held,
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
