//! Many requests under one promise of bytes: who is let in, who reads, who generates, and who steps aside.
//!
//! Every step takes one token of each running answer and one chunk of one prompt through the model together. A prompt is
//! let in when what it is going to take fits beside what was promised to the others, so memory is given out before it is
//! needed. The [`Pool`] refuses what would exceed its limit all the same; then checkpoints are given up, caches are
//! squeezed whose requests allow it, and the request with the least work behind it is parked, its cache in a file, or steps
//! aside and begins again later.
//!
//! # Invariants
//!
//! - The bytes of all caches, checkpoints and scratch together never exceed the pool's limit.
//! - An answer is the same whoever else is served, whether its prompt was read or found on the [`Shelf`], and whether it
//!   was parked or had to step aside: chunks are cut by the request's own plan, pieces end where the request says, and what
//!   was generated before stepping aside is taken in again token by token. Only a request that allows its cache to be
//!   squeezed ([`SessionOptions::squeeze`]) may be answered otherwise, and its [`Outcome`] says so.
//! - A request that was let in never fails for want of memory: one that could not be served even alone is refused when it
//!   is made ([`Scheduler::submit`]).
//! - A request whose listener is gone takes no part in the next step, and its memory is free by then.

mod admission;
mod aside;
mod disk;
mod handed;
mod held;
mod job;
mod logprobs;
mod mount;
mod options;
mod park;
mod prefix;
mod pressure;
mod queue;
mod request;
mod shelf;
mod steps;

pub use disk::DiskOptions;
pub use handed::Handed;
pub use held::Held;
pub use job::settings_of;
pub use mount::Mounted;
pub use options::{SchedulerOptions, SchedulerStats};
pub use request::{Event, Listener, Logprobs, Outcome, Request, RequestError, Sampled};
pub use shelf::{Shelf, ShelfWatcher};

use crate::runner::Runner;
use crate::{Sequence, SessionOptions, cache_config};
use aside::Aside;
use chelsea_kv::snapshot::SnapshotError;
use chelsea_kv::{CacheConfig, Pool};
use chelsea_model::Model;
use chelsea_model::tokenizer::Tokenizer;
use disk::Disk;
use handed::HandedOut;
use job::{Active, Job, Promise, Refused};
use mount::Mount;
use queue::Queue;
use rayon::ThreadPool;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Chunks that others may read while the prompt that was begun first waits.
const PATIENCE: usize = 8;
/// Tokens by which answers grow between two compactions, for which room is promised.
const GROWTH: usize = 64;
/// Share of the pool that is left for what compactions take for a while: no request may need it.
const SCRATCH_SHARE: usize = 16;
/// Clusters whose rows each thread holds while they are matched, and once more while they are merged.
const SCRATCH_ROWS: usize = 2 * 512;

/// Serves many requests on one model.
pub struct Scheduler {
    options: SchedulerOptions,
    runner: Runner,
    tokenizer: Arc<Tokenizer>,
    queue: Queue,
    active: Vec<Active>,
    /// A prompt whose cache is being compacted, and the threads for that.
    aside: Option<Aside>,
    compacting: Arc<ThreadPool>,
    shelf: Shelf,
    /// Bytes of the pool that mounted caches take for good.
    mounted: usize,
    /// Bytes of caches that were handed to others.
    handed: HandedOut,
    stats: SchedulerStats,
    draining: bool,
}

impl Scheduler {
    /// A scheduler that computes on `threads`.
    ///
    /// # Errors
    /// If the folder for checkpoints cannot be used.
    pub fn new(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        threads: Arc<ThreadPool>,
        options: SchedulerOptions,
    ) -> io::Result<Scheduler> {
        let disk = options.disk.as_ref().map(|disk| Disk::open(disk, &model)).transpose()?;
        Ok(Scheduler {
            compacting: Arc::new(aside::threads(&threads).map_err(io::Error::other)?),
            runner: Runner::new(model, threads).leaving_readers(),
            tokenizer,
            queue: Queue::default(),
            active: Vec::new(),
            aside: None,
            shelf: Shelf::new(options.checkpoints, disk),
            mounted: 0,
            handed: HandedOut::default(),
            stats: SchedulerStats { kv_limit: options.pool.limit().unwrap_or(usize::MAX), ..SchedulerStats::default() },
            draining: false,
            options,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    /// Puts the cache of a file on the shelf, to stay there: requests go on from it whose prompt has its tokens for a first
    /// piece, and that keep their caches as it is kept ([`Mounted::config`]), whatever their budget and policy. Keys and
    /// values are read from the map of the file, which must not be changed meanwhile. `label` names the file's content: it
    /// sets apart what went on from it in files of the shelf.
    ///
    /// # Errors
    /// If there is no such file, it is no sound snapshot or one of another model, or what is beside its keys and values does
    /// not fit.
    pub fn mount(&mut self, path: &Path, label: impl Into<String>) -> Result<Mounted, SnapshotError> {
        let before = self.options.pool.live();
        let mount = Mount::load(path, label.into(), &self.options.pool, self.runner.model())?;
        self.mounted += self.options.pool.live().saturating_sub(before);
        let about = mount.about.clone();
        self.shelf.mount(mount);
        Ok(about)
    }

    /// As [`Scheduler::submit`], of a request whose prompt was read elsewhere: `sequence` is what was made of it there, with
    /// the logits after it ([`Sequence::with_logits`]). The request keeps it until its turn comes and goes on from it, and
    /// then it is a checkpoint, too. Should memory run so short before that no checkpoint is left to be given up, it is given
    /// up as well, and the prompt is read here. Nothing is kept of a request that is refused.
    ///
    /// A sequence of other tokens than the prompt's, or without logits, is of no consequence.
    pub fn submit_with(&mut self, request: Request, sequence: Sequence) {
        self.take_in(request, Some(sequence));
    }

    /// Whether a request would be taken in now.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn admits(&self, request: &Request) -> Result<(), RequestError> {
        self.admit(request).map(|_| ())
    }

    /// Makes room for a cache of so many bytes that comes from elsewhere, and that was promised to nobody: checkpoints are
    /// given up for it. Returns whether there is room.
    pub fn make_room_for(&mut self, bytes: usize) -> bool {
        if self.promised().saturating_add(self.beside()).saturating_add(bytes) > self.room() {
            return false;
        }
        let fits = |pool: &Pool| pool.limit().is_none_or(|limit| pool.live().saturating_add(bytes) <= limit);
        while !fits(&self.options.pool) {
            if !self.shelf.give_up_one() {
                return false;
            }
        }
        true
    }

    /// What all caches are charged to.
    pub fn pool(&self) -> &Pool {
        &self.options.pool
    }

    /// Has `watcher` told from now on which prefixes are on the shelf.
    pub fn watch_shelf(&mut self, watcher: Box<dyn ShelfWatcher>) {
        self.shelf.watch(watcher);
    }

    /// Takes a request in, or tells its listener at once why not.
    pub fn submit(&mut self, request: Request) {
        self.take_in(request, None);
    }

    /// What a request that is taken in is promised. That the queue is full is said last: who asks for what can never be
    /// served must not be told to try again.
    fn admit(&self, request: &Request) -> Result<(CacheConfig, Promise, usize), RequestError> {
        if self.draining {
            return Err(RequestError::Draining);
        }
        let checked = self.check(request)?;
        if self.queue.len() >= self.options.waiting {
            return Err(RequestError::Busy { waiting: self.queue.len() });
        }
        Ok(checked)
    }

    fn take_in(&mut self, mut request: Request, given: Option<Sequence>) {
        request.session.pool = self.options.pool.clone();
        match self.admit(&request) {
            Err(error) => request.listener.hear(Event::Failed(error)),
            Ok((config, promise, most)) => {
                // Only its answer's settings are left to be refused.
                match Job::new(request, config, promise, most) {
                    Ok(mut job) => {
                        let mounted = self.shelf.mounted(&job.pieces, &job.config).map(|mount| mount.label.as_str());
                        job.name_beginnings(&self.runner.model().fingerprint(), mounted);
                        job.give(given);
                        job.tell_waiting();
                        self.queue.push(job);
                    }
                    Err(refused) => {
                        let Refused { mut listener, error } = *refused;
                        listener.hear(Event::Failed(error.into()));
                    }
                }
            }
        }
    }

    /// What a request is promised, and the most tokens that its answer may have.
    fn check(&self, request: &Request) -> Result<(CacheConfig, Promise, usize), RequestError> {
        let model = self.runner.model();
        let prompt = request.prompt_tokens();
        if prompt == 0 {
            return Err(RequestError::Empty);
        }
        // Says at once what is wrong with the settings. A pool that is full now is a reason to wait, not to refuse.
        let apart = SessionOptions { pool: Pool::unlimited(), ..request.session.clone() };
        let limit = Sequence::new(model.clone(), &apart)?.limit();
        // What generates nothing may be as long as the context.
        if prompt > limit || prompt == limit && request.generate.max_tokens != Some(0) {
            return Err(RequestError::Context { prompt, limit });
        }
        let config = cache_config(model, &request.session)?;
        let plan = request.session.plan();
        let room = self.room();
        let needed = |tokens: usize| {
            let forecast = config.forecast(tokens, &plan);
            Promise { reading: forecast.reading, settled: forecast.settled + GROWTH * forecast.growth }
        };
        let alone = needed(prompt + 1);
        if alone.reading.max(alone.settled) > room {
            return Err(RequestError::Memory { prompt, needed: alone.reading.max(alone.settled), limit: room });
        }
        // The longest answer that there is room for alone, found by halving.
        let (mut fits, mut beyond) = (1, limit - prompt + 1);
        while fits + 1 < beyond {
            let middle = fits + (beyond - fits) / 2;
            if needed(prompt + middle).settled <= room { fits = middle } else { beyond = middle }
        }
        let answer = request.generate.max_tokens.unwrap_or(usize::MAX).min(self.options.ahead).min(fits);
        let promise = Promise { reading: alone.reading, settled: needed(prompt + answer).settled };
        Ok((config, promise, fits))
    }

    /// Bytes that those are promised whose turn has come.
    fn promised(&self) -> usize {
        let aside = self.aside.as_ref().map_or(0, |aside| aside.promised);
        aside + self.active.iter().map(Active::promised).sum::<usize>()
    }

    /// Bytes beside those: of caches that came with requests that wait, and of those that were handed to others.
    fn beside(&self) -> usize {
        self.queue.given() + self.handed.bytes()
    }

    /// Bytes that requests may be promised: but for mounted caches, and for what compactions take at least, in a pool
    /// however small. Those aside go on while an answer's cache is compacted here, so the threads of both count.
    fn room(&self) -> usize {
        let limit = self.options.pool.limit().unwrap_or(usize::MAX);
        let shape = self.runner.model().cache_shape();
        let widest = shape.layers().iter().map(|layer| layer.key_dim + layer.value_dim).max().unwrap_or(0);
        let aside = if self.options.aside { self.compacting.current_num_threads() } else { 0 };
        let threads = self.runner.pool().current_num_threads() + aside;
        let least = threads * SCRATCH_ROWS * widest * size_of::<f32>();
        limit.saturating_sub((limit / SCRATCH_SHARE).max(least)).saturating_sub(self.mounted)
    }

    /// Takes no more requests; those that wait or run are served.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Gives up all checkpoints.
    pub fn flush(&mut self) {
        self.shelf.clear();
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.is_alone() && self.queue.len() == 0
    }

    /// Whether nobody is being served.
    fn is_alone(&self) -> bool {
        self.active.is_empty() && self.aside.is_none()
    }

    /// What was done so far, and what is going on.
    pub fn stats(&self) -> SchedulerStats {
        let caches = || self.active.iter().map(|active| active.sequence.cache());
        let reading = self.lanes();
        let [tokens, entries, full] = self.aside.as_ref().map_or([0; 3], |aside| aside.holds);
        SchedulerStats {
            waiting: self.queue.len(),
            parked: self.queue.parked(),
            reading,
            running: self.active.len() + usize::from(self.aside.is_some()) - reading,
            checkpoints: self.shelf.len(),
            shelf_hits: self.shelf.hits(),
            shelf_misses: self.shelf.misses(),
            kv_bytes: self.options.pool.live(),
            kv_bytes_mapped: self.options.pool.mapped(),
            kv_entries: entries + caches().map(|cache| cache.entries()).sum::<usize>(),
            kv_tokens: tokens + caches().map(|cache| cache.tokens()).sum::<usize>(),
            kv_bytes_full: full + caches().map(|cache| cache.full_bytes()).sum::<usize>(),
            ..self.stats
        }
    }

    /// Takes everything a step further. Returns whether there is more to do.
    pub fn step(&mut self) -> bool {
        let start = Instant::now();
        self.drop_gone();
        self.let_in();
        self.relieve();
        self.advance();
        self.stats.steps += 1;
        self.stats.busy += start.elapsed();
        !self.is_idle()
    }

    fn drop_gone(&mut self) {
        let before = self.active.len();
        self.active.retain(|active| !active.job.is_gone());
        self.stats.cancelled += (before - self.active.len() + self.queue.drop_gone()) as u64;
        self.queue.forget(|key| self.active.iter().any(|active| active.job.key == key));
    }
}
