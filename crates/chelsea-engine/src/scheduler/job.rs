//! A request on its way, and what it is promised.

use super::handed::HandedOut;
use super::mount::Mounted;
use super::park::Parked;
use super::prefix::{self, CheckpointKey, Name, Prompt};
use super::request::{Event, Listener, Logprobs, Outcome, Request, RequestError, Sampled};
use super::{GROWTH, logprobs};
use crate::generate::Answer;
use crate::{EngineError, Reading, Sequence, SessionOptions, State, cache_config};
use chelsea_kv::{Budget, CacheConfig};
use chelsea_model::Model;
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
    names: Arc<[Name]>,
    pub(super) key: u64,
    pub(super) promise: Promise,
    logprobs: Option<usize>,
    /// How many of the likeliest tokens are told for those of the prompt, until they were told.
    prompt_logprobs: Option<usize>,
    apart: bool,
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
    /// Where the cache lies, if it made room for others and need not be made again.
    pub(super) parked: Option<Box<Parked>>,
    /// What was made of its prompt elsewhere, until its turn comes.
    pub(super) given: Option<Box<Sequence>>,
    /// What the cache may be squeezed to for the sake of others, and the tokens it had seen when it was.
    pub(super) squeeze: Option<Budget>,
    pub(super) squeezed_at: Option<usize>,
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
    /// How likely the tokens of the prompt were so far, if that is to be told.
    pub(super) scores: Vec<Logprobs>,
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
        // Its own budget is no smaller one.
        let squeeze = request.session.squeeze.filter(|&budget| budget != config.budget);
        let pieces: Vec<_> = request.pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Ok(Job {
            prompt_tokens,
            salt: Arc::default(),
            names: Arc::default(),
            pieces,
            session: request.session,
            config,
            key: request.key,
            promise,
            answer,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            apart: request.apart,
            listener: request.listener,
            held_told: None,
            asked: Instant::now(),
            began: None,
            first_token: None,
            cached: 0,
            again: Vec::new(),
            parked: None,
            given: None,
            squeeze,
            squeezed_at: None,
        })
    }

    /// Takes note of what its prompt is found by: of the mounted cache that it goes on from, if it does, and of the names of
    /// its beginnings.
    pub(super) fn name_beginnings(&mut self, fingerprint: &[u8; 16], mounted: Option<&str>) {
        self.salt = format!("{:016x} {}", self.key, settings(&self.config, &self.session, mounted)).into();
        self.names = prefix::names(fingerprint, &self.salt, &self.pieces);
    }

    /// Takes what was made of its prompt elsewhere, if that is what it can go on from.
    pub(super) fn give(&mut self, given: Option<Sequence>) {
        let same = |given: &Sequence| self.pieces.iter().flat_map(|piece| piece.iter()).eq(given.history());
        let fits = |given: &Sequence| given.has_logits() && same(given);
        self.given = given.filter(|given| self.scoring().is_none() && fits(given)).map(Box::new);
    }

    /// Bytes of what was made of its prompt elsewhere.
    pub(super) fn given_bytes(&self) -> usize {
        self.given.as_ref().map_or(0, |given| given.memory().total())
    }

    /// Its prompt, to be looked up.
    pub(super) fn prompt(&self) -> Prompt<'_> {
        Prompt { salt: &self.salt, key: self.key, pieces: &self.pieces, names: &self.names }
    }

    /// Whether its turn had come before: it goes on before anyone new begins.
    pub(super) fn had_turn(&self) -> bool {
        self.parked.is_some() || self.began.is_some()
    }

    /// Whether it will have to read when its turn comes.
    pub(super) fn will_read(&self) -> bool {
        self.given.is_none() && self.parked.as_ref().is_none_or(|parked| parked.is_reading())
    }

    /// Bytes that have to be free for it to enter.
    pub(super) fn to_enter(&self) -> usize {
        let Promise { reading, settled } = self.promise;
        if self.will_read() { reading.max(settled) } else { settled }
    }

    /// The budget that its cache was squeezed to.
    fn squeezed_to(&self) -> Option<Budget> {
        self.squeeze.filter(|_| self.squeezed_at.is_some())
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

    /// How many of the likeliest tokens are wanted beside those of the prompt, if these are to be scored.
    pub(super) fn scoring(&self) -> Option<usize> {
        self.prompt_logprobs
    }

    /// Whether checkpoints are neither gone on from nor left.
    pub(super) fn is_apart(&self) -> bool {
        self.apart || self.scoring().is_some()
    }

    /// The answer, if it waits for what its grammar allows next.
    pub(super) fn unprepared(&mut self) -> Option<&mut Answer> {
        Some(&mut self.answer).filter(|answer| answer.is_unprepared())
    }

    /// The checkpoint at the end of the first `pieces` pieces.
    pub(super) fn checkpoint(&self, pieces: usize) -> CheckpointKey {
        self.prompt().checkpoint(pieces)
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.answer.generation().tokens.len()
    }

    /// Bytes held once `tokens` tokens were taken in, and until the next compaction.
    fn settled(&self, tokens: usize) -> usize {
        settled(&self.config, &self.session, tokens)
    }

    /// Raises what it is promised to what it held when it gave its cache up.
    pub(super) fn promise_again(&mut self) {
        self.again = self.answer.generation().tokens.clone();
        self.promise.settled = self.promise.settled.max(self.settled(self.prompt_tokens + self.again.len()));
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
        let reading = Reading::new(piece.clone());
        self.sequence.start(if self.job.scoring().is_some() { reading.scored() } else { reading })?;
        self.piece += 1;
        Ok(true)
    }

    /// Tells how far reading has come.
    pub(super) fn tell_progress(&mut self) {
        let (done, total) = (self.sequence.history().len().min(self.job.prompt_tokens), self.job.prompt_tokens);
        self.job.listener.hear(Event::Read { done, total });
    }

    /// Samples the next token, or takes the next one of those that are repeated. Returns whether the answer goes on.
    pub(super) fn advance(&mut self, tokenizer: &Tokenizer, handed: &HandedOut) -> Result<bool, EngineError> {
        if let Some(&token) = self.job.again.get(self.repeated) {
            self.repeated += 1;
            self.stage = Stage::Generating(token);
            return Ok(true);
        }
        if self.job.prompt_logprobs.take().is_some() {
            self.job.listener.hear(Event::Scored(std::mem::take(&mut self.scores)));
        }
        let before = self.job.generated();
        if before == 0 && self.job.listener.takes_cache() {
            match self.sequence.fork() {
                Ok(sequence) => self.job.listener.take_cache(handed.hand(sequence)),
                Err(error) => tracing::warn!("a cache cannot be handed over: {error}"),
            }
        }
        let mut text = String::new();
        let next = self.job.answer.advance(&mut self.sequence, tokenizer, &mut |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })?;
        self.job.first_token.get_or_insert_with(Instant::now);
        let tokens = &self.job.answer.generation().tokens;
        if let Some(&token) = tokens.get(before) {
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
        job.promise_again();
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
            kv_squeezed_to: self.job.squeezed_to(),
            layout: self.job.listener.watches().map(|_| cache.layout()),
        };
        self.job.listener.hear(Event::Finished(Box::new(outcome)));
    }

    /// Bytes that it is promised now: an answer may be longer than what was promised at its entry.
    pub(super) fn promised(&self) -> usize {
        if let Some(budget) = self.squeezed_to() {
            // From here on it holds what this budget allows, however long the answer.
            let config = CacheConfig { budget, ..self.job.config.clone() };
            return settled(&config, &self.job.session, self.sequence.history().len());
        }
        let settled = self.job.promise.settled.max(self.job.settled(self.sequence.history().len()));
        if self.is_reading() { self.job.promise.reading.max(settled) } else { settled }
    }

    /// The budget that its cache has been squeezed to by now: none yet, while it takes in what it had generated before that.
    fn squeezed_to(&self) -> Option<Budget> {
        self.job.squeeze.filter(|&budget| self.sequence.cache().config().budget == budget)
    }

    /// Whether its cache is to be squeezed before it takes anything else in: it was at this token when it was served before.
    pub(super) fn squeeze_is_due(&self) -> bool {
        self.job.squeezed_at == Some(self.sequence.history().len()) && self.squeezed_to().is_none()
    }

    /// Bytes that its cache would be smaller by, if it was squeezed now; 0 where that may not be.
    pub(super) fn to_squeeze_out(&self) -> usize {
        let Some(budget) = self.job.squeeze.filter(|_| !self.is_reading() && self.job.squeezed_at.is_none()) else {
            return 0;
        };
        let config = CacheConfig { budget, ..self.job.config.clone() };
        let tokens = self.sequence.history().len();
        self.job.settled(tokens).saturating_sub(settled(&config, &self.job.session, tokens))
    }

    /// Tokens that were taken in since its turn came.
    pub(super) fn work(&self) -> usize {
        self.sequence.history().len().saturating_sub(self.job.cached)
    }
}

/// Bytes that a cache holds once `tokens` tokens were taken in, and until the next compaction.
fn settled(config: &CacheConfig, session: &SessionOptions, tokens: usize) -> usize {
    let forecast = config.forecast(tokens, &session.plan());
    forecast.settled + GROWTH * forecast.growth
}

/// Everything that shapes a cache, in words: those of which checkpoints are found by, and those by which caches are handed
/// over. `mounted` is the label of the mounted cache that it goes on from.
fn settings(config: &CacheConfig, options: &SessionOptions, mounted: Option<&str>) -> String {
    let CacheConfig { policy, budget, dtype, sinks, window, .. } = config;
    let (plan, compression) = (options.plan(), options.compression);
    let own = format!("{} {budget:?} {} {sinks} {window} {plan:?} {compression:?}", policy.spec(), dtype.name());
    match mounted {
        Some(label) => format!("{own} on {label}"),
        None => own,
    }
}

/// Everything that shapes the cache of a prompt read with these options, in words: caches of the same words, tokens and
/// pieces are the same. `mounts` are the mounted caches with their labels: what goes on from one is another cache.
///
/// # Errors
/// If the options make no cache.
pub fn settings_of<'m>(
    model: &Model,
    options: &SessionOptions,
    pieces: &[Arc<[u32]>],
    mut mounts: impl Iterator<Item = (&'m Mounted, &'m str)>,
) -> Result<String, EngineError> {
    let config = cache_config(model, options)?;
    let pieces: Vec<_> = pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect();
    let mounted = mounts.find(|(mounted, _)| mounted.begins(&pieces, &config));
    Ok(settings(&config, options, mounted.map(|(_, label)| label)))
}
