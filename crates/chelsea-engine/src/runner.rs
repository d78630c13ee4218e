//! One model, one workspace: takes many sequences a step further in one pass over the weights.
//!
//! A step takes a list of [`Work`]s, each the next tokens of one sequence: a chunk of a text, a sampled token, or tokens
//! to be scored. Their rows share the pass; every row still attends to its own cache alone. Afterwards the compactions
//! that fell due are carried out, those of several sequences in parallel.
//!
//! # Invariants
//!
//! - What a sequence answers does not depend on who is beside it: its chunks are cut by its own plan, and its compactions
//!   are made between the same two of its tokens whoever else has one due.
//! - What is wrong with one work is an error of that work alone; the others go on. Room for all keys and values of a
//!   work is made before the pass begins, so that no pass stops half-way for want of memory.
//! - While only sampled tokens are decoded, a step carries out one compaction ([`Pace::OneAStep`]), so that no step is
//!   much longer than the others. A sequence whose compaction must wait is held: it takes in nothing before it was made,
//!   and so never grows past what its budget promises. The oldest comes first.

use crate::kv::Compaction;
use crate::logits::Logits;
use crate::{EngineError, Reading, Sequence, State};
use chelsea_model::{Chunk, Model, ModelError, Spent as PhaseTimes, Wanted as LogitsFor, Workspace};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The next tokens of one sequence.
#[derive(Debug)]
pub enum Work<'a> {
    /// The next chunk of the text that it reads: see [`Sequence::start_reading`].
    Read(&'a mut Sequence),
    /// A token that follows, such as the last one sampled. The logits of the one after it are made.
    Decode(&'a mut Sequence, u32),
    /// Tokens that follow, with the logits after each of them: see [`Runner::logits`].
    Score(&'a mut Sequence, &'a [u32]),
}

/// What a step did for a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// So many tokens were taken in.
    Took(usize),
    /// Nothing: a compaction comes first, and others had their turn. To be offered again.
    Held,
}

/// How many compactions a step carries out that falls into decoding alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// One, or more where so many sequences decode that one per step could not keep up: streams flow evenly.
    #[default]
    OneAStep,
    /// All that are due: the most tokens per second.
    AllAtOnce,
}

impl Work<'_> {
    /// Whose tokens they are.
    pub fn sequence(&self) -> &Sequence {
        match self {
            Work::Read(sequence) | Work::Decode(sequence, _) | Work::Score(sequence, _) => sequence,
        }
    }

    fn sequence_mut(&mut self) -> &mut Sequence {
        match self {
            Work::Read(sequence) | Work::Decode(sequence, _) | Work::Score(sequence, _) => sequence,
        }
    }

    /// The next `n` tokens.
    fn tokens(&self, n: usize) -> &[u32] {
        match self {
            Work::Read(sequence) => sequence.reading().map_or(&[], |reading| &reading.left()[..n]),
            Work::Decode(_, token) => std::slice::from_ref(token),
            Work::Score(_, tokens) => tokens,
        }
    }

    /// The next `n` tokens as the model takes them.
    fn chunk(&mut self, n: usize) -> Chunk<'_> {
        match self {
            Work::Read(sequence) => {
                let Sequence { cache, reading, .. } = &mut **sequence;
                let left = reading.as_ref().map_or(&[][..], Reading::left);
                let logits = match &*reading {
                    Some(reading) if reading.is_scored() => LogitsFor::All,
                    _ if n == left.len() => LogitsFor::Held,
                    _ => LogitsFor::None,
                };
                Chunk { tokens: &left[..n], cache, logits }
            }
            Work::Decode(sequence, token) => {
                Chunk { tokens: std::slice::from_ref(token), cache: &mut sequence.cache, logits: LogitsFor::Held }
            }
            Work::Score(sequence, tokens) => Chunk { tokens, cache: &mut sequence.cache, logits: LogitsFor::All },
        }
    }

    /// Takes note that `n` tokens went through the model, and of the logits after the last one. Returns the compaction
    /// that may be due after them.
    fn took(&mut self, n: usize, logits: Logits) -> Option<Compaction> {
        match self {
            Work::Read(sequence) => return sequence.took_chunk(n, logits),
            Work::Decode(sequence, token) => sequence.took(std::slice::from_ref(token), logits),
            Work::Score(sequence, tokens) => sequence.took(tokens, logits),
        }
        Some(Compaction::Due)
    }
}

/// Where logits of a work lie in the workspace.
#[derive(Debug, Clone)]
enum Place {
    /// Among those that came back.
    Here(Range<usize>),
    /// On the device: which of those that stayed there.
    There(usize),
}

/// Takes sequences of one model further.
pub struct Runner {
    model: Arc<Model>,
    pool: Arc<ThreadPool>,
    workspace: Workspace,
    pace: Pace,
    /// Whether compactions of texts that are read are left to whoever calls.
    leaves_readers: bool,
    /// Steps so far.
    steps: u64,
    /// Where the logits of each work of the last step lie.
    rows: Vec<Place>,
}

impl Runner {
    /// A runner that computes on `pool`.
    pub fn new(model: Arc<Model>, pool: Arc<ThreadPool>) -> Self {
        let (workspace, pace) = (Workspace::new(), Pace::default());
        Runner { model, pool, workspace, pace, leaves_readers: false, steps: 0, rows: Vec::new() }
    }

    /// The same with another pace of compactions.
    pub fn with_pace(self, pace: Pace) -> Self {
        Runner { pace, ..self }
    }

    /// The same, which leaves compactions that become due while a text is read to the caller: its sequence is not taken
    /// further before they were made ([`Runner::settle_on`]).
    pub(crate) fn leaving_readers(self) -> Self {
        Runner { leaves_readers: true, ..self }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.workspace.bytes()
    }

    /// From now on counts where forward passes spend their time, or no longer does; either way from zero.
    pub fn measure(&mut self, on: bool) {
        self.workspace.measure(on);
    }

    /// Where forward passes spent their time since [`Runner::measure`] was told to count.
    pub fn times(&self) -> PhaseTimes {
        self.workspace.spent()
    }

    /// Logits that the last step made for work `index` of its batch: a row of the vocabulary's size for every token of
    /// [`Work::Score`] and of a text that is scored ([`Reading::scored`]), one after a decoded token and after the end of a
    /// text, and none within a text.
    pub fn logits(&self, index: usize) -> &[f32] {
        match self.rows.get(index) {
            Some(Place::Here(rows)) => self.workspace.logits().get(rows.clone()).unwrap_or_default(),
            Some(Place::There(held)) => self.workspace.held().get(*held).map_or(&[], |held| held.all()),
            None => &[],
        }
    }

    /// Takes every sequence of the batch further by its work, all in one pass over the weights. Returns what became of
    /// each, in order.
    ///
    /// # Errors
    /// Of one work: if its sequence runs on another model, reads nothing or still reads, if its tokens are none, outside
    /// the vocabulary or beyond the context, and if there is no memory for them or for a compaction that must come
    /// first. Its sequence is as it was, and the others are served.
    ///
    /// Of all works of a pass: [`EngineError::Beside`] and its cause, if the model fails in spite of all that.
    pub fn step(&mut self, batch: &mut [Work<'_>]) -> Vec<Result<Outcome, EngineError>> {
        self.steps += 1;
        let paced = self.pace == Pace::OneAStep && batch.iter().all(|work| matches!(work, Work::Decode(..)));
        let mut outcomes = self.clear_the_way(batch, paced);
        for (work, outcome) in batch.iter_mut().zip(&mut outcomes) {
            if let Ok(Outcome::Took(tokens)) = outcome {
                match self.admit(work) {
                    Ok(admitted) => *tokens = admitted,
                    Err(error) => *outcome = Err(error),
                }
            }
        }
        let threads = self.pool.clone();
        // Noted by the threads that computed: they would fall asleep over what another one does meanwhile.
        let outcomes = threads.install(|| {
            if let Err(error) = self.forward(batch, &outcomes) {
                fail(batch, &mut outcomes, error);
            }
            self.take_note(batch, &outcomes);
            outcomes
        });
        self.compact(batch, paced);
        outcomes
    }

    /// Carries out the compactions that wait, of all given sequences in parallel. Returns what became of each.
    ///
    /// # Errors
    /// Of one sequence: if there is no memory for its compaction, which waits on.
    pub fn settle(&self, sequences: &mut [&mut Sequence]) -> Vec<Result<(), EngineError>> {
        let waiting = sequences.iter_mut().map(|sequence| &mut **sequence).enumerate();
        let mut waiting: Vec<_> = waiting.filter(|(_, sequence)| sequence.compaction_waits()).collect();
        let failed = self.carry_out(&mut waiting);
        let mut all: Vec<Result<(), EngineError>> = sequences.iter().map(|_| Ok(())).collect();
        failed.into_iter().for_each(|(i, error)| all[i] = Err(error));
        all
    }

    /// Carries out the compaction of one sequence, if it waits for any, on any threads.
    ///
    /// # Errors
    /// If there is no memory for it: it waits on.
    pub(crate) fn settle_on(threads: &ThreadPool, sequence: &mut Sequence) -> Result<(), EngineError> {
        let start = Instant::now();
        if threads.install(|| sequence.compact())? {
            sequence.count_clustering(start.elapsed());
        }
        Ok(())
    }

    /// Clusters everything between sinks and window down to the budget, at once.
    ///
    /// # Errors
    /// If the policy needs a second pass over the text that was not made.
    pub fn compress(&self, sequence: &mut Sequence) -> Result<Duration, EngineError> {
        let start = Instant::now();
        let cache = &mut sequence.cache;
        self.pool.install(|| cache.compact_now(None))?;
        Ok(start.elapsed())
    }

    /// Carries out the compactions without which a work cannot go on, but for those that can be held. One that found no
    /// memory before is not held any longer: it is made now, or its work is told why not.
    fn clear_the_way(&self, batch: &mut [Work<'_>], paced: bool) -> Vec<Result<Outcome, EngineError>> {
        let held = |sequence: &Sequence| paced && sequence.compaction_waits() && !sequence.is_starved();
        let outcome = |work: &Work<'_>| Ok(if held(work.sequence()) { Outcome::Held } else { Outcome::Took(0) });
        let mut outcomes: Vec<Result<Outcome, EngineError>> = batch.iter().map(outcome).collect();
        let waiting = batch.iter_mut().map(Work::sequence_mut).enumerate();
        let now = |sequence: &Sequence| sequence.compaction_waits() && !held(sequence);
        let mut waiting: Vec<_> = waiting.filter(|(_, sequence)| now(sequence)).collect();
        self.carry_out(&mut waiting).into_iter().for_each(|(i, error)| outcomes[i] = Err(error));
        outcomes
    }

    /// Checks a work and makes room for it. Returns its number of tokens.
    fn admit(&self, work: &mut Work<'_>) -> Result<usize, EngineError> {
        if !Arc::ptr_eq(work.sequence().model(), &self.model) {
            return Err(EngineError::BatchModels);
        }
        let state = work.sequence().state();
        let tokens = match (&mut *work, state) {
            (_, State::Lost) => return Err(EngineError::Lost),
            (Work::Read(sequence), State::Reading) => sequence.next_chunk(),
            (Work::Read(_), _) => return Err(EngineError::NothingToRead),
            (_, State::Reading) => return Err(EngineError::StillReading),
            (Work::Decode(..), _) => 1,
            (Work::Score(_, tokens), _) => tokens.len(),
        };
        work.sequence().check(work.tokens(tokens))?;
        work.sequence_mut().reserve(tokens)?;
        Ok(tokens)
    }

    /// One pass over the weights for all works that were admitted, on the threads that this is called on.
    fn forward(&mut self, batch: &mut [Work<'_>], outcomes: &[Result<Outcome, EngineError>]) -> Result<(), ModelError> {
        let admitted = batch.iter_mut().zip(outcomes).filter_map(|(work, outcome)| match outcome {
            Ok(Outcome::Took(tokens)) => Some(work.chunk(*tokens)),
            _ => None,
        });
        let mut chunks: Vec<Chunk<'_>> = admitted.collect();
        if chunks.is_empty() {
            return Ok(());
        }
        self.model.forward(&mut chunks, &mut self.workspace)
    }

    /// Hands out tokens and logits of the pass, and asks for the compactions that are due after it.
    fn take_note(&mut self, batch: &mut [Work<'_>], outcomes: &[Result<Outcome, EngineError>]) {
        let vocab = self.model.config().vocab;
        self.rows.clear();
        let (mut from, mut held) = (0, 0);
        for (work, outcome) in batch.iter_mut().zip(outcomes) {
            let Ok(Outcome::Took(tokens)) = *outcome else {
                self.rows.push(Place::Here(0..0));
                continue;
            };
            let wanted = work.chunk(tokens).logits;
            let rows = match wanted {
                LogitsFor::None => 0,
                LogitsFor::Last | LogitsFor::Held => 1,
                LogitsFor::All => tokens,
            };
            let before = work.sequence_mut().take_logits();
            let (place, logits) = match self.workspace.held().get(held) {
                Some(stayed) if wanted == LogitsFor::Held => {
                    held += 1;
                    (Place::There(held - 1), Logits::There(Arc::clone(stayed)))
                }
                _ => {
                    let range = from..from + rows * vocab;
                    from = range.end;
                    let last = range.end - rows.min(1) * vocab..range.end;
                    let row = self.workspace.logits().get(last).unwrap_or_default();
                    (Place::Here(range), Logits::copied(row, before))
                }
            };
            let compaction = work.took(tokens, logits);
            self.rows.push(place);
            if let Some(compaction) = compaction {
                work.sequence_mut().ask_for(compaction, self.steps);
            }
        }
    }

    /// Carries out compactions that wait: all of them, or in a paced step as many as it takes to keep up. A compaction
    /// that finds no memory waits on, and is an error of its sequence's next work.
    fn compact(&self, batch: &mut [Work<'_>], paced: bool) {
        let rows = batch.len();
        let is_left = |work: &&mut Work<'_>| self.leaves_readers && matches!(work, Work::Read(_));
        let waiting = batch.iter_mut().filter(|work| !is_left(work)).map(Work::sequence_mut).enumerate();
        // One that found no memory is made before the next work of its sequence.
        let waits = |sequence: &Sequence| sequence.compaction_waits() && !sequence.is_starved();
        let mut waiting: Vec<_> = waiting.filter(|(_, sequence)| waits(sequence)).collect();
        if waiting.is_empty() {
            return;
        }
        if paced {
            // Each sequence has one due once in `decode_block` tokens.
            let block = waiting.iter().map(|(_, s)| s.cache.config().decode_block).min().unwrap_or(1).max(1);
            waiting.sort_by_key(|(_, sequence)| sequence.pending.map(|pending| pending.since));
            waiting.truncate(rows.div_ceil(block));
        }
        for (_, error) in self.carry_out(&mut waiting) {
            tracing::debug!("a compaction waits on: {error}");
        }
    }

    /// Carries out the compactions of sequences that have one waiting. Returns the errors, by the numbers given. Each
    /// sequence is charged its share of the time.
    fn carry_out(&self, waiting: &mut [(usize, &mut Sequence)]) -> Vec<(usize, EngineError)> {
        let start = Instant::now();
        let mut found = Vec::with_capacity(waiting.len());
        match &mut *waiting {
            [] => return Vec::new(),
            [(_, sequence)] => found.push(self.pool.install(|| sequence.compact())),
            many => {
                let one = |(_, sequence): &mut (usize, &mut Sequence)| sequence.compact();
                self.pool.install(|| many.par_iter_mut().map(one).collect_into_vec(&mut found));
            }
        }
        let compacted = found.iter().filter(|found| matches!(found, Ok(true))).count() as u32;
        let share = start.elapsed().checked_div(compacted).unwrap_or_default();
        let mut failed = Vec::new();
        for ((i, sequence), found) in waiting.iter_mut().zip(found) {
            match found {
                Ok(true) => sequence.count_clustering(share),
                Ok(false) => {}
                Err(error) => failed.push((*i, error)),
            }
        }
        failed
    }
}

/// Tells every work of a pass that it failed.
fn fail(batch: &mut [Work<'_>], outcomes: &mut [Result<Outcome, EngineError>], error: ModelError) {
    // Others of a model's errors come before any cache is touched.
    let lost = matches!(error, ModelError::Cache(_) | ModelError::Device(_));
    let text = error.to_string();
    let mut error = Some(error);
    for (work, outcome) in batch.iter_mut().zip(outcomes) {
        if let Ok(Outcome::Took(_)) = outcome {
            if lost {
                work.sequence_mut().lose();
            }
            *outcome = Err(error.take().map_or_else(|| EngineError::Beside(text.clone()), EngineError::Model));
        }
    }
}
