//! Many requests under one promise of bytes: who is let in, who reads, who generates, and who steps aside.
//!
//! Every step takes one token of each running answer and one chunk of one prompt through the model together. A prompt is
//! let in when what it is going to take fits beside what was promised to the others, so memory is given out before it is
//! needed. The [`Pool`] refuses what would exceed its limit all the same; then checkpoints are given up,
//! and as a last resort the request with the least work behind it steps aside and begins again later.
//!
//! # Invariants
//!
//! - The bytes of all caches, checkpoints and scratch together never exceed the pool's limit.
//! - An answer is the same whoever else is served, whether its prompt was read or found on the [`Shelf`], and whether it
//!   had to step aside: chunks are cut by the request's own plan, pieces end where the request says, and what was
//!   generated before stepping aside is taken in again token by token.
//! - A request that was let in never fails for want of memory: one that could not be served even alone is refused when it
//!   is made ([`Scheduler::submit`]).
//! - A request whose listener is gone takes no part in the next step, and its memory is free by then.

mod disk;
mod held;
mod job;
mod logprobs;
mod options;
mod queue;
mod request;
mod shelf;

pub use disk::DiskOptions;
pub use held::Held;
pub use options::{SchedulerOptions, SchedulerStats};
pub use request::{Event, Listener, Logprobs, Outcome, Request, RequestError, Sampled};
pub use shelf::Shelf;

use crate::runner::{Outcome as StepOutcome, Runner, Work};
use crate::{EngineError, Sequence, SessionOptions, State, cache_config};
use chelsea_kv::{CacheConfig, CacheError, Pool};
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Model, ModelError};
use disk::Disk;
use job::{Active, Job, Promise, Refused, Stage};
use queue::Queue;
use rayon::ThreadPool;
use std::io;
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
    shelf: Shelf,
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
            runner: Runner::new(model, threads),
            tokenizer,
            queue: Queue::default(),
            active: Vec::new(),
            shelf: Shelf::new(options.checkpoints, disk),
            stats: SchedulerStats { kv_limit: options.pool.limit().unwrap_or(usize::MAX), ..SchedulerStats::default() },
            draining: false,
            options,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    /// Takes a request in, or tells its listener at once why not.
    pub fn submit(&mut self, mut request: Request) {
        let refused = if self.draining {
            Err(RequestError::Draining)
        } else if self.queue.len() >= self.options.waiting {
            Err(RequestError::Busy { waiting: self.queue.len() })
        } else {
            request.session.pool = self.options.pool.clone();
            self.check(&request)
        };
        match refused {
            Err(error) => request.listener.hear(Event::Failed(error)),
            Ok((config, promise, most)) => {
                // Only its answer's settings are left to be refused.
                match Job::new(request, config, promise, most) {
                    Ok(mut job) => {
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
        if prompt >= limit {
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

    /// Bytes that requests may be promised: but for what a compaction takes at least, in a pool however small.
    fn room(&self) -> usize {
        let limit = self.options.pool.limit().unwrap_or(usize::MAX);
        let shape = self.runner.model().cache_shape();
        let widest = shape.layers().iter().map(|layer| layer.key_dim + layer.value_dim).max().unwrap_or(0);
        let least = self.runner.pool().current_num_threads() * SCRATCH_ROWS * widest * size_of::<f32>();
        limit.saturating_sub((limit / SCRATCH_SHARE).max(least))
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
        self.active.is_empty() && self.queue.len() == 0
    }

    /// What was done so far, and what is going on.
    pub fn stats(&self) -> SchedulerStats {
        let caches = || self.active.iter().map(|active| active.sequence.cache());
        let reading = self.active.iter().filter(|active| active.is_reading()).count();
        SchedulerStats {
            waiting: self.queue.len(),
            reading,
            running: self.active.len() - reading,
            checkpoints: self.shelf.len(),
            shelf_hits: self.shelf.hits(),
            shelf_misses: self.shelf.misses(),
            kv_bytes: self.options.pool.live(),
            kv_entries: caches().map(|cache| cache.entries()).sum(),
            kv_tokens: caches().map(|cache| cache.tokens()).sum(),
            kv_bytes_full: caches().map(|cache| cache.full_bytes()).sum(),
            ..self.stats
        }
    }

    /// Takes everything a step further. Returns whether there is more to do.
    pub fn step(&mut self) -> bool {
        let start = Instant::now();
        self.drop_gone();
        self.let_in();
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

    /// Lets requests in whose turn it is, as far as there is room.
    fn let_in(&mut self) {
        'next: while self.active.len() < self.options.running {
            for at in self.queue.order() {
                match self.may_enter(self.queue.get(at)) {
                    Entry::Now => {
                        let Some(job) = self.queue.take(at) else { return };
                        self.begin(job);
                        continue 'next;
                    }
                    // Nobody overtakes one that waits for memory: it would never be free.
                    Entry::NoRoom => return,
                    Entry::NoLane | Entry::SamePrompt => {}
                }
            }
            return;
        }
    }

    fn may_enter(&self, job: &Job) -> Entry {
        let reading = || self.active.iter().filter(|active| active.is_reading());
        let lanes = reading().count();
        // First: what a shelf covers takes longer to find out, and everybody who waits is asked before every step.
        if lanes >= self.options.lanes {
            return Entry::NoLane;
        }
        let covered = self.shelf.covers(&job.salt, &job.pieces);
        // What another one is reading right now will be on the shelf.
        let shares = |active: &Active| {
            let common = active.job.pieces.iter().zip(&job.pieces).take_while(|(a, b)| a == b).count();
            active.job.salt == job.salt && common > covered && common + 1 > active.piece
        };
        if self.options.checkpoints > 0 && reading().any(shares) {
            return Entry::SamePrompt;
        }
        let left: usize = job.pieces[covered..].iter().map(|piece| piece.len()).sum();
        // A lane beside the first is for those that are done before the others.
        let is_short = || reading().all(|active| 2 * left <= active.left_to_read());
        if lanes > 0 && !is_short() {
            return Entry::NoLane;
        }
        let promised: usize = self.active.iter().map(Active::promised).sum();
        if promised + job.promise.reading.max(job.promise.settled) > self.room() && !self.active.is_empty() {
            return Entry::NoRoom;
        }
        Entry::Now
    }

    /// Begins to serve a request.
    fn begin(&mut self, mut job: Job) {
        let (sequence, piece) = match self.shelf.go_on(&job.salt, &job.pieces, self.runner.model(), &job.session) {
            Some(found) => found,
            None => match Sequence::new(self.runner.model().clone(), &job.session) {
                Ok(sequence) => (sequence, 0),
                Err(error) if is_out_of_memory(&error) && (self.shelf.give_up_one() || !self.active.is_empty()) => {
                    self.queue.push_front(job);
                    return;
                }
                Err(error) => {
                    self.stats.failed += 1;
                    job.fail(error.into());
                    return;
                }
            },
        };
        let cached = sequence.history().len();
        self.stats.cached_tokens += cached as u64;
        job.begin(cached);
        self.active.push(Active {
            job,
            sequence,
            piece,
            stage: Stage::Reading,
            took: false,
            repeated: 0,
            passed_over: 0,
        });
    }

    /// Which of those that read has its turn: the one that is done first, unless another was passed over too often.
    fn reader(&mut self) -> Option<usize> {
        let mut readers: Vec<usize> = (0..self.active.len()).filter(|&i| self.active[i].is_reading()).collect();
        readers.sort_by_key(|&i| self.active[i].left_to_read());
        let patient = readers.iter().copied().find(|&i| self.active[i].passed_over >= PATIENCE);
        let chosen = patient.or(readers.first().copied())?;
        for i in readers {
            self.active[i].passed_over = if i == chosen { 0 } else { self.active[i].passed_over + 1 };
        }
        Some(chosen)
    }

    /// One token of each running answer and one chunk of a prompt.
    fn advance(&mut self) {
        let reader = self.reader();
        let (mut failed, mut batch, mut members) = (Vec::new(), Vec::new(), Vec::new());
        for (i, active) in self.active.iter_mut().enumerate() {
            active.took = false;
            match active.stage {
                Stage::Generating(token) => batch.push(Work::Decode(&mut active.sequence, token)),
                Stage::Reading if Some(i) != reader => continue,
                Stage::Reading => match active.next_piece() {
                    Ok(true) => batch.push(Work::Read(&mut active.sequence)),
                    // A checkpoint covers all of the prompt: there are logits to go on from.
                    Ok(false) => continue,
                    Err(error) => {
                        failed.push((i, error));
                        continue;
                    }
                },
            }
            members.push(i);
        }
        let outcomes = if batch.is_empty() { Vec::new() } else { self.runner.step(&mut batch) };
        drop(batch);
        let mut is_short = false;
        for (i, outcome) in members.into_iter().zip(outcomes) {
            match outcome {
                Ok(StepOutcome::Held) => {}
                Ok(StepOutcome::Took(tokens)) => self.took(i, tokens),
                Err(error) if is_out_of_memory(&error) => is_short = true,
                Err(error) => failed.push((i, error)),
            }
        }
        let mut complete = Vec::new();
        for i in 0..self.active.len() {
            match self.follow(i) {
                Ok(true) => {}
                Ok(false) => complete.push(i),
                Err(error) if is_out_of_memory(&error) => is_short = true,
                Err(error) => failed.push((i, error)),
            }
        }
        self.active.iter_mut().for_each(Active::tell_held);
        self.end(complete, failed);
        if is_short {
            self.make_room();
        }
    }

    /// Takes note of what a step took in for a request.
    fn took(&mut self, i: usize, tokens: usize) {
        let active = &mut self.active[i];
        active.took = true;
        self.queue.count(active.job.key, tokens as u64);
        if active.is_reading() {
            self.stats.prompt_tokens += tokens as u64;
            active.tell_progress();
        }
    }

    /// What follows the step for a request: a checkpoint at the end of a piece, a token that is sampled. Returns whether
    /// it goes on.
    fn follow(&mut self, i: usize) -> Result<bool, EngineError> {
        let active = &mut self.active[i];
        if !active.is_reading() {
            if !active.took {
                return Ok(true);
            }
        } else if active.sequence.state() == State::Ready {
            if active.sequence.compaction_waits() {
                self.runner.settle(&mut [&mut active.sequence]).pop().unwrap_or(Ok(()))?;
            }
            if active.took {
                self.shelf.put(active.job.checkpoint(active.piece), &active.sequence);
            }
        }
        if active.is_reading() && !active.has_read() {
            return Ok(true);
        }
        let before = active.job.generated();
        let goes_on = active.advance(&self.tokenizer)?;
        self.stats.generated_tokens += (active.job.generated() - before) as u64;
        Ok(goes_on)
    }

    /// Ends requests that are complete or failed.
    fn end(&mut self, complete: Vec<usize>, failed: Vec<(usize, EngineError)>) {
        let mut ended: Vec<(usize, Option<EngineError>)> = complete.into_iter().map(|i| (i, None)).collect();
        ended.extend(failed.into_iter().map(|(i, error)| (i, Some(error))));
        ended.sort_by_key(|ended| std::cmp::Reverse(ended.0));
        ended.dedup_by_key(|ended| ended.0);
        for (i, error) in ended {
            let active = self.active.remove(i);
            self.stats.clustering += active.sequence.clustering();
            match error {
                None => {
                    self.stats.finished += 1;
                    active.finish();
                }
                Some(error) => {
                    self.stats.failed += 1;
                    active.job.fail(error.into());
                }
            }
        }
    }

    /// Frees memory for what a step had no room for.
    fn make_room(&mut self) {
        if self.shelf.give_up_one() {
            return;
        }
        // Those that read first: nothing of theirs was heard yet.
        let least = |i: &usize| (!self.active[*i].is_reading(), self.active[*i].work(), std::cmp::Reverse(*i));
        let Some(i) = (0..self.active.len()).min_by_key(least) else { return };
        let active = self.active.remove(i);
        self.stats.clustering += active.sequence.clustering();
        if self.active.is_empty() {
            // It was the only one left, so there is nothing that could make room for it.
            self.stats.failed += 1;
            let (prompt, limit) = (active.job.prompt_tokens, self.room());
            let needed = active.promised();
            active.job.fail(RequestError::Memory { prompt, needed, limit });
            return;
        }
        self.stats.stepped_aside += 1;
        self.queue.push_front(active.step_aside());
    }
}

/// What is to become of a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Its turn has come.
    Now,
    /// There is no room for what it is promised.
    NoRoom,
    /// Others are reading.
    NoLane,
    /// Another one reads the same beginning: that is waited for.
    SamePrompt,
}

/// Whether the pool had no room.
fn is_out_of_memory(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Cache(CacheError::Pool(_)) | EngineError::Model(ModelError::Cache(CacheError::Pool(_)))
    )
}
