//! What tests of the engine share: a tiny model, threads, and texts.

#![allow(dead_code, clippy::unwrap_used)]

pub mod bytes;
pub mod serving;

use chelsea_engine::{Sequence, SessionOptions};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, RandomModel};
use rayon::ThreadPool;
use std::sync::Arc;

/// A model of random weights, small enough for tests.
pub fn model(products: Products) -> Arc<Model> {
    let options = LoadOptions { products };
    Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap())
}

/// So many threads.
pub fn pool(threads: usize) -> Arc<ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

/// A text without meaning.
pub fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + seed * 101 + i * i) % 320).collect()
}

/// How sequences of tests are kept: small blocks, so that short texts are compacted often.
pub fn options(budget: Budget, policy: &str) -> SessionOptions {
    chelsea_baselines::register();
    let policy = chelsea_kv::policy(policy).unwrap();
    SessionOptions { budget, policy, window: 16, block: 128, ..SessionOptions::default() }
}

/// An empty sequence that keeps a share of its entries.
pub fn sequence(model: &Arc<Model>, keep: f32, policy: &str) -> Sequence {
    Sequence::new(model.clone(), &options(Budget::EntryFraction(keep), policy)).unwrap()
}

/// The most likely next token.
pub fn likeliest(sequence: &Sequence) -> u32 {
    let logits = sequence.logits();
    let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, best) as u32
}
