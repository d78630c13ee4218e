//! Every instruction set of this machine against attention's definition in f64.

#![allow(clippy::unwrap_used)]

use chelsea_kv::attention::{Attention, Isa, Request, attend_batch, attend_with, reference};
use chelsea_kv::{CacheConfig, CacheShape, Dims, Dtype, Head, Reservation, Rotary, SequenceCache};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What a random layer looks like.
#[derive(Debug, Clone)]
struct Layer {
    dims: Dims,
    group: usize,
    dtype: Dtype,
    /// Entries of each head beyond those of the queries.
    before: Vec<usize>,
    n: usize,
    /// Size of queries: the larger, the further apart the scores.
    spread: f32,
    largest_count: u32,
    window: Option<usize>,
    /// Size of sinks, if there are any.
    sinks: Option<f32>,
    seed: u64,
}

impl Layer {
    fn heads(&self, rng: &mut SmallRng) -> Vec<Head> {
        let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let mut heads = Vec::new();
        for &before in &self.before {
            let mut head = Head::new(self.dims, self.dtype);
            for i in 0..before + self.n {
                let (key, value) = (numbers(self.dims.key), numbers(self.dims.value));
                let count = 1 + (u64::from(self.largest_count - 1) * (i as u64 * 7919 % 101) / 100) as u32;
                head.push(&key, &value, count, i as f32);
            }
            heads.push(head);
        }
        heads
    }

    fn queries(&self, rng: &mut SmallRng) -> Vec<f32> {
        let len = self.n * self.before.len() * self.group * self.dims.key;
        (0..len).map(|_| rng.random_range(-1.0f32..1.0) * self.spread).collect()
    }

    fn outputs(&self) -> Vec<f32> {
        vec![f32::NAN; self.n * self.before.len() * self.group * self.dims.value]
    }

    fn sinks(&self, rng: &mut SmallRng) -> Option<Vec<f32>> {
        let q_heads = self.before.len() * self.group;
        self.sinks.map(|size| (0..q_heads).map(|_| rng.random_range(-1.0..1.0) * size).collect())
    }
}

/// Windows around a page, and longer than any text of these tests.
fn windows() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..=10, 60usize..=70, 120usize..=135, Just(100_000)]
}

/// Sizes of keys and values, the same and not.
fn sizes() -> impl Strategy<Value = Dims> {
    let same = prop::sample::select(vec![2usize, 6, 8, 16, 20, 64, 80, 96, 128, 256]).prop_map(Dims::both);
    let pairs = [(192, 128), (128, 192), (80, 64), (16, 48), (64, 6), (10, 32)];
    prop_oneof![2 => same, 1 => prop::sample::select(pairs.map(|(key, value)| Dims { key, value }).to_vec())]
}

fn layers() -> impl Strategy<Value = Layer> {
    (
        sizes(),
        1usize..=8,
        prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4]),
        prop::collection::vec(prop_oneof![Just(0usize), 0usize..20, 0usize..300], 1..4),
        prop_oneof![3 => 1usize..4, 2 => 1usize..=70],
        prop::sample::select(vec![0.0f32, 1.0, 10.0]),
        prop::sample::select(vec![1u32, 2, 40, 1_000_000_000]),
        prop_oneof![2 => Just(None), 1 => windows().prop_map(Some)],
        prop::sample::select(vec![None, None, Some(1.0f32), Some(10.0)]),
        any::<u64>(),
    )
        .prop_map(|(dims, group, dtype, before, n, spread, largest_count, window, sinks, seed)| Layer {
            dims,
            group,
            dtype,
            before,
            n,
            spread,
            largest_count,
            window,
            sinks,
            seed,
        })
}

/// Largest difference, and the index where it is.
fn difference(a: &[f32], b: &[f32]) -> (f32, usize) {
    assert_eq!(a.len(), b.len());
    let mut worst = (0.0, 0);
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let off = (x - y).abs();
        // A NaN anywhere is the worst.
        if off.is_nan() || off > worst.0 {
            worst = (if off.is_nan() { f32::INFINITY } else { off }, i);
        }
    }
    worst
}

fn check(layer: &Layer, scale: f32, tolerance: f32) {
    let mut rng = SmallRng::seed_from_u64(layer.seed);
    let (heads, q) = (layer.heads(&mut rng), layer.queries(&mut rng));
    let sinks = layer.sinks(&mut rng);
    let attention = Attention { window: layer.window, sinks: sinks.as_deref(), ..Attention::full(layer.group, scale) };
    let mut expected = layer.outputs();
    reference::attend(Request { heads: &heads, q: &q, n: layer.n, out: &mut expected }, &attention);
    for isa in Isa::available() {
        let mut out = layer.outputs();
        let request = Request { heads: &heads, q: &q, n: layer.n, out: &mut out };
        attend_with(isa, &mut [request], &attention);
        let (off, at) = difference(&out, &expected);
        // Matrix instructions keep 16 bits of each factor, of which scores in the hundreds show the last. Beside entries in
        // integers queries and weights have 16 bits, of which the largest of a row sets the first.
        let tolerance = match layer.dtype {
            Dtype::Q8 | Dtype::K8V4 | Dtype::K5V4 => 20.0 * tolerance,
            _ if isa == Isa::Amx => 4.0 * tolerance,
            _ => tolerance,
        };
        assert!(off <= tolerance, "{isa:?} is off by {off} at {at}: {} instead of {}", out[at], expected[at]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instruction_set_agrees_with_the_definition(layer in layers()) {
        check(&layer, 1.0 / (layer.dims.key as f32).sqrt(), 1e-5);
    }
}

#[test]
fn keys_that_are_stored_divided_agree_with_the_definition() {
    let mut rng = SmallRng::seed_from_u64(3);
    for (head_dim, n, dtype) in [
        (64, 1, Dtype::Q8),
        (64, 130, Dtype::Q8),
        (128, 33, Dtype::Q8),
        (80, 40, Dtype::Q8),
        (10, 3, Dtype::Q8),
        (64, 1, Dtype::K8V4),
        (128, 33, Dtype::K8V4),
        (10, 3, Dtype::K8V4),
        (64, 1, Dtype::K5V4),
        (64, 130, Dtype::K5V4),
        (128, 33, Dtype::K5V4),
        (80, 40, Dtype::K5V4),
        (10, 3, Dtype::K5V4),
    ] {
        let shape = CacheShape::uniform(1, 6, 2, head_dim, Rotary::plain(head_dim, 10_000.0)).unwrap();
        let mut cache = SequenceCache::new(CacheConfig { dtype, ..CacheConfig::new(shape) }).unwrap();
        let mut numbers = |n: usize, large: f32| -> Vec<f32> {
            let size = |i: usize| if i % head_dim % 7 == 2 { large } else { 1.0 };
            (0..n).map(|i| rng.random_range(-1.0..1.0) * size(i)).collect()
        };
        for tokens in [200, 150] {
            cache.append(0, &numbers(tokens * 2 * head_dim, 30.0), &numbers(tokens * 2 * head_dim, 1.0)).unwrap();
        }
        // Queries are small where keys are large, so that scores stay those of the other tests.
        let q = numbers(n * 6 * head_dim, 1.0 / 30.0);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut expected = vec![f32::NAN; q.len()];
        let attention = Attention::full(3, scale);
        reference::attend(Request { heads: &cache.heads(), q: &q, n, out: &mut expected }, &attention);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; q.len()];
            attend_with(isa, &mut [Request { heads: &cache.heads(), q: &q, n, out: &mut out }], &attention);
            let (off, _) = difference(&out, &expected);
            assert!(off <= 2e-4, "{isa:?}, {head_dim}, {n}: off by {off}");
        }
    }
}

/// One request with a scale of 1.
fn attend(heads: &[Head], q: &[f32], n: usize, group: usize, out: &mut [f32]) {
    attend_batch(&mut [Request { heads, q, n, out }], &Attention::full(group, 1.0));
}

/// A layer that tests change in one respect.
fn plain() -> Layer {
    Layer {
        dims: Dims::both(64),
        group: 3,
        dtype: Dtype::F16,
        before: vec![500, 70],
        n: 1,
        spread: 1.0,
        largest_count: 3,
        window: None,
        sinks: None,
        seed: 7,
    }
}

#[test]
fn a_single_entry_returns_its_value() {
    for head_dim in [8, 16, 64, 80, 256] {
        for dtype in Dtype::ALL {
            check(&Layer { dims: Dims::both(head_dim), dtype, before: vec![0], spread: 100.0, ..plain() }, 1.0, 1e-6);
        }
    }
}

#[test]
fn every_group_size_reads_its_own_kv_head() {
    for group in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 25] {
        check(&Layer { group, ..plain() }, 0.125, 1e-5);
        check(&Layer { group, n: 9, ..plain() }, 0.125, 1e-5);
    }
}

#[test]
fn keys_and_values_may_differ_in_size() {
    for (key, value) in [(64, 64), (128, 128), (256, 256), (192, 128), (80, 64), (16, 48), (64, 10), (6, 64)] {
        for dtype in Dtype::ALL {
            for (n, before) in [(1, vec![3000, 5]), (3, vec![60, 0]), (100, vec![200, 31])] {
                let layer = Layer { dims: Dims { key, value }, dtype, n, before, ..plain() };
                check(&layer, 1.0 / (key as f32).sqrt(), 1e-5);
                check(&Layer { window: Some(90), sinks: Some(1.0), ..layer }, 1.0 / (key as f32).sqrt(), 1e-5);
            }
        }
    }
}

#[test]
fn a_prompt_block_is_causal() {
    // Several blocks of rows, the first of them without any entry before it, over partial pages.
    for before in [vec![0], vec![0, 63], vec![1, 64, 130]] {
        check(&Layer { before, group: 2, n: 203, ..plain() }, 0.125, 1e-5);
    }
}

#[test]
fn keys_without_an_offset_agree_with_the_definition_wherever_they_are() {
    let mut rng = SmallRng::seed_from_u64(11);
    for (dim, pairs, group) in [(64, 32, 7), (128, 64, 1), (96, 24, 3), (64, 0, 2)] {
        let rotary = Rotary { inv_freq: Rotary::plain(2 * pairs.max(1), 1e6).inv_freq[..pairs].to_vec(), scale: 1.0 };
        let mut head = Head::new(dim, Dtype::K5V4);
        let mut numbers = |n: usize, common: f32| -> Vec<f32> {
            (0..n * dim).map(|i| rng.random_range(-1.0..1.0) + if i % dim % 9 == 4 { common } else { 0.0 }).collect()
        };
        let (keys, values) = (numbers(300, 8.0), numbers(300, 0.0));
        head.weigh(&keys, dim, 300, 0, &rotary, &Reservation::unbound());
        head.extend(&keys, &values, dim.into(), 300, 0);
        // One after the other, one every page, and in no order, further apart than a vector of anchors.
        head.extend(&numbers(200, 8.0), &numbers(200, 0.0), dim.into(), 200, 5000);
        for i in 0..150usize {
            let position = if i < 75 { 6000 + 64 * i } else { i * 7919 % 100_000 };
            head.push(&numbers(1, 8.0), &numbers(1, 0.0), 1 + i as u32 % 3, position as f32 + 0.25);
        }
        for n in [1, 5, 40] {
            let q: Vec<f32> = numbers(n * group, 0.0);
            let heads = std::slice::from_ref(&head);
            let attention = Attention::full(group, 0.125);
            let mut expected = vec![f32::NAN; q.len()];
            reference::attend(Request { heads, q: &q, n, out: &mut expected }, &attention);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; q.len()];
                attend_with(isa, &mut [Request { heads, q: &q, n, out: &mut out }], &attention);
                let (off, at) = difference(&out, &expected);
                assert!(off < 2e-4, "{isa:?}, {dim}, {n} queries: off by {off} at {at}, {}", expected[at]);
            }
        }
    }
}

#[test]
fn long_caches_are_split_and_merged() {
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let layer = Layer { before: vec![9000, 30, 2100], largest_count: 9, spread: 4.0, ..plain() };
            check(&layer, 0.125, 1e-5);
            check(&Layer { n: 5, ..layer.clone() }, 0.125, 1e-5);
            check(&Layer { n: 70, group: 2, before: vec![3000, 0], ..layer }, 0.125, 1e-5);
        });
    }
}

#[test]
fn windows_hide_what_came_before() {
    // Chunks that begin before the window is full, and after; many rows and few.
    for window in [1, 7, 64, 65, 130, 5000] {
        for (before, n) in [(0, 1), (0, 200), (40, 150), (100, 1), (500, 1), (500, 3), (511, 130), (2000, 200)] {
            for (dtype, head_dim) in
                [(Dtype::F16, 64), (Dtype::F32, 20), (Dtype::Q8, 64), (Dtype::K8V4, 64), (Dtype::K5V4, 96)]
            {
                let layer = Layer {
                    before: vec![before, before / 2],
                    n,
                    dtype,
                    dims: Dims::both(head_dim),
                    window: Some(window),
                    ..plain()
                };
                check(&layer, 0.125, 1e-5);
            }
        }
    }
}

#[test]
fn what_a_window_hides_leaves_no_trace() {
    // Entries before the window have by far the largest scores, and values that no number of 16 bits holds.
    let types = [Dtype::F16, Dtype::K8V4, Dtype::K5V4];
    for (n, dtype) in types.into_iter().flat_map(|dtype| [(1, dtype), (40, dtype)]) {
        let mut heads = vec![Head::new(64, dtype)];
        for i in 0..300 {
            let (key, value) = if i < 200 { (1000.0, 1e6) } else { (0.01 * (i % 7) as f32, (i % 5) as f32) };
            heads[0].push(&[key; 64], &[value; 64], 1, i as f32);
        }
        let q = vec![1.0; n * 64];
        let layer = Attention { window: Some(101 - n), ..Attention::full(1, 1.0) };
        let mut expected = vec![f32::NAN; q.len()];
        reference::attend(Request { heads: &heads, q: &q, n, out: &mut expected }, &layer);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; q.len()];
            attend_with(isa, &mut [Request { heads: &heads, q: &q, n, out: &mut out }], &layer);
            let (off, _) = difference(&out, &expected);
            assert!(off < 1e-4, "{isa:?}, {n} queries, {dtype:?}: {off}");
        }
    }
}

#[test]
fn sinks_join_the_denominator() {
    for (n, before) in [(1, vec![0, 9000]), (5, vec![300, 10]), (100, vec![700, 70])] {
        for size in [0.0, 3.0, 30.0] {
            let layer = Layer { n, before: before.clone(), sinks: Some(size), ..plain() };
            check(&layer, 0.125, 1e-5);
            check(&Layer { window: Some(70), ..layer }, 0.125, 1e-5);
        }
    }
    // One entry of score 0 beside a sink of score 0: half of its value.
    let mut head = Head::new(64, Dtype::F32);
    head.push(&[1.0; 64], &[3.0; 64], 1, 0.0);
    let layer = Attention { sinks: Some(&[0.0, 1000.0, f32::NEG_INFINITY]), ..Attention::full(3, 1.0) };
    let mut out = vec![f32::NAN; 3 * 64];
    attend_batch(&mut [Request { heads: &[head], q: &[0.0; 3 * 64], n: 1, out: &mut out }], &layer);
    let (off, _) = difference(&out, &[[1.5; 64], [0.0; 64], [3.0; 64]].concat());
    assert!(off < 1e-6, "{off}");
}

/// The winner's value, exactly: no overflow, no NaN, no leftover of the others.
#[test]
fn huge_scores_pick_one_entry() {
    for isa in Isa::available() {
        for sign in [1.0, -1.0] {
            let mut head = Head::new(64, Dtype::F32);
            for i in 0..200 {
                let size = sign * (1.0 + i as f32) * 1e15;
                head.push(&[size; 64], &[i as f32; 64], 1, i as f32);
            }
            let (q, mut out) = (vec![1e15; 64], vec![f32::NAN; 64]);
            let heads = [head];
            let request = Request { heads: &heads, q: &q, n: 1, out: &mut out };
            attend_with(isa, &mut [request], &Attention::full(1, 1.0));
            let winner = if sign > 0.0 { 199.0 } else { 0.0 };
            assert_eq!(out, vec![winner; 64], "{isa:?}, sign {sign}");
        }
    }
}

#[test]
fn a_count_weighs_like_as_many_copies() {
    let key = |i: usize| -> Vec<f32> { (0..16).map(|j| ((i * 5 + j * 3) % 7) as f32 / 7.0).collect() };
    let value = |i: usize| -> Vec<f32> { (0..16).map(|j| ((i * 3 + j) % 11) as f32).collect() };
    let (mut merged, mut copies) = (Head::new(16, Dtype::F32), Head::new(16, Dtype::F32));
    for i in 0..90 {
        let count = 1 + i % 4;
        merged.push(&key(i), &value(i), count as u32, 0.0);
        (0..count).for_each(|_| copies.push(&key(i), &value(i), 1, 0.0));
    }
    let q: Vec<f32> = key(31);
    let run = |head: Head| {
        let mut out = vec![0.0; 16];
        attend(&[head], &q, 1, 1, &mut out);
        out
    };
    let (off, _) = difference(&run(merged), &run(copies));
    assert!(off < 1e-5, "{off}");
}

#[test]
fn entries_cut_off_leave_no_trace() {
    // What remains in the page behind the end must not matter: any values, and keys that are finite.
    for (n, size, dtype) in [
        (1, 60_000.0, Dtype::F16),
        (40, 60_000.0, Dtype::F16),
        (1, 1e6, Dtype::F16),
        (40, 1e6, Dtype::F16),
        (1, 1e6, Dtype::K8V4),
        (40, 1e6, Dtype::K8V4),
        (1, 1e6, Dtype::K5V4),
        (40, 1e6, Dtype::K5V4),
    ] {
        let layer = Layer { before: vec![150 - n], n, dtype, ..plain() };
        let mut rng = SmallRng::seed_from_u64(3);
        let (mut heads, q) = (layer.heads(&mut rng), layer.queries(&mut rng));
        heads[0].push(&[60_000.0; 64], &[size; 64], u32::MAX, 0.0);
        heads[0].truncate(131);
        let mut expected = vec![0.0; q.len()];
        let attention = Attention::full(layer.group, 0.125);
        reference::attend(Request { heads: &heads, q: &q, n, out: &mut expected }, &attention);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; q.len()];
            let request = Request { heads: &heads, q: &q, n, out: &mut out };
            attend_with(isa, &mut [request], &attention);
            let (off, _) = difference(&out, &expected);
            assert!(off < 1e-5, "{isa:?}, {n} queries, {size}: {off}");
        }
    }
}

#[test]
fn nothing_asked_is_nothing_done() {
    let mut heads = vec![Head::new(64, Dtype::F16)];
    attend(&[], &[], 0, 3, &mut []);
    attend(&[], &[], 4, 3, &mut []);
    attend(&heads, &[], 0, 3, &mut []);
    heads[0].push(&[1.0; 64], &[2.0; 64], 1, 0.0);
    attend(&heads, &[], 0, 3, &mut []);
    attend_batch(&mut [], &Attention::full(3, 1.0));
    let (q, mut out) = (vec![1.0; 64], vec![0.0; 64]);
    let mut requests = [
        Request { heads: &heads, q: &[], n: 0, out: &mut [] },
        Request { heads: &heads, q: &q, n: 1, out: &mut out },
        Request { heads: &[], q: &[], n: 1, out: &mut [] },
    ];
    attend_batch(&mut requests, &Attention::full(1, 1.0));
    assert_eq!(out, vec![2.0; 64]);
}

#[test]
#[should_panic(expected = "every query belongs to an entry")]
fn more_queries_than_entries_are_refused() {
    let mut head = Head::new(2, Dtype::F32);
    head.push(&[1.0; 2], &[1.0; 2], 1, 0.0);
    attend(&[head], &[0.0; 4], 2, 1, &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "queries are [n, heads * group, key_dim]")]
fn queries_of_another_shape_are_refused() {
    let mut head = Head::new(2, Dtype::F32);
    head.push(&[1.0; 2], &[1.0; 2], 1, 0.0);
    attend(&[head], &[0.0; 3], 1, 1, &mut [0.0; 3]);
}
