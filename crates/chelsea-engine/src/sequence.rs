//! One sequence: the tokens it has seen, its clustered cache, and the logits of the token after the last one.
//!
//! A sequence computes nothing by itself: a [`Runner`](crate::Runner) takes it a step further, alone or together with
//! others. Dropping it gives its memory back at once, in whatever state it is.

use crate::kv::Compaction;
use crate::logits::Logits;
use crate::reading::Reading;
use crate::{Compression, EngineError, SessionOptions, cache_config};
use chelsea_kv::{Budget, CacheConfig, Forecast, MemoryReport, Policy, ReadPlan, SequenceCache};
use chelsea_model::{Model, ModelError};
use std::sync::Arc;
use std::time::Duration;

/// What a sequence can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was read, or a reading was cut short: there is nothing that a token could be sampled from.
    Silent,
    /// A text is being read.
    Reading,
    /// The logits of the next token are there.
    Ready,
    /// A forward pass failed half-way and left layers of different lengths: the sequence is to be dropped.
    Lost,
}

/// A compaction that waits for its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) compaction: Compaction,
    /// The runner's step in which it fell due.
    pub(crate) since: u64,
    /// Whether there was no memory for it when its turn came.
    pub(crate) starved: bool,
}

/// What a sequence is beside its cache and its tokens: what is kept of one whose cache lies in a file for a while.
#[derive(Debug)]
pub(crate) struct Beside {
    logits: Logits,
    reading: Option<Reading>,
    pending: Option<Pending>,
}

impl Beside {
    /// Tokens that are left of the text that is being read.
    pub(crate) fn left_to_read(&self) -> usize {
        self.reading.as_ref().map_or(0, |reading| reading.left().len())
    }
}

/// One sequence over a clustered cache.
#[derive(Debug)]
pub struct Sequence {
    model: Arc<Model>,
    pub(crate) cache: SequenceCache,
    history: Vec<u32>,
    /// Of the token after the last one.
    logits: Logits,
    plan: ReadPlan,
    compression: Compression,
    limit: usize,
    pub(crate) reading: Option<Reading>,
    pub(crate) pending: Option<Pending>,
    lost: bool,
    /// Time spent clustering.
    clustering: Duration,
    /// Compactions.
    compactions: u64,
}

impl Sequence {
    /// An empty sequence.
    ///
    /// # Errors
    /// If the options contradict each other or the model.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Self, EngineError> {
        let cache = SequenceCache::new(cache_config(&model, options)?)?;
        Self::with_cache(model, options, cache, Vec::new())
    }

    /// A sequence that goes on from a cache made before, of the tokens `history`.
    ///
    /// # Errors
    /// If the cache was made for another model, or the options contradict it.
    pub fn with_cache(
        model: Arc<Model>,
        options: &SessionOptions,
        cache: SequenceCache,
        history: Vec<u32>,
    ) -> Result<Self, EngineError> {
        if options.block == 0 {
            return Err(EngineError::ZeroBlock);
        }
        if cache.config().shape != model.cache_shape() {
            return Err(EngineError::OtherShape);
        }
        if cache.tokens() != history.len() {
            return Err(EngineError::History { tokens: history.len(), cached: cache.tokens() });
        }
        // One from a file lies in the host's memory.
        let backend = model.backend();
        let there = backend.name() == cache.config().backend.name();
        let cache = if there { cache } else { cache.moved_to(backend)? };
        let CacheConfig { policy, budget, .. } = cache.config();
        let online = options.compression == Compression::Online && *budget != Budget::EntryFraction(1.0);
        // What was compressed before may be gone on from.
        let compressed = !history.is_empty() && cache.is_within_budget();
        if online && policy.needs().repetition.is_some() && !compressed {
            return Err(EngineError::OneShotOnly(policy.name()));
        }
        let limit = options.context.unwrap_or(model.config().context_length).min(model.config().max_positions());
        Ok(Sequence {
            model,
            cache,
            history,
            logits: Logits::None,
            plan: options.plan(),
            compression: options.compression,
            limit,
            reading: None,
            pending: None,
            lost: false,
            clustering: Duration::ZERO,
            compactions: 0,
        })
    }

    /// A second sequence that goes on from here, a reading included. The caches share their pages until one of the two
    /// writes.
    ///
    /// # Errors
    /// If the pool has no room for what the two do not share.
    pub fn fork(&self) -> Result<Self, EngineError> {
        Ok(Sequence {
            model: self.model.clone(),
            cache: self.cache.fork()?,
            history: self.history.clone(),
            logits: self.logits.clone(),
            plan: self.plan,
            compression: self.compression,
            limit: self.limit,
            reading: self.reading.clone(),
            pending: self.pending,
            lost: self.lost,
            clustering: Duration::ZERO,
            compactions: 0,
        })
    }

    /// The same with the logits of the next token, which whoever made the cache had.
    ///
    /// # Errors
    /// If there are not as many as the vocabulary has tokens.
    pub fn with_logits(self, logits: Vec<f32>) -> Result<Self, EngineError> {
        let vocab = self.model.config().vocab;
        if logits.len() != vocab {
            return Err(EngineError::Logits { given: logits.len(), vocab });
        }
        Ok(Sequence { logits: Logits::Here(logits), ..self })
    }

    /// Gives up the cache and keeps what else it takes to go on, without the logits where they were used.
    pub(crate) fn into_beside(mut self, with_logits: bool) -> Beside {
        if with_logits {
            // A device's memory is for those that go on.
            self.logits.all_mut();
        } else {
            self.logits = Logits::None;
        }
        Beside { logits: self.logits, reading: self.reading, pending: self.pending }
    }

    /// A sequence over the cache that was given up, as it was then.
    pub(crate) fn with_beside(self, beside: Beside) -> Sequence {
        let Beside { logits, reading, pending } = beside;
        Sequence { logits, reading, pending, ..self }
    }

    /// Whether `tokens` more would fit into the context.
    ///
    /// # Errors
    /// If they would not: with what limits the sequence.
    pub fn check_context(&self, tokens: usize) -> Result<(), EngineError> {
        let (needed, limit) = (self.history.len().saturating_add(tokens), self.limit);
        if needed <= limit {
            return Ok(());
        }
        Err(EngineError::ContextFull { needed, limit })
    }

    /// Whether `tokens` could be taken in next.
    ///
    /// # Errors
    /// If the sequence was lost, if they are none, if one is outside the vocabulary, and if they do not fit into the
    /// context.
    pub fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        if self.lost {
            return Err(EngineError::Lost);
        }
        if tokens.is_empty() {
            return Err(ModelError::EmptyChunk.into());
        }
        let vocab = self.model.config().vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(ModelError::Token { token, vocab }.into());
        }
        self.check_context(tokens.len())
    }

    /// Begins to read a text, all of which is to come next; [`Work::Read`](crate::Work::Read) takes in a chunk of it at
    /// a time. A text that is being read is given up, as by [`Sequence::stop_reading`].
    ///
    /// # Errors
    /// If the text does not fit into the context: before anything is changed.
    pub fn start_reading(&mut self, text: impl Into<Arc<[u32]>>) -> Result<(), EngineError> {
        self.start(Reading::new(text))
    }

    /// As [`Sequence::start_reading`], of a text whose reading was set up.
    ///
    /// # Errors
    /// If what is left of the text does not fit into the context: before anything is changed.
    pub fn start(&mut self, reading: Reading) -> Result<(), EngineError> {
        self.check_context(reading.left().len())?;
        self.reading = Some(reading).filter(|reading| !reading.is_done());
        Ok(())
    }

    /// Gives up what is left of a text; what was read of it stays. Returns whether there was anything left.
    pub fn stop_reading(&mut self) -> bool {
        self.reading.take().is_some()
    }

    /// What is left of the text that is being read.
    pub fn reading(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    /// What the sequence can do next.
    pub fn state(&self) -> State {
        if self.lost {
            State::Lost
        } else if self.reading.is_some() {
            State::Reading
        } else if self.logits.is_none() {
            State::Silent
        } else {
            State::Ready
        }
    }

    /// Whether a compaction waits for its turn. A sequence for which one does takes in nothing before it was made; have
    /// [`Runner::settle`](crate::Runner::settle) make it before the cache is saved, rewound or reconfigured.
    pub fn compaction_waits(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether a compaction waits for which there was no memory when its turn came.
    pub(crate) fn is_starved(&self) -> bool {
        self.pending.is_some_and(|pending| pending.starved)
    }

    /// Tokens of the next chunk of the text that is being read; 0 when none is.
    pub(crate) fn next_chunk(&mut self) -> usize {
        let Some(reading) = &self.reading else { return 0 };
        if reading.done() == 0 {
            // Not before: a compaction that waited until now is one of the text before.
            self.cache.expect_tokens(self.history.len() + reading.total(), self.plan.recent);
        }
        let until_due = match self.compression {
            Compression::OneShot => usize::MAX,
            Compression::Online => self.cache.tokens_until_due(),
        };
        reading.next(&self.plan, until_due).len()
    }

    /// Makes sure that the cache can take in `tokens` more.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<(), EngineError> {
        Ok(self.cache.reserve(tokens)?)
    }

    /// Takes note of tokens that went through the model, and of the logits after the last one if they were wanted.
    pub(crate) fn took(&mut self, tokens: &[u32], logits: Logits) {
        self.history.extend_from_slice(tokens);
        self.logits = logits;
    }

    /// The logits that were made last, whose room may be used again: there are none afterwards.
    pub(crate) fn take_logits(&mut self) -> Logits {
        std::mem::take(&mut self.logits)
    }

    /// Takes note that `tokens` of the text that is being read went through the model. Returns the compaction that is
    /// to follow.
    pub(crate) fn took_chunk(&mut self, tokens: usize, logits: Logits) -> Option<Compaction> {
        let mut reading = self.reading.take()?;
        let ended = tokens == reading.left().len();
        // Within a text nothing is to be sampled, even where logits were made to score it.
        self.took(&reading.left()[..tokens], if ended { logits } else { Logits::None });
        reading.advance(tokens);
        let total = reading.total();
        if !ended {
            self.reading = Some(reading);
        }
        match self.compression {
            Compression::OneShot => None,
            // A text that is shorter than what decoding lets pile up (a short question) piles up with it.
            Compression::Online if ended && total >= self.cache.config().decode_block => Some(Compaction::AtEnd),
            Compression::Online => Some(Compaction::Due),
        }
    }

    /// Has a compaction wait for its turn from step `now` on, if there is anything to do.
    pub(crate) fn ask_for(&mut self, compaction: Compaction, now: u64) {
        if compaction == Compaction::AtEnd || self.cache.compaction_is_due() {
            self.pending = Some(Pending { compaction, since: now, starved: false });
        }
    }

    /// Carries out the compaction that waits. Returns whether there was anything to do.
    pub(crate) fn compact(&mut self) -> Result<bool, EngineError> {
        let Some(pending) = self.pending else { return Ok(false) };
        self.pending = Some(Pending { starved: true, ..pending });
        let report = pending.compaction.carry_out(&mut self.cache)?;
        self.pending = None;
        Ok(report.compacted)
    }

    pub(crate) fn lose(&mut self) {
        self.lost = true;
        self.reading = None;
        self.logits = Logits::None;
    }

    pub(crate) fn count_clustering(&mut self, time: Duration) {
        self.clustering += time;
        self.compactions += 1;
    }

    /// Compactions so far.
    pub fn compactions(&self) -> u64 {
        self.compactions
    }

    /// Time spent clustering, so far or since [`Sequence::forget_clustering`].
    pub fn clustering(&self) -> Duration {
        self.clustering
    }

    /// Counts the time spent clustering from zero.
    pub fn forget_clustering(&mut self) {
        self.clustering = Duration::ZERO;
    }

    /// Changes policy and budget from here on.
    ///
    /// # Errors
    /// If the two do not fit together or to the cache.
    pub fn reconfigure(&mut self, policy: &Arc<dyn Policy>, budget: Budget) -> Result<(), EngineError> {
        Ok(self.cache.reconfigure(policy.clone(), budget)?)
    }

    /// Changes when prompts are clustered from here on.
    pub fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// How prompts are cut into steps.
    pub fn plan(&self) -> &ReadPlan {
        &self.plan
    }

    /// Logits of the token after the last one; empty before anything was read, within a text, and after a reading that
    /// was cut short. Of a model on a device, the first call copies them from there: [`Sequence::has_logits`] does not.
    pub fn logits(&self) -> &[f32] {
        self.logits.all()
    }

    /// Whether there are logits of the token after the last one.
    pub fn has_logits(&self) -> bool {
        !self.logits.is_none()
    }

    /// The likeliest of the logits, where a device found them.
    pub(crate) fn likeliest(&self) -> Option<&[(u32, f32)]> {
        self.logits.likeliest()
    }

    /// The logits, and the tokens they follow: what a sampler needs.
    pub(crate) fn logits_and_history(&mut self) -> (&mut [f32], &[u32]) {
        (self.logits.all_mut(), &self.history)
    }

    /// Tokens read and generated so far.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Longest sequence this may become.
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

    /// First token from which the sequence can be taken back: see [`Sequence::rewind`].
    pub fn exact_from(&self) -> usize {
        self.cache.exact_from()
    }

    /// Takes back the last `tokens` tokens, as if they had never come. There are no logits afterwards.
    ///
    /// # Errors
    /// If some of them were clustered, a text is being read, or a compaction waits.
    pub fn rewind(&mut self, tokens: usize) -> Result<(), EngineError> {
        if self.lost {
            return Err(EngineError::Lost);
        }
        if self.reading.is_some() || self.pending.is_some() {
            return Err(EngineError::StillReading);
        }
        self.cache.rewind(tokens)?;
        self.history.truncate(self.history.len() - tokens);
        self.logits = Logits::None;
        Ok(())
    }

    /// Bytes that the sequence is going to take once it has `tokens` tokens in all.
    pub fn forecast(&self, tokens: usize) -> Forecast {
        self.cache.forecast(tokens, &self.plan)
    }

    /// Where every byte of the cache is.
    pub fn memory(&self) -> MemoryReport {
        self.cache.memory()
    }
}
