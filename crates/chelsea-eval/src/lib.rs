//! Recall and quality tasks over clustered caches.

pub mod needles;
mod recall;

pub use recall::{EvalError, Outcome, Setting, Subject};
