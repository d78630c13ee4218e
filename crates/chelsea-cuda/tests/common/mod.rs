//! What tests of devices share.

#![allow(dead_code, reason = "every test file uses some of it")]
#![allow(clippy::unwrap_used)]

use chelsea_cuda::driver::CudaDevice;
use chelsea_cuda::{CudaBackend, CudaModel, CudaWeights, Device};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_kv::{Budget, CacheConfig, Dtype, Policy, SequenceCache, policy};
use chelsea_linear::Products;
use chelsea_model::{Chunk, LoadOptions, Model, RandomModel, Wanted, Workspace};
use std::sync::{Arc, OnceLock};

/// An emulated device, or the GPU whose number `CHELSEA_TEST_GPU` is (`cargo xtask gpu-check`).
pub fn device(schedule: Schedule) -> Arc<dyn Device> {
    static GPU: OnceLock<Arc<CudaDevice>> = OnceLock::new();
    match std::env::var("CHELSEA_TEST_GPU") {
        Ok(number) => GPU.get_or_init(|| Arc::new(CudaDevice::open(number.parse().unwrap()).unwrap())).clone(),
        Err(_) => Arc::new(Emulator::new(schedule)),
    }
}

/// Tokens that tiny models know.
pub const VOCAB: usize = 320;

/// A random model of this shape, always of the same weights.
pub fn random(name: &str, products: Products) -> Model {
    RandomModel::named(name).unwrap().make(5, &LoadOptions { products }, &mut |_, _| ()).unwrap()
}

/// The same on a device, `set` up in some way.
pub fn on(device: Arc<dyn Device>, name: &str, set: impl FnOnce(CudaModel) -> CudaModel) -> Model {
    let kept = random(name, Products::Source);
    let weights = CudaWeights::upload(&device, &kept).unwrap();
    assert!(weights.bytes() > 0 && weights.workspace_bytes(8, 1) > 0);
    let backend = CudaBackend::new(device, 32 << 20).unwrap();
    kept.on(Arc::new(set(CudaModel::new("emulated".into(), weights, backend))))
}

/// A cache with little left alone, which is compacted often.
pub fn cache(model: &Model, dtype: Dtype, spec: &str, keep: f32) -> SequenceCache {
    cache_with(model, dtype, policy(spec).unwrap(), keep)
}

/// The same by a policy of the test's own.
pub fn cache_with(model: &Model, dtype: Dtype, policy: Arc<dyn Policy>, keep: f32) -> SequenceCache {
    let config = CacheConfig {
        dtype,
        budget: Budget::EntryFraction(keep),
        policy,
        window: 16,
        decode_block: 8,
        backend: model.backend(),
        ..CacheConfig::new(model.cache_shape())
    };
    SequenceCache::new(config).unwrap()
}

/// Token `i` of a text.
pub fn token(i: usize) -> u32 {
    ((i * 37 + i * i * 11) % VOCAB) as u32
}

/// Runs a batch of chunks; returns the wanted logits.
pub fn run(model: &Model, ws: &mut Workspace, chunks: &mut [(&mut SequenceCache, Vec<u32>, Wanted)]) -> Vec<f32> {
    let chunks = chunks.iter_mut().map(|(cache, tokens, logits)| Chunk { tokens, cache, logits: *logits });
    model.forward(&mut chunks.collect::<Vec<_>>(), ws).unwrap();
    ws.logits().to_vec()
}

/// How far logits are apart, in units of their spread: root mean square, and at most.
pub fn apart(x: &[f32], y: &[f32]) -> (f32, f32) {
    assert_eq!(x.len(), y.len());
    let mean_square =
        |numbers: &mut dyn Iterator<Item = f32>| (numbers.map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let spread = mean_square(&mut x.iter().copied());
    let mut off = x.iter().zip(y).map(|(x, y)| x - y);
    let most = off.clone().map(f32::abs).fold(0.0, f32::max);
    (mean_square(&mut off) / spread, most / spread)
}
