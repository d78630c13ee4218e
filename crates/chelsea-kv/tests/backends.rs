//! The CPU's backend against the one by definition: the same texts, forks, compactions and rewinds through both.

#![allow(clippy::unwrap_used)]

use chelsea_kv::{
    Backend, Budget, CacheConfig, CacheShape, Cpu, Dtype, LayerSpec, Pool, Reference, Rotary, SequenceCache, policy,
    snapshot,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// Layers that grow and layers that slide, with keys and values of several sizes.
fn shape() -> CacheShape {
    let rotary = |dim: usize| Arc::new(Rotary::plain(dim, 10_000.0));
    let layer = |q, kv, dim| LayerSpec::new(q, kv, dim, rotary(dim));
    CacheShape::new(vec![
        layer(4, 2, 16),
        LayerSpec { window: Some(70), ..layer(3, 1, 32) },
        LayerSpec { value_dim: 24, ..layer(2, 2, 16) },
        LayerSpec { window: Some(5), scale: 0.3, ..layer(4, 2, 16) },
    ])
    .unwrap()
}

fn cache(backend: Arc<dyn Backend>, spec: &str, budget: Budget, pool: Pool) -> SequenceCache {
    let config = CacheConfig {
        dtype: Dtype::F32,
        policy: policy(spec).unwrap(),
        budget,
        window: 16,
        decode_block: 8,
        pool,
        backend,
        ..CacheConfig::new(shape())
    };
    SequenceCache::new(config).unwrap()
}

/// Passes a block of `n` tokens through every cache and returns what each answers.
fn block(caches: &mut [&mut SequenceCache], n: usize, rng: &mut SmallRng) -> Vec<Vec<f32>> {
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let mut answers = vec![Vec::new(); caches.len()];
    for (l, layer) in shape().layers().iter().enumerate() {
        let [k, v, q] = [layer.key_width(), layer.value_width(), layer.query_width()].map(|width| numbers(n * width));
        for (cache, answer) in caches.iter_mut().zip(&mut answers) {
            let mut out = vec![0.0; n * layer.output_width()];
            cache.append(l, &k, &v).unwrap();
            cache.attend(l, &q, &mut out).unwrap();
            answer.extend(out);
        }
    }
    answers
}

fn assert_alike(answers: &[Vec<f32>], at: &str) {
    for (x, y) in answers[0].iter().zip(&answers[1]) {
        assert!((x - y).abs() <= 2e-5 * x.abs().max(1.0), "{at}: {x} on the CPU, {y} by definition");
    }
}

/// Counts and positions of all entries.
fn entries(cache: &SequenceCache) -> Vec<Vec<(u32, f32)>> {
    let growing = cache.config().shape.layer_of_heads().map(|(_, layer)| layer.window.is_none());
    let heads = cache.heads();
    let of_head = |head: &chelsea_kv::Head| (0..head.len()).map(|i| (head.count(i), head.position(i))).collect();
    heads.iter().zip(growing).filter(|(_, grows)| *grows).map(|(head, _)| of_head(head)).collect()
}

#[test]
fn both_backends_cluster_and_answer_alike() {
    for (spec, budget) in [
        ("chelsea", Budget::EntryFraction(0.4)),
        ("chelsea-plain", Budget::EntryFraction(0.4)),
        ("streaming", Budget::Entries(150)),
        ("chelsea", Budget::EntryFraction(1.0)),
    ] {
        let pools = [Pool::unlimited(), Pool::unlimited()];
        let mut cpu = cache(Arc::new(Cpu), spec, budget, pools[0].clone());
        let mut reference = cache(Arc::new(Reference), spec, budget, pools[1].clone());
        let mut rng = SmallRng::seed_from_u64(7);
        for (step, n) in [1, 30, 100, 64, 1, 1, 90, 3].into_iter().enumerate() {
            let answers = block(&mut [&mut cpu, &mut reference], n, &mut rng);
            assert_alike(&answers, &format!("{spec}, {budget}, block {step}"));
            let (x, y) = (cpu.compact().unwrap(), reference.compact().unwrap());
            assert_eq!((x.compacted, x.after), (y.compacted, y.after), "{spec}, {budget}, block {step}");
            assert_eq!(entries(&cpu), entries(&reference), "{spec}, {budget}, block {step}");
        }
        // A fork goes its own way and leaves its origin alone.
        let before = [entries(&cpu), entries(&reference)];
        let (mut x, mut y) = (cpu.fork().unwrap(), reference.fork().unwrap());
        for n in [40, 1] {
            assert_alike(&block(&mut [&mut x, &mut y], n, &mut rng), "a fork");
            x.compact().unwrap();
            y.compact().unwrap();
        }
        assert_eq!(entries(&x), entries(&y));
        drop((x, y));
        assert_eq!([entries(&cpu), entries(&reference)], before);
        assert_alike(&block(&mut [&mut cpu, &mut reference], 2, &mut rng), "after the fork");
        drop((cpu, reference));
        assert_eq!(pools.map(|pool| (pool.live(), pool.scratch())), [(0, 0); 2], "everything was returned");
    }
}

#[test]
fn both_backends_take_tokens_back_alike() {
    let mut cpu = cache(Arc::new(Cpu), "chelsea", Budget::EntryFraction(1.0), Pool::unlimited());
    let mut reference = cache(Arc::new(Reference), "chelsea", Budget::EntryFraction(1.0), Pool::unlimited());
    let mut rng = SmallRng::seed_from_u64(3);
    block(&mut [&mut cpu, &mut reference], 3, &mut rng);
    assert_eq!((cpu.exact_from(), reference.exact_from()), (0, 0));
    cpu.rewind(2).unwrap();
    reference.rewind(2).unwrap();
    assert_alike(&block(&mut [&mut cpu, &mut reference], 3, &mut rng), "after a rewind");
    assert_eq!(entries(&cpu), entries(&reference));
}

#[test]
fn a_cache_of_one_backend_is_loaded_into_another() {
    let mut reference = cache(Arc::new(Reference), "chelsea", Budget::EntryFraction(0.4), Pool::unlimited());
    let mut rng = SmallRng::seed_from_u64(5);
    for n in [100, 100] {
        block(&mut [&mut reference], n, &mut rng);
        reference.compact().unwrap();
    }
    let info = snapshot::SnapshotInfo { tokens: vec![1; 200], ..Default::default() };
    let bytes = snapshot::to_bytes(&reference, &info).unwrap();
    let (mut cpu, _) = snapshot::parse(&bytes).unwrap().cache(None).unwrap();
    assert_eq!(cpu.config().backend.name(), "cpu");
    assert_eq!(entries(&cpu), entries(&reference));
    assert_alike(&block(&mut [&mut cpu, &mut reference], 5, &mut rng), "after a load");
}
