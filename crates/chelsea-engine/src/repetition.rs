//! A second pass over what was read: the model repeats it, and the cache notes which entries that takes.
//!
//! Some policies (KVzip) judge entries by it. The text is repeated in chunks, each on a fork of the session
//! of its own: what the forks append is gone afterwards, and the session itself is as it was.

use crate::{Compression, EngineError, Session};
use std::time::{Duration, Instant};

/// Last tokens of the chunk before that tell the model where to go on.
const HINT: usize = 8;

/// The words that ask a model to repeat what it has read: see [`crate::Layout::repetition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repetition {
    /// Asks for the text from its beginning.
    pub first: Vec<u32>,
    /// Asks for the part that begins with the tokens that follow.
    pub next: Vec<u32>,
    /// Ends the request and begins the model's turn.
    pub turn: Vec<u32>,
}

impl Repetition {
    /// Most tokens that repeating `chunk` of them takes.
    pub fn longest(&self, chunk: usize) -> usize {
        self.first.len().max(self.next.len() + HINT) + self.turn.len() + chunk
    }
}

impl Session {
    /// Has the model repeat everything read so far in chunks of `chunk` tokens, and notes in the cache how
    /// much attention each entry drew at most. Nothing is noted when it is cancelled. Takes longer than
    /// reading did.
    ///
    /// # Errors
    /// If a chunk and the prompt around it do not fit into the context after the text.
    pub fn score_by_repetition(&mut self, prompts: &Repetition, chunk: usize) -> Result<Duration, EngineError> {
        let start = Instant::now();
        let read = self.history().to_vec();
        let mut importance: Option<chelsea_kv::Importance> = None;
        let chunk = chunk.max(1);
        for (i, tokens) in read.chunks(chunk).enumerate() {
            let begin = i * chunk;
            let mut prompt = if i == 0 { prompts.first.clone() } else { prompts.next.clone() };
            if i > 0 {
                prompt.extend(&read[begin.saturating_sub(HINT)..begin]);
            }
            prompt.extend(&prompts.turn);
            prompt.extend(tokens);
            let mut fork = self.fork()?;
            fork.set_compression(Compression::OneShot);
            fork.cache_mut().watch(begin..begin + tokens.len());
            fork.read(&prompt, |_| ())?;
            self.cache_mut().count_fork(fork.cache());
            if fork.cancelled() {
                return Ok(start.elapsed());
            }
            if let Some(found) = fork.cache_mut().watched() {
                match &mut importance {
                    Some(all) => all.take_greater(&found),
                    None => importance = Some(found),
                }
            }
        }
        if let Some(importance) = importance {
            self.cache_mut().set_importance(importance)?;
        }
        Ok(start.elapsed())
    }

    /// As [`Session::compress`], after the second pass if the policy needs one.
    ///
    /// # Errors
    /// As [`Session::score_by_repetition`].
    pub fn compress_with(&mut self, prompts: &Repetition) -> Result<Duration, EngineError> {
        let mut time = Duration::ZERO;
        if let Some(chunk) = self.cache().config().policy.needs().repetition
            && !self.cache().has_importance()
            && !self.cache().is_within_budget()
        {
            time += self.score_by_repetition(prompts, chunk)?;
            if self.cancelled() {
                return Ok(time);
            }
        }
        Ok(time + self.compress()?)
    }
}
