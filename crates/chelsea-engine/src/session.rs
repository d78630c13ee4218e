//! One sequence: a model, its clustered cache, and what was read so far.
//!
//! Text is read in blocks. After every block all layers hold the same tokens, and only then may the
//! cache be compacted: so its size never exceeds the budget by more than one block.

mod batch;

use crate::EngineError;
use chelsea_kv::{Budget, CacheConfig, CompactReport, Dtype, MemoryReport, PAGE, Schedule, SequenceCache};
use chelsea_model::{Chunk, Model, ModelError, Spent, Wanted, Workspace};
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When the cache of a prompt is clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Block by block while reading: memory never exceeds the budget by more than a block.
    Online,
    /// When [`Session::compress`] is called, and never while reading, which needs the memory of the full cache. When the
    /// answer grows, it is compacted as needed to hold the budget, as with `Online`.
    OneShot,
}

/// How a sequence keeps its cache.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How much may be kept.
    pub budget: Budget,
    /// A policy of the registry, with settings if any: `chelsea:floor=0`.
    pub policy: String,
    /// Whether old centroids are matched again.
    pub schedule: Schedule,
    /// When prompts are clustered.
    pub compression: Compression,
    /// First entries of every head that are never merged.
    pub sinks: usize,
    /// Last entries of every head that are never merged.
    pub window: usize,
    /// Entries of each head that reading a prompt may hold beyond the budget. Most of them are the latest
    /// text, not clustered yet; an eighth of so many tokens pass through the model at once, and a quarter where
    /// nothing has to be clustered for them.
    pub block: usize,
    /// Longest sequence, prompt and answer together; the trained context when none is given.
    pub context: Option<usize>,
    /// Storage of keys and values. When none is given, [`dtype_for`] the budget.
    pub dtype: Option<Dtype>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            budget: Budget::Keep(1.0),
            policy: "chelsea".into(),
            schedule: Schedule::default(),
            compression: Compression::Online,
            sinks: 4,
            window: 64,
            block: 1024,
            context: None,
            dtype: None,
        }
    }
}

/// How far reading has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Tokens read of those given.
    pub done: usize,
    /// Tokens given.
    pub total: usize,
}

/// What reading took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReadStats {
    /// Tokens read.
    pub tokens: usize,
    /// Time in all.
    pub time: Duration,
    /// Part of the time that went into clustering.
    pub clustering: Duration,
}

/// Where a sequence's time went, while it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Forward passes.
    pub forward: Spent,
    /// Clustering.
    pub clustering: Duration,
}

/// One sequence over a clustered cache.
pub struct Session {
    model: Arc<Model>,
    pool: Arc<ThreadPool>,
    cancel: Arc<AtomicBool>,
    cache: SequenceCache,
    workspace: Workspace,
    history: Vec<u32>,
    block: usize,
    limit: usize,
    compression: Compression,
    /// Time spent clustering.
    clustering: Duration,
}

impl Session {
    /// An empty sequence. `cancel` ends reading and generation between two blocks or tokens.
    pub fn new(
        model: Arc<Model>,
        pool: Arc<ThreadPool>,
        cancel: Arc<AtomicBool>,
        options: &SessionOptions,
    ) -> Result<Self, EngineError> {
        let cache = SequenceCache::new(cache_config(&model, options)?)?;
        Self::with_cache(model, pool, cancel, options, cache, Vec::new())
    }

    /// A sequence that goes on from a cache made before, of the tokens `history`.
    pub fn with_cache(
        model: Arc<Model>,
        pool: Arc<ThreadPool>,
        cancel: Arc<AtomicBool>,
        options: &SessionOptions,
        cache: SequenceCache,
        history: Vec<u32>,
    ) -> Result<Self, EngineError> {
        if options.block == 0 {
            return Err(EngineError::ZeroBlock);
        }
        let CacheConfig { policy, budget, .. } = cache.config();
        let online = options.compression == Compression::Online && *budget != Budget::Keep(1.0);
        // What was compressed before may be gone on from.
        let compressed = !history.is_empty() && cache.is_within_budget();
        if online && policy.needs().repetition.is_some() && !compressed {
            return Err(EngineError::OneShotOnly(policy.name()));
        }
        let limit = options.context.unwrap_or(model.config().context_length).min(model.config().max_positions());
        Ok(Session {
            model,
            pool,
            cancel,
            cache,
            workspace: Workspace::new(),
            history,
            block: options.block,
            limit,
            compression: options.compression,
            clustering: Duration::ZERO,
        })
    }

    /// A second sequence that goes on from here. The caches share their pages until one writes.
    pub fn fork(&self) -> Self {
        Session {
            model: self.model.clone(),
            pool: self.pool.clone(),
            cancel: self.cancel.clone(),
            cache: self.cache.fork(),
            workspace: Workspace::with_logits(self.logits()),
            history: self.history.clone(),
            block: self.block,
            limit: self.limit,
            compression: self.compression,
            clustering: Duration::ZERO,
        }
    }

    /// Whether `tokens` more would fit.
    ///
    /// # Errors
    /// If they would not: with what limits the sequence.
    pub fn check_room(&self, tokens: usize) -> Result<(), EngineError> {
        let (needed, limit) = (self.history.len().saturating_add(tokens), self.limit);
        if needed <= limit {
            return Ok(());
        }
        Err(match self.model.config().window {
            // No wider context would help.
            Some(window) if window <= limit => ModelError::Window { window, needed }.into(),
            _ => EngineError::ContextFull { needed, limit },
        })
    }

    /// Reads `tokens` in blocks. Stops early, with what was read so far, when cancelled.
    pub fn read(&mut self, tokens: &[u32], mut progress: impl FnMut(Progress)) -> Result<ReadStats, EngineError> {
        self.check_room(tokens.len())?;
        let needed = self.history.len() + tokens.len();
        let start = Instant::now();
        let mut stats = ReadStats::default();
        self.cache.expect_tokens(needed, self.recent_tokens());
        let mut rest = tokens;
        while !rest.is_empty() && !self.cancelled() {
            let (block, after) = rest.split_at(self.next_step(rest.len()));
            rest = after;
            self.forward(block, if rest.is_empty() { Wanted::Last } else { Wanted::None })?;
            if self.compression == Compression::Online {
                // A text that is shorter than what decoding lets pile up (a short question) piles up with it.
                let ends = rest.is_empty() && tokens.len() >= self.cache.config().decode_block;
                stats.clustering += if ends { self.cluster(SequenceCache::compact_at_end) } else { self.compact() };
            }
            stats.tokens += block.len();
            stats.time = start.elapsed();
            progress(Progress { done: stats.tokens, total: tokens.len() });
        }
        Ok(stats)
    }

    /// Changes policy and budget from here on.
    pub fn reconfigure(&mut self, policy: &str, budget: Budget) -> Result<(), EngineError> {
        self.cache.reconfigure(chelsea_kv::policy(policy)?, budget)?;
        Ok(())
    }

    /// Changes when prompts are clustered from here on.
    pub(crate) fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// Clusters everything between sinks and window down to the budget, at once.
    ///
    /// # Errors
    /// If the policy needs a second pass over the text that was not made: see [`Session::compress_with`].
    pub fn compress(&mut self) -> Result<Duration, EngineError> {
        let start = Instant::now();
        let (pool, cache) = (self.pool.clone(), &mut self.cache);
        pool.install(|| cache.compact_now(None))?;
        Ok(start.elapsed())
    }

    /// Takes one more token in and makes the logits of the one after it.
    pub fn step(&mut self, token: u32) -> Result<(), EngineError> {
        self.check_room(1)?;
        self.forward(&[token], Wanted::Last)?;
        self.compact();
        Ok(())
    }

    /// Reads `tokens` and returns `-ln p` of each, given all before it. Something must have been read.
    pub fn score(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EngineError> {
        let mut losses = Vec::with_capacity(tokens.len());
        self.score_each(tokens, |logits, token| losses.push(loss(logits, token)))?;
        Ok(losses)
    }

    /// Reads `tokens`; `each` is given every one of them with the logits that predicted it. Something must have
    /// been read.
    pub fn score_each(&mut self, tokens: &[u32], mut each: impl FnMut(&[f32], u32)) -> Result<(), EngineError> {
        self.check_room(tokens.len())?;
        if self.logits().is_empty() {
            return Err(EngineError::NothingRead);
        }
        for block in tokens.chunks(self.step_tokens()) {
            each(self.logits(), block[0]);
            self.forward(block, Wanted::All)?;
            let vocab = self.model.config().vocab;
            let rows = self.workspace.logits().chunks_exact(vocab);
            rows.zip(&block[1..]).for_each(|(row, &next)| each(row, next));
            self.compact();
        }
        Ok(())
    }

    /// Tokens of a prompt that pass through the model at once while it is compressed.
    fn step_tokens(&self) -> usize {
        self.block.div_ceil(8)
    }

    /// Tokens that pass through the model next, of `left`: twice as many where none of them is one too many, so that
    /// weights are opened half as often.
    fn next_step(&self, left: usize) -> usize {
        let (step, twice) = (self.step_tokens().min(left), (2 * self.step_tokens()).min(left));
        let free = self.compression == Compression::OneShot || self.cache.room() >= twice;
        if free { twice } else { step }
    }

    /// Latest tokens of a prompt that are left alone while the rest of it is still to be read. They, the
    /// next step and the page that each head may leave half empty fit into one block; a quarter of it stays
    /// for what entries cost beside keys and values, and for what clustering takes for a while.
    fn recent_tokens(&self) -> usize {
        (self.block * 5 / 8).min((self.block - self.step_tokens()).saturating_sub(PAGE))
    }

    fn forward(&mut self, tokens: &[u32], logits: Wanted) -> Result<(), EngineError> {
        let (pool, model) = (self.pool.clone(), self.model.clone());
        let (cache, workspace) = (&mut self.cache, &mut self.workspace);
        pool.install(|| model.forward(&mut [Chunk { tokens, cache, logits }], workspace))?;
        self.history.extend_from_slice(tokens);
        Ok(())
    }

    fn compact(&mut self) -> Duration {
        // Most steps have nothing to do: waking the pool would cost more than asking.
        if self.cache.compaction_is_due() { self.cluster(SequenceCache::compact) } else { Duration::ZERO }
    }

    fn cluster(&mut self, how: impl FnOnce(&mut SequenceCache) -> CompactReport + Send) -> Duration {
        let start = Instant::now();
        let (pool, cache) = (self.pool.clone(), &mut self.cache);
        let report = pool.install(|| how(cache));
        // At the end of a text there may have been nothing to do.
        let time = if report.compacted { start.elapsed() } else { Duration::ZERO };
        self.clustering += time;
        time
    }

    /// From now on counts where time goes, or no longer does; either way from zero.
    pub fn measure(&mut self, on: bool) {
        self.workspace.measure(on);
        self.clustering = Duration::ZERO;
    }

    /// Where time went since [`Session::measure`] was told to count.
    pub fn times(&self) -> Times {
        Times { forward: self.workspace.spent(), clustering: self.clustering }
    }

    /// Whether the sequence was told to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Logits of the token after the last one read; empty before anything was read, and after a reading
    /// that was cut short.
    pub fn logits(&self) -> &[f32] {
        let all = self.workspace.logits();
        &all[all.len().saturating_sub(self.model.config().vocab)..]
    }

    /// The logits, and the tokens they follow: what a sampler needs.
    pub(crate) fn logits_and_history(&mut self) -> (&mut [f32], &[u32]) {
        let all = self.workspace.logits_mut();
        let last = all.len().saturating_sub(self.model.config().vocab);
        (&mut all[last..], &self.history)
    }

    /// Tokens read and generated so far.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Longest sequence this session takes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The cache.
    pub fn cache(&self) -> &SequenceCache {
        &self.cache
    }

    /// The cache, to be compacted or changed by hand.
    pub fn cache_mut(&mut self) -> &mut SequenceCache {
        &mut self.cache
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Where every byte of the cache is.
    pub fn memory(&self) -> MemoryReport {
        self.cache.memory()
    }
}

/// The cache that `options` ask for, for this model.
pub fn cache_config(model: &Model, options: &SessionOptions) -> Result<CacheConfig, EngineError> {
    Ok(CacheConfig {
        dtype: options.dtype.unwrap_or(dtype_for(options.budget, model.kv_dtype())),
        sinks: options.sinks,
        window: options.window,
        policy: chelsea_kv::policy(&options.policy)?,
        budget: options.budget,
        schedule: options.schedule,
        ..CacheConfig::new(model.cache_shape())
    })
}

/// Share of the bytes of a full 16-bit cache of which 8 bits make the most. In less, values in 4 bits do: what they lose
/// is less than what the entries are worth that there is room for (docs/experiments.md, "Values in 4 bits").
const ENOUGH_FOR_Q8: f32 = 0.15;

/// How keys and values are stored when nobody says how, by a model that works in `own`: a budget of bytes holds the more
/// entries the smaller they are.
pub fn dtype_for(budget: Budget, own: Dtype) -> Dtype {
    match budget {
        Budget::Share(share) if share < ENOUGH_FOR_Q8 => Dtype::K8V4,
        Budget::Share(_) | Budget::Bytes(_) => Dtype::Q8,
        Budget::Keep(_) | Budget::Entries(_) => own,
    }
}

/// `-ln softmax(logits)[token]`.
fn loss(logits: &[f32], token: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    logits.get(token as usize).map_or(f64::INFINITY, |&x| sum.ln() - f64::from(x - top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_a_budget_of_bytes_the_smaller_are_its_numbers() {
        let stored = |budget: &str| dtype_for(budget.parse().expect("a budget"), Dtype::Bf16);
        assert_eq!(["100%", "20000"].map(stored), [Dtype::Bf16; 2]);
        assert_eq!(["99%", "25%", "15%", "512MiB"].map(stored), [Dtype::Q8; 4]);
        assert_eq!(["14.9%", "1%"].map(stored), [Dtype::K8V4; 2]);
        assert_eq!(dtype_for(Budget::Keep(0.1), Dtype::F16), Dtype::F16);
    }

    #[test]
    fn loss_is_the_negative_log_probability() {
        let logits = [0.0, 3f32.ln()];
        assert!((loss(&logits, 1) - (4f64 / 3.0).ln()).abs() < 1e-6);
        assert!((loss(&logits, 0) - 4f64.ln()).abs() < 1e-6);
        assert_eq!(loss(&logits, 7), f64::INFINITY);
    }
}
