//! Attention against the machine's limits, which are measured in the same run: decode in bytes of cache a
//! second beside a plain read of as many bytes, and both decode and prefill in operations per second beside
//! nothing but fused multiply-adds in registers.
//!
//! `cargo bench -p chelsea-kv --bench attention [-- decode|prefill] [--isa avx2] [f16|q8|k8v4] [--model qwen2.5]`
//!
//! A machine with other work to do shows it: the plain read and the multiply-adds are then slow too, and
//! ratios say more than rates. Of each the best time counts.

#![allow(unsafe_code)]

use chelsea_kv::attention::{Attention, Isa, Request, attend_with};
use chelsea_kv::{Dtype, Head, Reservation, Rotary};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// A model's attention: KV heads of a layer, query heads for each, head size.
struct Model {
    name: &'static str,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
}

const MODELS: [Model; 5] = [
    Model { name: "SmolLM2-135M", kv_heads: 3, group: 3, head_dim: 64 },
    Model { name: "Qwen2.5-0.5B", kv_heads: 2, group: 7, head_dim: 64 },
    Model { name: "Qwen2.5-1.5B", kv_heads: 2, group: 6, head_dim: 128 },
    Model { name: "Llama-3.2-1B", kv_heads: 8, group: 4, head_dim: 64 },
    Model { name: "Gemma-3-270M", kv_heads: 1, group: 4, head_dim: 256 },
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

fn layer(model: &Model, dtype: Dtype, entries: usize, numbers: &mut Numbers) -> Vec<Head> {
    let mut heads = vec![Head::new(model.head_dim, dtype); model.kv_heads];
    let pool = numbers.take(64 * model.head_dim);
    let rotary = Rotary::plain(model.head_dim, 1e6);
    for head in &mut heads {
        if Head::weighs(dtype, 0) {
            head.weigh(&pool, model.head_dim, 64, 0, &rotary, &Reservation::unbound());
        }
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
        // No more sums than the smallest set of registers holds.
        let mut lanes = [0u64; 16];
        for line in part.chunks_exact(16) {
            for (lane, &x) in lanes.iter_mut().zip(line) {
                *lane = lane.wrapping_add(x);
            }
        }
        lanes.iter().fold(0u64, |a, &b| a.wrapping_add(b))
    };
    std::hint::black_box(memory.par_chunks(share).map(sum).reduce(|| 0, u64::wrapping_add));
}

/// Rounds of multiply-adds, one for each sum in a round.
const ROUNDS: usize = 20_000;

/// Multiply-adds of `ROUNDS` rounds, as many independent sums as hide how long each takes and fit in registers.
/// Returns the operations that were done.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn operations_avx2(factor: f32) -> usize {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(factor);
    let mut sums = [factor; 12];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    std::hint::black_box(sums);
    ROUNDS * sums.len() * 8 * 2
}

/// As [`operations_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn operations_avx512(factor: f32) -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let factor = _mm512_set1_ps(factor);
    let mut sums = [factor; 20];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    std::hint::black_box(sums);
    ROUNDS * sums.len() * 16 * 2
}

/// The same in plain Rust, for whatever the target has; multiplication and addition apart where it has no
/// instruction for both.
fn operations_plain(factor: f32) -> usize {
    let fused = cfg!(target_arch = "aarch64");
    let mut sums = [[factor; 4]; 12];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = sum.map(|x| if fused { x.mul_add(factor, factor) } else { x * factor + factor });
        }
    }
    std::hint::black_box(sums);
    ROUNDS * sums.len() * 4 * 2
}

/// The most operations per second that a core can do with `isa`, in thousand millions: multiply-adds in
/// registers and nothing else.
fn most_operations(isa: Isa) -> f64 {
    let rate = |_| {
        let factor = std::hint::black_box(0.5);
        let start = Instant::now();
        let operations = match isa {
            // SAFETY: `isa` is one of those available on this machine.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { operations_avx2(factor) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => unsafe { operations_avx512(factor) },
            _ => operations_plain(factor),
        };
        operations as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..400).map(rate).fold(0.0, f64::max)
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
}

/// What to measure.
struct Asked {
    isa: Isa,
    dtypes: Vec<Dtype>,
    models: Vec<&'static Model>,
    /// Thousand millions of operations per second and core.
    most: f64,
}

/// One query over caches of several depths. Layers are taken in turns so that together they exceed the
/// processor's caches, as the layers of a model do. After each layer as many bytes are read plainly, so
/// that both see the machine in the same state.
fn decode(asked: &Asked) {
    println!("\ndecode: one query, all layers together beyond L3");
    println!(
        "{:12} {:>4} {:>7} {:>7} {:>6} {:>8} {:>6} {:>14} {:>8}",
        "model", "type", "entries", "threads", "GB/s", "RAM GB/s", "of RAM", "GFLOP/s per core", "of most"
    );
    let mut numbers = Numbers(1);
    for model in &asked.models {
        let attention = Attention::full(model.group, 0.125);
        for &dtype in &asked.dtypes {
            for entries in [2048, 8192, 32768] {
                let bytes = dtype.bytes(model.kv_heads * entries, model.head_dim.into());
                let layers: Vec<_> =
                    (0..(256usize << 20).div_ceil(bytes)).map(|_| layer(model, dtype, entries, &mut numbers)).collect();
                let memory = vec![1u64; layers.len() * bytes / 8];
                let q = numbers.take(model.kv_heads * model.group * model.head_dim);
                let mut out = vec![0.0; q.len()];
                for threads in [1, 2] {
                    pool(threads).install(|| {
                        let (mut best, mut limit) = (f64::MAX, f64::MAX);
                        let begin = Instant::now();
                        while begin.elapsed() < Duration::from_millis(600) {
                            for (heads, memory) in layers.iter().zip(memory.chunks(bytes / 8)) {
                                let request = Request { heads, q: &q, n: 1, out: &mut out };
                                let call = || attend_with(asked.isa, &mut [request], &attention);
                                best = best.min(seconds(call));
                                limit = limit.min(seconds(|| read(memory)));
                            }
                        }
                        let work = (model.kv_heads * entries * model.group * model.head_dim * 4) as f64;
                        let rate = work / best / threads as f64 / 1e9;
                        println!(
                            "{:12} {:>4} {entries:7} {threads:7} {:6.1} {:8.1} {:6.2} {rate:14.1} {:8.2}",
                            model.name,
                            dtype.name(),
                            bytes as f64 / best / 1e9,
                            bytes as f64 / limit / 1e9,
                            limit / best,
                            rate / asked.most
                        );
                    });
                }
            }
        }
    }
}

/// A block of 512 queries at the end of caches of several depths.
fn prefill(asked: &Asked) {
    println!("\nprefill: 512 queries; operations that the causal mask leaves");
    println!(
        "{:12} {:>4} {:>7} {:>7} {:>8} {:>14} {:>8}",
        "model", "type", "entries", "threads", "ms", "GFLOP/s per core", "of most"
    );
    let mut numbers = Numbers(2);
    const QUERIES: usize = 512;
    for model in &asked.models {
        let attention = Attention::full(model.group, 0.125);
        for &dtype in &asked.dtypes {
            for entries in [512, 4096, 8192] {
                let heads = layer(model, dtype, entries, &mut numbers);
                let q = numbers.take(QUERIES * model.kv_heads * model.group * model.head_dim);
                let mut out = vec![0.0; q.len()];
                let pairs = (0..QUERIES).map(|i| entries - QUERIES + i + 1).sum::<usize>();
                let work = (pairs * model.kv_heads * model.group * model.head_dim * 4) as f64;
                for threads in [1, 2] {
                    pool(threads).install(|| {
                        let call = |_| {
                            let request = Request { heads: &heads, q: &q, n: QUERIES, out: &mut out };
                            seconds(|| attend_with(asked.isa, &mut [request], &attention))
                        };
                        let time = (0..12).map(call).fold(f64::MAX, f64::min);
                        let rate = work / time / 1e9 / threads as f64;
                        println!(
                            "{:12} {:>4} {entries:7} {threads:7} {:8.2} {rate:14.1} {:8.2}",
                            model.name,
                            dtype.name(),
                            time * 1e3,
                            rate / asked.most
                        );
                    });
                }
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).map(|a| a.to_lowercase()).collect();
    let asked_for = |name: &str| arguments.iter().any(|a| a == name);
    let isa = Isa::available().find(|isa| asked_for(&format!("{isa:?}").to_lowercase())).unwrap_or_else(Isa::best);
    let all = [Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4];
    let some = all.into_iter().filter(|dtype| asked_for(dtype.name())).collect::<Vec<_>>();
    let after = arguments.iter().position(|a| a == "--model").and_then(|at| arguments.get(at + 1));
    let named = |model: &&Model| after.is_none_or(|name| model.name.to_lowercase().contains(name.as_str()));
    let asked = Asked {
        isa,
        dtypes: if some.is_empty() { all.to_vec() } else { some },
        models: MODELS.iter().filter(named).collect(),
        most: most_operations(isa),
    };
    println!("{isa:?}: at most {:.0} GFLOP/s per core", asked.most);
    if !asked_for("prefill") {
        decode(&asked);
    }
    if !asked_for("decode") {
        prefill(&asked);
    }
}
