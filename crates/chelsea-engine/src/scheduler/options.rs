//! What a scheduler is started with, and what it tells of itself.

use super::DiskOptions;
use crate::Sequence;
use chelsea_kv::Pool;
use std::time::Duration;

/// How a scheduler shares out time and memory.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// The ledger of all caches, with its limit.
    pub pool: Pool,
    /// Most answers that are generated together.
    pub running: usize,
    /// Most prompts that are read in turns. Each holds a block beyond its budget meanwhile.
    pub lanes: usize,
    /// Most requests that wait.
    pub waiting: usize,
    /// Tokens of an answer that room is promised for when its request is let in; a longer one goes on in what is free.
    pub ahead: usize,
    /// Most checkpoints on the shelf.
    pub checkpoints: usize,
    /// Whether the caches of prompts are compacted while others are answered. Where they are not, it takes longer steps, and the
    /// same requests are served in the same steps each time.
    pub aside: bool,
    /// Where checkpoints are kept in files, too, and the caches of requests that make room for others.
    pub disk: Option<DiskOptions>,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        SchedulerOptions {
            pool: Pool::unlimited(),
            running: 64,
            lanes: 2,
            waiting: 256,
            ahead: 512,
            checkpoints: 256,
            aside: true,
            disk: None,
        }
    }
}

/// What was done so far, and what is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests that wait.
    pub waiting: usize,
    /// Of these, the ones whose caches lie in files, so that others have the memory.
    pub parked: usize,
    /// Prompts that are being read.
    pub reading: usize,
    /// Answers that are being generated.
    pub running: usize,
    /// Requests that were answered.
    pub finished: u64,
    /// Requests that were dropped because nobody listened any more.
    pub cancelled: u64,
    /// Requests that failed after they had been let in.
    pub failed: u64,
    /// Times that a request stepped aside for want of memory, and had to take in again what it had.
    pub stepped_aside: u64,
    /// Times that a request's cache was written into a file to make room.
    pub parks: u64,
    /// Times that a cache was clustered further than its budget to make room.
    pub squeezed: u64,
    /// Tokens of prompts that were read.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were found on the shelf.
    pub cached_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Checkpoints on the shelf.
    pub checkpoints: usize,
    /// Prompts that went on from a checkpoint.
    pub shelf_hits: u64,
    /// Prompts that were read from their beginning.
    pub shelf_misses: u64,
    /// Bytes of all caches, checkpoints and scratch.
    pub kv_bytes: usize,
    /// Bytes that they may take.
    pub kv_limit: usize,
    /// Bytes of keys and values that are read from files: no part of the others.
    pub kv_bytes_mapped: usize,
    /// Entries that the caches of requests hold.
    pub kv_entries: usize,
    /// Tokens that they have seen.
    pub kv_tokens: usize,
    /// Bytes that full caches of 16-bit numbers would take for them.
    pub kv_bytes_full: usize,
    /// Time spent clustering.
    pub clustering: Duration,
    /// Compactions of ended requests.
    pub compactions: u64,
    /// Compactions of prompts that were made while others were answered.
    pub compactions_aside: u64,
    /// Time spent in steps.
    pub busy: Duration,
    /// Steps.
    pub steps: u64,
}

impl SchedulerStats {
    /// Counts what the cache of a request took that is given up.
    pub(super) fn count(&mut self, sequence: &Sequence) {
        self.clustering += sequence.clustering();
        self.compactions += sequence.compactions();
    }
}
