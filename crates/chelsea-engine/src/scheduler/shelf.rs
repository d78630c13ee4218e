//! Compressed prefixes to go on from.
//!
//! A clustered cache can be gone on from only at its end: what was merged cannot be taken apart. So a prompt is read in
//! pieces, at whose ends the cache is put on the shelf: after the system message, after each turn of the user's, after
//! a document. A later prompt that begins with the same pieces goes on from the longest of them. Tokens are compared,
//! not hashes of them, and whoever has another key or other settings has a shelf of their own.
//!
//! A checkpoint shares its pages with the sequences that go on from it, until they are compacted. It is given up when
//! memory is needed: first the one that is worth least, by the tokens that it would take to read it again for every byte
//! it holds, and by how long nobody asked for it.

use super::disk::Disk;
use crate::{Sequence, SessionOptions};
use chelsea_model::Model;
use std::sync::Arc;

/// A prefix that was read before.
#[derive(Debug)]
struct Checkpoint {
    key: CheckpointKey,
    sequence: Sequence,
    last_used: u64,
}

/// What a prefix must have in common with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckpointKey {
    /// Names whose it is and how the cache is kept.
    pub(super) salt: Arc<str>,
    /// The pieces, in order: the same tokens cut elsewhere were compressed elsewhere.
    pub(super) pieces: Vec<Arc<[u32]>>,
}

impl CheckpointKey {
    pub(super) fn tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    fn begins(&self, salt: &str, pieces: &[Arc<[u32]>]) -> bool {
        *self.salt == *salt && pieces.starts_with(&self.pieces)
    }
}

/// The checkpoints of an engine.
#[derive(Default)]
pub struct Shelf {
    checkpoints: Vec<Checkpoint>,
    most: usize,
    disk: Option<Disk>,
    clock: u64,
    hits: u64,
    misses: u64,
}

impl Shelf {
    /// A shelf of at most so many checkpoints, with those in files beside it.
    pub(super) fn new(most: usize, disk: Option<Disk>) -> Self {
        Shelf { most, disk, ..Shelf::default() }
    }

    /// A sequence that goes on from the longest checkpoint of this prompt, and how many pieces it covers. One that covers
    /// all of them is of use only with the logits after its last token.
    pub(super) fn go_on(
        &mut self,
        salt: &Arc<str>,
        pieces: &[Arc<[u32]>],
        model: &Arc<Model>,
        options: &SessionOptions,
    ) -> Option<(Sequence, usize)> {
        self.clock += 1;
        self.fetch(salt, pieces, model, options);
        let fits = |checkpoint: &&mut Checkpoint| {
            let whole = checkpoint.key.pieces.len() == pieces.len();
            checkpoint.key.begins(salt, pieces) && !(whole && checkpoint.sequence.logits().is_empty())
        };
        let longest = self.checkpoints.iter_mut().filter(fits).max_by_key(|checkpoint| checkpoint.key.pieces.len());
        let found = longest.and_then(|checkpoint| {
            // No room even for what is beside pages: it is read again when there is.
            let sequence = checkpoint.sequence.fork().ok()?;
            checkpoint.last_used = self.clock;
            Some((sequence, checkpoint.key.pieces.len()))
        });
        *(if found.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        found
    }

    /// How many of these pieces a checkpoint covers.
    pub(super) fn covers(&self, salt: &str, pieces: &[Arc<[u32]>]) -> usize {
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.covers(salt, pieces));
        self.covered_in_memory(salt, pieces).max(on_disk)
    }

    fn covered_in_memory(&self, salt: &str, pieces: &[Arc<[u32]>]) -> usize {
        let fits = self.checkpoints.iter().filter(|checkpoint| checkpoint.key.begins(salt, pieces));
        fits.map(|checkpoint| checkpoint.key.pieces.len()).max().unwrap_or(0)
    }

    /// Puts a checkpoint that only a file holds on the shelf, if it covers more than those that are there.
    fn fetch(&mut self, salt: &Arc<str>, pieces: &[Arc<[u32]>], model: &Arc<Model>, options: &SessionOptions) {
        let Some(disk) = &self.disk else { return };
        let covered = disk.covers(salt, pieces);
        if covered <= self.covered_in_memory(salt, pieces) {
            return;
        }
        let pieces = &pieces[..covered];
        if let Some(sequence) = disk.load(salt, pieces, &options.pool, model, options) {
            self.keep(CheckpointKey { salt: salt.clone(), pieces: pieces.to_vec() }, sequence);
        }
    }

    /// Keeps what `sequence` has read. Of no consequence where there is no room.
    pub(super) fn put(&mut self, key: CheckpointKey, sequence: &Sequence) {
        if let Some(disk) = &self.disk {
            disk.put(&key, sequence);
        }
        if self.most == 0 || self.checkpoints.iter().any(|checkpoint| checkpoint.key == key) {
            return;
        }
        let Ok(sequence) = sequence.fork() else { return };
        self.keep(key, sequence);
    }

    fn keep(&mut self, key: CheckpointKey, sequence: Sequence) {
        self.clock += 1;
        if self.checkpoints.len() == self.most {
            self.give_up_one();
        }
        self.checkpoints.push(Checkpoint { key, sequence, last_used: self.clock });
    }

    /// Gives up the checkpoint that is worth least. Returns whether there was one.
    pub(super) fn give_up_one(&mut self) -> bool {
        let worth = |checkpoint: &Checkpoint| {
            let age = (self.clock - checkpoint.last_used + 1) as f64;
            checkpoint.key.tokens() as f64 / (checkpoint.sequence.memory().total().max(1) as f64 * age)
        };
        let worths: Vec<f64> = self.checkpoints.iter().map(worth).collect();
        let least = (0..worths.len()).min_by(|&a, &b| worths[a].total_cmp(&worths[b]));
        least.map(|i| self.checkpoints.swap_remove(i)).is_some()
    }

    /// Gives up all checkpoints in memory; files stay.
    pub(super) fn clear(&mut self) {
        self.checkpoints.clear();
    }

    /// Checkpoints on the shelf.
    pub fn len(&self) -> usize {
        self.checkpoints.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty()
    }

    /// Prompts that went on from a checkpoint.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Prompts that were read from their beginning.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}
