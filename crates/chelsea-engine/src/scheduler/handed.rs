//! Caches that were handed to others: their bytes are nobody's promise here, and count until they are dropped.

use crate::Sequence;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of all caches that are with others.
#[derive(Debug, Clone, Default)]
pub(super) struct HandedOut(Arc<AtomicUsize>);

impl HandedOut {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn hand(&self, sequence: Sequence) -> Handed {
        // Pages that it shares now are its own once the request goes on and changes its cache.
        let bytes = sequence.memory().total();
        self.0.fetch_add(bytes, Ordering::AcqRel);
        Handed { sequence: Some(sequence), bytes, out: self.clone() }
    }
}

/// A cache that was handed over, to be read and dropped soon: until then its memory is not given to anybody else.
#[derive(Debug)]
pub struct Handed {
    /// There until it is dropped.
    sequence: Option<Sequence>,
    bytes: usize,
    out: HandedOut,
}

impl Handed {
    /// What was handed over.
    pub fn sequence(&self) -> Option<&Sequence> {
        self.sequence.as_ref()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // First the memory, then the note of it.
        drop(self.sequence.take());
        self.out.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
