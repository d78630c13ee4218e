//! What can go wrong while reading and generating.

use crate::grammar::GrammarError;
use crate::sampler::SamplingError;
use chelsea_kv::{CacheError, PolicyError};
use chelsea_model::ModelError;
use chelsea_model::chat::ChatError;
use chelsea_model::tokenizer::TokenizerError;
use thiserror::Error;

/// What can go wrong while reading and generating.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The model refused or failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The cache refused.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No such policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A sampling setting is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// An answer cannot keep to its grammar any further.
    #[error("the answer cannot keep to its grammar: {0}")]
    Grammar(#[from] GrammarError),
    /// The sequence would grow past its context.
    #[error(
        "{needed} tokens do not fit into a context of {limit}; shorten the text, or raise the context \
         (beyond the trained one answers may turn to nonsense)"
    )]
    ContextFull {
        /// Tokens the sequence would have.
        needed: usize,
        /// Tokens it may have.
        limit: usize,
    },
    /// Generation needs something to go on from.
    #[error("nothing was read yet: generation needs at least one token to go on from")]
    NothingRead,
    /// Text could not be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A chat template that drops a part of the conversation.
    #[error("the chat template leaves out {0}: go on without it (--no-chat-template)")]
    Template(&'static str),
    /// A batch without one token a sequence.
    #[error("{sessions} sequences are stepped together with {tokens} tokens: each takes one")]
    BatchLength {
        /// Sequences of the batch.
        sessions: usize,
        /// Tokens given.
        tokens: usize,
    },
    /// A batch over several models.
    #[error("sequences that are stepped together must run on one model, that of the runner")]
    BatchModels,
    /// The pass that a sequence shared with others failed, for one of the others' sake or as a whole.
    #[error("the forward pass failed for all sequences of the batch: {0}")]
    Beside(String),
    /// A sequence after a forward pass that failed half-way.
    #[error("a forward pass failed half-way, so that the layers of this sequence hold different texts: drop it")]
    Lost,
    /// The next chunk of a text was asked for where none is being read.
    #[error("there is nothing left to read: start reading a text first")]
    NothingToRead,
    /// A token was to follow in the middle of a text.
    #[error("a text is still being read: read it to its end, or stop reading, before other tokens follow")]
    StillReading,
    /// A cache of another model.
    #[error("the cache was made for a model of another shape")]
    OtherShape,
    /// A cache that holds another text.
    #[error("the cache has seen {cached} tokens, but {tokens} are said to be its text")]
    History {
        /// Tokens given.
        tokens: usize,
        /// Tokens that the cache has seen.
        cached: usize,
    },
    /// Logits of another vocabulary.
    #[error("{given} logits were given for a vocabulary of {vocab} tokens")]
    Logits {
        /// Logits given.
        given: usize,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// A policy that needs the whole text was asked to compress while reading.
    #[error(
        "policy `{0}` reads the text a second time and cannot compress it while reading: have it done once, after \
         reading (one-shot)"
    )]
    OneShotOnly(&'static str),
    /// A cache that lay in a file for a while.
    #[error("the file of a parked cache cannot be used: {0}")]
    Parked(String),
    /// A block of no tokens.
    #[error("the block size is 0, but must be at least 1")]
    ZeroBlock,
}
