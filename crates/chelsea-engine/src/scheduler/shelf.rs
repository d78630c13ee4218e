//! Compressed prefixes to go on from.
//!
//! A clustered cache can be gone on from only at its end: what was merged cannot be taken apart. So a prompt is read in
//! pieces, at whose ends the cache is put on the shelf: after the system message, after each turn of the user's, after
//! a document. A later prompt that begins with the same pieces goes on from the longest of them. Tokens are compared,
//! not hashes of them, and whoever has another key or other settings has a shelf of their own.
//!
//! A checkpoint shares its pages with the sequences that go on from it, until they are compacted. It is given up when
//! memory is needed: first the one that is worth least, by the tokens that it would take to read it again for every byte
//! it holds, and by how long nobody asked for it. Caches that were mounted are never given up.

use super::disk::{Disk, ParkedFile};
use super::mount::Mount;
use super::prefix::{CheckpointKey, Prompt};
use crate::{EngineError, Sequence, SessionOptions};
use chelsea_kv::CacheConfig;
use chelsea_model::Model;
use std::sync::Arc;

/// Who is told which prefixes are on the shelf. Everything is called by the scheduler's thread and must not block.
pub trait ShelfWatcher: Send {
    /// A checkpoint at the end of these tokens was kept for requests of `key`.
    fn kept(&mut self, key: u64, pieces: &[Arc<[u32]>]);

    /// It was given up.
    fn gave_up(&mut self, key: u64, pieces: &[Arc<[u32]>]);
}

/// A prefix that was read before.
#[derive(Debug)]
struct Checkpoint {
    key: CheckpointKey,
    sequence: Sequence,
    last_used: u64,
}

/// The checkpoints of an engine.
#[derive(Default)]
pub struct Shelf {
    checkpoints: Vec<Checkpoint>,
    most: usize,
    mounts: Vec<Mount>,
    disk: Option<Disk>,
    watcher: Option<Box<dyn ShelfWatcher>>,
    clock: u64,
    hits: u64,
    misses: u64,
}

impl Shelf {
    /// A shelf of at most so many checkpoints, with those in files beside it.
    pub(super) fn new(most: usize, disk: Option<Disk>) -> Self {
        Shelf { most, disk, ..Shelf::default() }
    }

    pub(super) fn watch(&mut self, watcher: Box<dyn ShelfWatcher>) {
        self.watcher = Some(watcher);
    }

    /// Puts a cache on the shelf that stays there.
    pub(super) fn mount(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }

    /// The mounted cache that a prompt of these pieces goes on from.
    pub(super) fn mounted(&self, pieces: &[Arc<[u32]>], config: &CacheConfig) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.begins(pieces, config))
    }

    /// A sequence that goes on from the longest checkpoint of this prompt, and how many pieces it covers. One that covers
    /// all of them is of use only with the logits after its last token.
    ///
    /// # Errors
    /// If the prompt begins with a mounted cache, and there is no room to go on from it: its tokens read here would be
    /// another cache.
    pub(super) fn go_on(
        &mut self,
        prompt: Prompt<'_>,
        config: &CacheConfig,
        model: &Arc<Model>,
        options: &SessionOptions,
    ) -> Result<Option<(Sequence, usize)>, EngineError> {
        self.clock += 1;
        self.fetch(prompt, model, options);
        let fits = |checkpoint: &&mut Checkpoint| {
            let whole = checkpoint.key.pieces.len() == prompt.pieces.len();
            checkpoint.key.begins(prompt) && (!whole || checkpoint.sequence.has_logits())
        };
        let longest = self.checkpoints.iter_mut().filter(fits).max_by_key(|checkpoint| checkpoint.key.pieces.len());
        let found = longest.and_then(|checkpoint| {
            // No room even for what is beside pages: it is read again when there is.
            let sequence = checkpoint.sequence.fork().ok()?;
            checkpoint.last_used = self.clock;
            Some((sequence, checkpoint.key.pieces.len()))
        });
        let found = match (found, self.mounted(prompt.pieces, config)) {
            (None, Some(mount)) => Some((mount.go_on(model, options)?, 1)),
            (found, _) => found,
        };
        *(if found.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        Ok(found)
    }

    /// How many of these pieces a checkpoint covers.
    pub(super) fn covers(&self, prompt: Prompt<'_>, config: &CacheConfig) -> usize {
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.covers(prompt));
        let mounted = usize::from(self.mounted(prompt.pieces, config).is_some());
        self.covered_in_memory(prompt).max(on_disk).max(mounted)
    }

    fn covered_in_memory(&self, prompt: Prompt<'_>) -> usize {
        let fits = self.checkpoints.iter().filter(|checkpoint| checkpoint.key.begins(prompt));
        fits.map(|checkpoint| checkpoint.key.pieces.len()).max().unwrap_or(0)
    }

    /// Puts a checkpoint that only a file holds on the shelf, if it covers more than those that are there.
    fn fetch(&mut self, prompt: Prompt<'_>, model: &Arc<Model>, options: &SessionOptions) {
        let Some(disk) = &self.disk else { return };
        let covered = disk.covers(prompt);
        if covered <= self.covered_in_memory(prompt) {
            return;
        }
        let key = prompt.checkpoint(covered);
        if let Some(sequence) = disk.load(&key, model, options) {
            self.keep(key, sequence);
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
        // One that was fetched from a file lies here even where none is kept.
        while self.checkpoints.len() >= self.most.max(1) {
            self.give_up_one();
        }
        if let Some(watcher) = &mut self.watcher {
            watcher.kept(key.key, &key.pieces);
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
        let Some(given_up) = least.map(|i| self.checkpoints.swap_remove(i)) else { return false };
        if let Some(watcher) = &mut self.watcher {
            watcher.gave_up(given_up.key.key, &given_up.key.pieces);
        }
        true
    }

    /// Writes the cache of a request that is to make room into a file, if there is a folder with room for it.
    pub(super) fn park(&mut self, sequence: &Sequence) -> Option<ParkedFile> {
        self.disk.as_mut()?.park(sequence)
    }

    /// Gives up all checkpoints in memory; files and mounted caches stay.
    pub(super) fn clear(&mut self) {
        for checkpoint in std::mem::take(&mut self.checkpoints) {
            if let Some(watcher) = &mut self.watcher {
                watcher.gave_up(checkpoint.key.key, &checkpoint.key.pieces);
            }
        }
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
