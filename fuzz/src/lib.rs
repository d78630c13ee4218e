//! Fuzz targets for everything that reads foreign bytes.
//!
//! A target is a function of bytes that has to come back: with an answer or an error, never with a panic, a giant
//! allocation or a hang. Each is run in three ways:
//!
//! - `cargo test`: the corpus and a few thousand mutations of it, the same ones every time;
//! - `cargo xtask fuzz --runs N`: as many as one likes, on the stable toolchain;
//! - `cargo +nightly fuzz run --features libfuzzer fuzz_gguf corpus/gguf` in this folder: guided by coverage.
//!
//! The corpus in `corpus/TARGET/` is written by [`seeds`] (`cargo run -p chelsea-fuzz -- --write-corpus`). An input
//! that once broke a parser is added to it by hand, so that it is tried for ever after.
//!
//! The first two ways measure memory with [`memory::Counting`], which a program installs as its global allocator.

pub mod memory;
pub mod mutate;
pub mod runner;
pub mod seeds;
pub mod targets;

pub use runner::{Found, Limits, run};
pub use targets::{TARGETS, Target};
