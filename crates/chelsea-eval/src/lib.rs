//! What a compressed cache remembers, measured beside the full one.
//!
//! - [`tasks`]: samples, from generators over any text and from files in the formats of RULER and LongBench.
//! - [`metrics`]: scores of answers.
//! - [`Subject::run`]: one sample under many settings, with one reading of its document where that is possible.
//! - [`results`]: what was measured, on disk; a run that was killed goes on where it was.
//! - [`report`]: results as tables and plots.
//!
//! Everything is measured through the same engine with the same bytes counted: policies of the registry differ in
//! nothing but what they keep.

mod error;
pub mod metrics;
mod probe;
pub mod report;
pub mod results;
mod run;
mod sample;
mod setting;
pub mod tasks;

pub use error::EvalError;
pub use run::Subject;
pub use sample::{Continuation, Document, Judge, Probe, Question, Sample, Source};
pub use setting::{Basis, MODES, Mode, ParsedSetting, Setting};
