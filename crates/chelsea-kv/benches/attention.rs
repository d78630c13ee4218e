//! Attention against the machine's limits: decode in bytes of cache a second beside a plain read of as
//! many bytes, prefill in operations a second.
//!
//! `cargo bench -p chelsea-kv --bench attention [-- decode|prefill] [--isa avx2]`

use chelsea_kv::attention::{Isa, Request, attend_with};
use chelsea_kv::{Dtype, Head};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// A model's attention: KV heads of a layer, query heads for each, head size.
struct Model {
    name: &'static str,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
}

const MODELS: [Model; 4] = [
    Model { name: "SmolLM2 135M", kv_heads: 3, group: 3, head_dim: 64 },
    Model { name: "Qwen2.5 0.5B", kv_heads: 2, group: 7, head_dim: 64 },
    Model { name: "Qwen2.5 1.5B", kv_heads: 2, group: 6, head_dim: 128 },
    Model { name: "Llama-3.2 1B", kv_heads: 8, group: 4, head_dim: 64 },
];

/// Cheap numbers in -1..1 (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn layer(model: &Model, entries: usize, numbers: &mut Numbers) -> Vec<Head> {
    let mut heads = vec![Head::new(model.head_dim, Dtype::F16); model.kv_heads];
    let pool = numbers.take(64 * model.head_dim);
    for head in &mut heads {
        for i in 0..entries {
            let at = |i: usize| &pool[i % 61 * model.head_dim..][..model.head_dim];
            head.push(at(i), at(i + 7), 1 + (i % 5) as u32, i as f32);
        }
    }
    heads
}

fn seconds(call: impl FnOnce()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64()
}

/// Sums `memory` in equal shares by every thread of the pool: as fast as it can be read.
fn read(memory: &[u64]) {
    let share = memory.len().div_ceil(rayon::current_num_threads());
    let sum = |part: &[u64]| {
        let mut lanes = [0u64; 32];
        for line in part.chunks_exact(32) {
            for (lane, &x) in lanes.iter_mut().zip(line) {
                *lane = lane.wrapping_add(x);
            }
        }
        lanes.iter().fold(0u64, |a, &b| a.wrapping_add(b))
    };
    std::hint::black_box(memory.par_chunks(share).map(sum).reduce(|| 0, u64::wrapping_add));
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
}

/// One query over caches of several depths. Layers are taken in turns so that together they exceed the
/// processor's caches, as the layers of a model do. After each layer as many bytes are read plainly, so
/// that both see the machine in the same state; of each the best time counts.
fn decode(isa: Isa) {
    println!("decode, {isa:?}, one query, f16 cache of all layers beyond L3");
    println!("{:14} {:>8} {:>8} {:>10} {:>10} {:>7}", "model", "entries", "threads", "GB/s", "RAM GB/s", "ratio");
    let mut numbers = Numbers(1);
    for model in &MODELS {
        for entries in [2048, 8192, 32768] {
            let bytes = model.kv_heads * entries * model.head_dim * 2 * 2;
            let layers: Vec<_> =
                (0..(96usize << 20).div_ceil(bytes)).map(|_| layer(model, entries, &mut numbers)).collect();
            let memory = vec![1u64; layers.len() * bytes / 8];
            let q = numbers.take(model.kv_heads * model.group * model.head_dim);
            let mut out = vec![0.0; q.len()];
            for threads in [1, 2] {
                pool(threads).install(|| {
                    let (mut attention, mut limit) = (f64::MAX, f64::MAX);
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_millis(600) {
                        for (heads, memory) in layers.iter().zip(memory.chunks(bytes / 8)) {
                            let request = Request { heads, q: &q, n: 1, out: &mut out };
                            attention = attention.min(seconds(|| attend_with(isa, &mut [request], model.group, 0.125)));
                            limit = limit.min(seconds(|| read(memory)));
                        }
                    }
                    println!(
                        "{:14} {entries:8} {threads:8} {:10.1} {:10.1} {:7.2}",
                        model.name,
                        bytes as f64 / attention / 1e9,
                        bytes as f64 / limit / 1e9,
                        limit / attention
                    );
                });
            }
        }
    }
}

/// A block of 512 queries at the end of caches of several depths.
fn prefill(isa: Isa) {
    println!("prefill, {isa:?}, 512 queries, f16 cache; operations that the causal mask leaves");
    println!("{:14} {:>8} {:>8} {:>10} {:>14}", "model", "entries", "threads", "ms", "GFLOP/s a core");
    let mut numbers = Numbers(2);
    const QUERIES: usize = 512;
    for model in &MODELS {
        for entries in [512, 4096, 8192] {
            let heads = layer(model, entries, &mut numbers);
            let q = numbers.take(QUERIES * model.kv_heads * model.group * model.head_dim);
            let mut out = vec![0.0; q.len()];
            let pairs = (0..QUERIES).map(|i| entries - QUERIES + i + 1).sum::<usize>();
            let work = (pairs * model.kv_heads * model.group * model.head_dim * 4) as f64;
            for threads in [1, 2] {
                pool(threads).install(|| {
                    let call = |_| {
                        let request = Request { heads: &heads, q: &q, n: QUERIES, out: &mut out };
                        seconds(|| attend_with(isa, &mut [request], model.group, 0.125))
                    };
                    let time = (0..12).map(call).fold(f64::MAX, f64::min);
                    println!(
                        "{:14} {entries:8} {threads:8} {:10.2} {:14.1}",
                        model.name,
                        time * 1e3,
                        work / time / 1e9 / threads as f64
                    );
                });
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| arguments.iter().any(|a| a.eq_ignore_ascii_case(name));
    let isa = Isa::available().find(|isa| asked(&format!("{isa:?}"))).unwrap_or_else(Isa::best);
    if !asked("prefill") {
        decode(isa);
    }
    if !asked("decode") {
        prefill(isa);
    }
}
