//! What a scheduler is asked, and what it tells the one who asked.

use super::{Handed, Held};
use crate::generate::{Finish, GenerateOptions};
use crate::{EngineError, SessionOptions};
use chelsea_kv::{Budget, HeadLayout};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// A prompt to be answered.
pub struct Request {
    /// The prompt, in pieces at whose ends a checkpoint may be kept ([`Shelf`](super::Shelf)): where other prompts may go on
    /// differently. Each piece is read and compressed to its own end, so that going on from a checkpoint and reading from
    /// the beginning give the same answer. Empty pieces are left out.
    pub pieces: Vec<Arc<[u32]>>,
    /// What is to be generated.
    pub generate: GenerateOptions,
    /// How the cache is kept. Its pool is replaced by the scheduler's.
    pub session: SessionOptions,
    /// Whose request it is: turns are shared out among keys, and checkpoints are never shared between them.
    pub key: u64,
    /// How many of the likeliest tokens are told for every token, besides the one that was sampled; none: nothing is.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt. All of it is read then, and no checkpoint is gone on from or left.
    pub prompt_logprobs: Option<usize>,
    /// Whether it stands apart from all others: no checkpoint is gone on from or left, and all of its prompt is read.
    pub apart: bool,
    /// Who is told.
    pub listener: Box<dyn Listener>,
}

impl Request {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }
}

/// Who is told what becomes of a request. Everything is called by the scheduler's thread and must not block.
pub trait Listener: Send {
    /// Takes note of what happened.
    fn hear(&mut self, event: Event);

    /// Whether nobody listens any more: the request is dropped before the next step.
    fn is_gone(&self) -> bool;

    /// The least pause between two [`Event::Held`]: none if it does not watch the cache, which takes a look at every entry.
    fn watches(&self) -> Option<Duration> {
        None
    }

    /// Whether it is to have the cache of the whole prompt, with the logits after it, before the first token is sampled.
    fn takes_cache(&self) -> bool {
        false
    }

    /// Takes that cache: a fork of the request's own. Others find no room for what it holds until it is dropped. Not called where there was no memory for one.
    fn take_cache(&mut self, _cache: Handed) {}
}

/// What happened to a request.
#[derive(Debug)]
pub enum Event {
    /// It was taken in, and waits for its turn.
    Waiting,
    /// Its turn has come.
    Started {
        /// Tokens of the prompt that need not be read: they lie in a checkpoint.
        cached: usize,
    },
    /// More of its prompt was read.
    Read {
        /// Tokens read so far, those of a checkpoint among them.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// All of the prompt was read, and this is how likely its tokens were, if that was asked for: from the second on, as
    /// there is nothing that could have foretold the first.
    Scored(Vec<Logprobs>),
    /// A token was sampled.
    Token(Sampled),
    /// What its cache holds now, for a listener that [watches](Listener::watches).
    Held(Box<Held>),
    /// The answer is complete.
    Finished(Box<Outcome>),
    /// There is no answer.
    Failed(RequestError),
}

/// A token of an answer.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// What is sure to belong to the answer now. Empty while it may be part of a stop string or of a character.
    pub text: String,
    /// How likely it was, if that was asked for.
    pub logprobs: Option<Logprobs>,
}

/// How likely a token was by the model's own distribution, before penalties, bias and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of its probability.
    pub chosen: f32,
    /// The likeliest tokens with theirs, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A complete answer's figures.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it ended.
    pub finish: Finish,
    /// The stop string that ended it, if one did.
    pub stop: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, the ones that were taken from a checkpoint.
    pub cached_tokens: usize,
    /// Tokens generated, the one that ended the turn among them.
    pub generated_tokens: usize,
    /// From being asked to one's turn.
    pub waited: Duration,
    /// From one's turn to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Tokens that the cache has seen.
    pub kv_tokens: usize,
    /// Entries over all heads that it holds.
    pub kv_entries: usize,
    /// Bytes that it holds, those it shares with checkpoints among them.
    pub kv_bytes: usize,
    /// Bytes that a full cache of 16-bit numbers would take.
    pub kv_bytes_full: usize,
    /// The budget that the cache was made smaller to for the sake of others, if it was.
    pub kv_squeezed_to: Option<Budget>,
    /// What each head holds, for a listener that [watches](Listener::watches).
    pub layout: Option<Vec<HeadLayout>>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The prompt is empty.
    #[error("the prompt is empty: there is nothing to go on from")]
    Empty,
    /// The prompt does not fit into the context.
    #[error(
        "the prompt has {prompt} tokens, and this model's context is {limit} tokens, the answer included: shorten the prompt"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The cache would not fit, even alone.
    #[error(
        "the prompt has {prompt} tokens, whose cache takes up to {needed} bytes while it is read; all caches together may \
         take {limit}: shorten the prompt, ask for a smaller budget, or raise the server's limit"
    )]
    Memory {
        /// Tokens of the prompt.
        prompt: usize,
        /// Bytes that it takes.
        needed: usize,
        /// Bytes that there are.
        limit: usize,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests wait already, which is the most that may: try again later")]
    Busy {
        /// Requests that wait.
        waiting: usize,
    },
    /// The scheduler takes no more requests.
    #[error("the server is ending and takes no more requests")]
    Draining,
    /// Settings that contradict each other or the model, or a failure of the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl RequestError {
    /// Whether it is the one who asked who has to ask differently.
    pub fn is_of_the_request(&self) -> bool {
        match self {
            RequestError::Empty | RequestError::Context { .. } | RequestError::Memory { .. } => true,
            RequestError::Engine(error) => matches!(
                error,
                EngineError::Policy(_)
                    | EngineError::Sampling(_)
                    | EngineError::Grammar(_)
                    | EngineError::ContextFull { .. }
                    | EngineError::OneShotOnly(_)
                    | EngineError::ZeroBlock
                    | EngineError::Cache(
                        chelsea_kv::CacheError::Budget(_)
                            | chelsea_kv::CacheError::NothingToGive(_)
                            | chelsea_kv::CacheError::Dtype { .. }
                    )
            ),
            RequestError::Busy { .. } | RequestError::Draining => false,
        }
    }
}
