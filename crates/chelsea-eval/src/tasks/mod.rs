//! Where samples come from: generators over any text, and files in the formats of published benchmarks.
//!
//! A generator is a function of a [`Haystack`], its options and the number of the sample: the same three make the
//! same sample on every machine with the same tokenizer.

pub mod arithmetic;
pub mod continuation;
pub mod copying;
mod haystack;
pub mod jsonl;
pub mod lookup;
pub mod needles;
pub mod rules;
pub mod stream;
pub mod variables;
pub mod words;

pub use haystack::{Encode, Haystack, HaystackError};
