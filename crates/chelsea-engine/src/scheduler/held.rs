//! What a request's cache holds, told to those who watch it.

use super::job::Active;
use super::request::Event;
use chelsea_kv::{HeadLayout, SequenceCache};
use std::time::Instant;

/// What a request's cache holds at a moment.
#[derive(Debug, Clone)]
pub struct Held {
    /// Tokens that it has seen.
    pub tokens: usize,
    /// Entries over all heads.
    pub entries: usize,
    /// Bytes, those it shares with checkpoints among them.
    pub bytes: usize,
    /// Bytes that a full cache of 16-bit numbers would take.
    pub bytes_full: usize,
    /// What each head holds.
    pub layout: Vec<HeadLayout>,
}

impl Held {
    fn of(cache: &SequenceCache) -> Held {
        Held {
            tokens: cache.tokens(),
            entries: cache.entries(),
            bytes: cache.memory().total(),
            bytes_full: cache.full_bytes(),
            layout: cache.layout(),
        }
    }
}

impl Active {
    /// Tells what its cache holds, if somebody watches and was told long enough ago.
    pub(super) fn tell_held(&mut self) {
        let Some(pause) = self.job.listener.watches() else { return };
        if self.took && self.job.held_told.is_none_or(|told| told.elapsed() >= pause) {
            let held = Held::of(self.sequence.cache());
            self.job.listener.hear(Event::Held(Box::new(held)));
            self.job.held_told = Some(Instant::now());
        }
    }
}
