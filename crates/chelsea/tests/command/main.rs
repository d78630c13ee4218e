//! The command end to end on the real small model.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod eval;
#[cfg(target_os = "linux")]
mod interruptions;
mod run;
mod support;
