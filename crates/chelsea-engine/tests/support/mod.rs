//! What tests of the engine share: a tiny model, threads, and texts.

#![allow(dead_code, clippy::unwrap_used)]

pub mod bytes;
pub mod serving;

use chelsea_cuda::{CudaBackend, CudaModel, CudaWeights, Device};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_engine::{Sequence, SessionOptions};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, RandomModel};
use rayon::ThreadPool;
use std::sync::Arc;

/// A model of random weights, small enough for tests. Where the variable `CHELSEA_TEST_DEVICE` is `emulated`, it runs on an
/// emulated GPU: so that these tests hold there as well.
pub fn model(products: Products) -> Arc<Model> {
    let make =
        |products| RandomModel::named("tiny").unwrap().make(5, &LoadOptions { products }, &mut |_, _| ()).unwrap();
    if std::env::var_os("CHELSEA_TEST_DEVICE").is_none_or(|device| device != "emulated") {
        return Arc::new(make(products));
    }
    let kept = make(Products::Source);
    let device: Arc<dyn Device> = Arc::new(Emulator::new(Schedule::InOrder));
    let weights = CudaWeights::upload(&device, &kept).unwrap();
    let backend = CudaBackend::new(device, 128 << 20).unwrap();
    Arc::new(kept.on(Arc::new(CudaModel::new("emulated".into(), weights, backend))))
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
