//! Sequences, sampling and generation over clustered caches.
//!
//! A [`Session`] reads tokens block by block through a model, compacts its cache after each block,
//! and [`generate`] turns what follows into text. Everything is at token level below that.

mod error;
mod generate;
mod layout;
mod repetition;
pub mod sampler;
mod session;
pub mod stop;

pub use error::EngineError;
pub use generate::{Finish, GenerateOptions, Generation, generate, generate_many};
pub use layout::Layout;
pub use repetition::Repetition;
pub use sampler::{Sampling, SamplingError};
pub use session::{Compression, Progress, ReadStats, Session, SessionOptions, Times, cache_config, dtype_for};
