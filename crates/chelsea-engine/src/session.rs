//! One conversation: a sequence and a runner of its own. What most programs need.
//!
//! Everything here is a loop over [`Runner::step`], which takes one sequence or many a step further.

use crate::runner::{Outcome, Pace, Runner, Work};
use crate::sequence::Sequence;
use crate::{Compression, EngineError, SessionOptions};
use chelsea_kv::{Budget, MemoryReport, Policy, SequenceCache};
use chelsea_model::{Model, Spent as PhaseTimes};
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// Where a session's time went, while it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionTimes {
    /// Forward passes.
    pub forward: PhaseTimes,
    /// Clustering.
    pub clustering: Duration,
}

/// One sequence over a clustered cache, and what it runs on.
pub struct Session {
    runner: Runner,
    cancel: Arc<AtomicBool>,
    sequence: Sequence,
}

impl Session {
    /// An empty sequence. `cancel` ends reading and generation between two chunks or tokens.
    ///
    /// # Errors
    /// As [`Sequence::new`].
    pub fn new(
        model: Arc<Model>,
        pool: Arc<ThreadPool>,
        cancel: Arc<AtomicBool>,
        options: &SessionOptions,
    ) -> Result<Self, EngineError> {
        Ok(Self::of(Sequence::new(model, options)?, pool, cancel))
    }

    /// A sequence that goes on from a cache made before, of the tokens `history`.
    ///
    /// # Errors
    /// As [`Sequence::with_cache`].
    pub fn with_cache(
        model: Arc<Model>,
        pool: Arc<ThreadPool>,
        cancel: Arc<AtomicBool>,
        options: &SessionOptions,
        cache: SequenceCache,
        history: Vec<u32>,
    ) -> Result<Self, EngineError> {
        Ok(Self::of(Sequence::with_cache(model, options, cache, history)?, pool, cancel))
    }

    /// A sequence on its own.
    fn of(sequence: Sequence, pool: Arc<ThreadPool>, cancel: Arc<AtomicBool>) -> Self {
        let runner = Runner::new(sequence.model().clone(), pool).with_pace(Pace::AllAtOnce);
        Session { runner, cancel, sequence }
    }

    /// A second session that goes on from here. The caches share their pages until one writes.
    ///
    /// # Errors
    /// If the pool has no room for what the two do not share.
    pub fn fork(&self) -> Result<Self, EngineError> {
        Ok(Self::of(self.sequence.fork()?, self.runner.pool().clone(), self.cancel.clone()))
    }

    /// Reads `tokens` in chunks. Stops early, with what was read so far, when cancelled.
    ///
    /// # Errors
    /// If they do not fit into the context, before any is read, and those of [`Runner::step`], after which what was
    /// read so far stays.
    pub fn read(&mut self, tokens: &[u32], mut progress: impl FnMut(Progress)) -> Result<ReadStats, EngineError> {
        let (start, clustered) = (Instant::now(), self.sequence.clustering());
        let mut stats = ReadStats::default();
        self.sequence.start_reading(tokens)?;
        while self.sequence.reading().is_some() && !self.cancelled() {
            let step = one_step(&mut self.runner, Work::Read(&mut self.sequence));
            match step.and_then(|tokens| self.settle().map(|()| tokens)) {
                Ok(tokens) => stats.tokens += tokens,
                Err(error) => {
                    self.sequence.stop_reading();
                    return Err(error);
                }
            }
            stats.clustering = self.sequence.clustering() - clustered;
            stats.time = start.elapsed();
            progress(Progress { done: stats.tokens, total: tokens.len() });
        }
        self.sequence.stop_reading();
        Ok(stats)
    }

    /// Clusters everything between sinks and window down to the budget, at once.
    ///
    /// # Errors
    /// If the policy needs a second pass over the text that was not made: see [`Session::compress_with`].
    pub fn compress(&mut self) -> Result<Duration, EngineError> {
        self.runner.compress(&mut self.sequence)
    }

    /// Takes one more token in and makes the logits of the one after it.
    ///
    /// # Errors
    /// Those of [`Runner::step`].
    pub fn step(&mut self, token: u32) -> Result<(), EngineError> {
        one_step(&mut self.runner, Work::Decode(&mut self.sequence, token))?;
        self.settle()
    }

    /// Takes one more token into each session, `tokens[i]` into `sessions[i]`, in one pass over the weights; each
    /// session then holds the logits of the token after it, as after [`Session::step`]. The sessions run on the runner's
    /// model and may differ in everything else.
    ///
    /// # Errors
    /// [`EngineError`] when the numbers of sessions and tokens differ, when models differ, and when a token is unknown
    /// or one of the sequences is full: all of these before any session is touched. Where one finds no memory, the
    /// others have taken their token in.
    pub fn step_many(sessions: &mut [&mut Session], tokens: &[u32], runner: &mut Runner) -> Result<(), EngineError> {
        if sessions.len() != tokens.len() {
            return Err(EngineError::BatchLength { sessions: sessions.len(), tokens: tokens.len() });
        }
        for (session, token) in sessions.iter().zip(tokens) {
            if !Arc::ptr_eq(session.model(), runner.model()) {
                return Err(EngineError::BatchModels);
            }
            session.sequence.check(std::slice::from_ref(token))?;
        }
        let rows = sessions.iter_mut().zip(tokens).map(|(session, &token)| (&mut session.sequence, token));
        decode_all(rows.collect(), runner)?;
        // Whatever the runner's pace: nobody is waited for.
        let all = sessions.iter_mut().map(|session| &mut session.sequence);
        let mut waiting: Vec<&mut Sequence> = all.filter(|sequence| sequence.compaction_waits()).collect();
        first_error(runner.settle(&mut waiting))
    }

    /// Reads `tokens` and returns `-ln p` of each, given all before it. Something must have been read.
    ///
    /// # Errors
    /// As [`Session::score_each`].
    pub fn score(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EngineError> {
        let mut losses = Vec::with_capacity(tokens.len());
        self.score_each(tokens, |logits, token| losses.push(loss(logits, token)))?;
        Ok(losses)
    }

    /// Reads `tokens`; `each` is given every one of them with the logits that predicted it. Something must have
    /// been read.
    ///
    /// # Errors
    /// If nothing was read, if they do not fit into the context, and those of [`Runner::step`].
    pub fn score_each(&mut self, tokens: &[u32], mut each: impl FnMut(&[f32], u32)) -> Result<(), EngineError> {
        self.check_context(tokens.len())?;
        if !self.sequence.has_logits() {
            return Err(EngineError::NothingRead);
        }
        let vocab = self.model().config().vocab;
        for block in tokens.chunks(self.sequence.plan().step) {
            each(self.logits(), block[0]);
            one_step(&mut self.runner, Work::Score(&mut self.sequence, block))?;
            let rows = self.runner.logits(0).chunks_exact(vocab);
            rows.zip(&block[1..]).for_each(|(row, &next)| each(row, next));
            self.settle()?;
        }
        Ok(())
    }

    /// Carries out a compaction that found no memory within a step.
    fn settle(&mut self) -> Result<(), EngineError> {
        if self.sequence.compaction_waits() {
            first_error(self.runner.settle(&mut [&mut self.sequence]))
        } else {
            Ok(())
        }
    }

    /// From now on counts where time goes, or no longer does; either way from zero.
    pub fn measure(&mut self, on: bool) {
        self.runner.measure(on);
        self.sequence.forget_clustering();
    }

    /// Where time went since [`Session::measure`] was told to count.
    pub fn times(&self) -> SessionTimes {
        SessionTimes { forward: self.runner.times(), clustering: self.sequence.clustering() }
    }

    /// Whether the sequence was told to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// The sequence, and the runner that takes it further.
    pub fn parts(&mut self) -> (&mut Sequence, &mut Runner) {
        (&mut self.sequence, &mut self.runner)
    }

    /// The sequence.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// The threads that compute.
    pub(crate) fn pool(&self) -> &Arc<ThreadPool> {
        self.runner.pool()
    }

    /// As [`Sequence::check_context`].
    ///
    /// # Errors
    /// If so many tokens more would not fit.
    pub fn check_context(&self, tokens: usize) -> Result<(), EngineError> {
        self.sequence.check_context(tokens)
    }

    /// As [`Sequence::reconfigure`].
    ///
    /// # Errors
    /// If policy and budget do not fit together or to the cache.
    pub fn reconfigure(&mut self, policy: &Arc<dyn Policy>, budget: Budget) -> Result<(), EngineError> {
        self.sequence.reconfigure(policy, budget)
    }

    /// Changes when prompts are clustered from here on.
    pub(crate) fn set_compression(&mut self, compression: Compression) {
        self.sequence.set_compression(compression);
    }

    /// As [`Sequence::logits`].
    pub fn logits(&self) -> &[f32] {
        self.sequence.logits()
    }

    /// Tokens read and generated so far.
    pub fn history(&self) -> &[u32] {
        self.sequence.history()
    }

    /// Longest sequence this session takes.
    pub fn limit(&self) -> usize {
        self.sequence.limit()
    }

    /// The cache.
    pub fn cache(&self) -> &SequenceCache {
        self.sequence.cache()
    }

    /// The cache, to be compacted or changed by hand.
    pub fn cache_mut(&mut self) -> &mut SequenceCache {
        self.sequence.cache_mut()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.sequence.model()
    }

    /// Where every byte of the cache is.
    pub fn memory(&self) -> MemoryReport {
        self.sequence.memory()
    }
}

/// Takes one sequence further. Returns the tokens that it took.
fn one_step(runner: &mut Runner, work: Work<'_>) -> Result<usize, EngineError> {
    let outcome = runner.step(&mut [work]).pop().unwrap_or(Ok(Outcome::Held))?;
    Ok(if let Outcome::Took(tokens) = outcome { tokens } else { 0 })
}

/// Has every sequence take its token, those that are held by a compaction in further steps.
pub(crate) fn decode_all(rows: Vec<(&mut Sequence, u32)>, runner: &mut Runner) -> Result<(), EngineError> {
    let mut batch: Vec<Work<'_>> = rows.into_iter().map(|(sequence, token)| Work::Decode(sequence, token)).collect();
    while !batch.is_empty() {
        let outcomes = runner.step(&mut batch);
        let mut held = outcomes.iter().map(|outcome| matches!(outcome, Ok(Outcome::Held)));
        batch.retain(|_| held.next().unwrap_or(false));
        first_error(outcomes)?;
    }
    Ok(())
}

/// The first error of several works, if there was any.
fn first_error<T>(outcomes: Vec<Result<T, EngineError>>) -> Result<(), EngineError> {
    outcomes.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

/// `-ln softmax(logits)[token]`.
fn loss(logits: &[f32], token: u32) -> f64 {
    let (top, log_sum) = log_sum(logits);
    logits.get(token as usize).map_or(f64::INFINITY, |&x| log_sum - f64::from(x - top))
}

/// The largest logit, and the logarithm of the sum of all exponentials less it: `ln softmax` of a logit `x` is
/// `(x - largest) - log_sum`.
pub(crate) fn log_sum(logits: &[f32]) -> (f32, f64) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    (top, sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_the_negative_log_probability() {
        let logits = [0.0, 3f32.ln()];
        assert!((loss(&logits, 1) - (4f64 / 3.0).ln()).abs() < 1e-6);
        assert!((loss(&logits, 0) - 4f64.ln()).abs() < 1e-6);
        assert_eq!(loss(&logits, 7), f64::INFINITY);
    }
}
