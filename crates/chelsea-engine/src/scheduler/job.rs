//! A request on its way, and what it is promised.

use super::request::{Event, Listener, Outcome, Request, RequestError, Sampled};
use super::{GROWTH, logprobs, shelf::CheckpointKey};
use crate::generate::Answer;
use crate::{EngineError, Sequence, SessionOptions, State};
use chelsea_kv::CacheConfig;
use chelsea_model::tokenizer::Tokenizer;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that a request is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    /// While its prompt is read.
    pub(super) reading: usize,
    /// Afterwards, for so many tokens of its answer as are promised at its entry.
    pub(super) settled: usize,
}

/// A request whose settings make no answer, and who is to be told.
pub(super) struct Refused {
    pub(super) listener: Box<dyn Listener>,
    pub(super) error: EngineError,
}

/// What cannot change about a request.
pub(super) struct Job {
    pub(super) pieces: Vec<Arc<[u32]>>,
    pub(super) prompt_tokens: usize,
    pub(super) session: SessionOptions,
    pub(super) config: CacheConfig,
    pub(super) salt: Arc<str>,
    pub(super) key: u64,
    pub(super) promise: Promise,
    logprobs: Option<usize>,
    pub(super) listener: Box<dyn Listener>,
    /// When it was told last what its cache holds.
    pub(super) held_told: Option<Instant>,
    asked: Instant,
    began: Option<Instant>,
    first_token: Option<Instant>,
    cached: usize,
    answer: Answer,
    /// Tokens that were sampled before the cache was given up: they are taken in once more.
    pub(super) again: Vec<u32>,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its prompt is read.
    Reading,
    /// This token is to be taken in next.
    Generating(u32),
}

/// A request whose turn has come.
pub(super) struct Active {
    pub(super) job: Job,
    pub(super) sequence: Sequence,
    /// Pieces of the prompt that were begun.
    pub(super) piece: usize,
    pub(super) stage: Stage,
    /// Whether the last step took something in.
    pub(super) took: bool,
    /// Tokens of [`Job::again`] that were taken in once more.
    pub(super) repeated: usize,
    /// Reads in a row for which others were preferred.
    pub(super) passed_over: usize,
}

impl Job {
    /// # Errors
    /// If a setting of the answer is out of its range: with the one who is to be told.
    pub(super) fn new(
        request: Request,
        config: CacheConfig,
        promise: Promise,
        most: usize,
    ) -> Result<Job, Box<Refused>> {
        let prompt_tokens = request.prompt_tokens();
        let mut generate = request.generate;
        generate.max_tokens = Some(generate.max_tokens.map_or(most, |tokens| tokens.min(most)));
        let answer = match Answer::new(&generate) {
            Ok(answer) => answer,
            Err(error) => return Err(Box::new(Refused { listener: request.listener, error })),
        };
        let pieces: Vec<_> = request.pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Ok(Job {
            prompt_tokens,
            salt: salt(request.key, &config, &request.session).into(),
            pieces,
            session: request.session,
            config,
            key: request.key,
            promise,
            answer,
            logprobs: request.logprobs,
            listener: request.listener,
            held_told: None,
            asked: Instant::now(),
            began: None,
            first_token: None,
            cached: 0,
            again: Vec::new(),
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.listener.is_gone()
    }

    pub(super) fn fail(mut self, error: RequestError) {
        self.listener.hear(Event::Failed(error));
    }

    /// Tells that it was taken in.
    pub(super) fn tell_waiting(&mut self) {
        self.listener.hear(Event::Waiting);
    }

    /// Takes note that its turn has come, for the first time or once more.
    pub(super) fn begin(&mut self, cached: usize) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            self.cached = cached;
            self.listener.hear(Event::Started { cached });
        }
    }

    /// The checkpoint at the end of the first `pieces` pieces.
    pub(super) fn checkpoint(&self, pieces: usize) -> CheckpointKey {
        CheckpointKey { salt: self.salt.clone(), pieces: self.pieces[..pieces].to_vec() }
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.answer.generation().tokens.len()
    }

    /// Bytes held once `tokens` tokens were taken in, and until the next compaction.
    fn settled(&self, tokens: usize) -> usize {
        let forecast = self.config.forecast(tokens, &self.session.plan());
        forecast.settled + GROWTH * forecast.growth
    }
}

impl Active {
    /// Tokens of the prompt that are still to be read.
    pub(super) fn left_to_read(&self) -> usize {
        let begun = self.sequence.reading().map_or(0, |reading| reading.left().len());
        begun + self.job.pieces[self.piece..].iter().map(|piece| piece.len()).sum::<usize>()
    }

    pub(super) fn is_reading(&self) -> bool {
        self.stage == Stage::Reading
    }

    /// Whether the whole prompt was read.
    pub(super) fn has_read(&self) -> bool {
        self.piece == self.job.pieces.len() && self.sequence.state() == State::Ready
    }

    /// Begins to read the next piece, if the one before was read. Returns whether there is anything to read.
    pub(super) fn next_piece(&mut self) -> Result<bool, EngineError> {
        if self.sequence.state() == State::Reading {
            return Ok(true);
        }
        let Some(piece) = self.job.pieces.get(self.piece) else { return Ok(false) };
        self.sequence.start_reading(piece.clone())?;
        self.piece += 1;
        Ok(true)
    }

    /// Tells how far reading has come.
    pub(super) fn tell_progress(&mut self) {
        let (done, total) = (self.sequence.history().len().min(self.job.prompt_tokens), self.job.prompt_tokens);
        self.job.listener.hear(Event::Read { done, total });
    }

    /// Samples the next token, or takes the next one of those that are repeated. Returns whether the answer goes on.
    pub(super) fn advance(&mut self, tokenizer: &Tokenizer) -> Result<bool, EngineError> {
        if let Some(&token) = self.job.again.get(self.repeated) {
            self.repeated += 1;
            self.stage = Stage::Generating(token);
            return Ok(true);
        }
        let mut text = String::new();
        let next = self.job.answer.advance(&mut self.sequence, tokenizer, &mut |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })?;
        self.job.first_token.get_or_insert_with(Instant::now);
        if let Some(&token) = self.job.answer.generation().tokens.last() {
            let logprobs = self.job.logprobs.map(|top| logprobs::of(self.sequence.logits(), token, top));
            self.job.listener.hear(Event::Token(Sampled { token, text, logprobs }));
        }
        if let Some(token) = next {
            self.stage = Stage::Generating(token);
        }
        Ok(next.is_some())
    }

    /// Gives up the cache. What was sampled is taken in once more when the request's turn comes again: in the same steps
    /// as before, and so with the same answer.
    pub(super) fn step_aside(self) -> Job {
        let mut job = self.job;
        job.again = job.answer.generation().tokens.clone();
        job.promise.settled = job.promise.settled.max(job.settled(job.prompt_tokens + job.again.len()));
        job
    }

    /// Tells that the answer is complete.
    pub(super) fn finish(mut self) {
        let now = Instant::now();
        let began = self.job.began.unwrap_or(now);
        let first = self.job.first_token.unwrap_or(now);
        let generation = self.job.answer.generation();
        let cache = self.sequence.cache();
        let outcome = Outcome {
            finish: generation.finish,
            stop: self.job.answer.stop_string().map(str::to_owned),
            prompt_tokens: self.job.prompt_tokens,
            cached_tokens: self.job.cached,
            generated_tokens: generation.tokens.len(),
            waited: began - self.job.asked,
            prefill: first - began,
            decode: generation.decode,
            kv_tokens: cache.tokens(),
            kv_entries: cache.entries(),
            kv_bytes: cache.memory().total(),
            kv_bytes_full: cache.full_bytes(),
            layout: self.job.listener.watches().map(|_| cache.layout()),
        };
        self.job.listener.hear(Event::Finished(Box::new(outcome)));
    }

    /// Bytes that it is promised now: an answer may be longer than what was promised at its entry.
    pub(super) fn promised(&self) -> usize {
        let settled = self.job.promise.settled.max(self.job.settled(self.sequence.history().len()));
        if self.is_reading() { self.job.promise.reading.max(settled) } else { settled }
    }

    /// Tokens that were taken in since its turn came.
    pub(super) fn work(&self) -> usize {
        self.sequence.history().len().saturating_sub(self.job.cached)
    }
}

/// Names whose checkpoints they are, and everything that shapes a cache.
fn salt(key: u64, config: &CacheConfig, options: &SessionOptions) -> String {
    let CacheConfig { policy, budget, dtype, sinks, window, .. } = config;
    let (plan, compression) = (options.plan(), options.compression);
    let setting = format!("{budget:?} {} {sinks} {window} {plan:?} {compression:?}", dtype.name());
    format!("{key:016x} {} {setting}", policy.spec())
}
