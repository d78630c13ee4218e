//! Caches in a device's memory against those of the CPU: the same texts, forks, compactions and rewinds through both. The
//! device is emulated.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_cuda::CudaBackend;
use chelsea_emulator::Schedule;
use chelsea_kv::{
    Backend, Budget, CacheConfig, CacheShape, Cpu, Dtype, LayerSpec, PAGE, Pool, Rotary, SequenceCache, policy,
    snapshot,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

const DTYPES: [Dtype; 3] = [Dtype::F16, Dtype::Q8, Dtype::K8V4];

/// A backend on an emulated device.
fn device(schedule: Schedule) -> Arc<dyn Backend> {
    Arc::new(CudaBackend::new(common::device(schedule), 64 << 20).unwrap())
}

/// Layers that grow and layers that slide, with heads of several sizes and groups.
fn shape() -> CacheShape {
    let rotary = |dim: usize| Arc::new(Rotary::plain(dim, 10_000.0));
    let layer = |q, kv, dim| LayerSpec::new(q, kv, dim, rotary(dim));
    CacheShape::new(vec![
        layer(4, 2, 64),
        LayerSpec { window: Some(70), ..layer(3, 1, 32) },
        layer(7, 1, 128),
        LayerSpec { window: Some(5), scale: 0.3, ..layer(4, 2, 16) },
    ])
    .unwrap()
}

fn config(backend: Arc<dyn Backend>, dtype: Dtype, spec: &str, budget: Budget, pool: Pool) -> CacheConfig {
    CacheConfig {
        dtype,
        policy: policy(spec).unwrap(),
        budget,
        window: 16,
        decode_block: 8,
        pool,
        backend,
        ..CacheConfig::new(shape())
    }
}

fn cache(backend: Arc<dyn Backend>, dtype: Dtype, spec: &str, budget: Budget, pool: Pool) -> SequenceCache {
    SequenceCache::new(config(backend, dtype, spec, budget, pool)).unwrap()
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
        assert!((x - y).abs() <= 2e-3, "{at}: {x} on the CPU, {y} on the device");
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
fn a_device_clusters_and_answers_as_the_cpu_does() {
    for dtype in DTYPES {
        for (spec, budget) in [
            ("chelsea", Budget::EntryFraction(0.4)),
            ("chelsea:chunk=128", Budget::EntryFraction(0.4)),
            ("streaming", Budget::Entries(150)),
            ("chelsea", Budget::EntryFraction(1.0)),
        ] {
            let pools = [Pool::unlimited(), Pool::unlimited()];
            let mut cpu = cache(Arc::new(Cpu), dtype, spec, budget, pools[0].clone());
            let mut cuda = cache(device(Schedule::InOrder), dtype, spec, budget, pools[1].clone());
            let mut rng = SmallRng::seed_from_u64(7);
            for (step, n) in [1, 30, 100, 64, 1, 1, 90, 3].into_iter().enumerate() {
                let at = format!("{} {spec}, {budget}, block {step}", dtype.name());
                assert_alike(&block(&mut [&mut cpu, &mut cuda], n, &mut rng), &at);
                let (x, y) = (cpu.compact().unwrap(), cuda.compact().unwrap());
                assert_eq!((x.compacted, x.after), (y.compacted, y.after), "{at}");
                assert_eq!(entries(&cpu), entries(&cuda), "{at}");
                assert_eq!(cpu.memory().keys, cuda.memory().keys, "{at}");
            }
            // A fork goes its own way and leaves its origin alone.
            let before = [entries(&cpu), entries(&cuda)];
            let (mut x, mut y) = (cpu.fork().unwrap(), cuda.fork().unwrap());
            assert_eq!(pools[1].live(), cuda.memory().total() + y.memory().total() - y.memory().shared);
            for n in [40, 1] {
                assert_alike(&block(&mut [&mut x, &mut y], n, &mut rng), "a fork");
                x.compact().unwrap();
                y.compact().unwrap();
            }
            assert_eq!(entries(&x), entries(&y));
            drop((x, y));
            assert_eq!([entries(&cpu), entries(&cuda)], before);
            assert_alike(&block(&mut [&mut cpu, &mut cuda], 2, &mut rng), "after the fork");
            assert_eq!(pools[1].live(), cuda.memory().total(), "what is charged is what is held");
            drop((cpu, cuda));
            assert_eq!(pools.map(|pool| (pool.live(), pool.scratch())), [(0, 0); 2], "everything was returned");
        }
    }
}

#[test]
fn tokens_are_taken_back_and_said_anew() {
    for dtype in DTYPES {
        let full = Budget::EntryFraction(1.0);
        let mut cpu = cache(Arc::new(Cpu), dtype, "chelsea", full, Pool::unlimited());
        let mut cuda = cache(device(Schedule::Reversed), dtype, "chelsea", full, Pool::unlimited());
        let mut rng = SmallRng::seed_from_u64(3);
        for (n, back) in [(3, 2), (90, 30), (70, 64), (1, 1)] {
            block(&mut [&mut cpu, &mut cuda], n, &mut rng);
            // Layers that slide have given up what a rewind beyond their windows would need.
            let back = back.min(cpu.tokens() - cpu.exact_from());
            assert_eq!(cpu.exact_from(), cuda.exact_from());
            cpu.rewind(back).unwrap();
            cuda.rewind(back).unwrap();
            assert_alike(&block(&mut [&mut cpu, &mut cuda], 1, &mut rng), "after a rewind");
            assert_eq!(entries(&cpu), entries(&cuda));
        }
    }
}

#[test]
fn a_saved_cache_goes_on_wherever_it_is_loaded() {
    for dtype in DTYPES {
        let budget = Budget::EntryFraction(0.4);
        let mut cuda = cache(device(Schedule::InOrder), dtype, "chelsea", budget, Pool::unlimited());
        let mut rng = SmallRng::seed_from_u64(5);
        for n in [100, 100] {
            block(&mut [&mut cuda], n, &mut rng);
            cuda.compact().unwrap();
        }
        let info = snapshot::SnapshotInfo { tokens: vec![1; 200], ..Default::default() };
        let bytes = snapshot::to_bytes(&cuda, &info).unwrap();
        let load = || snapshot::parse(&bytes).unwrap().cache(None).unwrap().0;
        let (mut cpu, mut back) = (load(), load().moved_to(device(Schedule::InOrder)).unwrap());
        assert_eq!((cpu.config().backend.name(), back.config().backend.name()), ("cpu", "cuda"));
        assert_eq!(entries(&cpu), entries(&cuda));
        assert_eq!(entries(&back), entries(&cuda));
        let mut again = SmallRng::seed_from_u64(9);
        let own = block(&mut [&mut cpu, &mut back], 1, &mut again);
        assert_alike(&own, "after a load");
        let mut again = SmallRng::seed_from_u64(9);
        assert_alike(&[block(&mut [&mut cuda], 1, &mut again).remove(0), own[1].clone()], "the one that was saved");
    }
}

#[test]
fn a_batch_answers_each_as_it_is_answered_alone() {
    let shared = device(Schedule::Shuffled(3));
    let mut rng = SmallRng::seed_from_u64(11);
    let make = || cache(shared.clone(), Dtype::Q8, "chelsea", Budget::EntryFraction(1.0), Pool::unlimited());
    let mut caches = [make(), make(), make()];
    for (cache, n) in caches.iter_mut().zip([200, 64, 3]) {
        block(&mut [cache], n, &mut rng);
    }
    let layer = shape().layer(0).clone();
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let queries: Vec<Vec<f32>> = (0..3).map(|_| numbers(layer.query_width())).collect();
    let mut alone = vec![vec![0.0; layer.output_width()]; 3];
    for ((cache, q), out) in caches.iter_mut().zip(&queries).zip(&mut alone) {
        cache.attend(0, q, out).unwrap();
    }
    let mut together = vec![vec![0.0; layer.output_width()]; 3];
    let requests = caches.iter_mut().zip(&queries).zip(&mut together);
    let mut requests: Vec<_> = requests.map(|((cache, q), out)| chelsea_kv::AttendRequest { cache, q, out }).collect();
    SequenceCache::attend_many(0, &mut requests, None).unwrap();
    drop(requests);
    assert_eq!(alone, together);
}

#[test]
fn what_a_device_has_no_kernels_for_is_refused_when_a_cache_is_made() {
    let shape = |q, dim| CacheShape::uniform(1, q, 1, dim, Rotary::plain(dim, 1e4)).unwrap();
    let refused = |shape: CacheShape, dtype: Dtype| {
        let config = CacheConfig { dtype, backend: device(Schedule::InOrder), ..CacheConfig::new(shape) };
        SequenceCache::new(config).unwrap_err().to_string()
    };
    assert!(refused(shape(2, 64), Dtype::F32).contains("does not store entries in f32"));
    assert!(refused(shape(9, 64), Dtype::F16).contains("9 query heads share"));
    assert!(refused(shape(2, 40), Dtype::F16).contains("keys of 40"));
}

#[test]
fn a_device_that_is_full_loses_the_sequence_and_nothing_panics() {
    // One extent for each kind of head.
    let small: Arc<dyn Backend> = Arc::new(CudaBackend::new(common::device(Schedule::InOrder), 8 << 20).unwrap());
    let full = Budget::EntryFraction(1.0);
    let mut cuda = cache(small.clone(), Dtype::F16, "chelsea", full, Pool::unlimited());
    let mut rng = SmallRng::seed_from_u64(2);
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    for (l, layer) in shape().layers().iter().enumerate() {
        let n = 9000;
        let [k, v] = [layer.key_width(), layer.value_width()].map(|width| numbers(n * width));
        cuda.append(l, &k, &v).unwrap();
    }
    let layer = shape().layer(0).clone();
    let mut out = vec![0.0; layer.output_width()];
    let asked = cuda.attend(0, &numbers(layer.query_width()), &mut out);
    assert!(asked.is_err() || out.iter().all(|x| x.is_nan()));
    drop(cuda);
    // What it held is there for others.
    let mut next = cache(small, Dtype::F16, "chelsea", full, Pool::unlimited());
    assert!(block(&mut [&mut next], 5, &mut rng).concat().iter().all(|x| x.is_finite()));
}

#[test]
fn a_slab_without_room_for_new_pages_is_compacted_all_the_same() {
    let shape = CacheShape::uniform(1, 2, 1, 128, Rotary::plain(128, 1e4)).unwrap();
    let layer = shape.layer(0).clone();
    // One extent holds 62 pages of halves (33,536 bytes each): others take 46 of them, a text 14, and a quarter of it 4.
    let small: Arc<dyn Backend> = Arc::new(CudaBackend::new(common::device(Schedule::InOrder), 2 << 20).unwrap());
    let of = |backend: Arc<dyn Backend>, keep: f32, spec: &str| {
        let (dtype, budget, policy) = (Dtype::F16, Budget::EntryFraction(keep), policy(spec).unwrap());
        SequenceCache::new(CacheConfig { dtype, budget, policy, backend, ..CacheConfig::new(shape.clone()) }).unwrap()
    };
    let mut rng = SmallRng::seed_from_u64(21);
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let mut others = of(small.clone(), 1.0, "chelsea");
    let n = 46 * PAGE;
    others.append(0, &numbers(n * layer.key_width()), &numbers(n * layer.value_width())).unwrap();
    let n = 14 * PAGE;
    let (k, v, q) = (numbers(n * layer.key_width()), numbers(n * layer.value_width()), numbers(layer.query_width()));
    // Planned by the device, and planned by the host.
    for spec in ["chelsea", "chelsea:chunk=128"] {
        let mut caches = [of(small.clone(), 0.25, spec), of(Arc::new(Cpu), 0.25, spec)];
        let answers = caches.each_mut().map(|cache| {
            cache.append(0, &k, &v).unwrap();
            assert!(cache.compact().unwrap().compacted);
            let mut out = vec![0.0; layer.output_width()];
            cache.attend(0, &q, &mut out).unwrap();
            (entries_of(cache), out)
        });
        assert_eq!(answers[0].0, answers[1].0, "{spec}");
        assert_alike(&[answers[1].1.clone(), answers[0].1.clone()], "after a compaction in a full slab");
    }
}

#[test]
fn bytes_that_a_plan_takes_are_counted_wherever_they_lie() {
    let peak = |spec: &str| {
        let pool = Pool::unlimited();
        let mut cuda = cache(device(Schedule::InOrder), Dtype::Q8, spec, Budget::EntryFraction(0.4), pool.clone());
        let mut rng = SmallRng::seed_from_u64(8);
        block(&mut [&mut cuda], 200, &mut rng);
        let held: usize = (0..cuda.config().shape.heads()).map(|g| cuda.store().bytes(g)).sum();
        let before = pool.live();
        let report = cuda.compact().unwrap();
        assert!(report.compacted && pool.scratch() == 0);
        assert_eq!(cuda.memory().scratch_peak, report.scratch);
        (report.scratch, held, pool.peak() - before)
    };
    // Of 540 candidates: 20 bytes each, and rows of the larger of two groups, one after the other.
    let (scratch, _, charged) = peak("chelsea");
    assert!((105_840..150_000).contains(&scratch) && 540 * 20 + 360 * 264 == 105_840, "{scratch}");
    assert!(charged >= scratch, "{charged} of {scratch} were charged");
    // A copy in host memory is as large as what it is of; the pool is not of that memory.
    let (scratch, held, charged) = peak("chelsea:chunk=128");
    assert!(scratch >= held, "{scratch} and {held}");
    assert!(charged < scratch, "{charged} of {scratch} were charged");
}

#[test]
fn a_plan_without_room_changes_nothing() {
    let pool = Pool::with_limit(3 << 20);
    let mut cuda = cache(device(Schedule::InOrder), Dtype::Q8, "chelsea", Budget::EntryFraction(0.4), pool.clone());
    let mut rng = SmallRng::seed_from_u64(8);
    block(&mut [&mut cuda], 200, &mut rng);
    // Others leave less than a plan takes.
    let others = pool.reserve(pool.free() - 50_000).unwrap();
    let before = (entries(&cuda), pool.live());
    let error = cuda.compact().unwrap_err();
    assert!(error.to_string().contains("do not fit"), "{error}");
    assert_eq!((entries(&cuda), pool.live(), pool.scratch()), (before.0, before.1, 0));
    drop(others);
    assert!(cuda.compact().unwrap().compacted);
}

/// Counts and positions of all entries.
fn entries_of(cache: &SequenceCache) -> Vec<(u32, f32)> {
    cache
        .heads()
        .iter()
        .flat_map(|head| (0..head.len()).map(|i| (head.count(i), head.position(i))).collect::<Vec<_>>())
        .collect()
}
