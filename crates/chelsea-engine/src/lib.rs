//! Sequences, sampling and generation over clustered caches.
//!
//! A [`Session`] reads tokens chunk by chunk through a model, compacts its cache after each chunk,
//! and [`generate`] turns what follows into text. Everything is at token level below that.
//!
//! Below a session there are a [`Sequence`], which holds what belongs to one text, and a [`Runner`], which takes any
//! number of sequences a step further at once.

mod error;
mod generate;
#[cfg_attr(not(feature = "grammar"), path = "no_grammar.rs")]
pub mod grammar;
mod kv;
mod layout;
mod logits;
mod options;
mod reading;
mod repetition;
mod runner;
pub mod sampler;
pub mod scheduler;
mod sequence;
mod session;
pub mod stop;

pub use error::EngineError;
pub use generate::{Answer, Finish, GenerateOptions, Generation, generate, generate_many};
#[cfg(feature = "grammar")]
pub use grammar::Grammars;
pub use grammar::{Grammar, GrammarError};
pub use layout::Layout;
pub use options::{Compression, SessionOptions, cache_config, dtype_for};
pub use reading::Reading;
pub use repetition::Repetition;
pub use runner::{Outcome, Pace, Runner, Work};
pub use sampler::{Sampling, SamplingError};
pub use scheduler::{Scheduler, SchedulerOptions, SchedulerStats};
pub use sequence::{Sequence, State};
pub use session::{Progress, ReadStats, Session, SessionTimes};
