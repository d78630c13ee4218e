//! What storage in integers costs, in bytes and in accuracy.

#![allow(clippy::unwrap_used)]

use chelsea_kv::attention::{Attention, Request, attend_batch};
use chelsea_kv::merge::merge_head;
use chelsea_kv::scratch::ScratchMeter;
use chelsea_kv::{Budget, CacheConfig, CacheShape, Dtype, Head, PAGE, Page, Rotary, SequenceCache};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::ops::Range;

/// Numbers that are roughly normal, with variance 1.
fn normal(n: usize, rng: &mut SmallRng) -> Vec<f32> {
    (0..n).map(|_| (0..12).map(|_| rng.random_range(-0.5f32..0.5)).sum()).collect()
}

/// Keys, values and queries of one head.
struct Data {
    dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
}

impl Data {
    /// Rows without any structure.
    fn random(dim: usize, entries: usize, rng: &mut SmallRng) -> Data {
        let (keys, values) = (normal(dim * entries, rng), normal(dim * entries, rng));
        Data { dim, keys, values, queries: normal(dim * 32, rng) }
    }

    /// Rows like those of a model: keys with a few large constant dimensions, the same for all entries, and
    /// smaller ones that differ; entries in topics; values with dimensions of unequal size; queries that look
    /// for a topic.
    fn realistic(dim: usize, entries: usize, rng: &mut SmallRng) -> Data {
        let mut offset = normal(dim, rng);
        offset.iter_mut().enumerate().for_each(|(i, x)| *x *= if i % 29 == 3 { 12.0 } else { 0.5 });
        let topics: Vec<Vec<f32>> = (0..16).map(|_| normal(dim, rng)).collect();
        let sizes: Vec<f32> = normal(dim, rng).iter().map(|x| 0.05 + 0.1 * x * x).collect();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for i in 0..entries {
            let topic = &topics[i / 9 % topics.len()];
            let noise = normal(dim, rng);
            keys.extend((0..dim).map(|k| offset[k] + topic[k] + 0.6 * noise[k]));
            let noise = normal(dim, rng);
            values.extend((0..dim).map(|k| sizes[k] * (topic[k] + noise[k])));
        }
        let mut queries = Vec::new();
        for i in 0..32 {
            let noise = normal(dim, rng);
            queries.extend((0..dim).map(|k| 1.5 * topics[i % topics.len()][k] + noise[k]));
        }
        Data { dim, keys, values, queries }
    }

    fn head(&self, dtype: Dtype) -> Head {
        let mut head = Head::new(self.dim, dtype);
        for (i, (key, value)) in self.keys.chunks(self.dim).zip(self.values.chunks(self.dim)).enumerate() {
            head.push(key, value, 1 + (i % 4) as u32, i as f32);
        }
        head
    }

    fn outputs(&self, dtype: Dtype) -> Vec<f32> {
        let heads = [self.head(dtype)];
        let scale = (self.dim as f32).sqrt().recip();
        let mut out = vec![0.0; self.queries.len()];
        let request = Request { heads: &heads, q: &self.queries, n: 1, out: &mut out };
        attend_batch(&mut [request], &Attention::full(32, scale));
        out
    }

    /// Relative error of attention's output for storage in `dtype`, against storage in 32 bits.
    fn error(&self, dtype: Dtype) -> f64 {
        let (exact, stored) = (self.outputs(Dtype::F32), self.outputs(dtype));
        let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
        let off = power(&mut exact.iter().zip(&stored).map(|(x, y)| x - y));
        (off / power(&mut exact.iter().copied())).sqrt()
    }
}

#[test]
fn integers_cost_attention_little() {
    println!("relative error of attention    d      f16       q8     k8v4");
    for dim in [64, 128] {
        let mut rng = SmallRng::seed_from_u64(dim as u64);
        let cases =
            [("random", Data::random(dim, 1500, &mut rng)), ("like a model", Data::realistic(dim, 1500, &mut rng))];
        for (name, data) in cases {
            let [half, bytes, less] = [Dtype::F16, Dtype::Q8, Dtype::K8V4].map(|dtype| data.error(dtype));
            println!("{name:28} {dim:4} {half:8.5} {bytes:8.5} {less:8.5}");
            assert!(half < 0.001, "{name}, {dim}: f16 is off by {half}");
            assert!(bytes < 0.02 && bytes > half, "{name}, {dim}: q8 is off by {bytes}, f16 by {half}");
            assert!(less < 0.15 && less > bytes, "{name}, {dim}: k8v4 is off by {less}, q8 by {bytes}");
        }
    }
}

/// A cache of one head that was given all of `data` at once.
fn cache(data: &Data, dtype: Dtype) -> SequenceCache {
    let shape = CacheShape::uniform(1, 32, 1, data.dim, Rotary::plain(data.dim, 10_000.0)).unwrap();
    let config = CacheConfig { dtype, ..CacheConfig::new(shape) };
    let mut cache = SequenceCache::new(config).unwrap();
    cache.append(0, &data.keys, &data.values).unwrap();
    cache
}

#[test]
fn a_few_large_dimensions_of_keys_leave_the_others_their_bits() {
    for dim in [64, 128] {
        let data = Data::realistic(dim, 1500, &mut SmallRng::seed_from_u64(dim as u64));
        let mut plain = Head::new(dim, Dtype::Q8);
        plain.extend(&data.keys, &data.values, dim.into(), 1500, 0);
        let balanced = cache(&data, Dtype::Q8);
        // Mean squared error over the dimensions that are not large.
        let error = |head: &Head| {
            let off = |i: usize| {
                let key = &rows(head, i)[0];
                let small = (0..dim).filter(|k| (k % (dim / 2)) % 29 != 3 && k % 29 != 3);
                small.map(|k| f64::from(key[k] - data.keys[i * dim + k]).powi(2)).sum::<f64>()
            };
            (0..1500).map(off).sum::<f64>()
        };
        let (before, after) = (error(&plain), error(&balanced.heads()[0]));
        assert!(after < before / 4.0, "{dim}: {after} instead of {before}");
    }
}

#[test]
fn too_few_tokens_are_stored_as_they_are() {
    let data = Data::realistic(64, 15, &mut SmallRng::seed_from_u64(1));
    let mut plain = Head::new(64, Dtype::Q8);
    plain.extend(&data.keys, &data.values, 64.into(), 15, 0);
    let cache = cache(&data, Dtype::Q8);
    (0..15).for_each(|i| assert_eq!(rows(&cache.heads()[0], i), rows(&plain, i)));
}

#[test]
fn text_that_comes_in_small_pieces_is_balanced_as_well() {
    let data = Data::realistic(64, 300, &mut SmallRng::seed_from_u64(2));
    let whole = cache(&data, Dtype::Q8);
    let mut plain = Head::new(64, Dtype::Q8);
    plain.extend(&data.keys, &data.values, 64.into(), 300, 0);
    for first in [1, 10, 15, 16, 40, 63, 64] {
        let mut pieces = SequenceCache::new(whole.config().clone()).unwrap();
        let mut at = 0;
        while at < 300 {
            let next = if at == 0 { first } else { 300.min(at + 7) };
            pieces.append(0, &data.keys[at * 64..next * 64], &data.values[at * 64..next * 64]).unwrap();
            at = next;
        }
        let error = |head: &Head, entries: Range<usize>| {
            let off = |i: usize| {
                let [key, value] = rows(head, i);
                assert!(value.iter().zip(&data.values[i * 64..]).all(|(x, y)| (x - y).abs() < 0.1));
                key.iter().zip(&data.keys[i * 64..]).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>()
            };
            entries.map(off).sum::<f64>()
        };
        let (whole, pieces) = (whole.heads(), pieces.heads());
        let (whole, pieces) = (&whole[0], &pieces[0]);
        // The first few were rounded before it was known how large keys are.
        let (at_once, in_pieces) = (error(whole, 64..300), error(pieces, 64..300));
        assert!(in_pieces < 1.3 * at_once, "{first} at first: {in_pieces}, at once {at_once}");
        assert!(error(pieces, 0..64) < 1.5 * error(&plain, 0..64), "{first} at first");
        assert!(in_pieces < error(&plain, 64..300) / 3.0, "{first} at first: {in_pieces}");
        let positions: Vec<f32> = (0..300).map(|i| pieces.position(i)).collect();
        assert!(positions.iter().enumerate().all(|(i, &p)| p == i as f32));
    }
}

fn rows(head: &Head, i: usize) -> [Vec<f32>; 2] {
    let (mut key, mut value) = (vec![0.0; head.head_dim()], vec![0.0; head.head_dim()]);
    head.read_key(i, &mut key);
    head.read_value(i, &mut value);
    [key, value]
}

#[test]
fn a_centroid_is_rounded_once() {
    for (dtype, dim) in [(Dtype::Q8, 6), (Dtype::Q8, 64), (Dtype::K8V4, 6), (Dtype::K8V4, 64), (Dtype::K5V4, 64)] {
        let mut head = Data::realistic(dim, 100, &mut SmallRng::seed_from_u64(9)).head(dtype);
        // Three in a row become one, in the middle of the head.
        let roots: Vec<u32> = (0..60).map(|i| i / 3 * 3).collect();
        let before: Vec<_> = (0..100).map(|i| (rows(&head, i), head.count(i))).collect();
        merge_head(&mut head, 20..80, &roots, &ScratchMeter::default());
        assert_eq!(head.len(), 60);
        for cluster in 0..20 {
            let members = &before[20 + 3 * cluster..][..3];
            let total: u32 = members.iter().map(|(_, count)| count).sum();
            let merged = rows(&head, 20 + cluster);
            assert_eq!(head.count(20 + cluster), total);
            for which in 0..2 {
                let mean: Vec<f64> = (0..dim)
                    .map(|k| members.iter().map(|(rows, n)| f64::from(rows[which][k]) * f64::from(*n)).sum::<f64>())
                    .map(|sum| sum / f64::from(total))
                    .collect();
                // The same numbers, rounded once.
                let row: Vec<f32> = mean.iter().map(|&x| x as f32).collect();
                let mut fresh = Head::new(dim, dtype);
                fresh.push(&row, &row, 1, 0.0);
                let once = &rows(&fresh, 0)[which];
                let step = mean.iter().fold(0.0f64, |largest, x| largest.max(x.abs())) / 127.0;
                for ((x, once), mean) in merged[which].iter().zip(once).zip(&mean) {
                    assert!(f64::from(x - once).abs() <= 0.02 * step, "{x}, rounded once {once}");
                    let eight = [dtype.key_bits(), dtype.value_bits()][which] == 8;
                    assert!(!eight || (f64::from(*x) - mean).abs() <= 0.501 * step, "{x} for {mean}, step {step}");
                }
            }
        }
        for (after, i) in (0..20).map(|i| (i, i)).chain((0..20).map(|i| (40 + i, 80 + i))) {
            assert_eq!(rows(&head, after), before[i].0, "entries that stay alone keep every bit");
        }
    }
}

#[test]
fn rows_of_zeros_are_entries_like_others() {
    for dtype in [Dtype::Q8, Dtype::K8V4, Dtype::K5V4] {
        zeros_are_entries(dtype);
    }
}

fn zeros_are_entries(dtype: Dtype) {
    let mut head = Head::new(10, dtype);
    head.push(&[0.0; 10], &[0.0; 10], 3, 0.0);
    head.push(&[1.0; 10], &[2.0; 10], 1, 1.0);
    head.push(&[0.0; 10], &[4.0; 10], u32::MAX, 2.0);
    assert_eq!(rows(&head, 0), [vec![0.0; 10], vec![0.0; 10]]);
    let heads = [head];
    let mut out = vec![f32::NAN; 10];
    // All scores are 0: what counts is counts.
    attend_batch(&mut [Request { heads: &heads, q: &[0.0; 10], n: 1, out: &mut out }], &Attention::full(1, 1.0));
    assert!(out.iter().all(|x| (x - 4.0).abs() < 1e-5), "{out:?}");
    attend_batch(&mut [Request { heads: &heads, q: &[40.0; 10], n: 1, out: &mut out }], &Attention::full(1, 1.0));
    assert!(out.iter().all(|x| (x - 2.0).abs() < 1e-5), "{out:?}");
}

#[test]
fn a_budget_in_bytes_holds_more_entries_the_fewer_bits_they_have() {
    let shape = CacheShape::uniform(2, 4, 2, 64, Rotary::plain(64, 10_000.0)).unwrap();
    let bytes = 60 * Page::bytes(64.into(), Dtype::F16);
    let entries = |dtype: Dtype| {
        let config = CacheConfig { dtype, budget: Budget::Bytes(bytes), ..CacheConfig::new(shape.clone()) };
        let allowed = config.allowed(100_000);
        let mut cache =
            SequenceCache::synthetic(CacheConfig { budget: Budget::EntryFraction(1.0), ..config }, 3000, 3000, 1)
                .unwrap();
        cache.set_budget(Budget::Bytes(bytes)).unwrap();
        cache.compact_now(None).unwrap();
        assert!(cache.memory().total() <= bytes, "{dtype:?}: {} of {bytes}", cache.memory().total());
        assert!(cache.entries() <= allowed && cache.entries() + PAGE * shape.heads() > allowed);
        cache.entries()
    };
    let [half, byte, less, least] = [Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4].map(entries);
    assert!(byte as f64 > 1.7 * half as f64, "{byte} entries in 8 bits, {half} in 16");
    assert!(less as f64 > 1.2 * byte as f64, "{less} entries with values in 4 bits, {byte} in 8");
    assert!(least as f64 > 1.2 * less as f64, "{least} entries with keys in 5 bits, {less} in 8");
}
