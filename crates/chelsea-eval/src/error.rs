//! What can go wrong in an evaluation.

use crate::results::ResultsError;
use crate::tasks::HaystackError;
use crate::tasks::jsonl::ReadError;
use chelsea_engine::EngineError;
use thiserror::Error;

/// What can go wrong in an evaluation.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The haystack is no good.
    #[error(transparent)]
    Haystack(#[from] HaystackError),
    /// A file of samples is no good.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Results cannot be read or written.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A sample does not fit.
    #[error(
        "{what} needs {needed} tokens with its answers, but the context has {limit}: leave it out (--on-error skip), \
         make it shorter, or raise the context (--ctx)"
    )]
    TooLong {
        /// Which sample.
        what: String,
        /// Tokens it needs.
        needed: usize,
        /// Tokens there are.
        limit: usize,
    },
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl EvalError {
    /// Whether only this sample is at fault, so that others can be run all the same.
    pub fn is_of_one_sample(&self) -> bool {
        matches!(
            self,
            EvalError::TooLong { .. }
                | EvalError::Read(ReadError::Line { .. })
                | EvalError::Engine(EngineError::ContextFull { .. })
        )
    }
}
