//! The command end to end, most of it on the real small model.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod bench;
mod devices;
#[cfg(unix)]
mod docs;
mod eval;
mod field;
#[cfg(feature = "serve")]
mod handover;
#[cfg(target_os = "linux")]
mod interruptions;
#[cfg(unix)]
mod pages;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod small;
mod support;
#[cfg(target_os = "linux")]
mod terminal;
