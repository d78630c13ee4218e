//! Products of every type on the matrices of small models: `cargo bench -p chelsea-linear`.
//!
//! Prints, for one and for all threads: prefill (128 tokens, or those given) in billions of operations per second, of
//! which a product has `2 m rows cols`, and decode (one token) in GB/s of the bytes held; what a step of a prefill
//! and of eight sequences that decode costs, over what both cost apart (weights in the caches where they fit); for one
//! thread products in f32 of 64 tokens; bits per weight and the time to pack. Decode walks over enough
//! copies of a matrix that none stays in the caches. Best of several runs; the time to round the
//! activations is part of the products, and shown by itself first.
//! With the word `experts` it measures mixtures of experts instead: all products of a batch in one call, over the same
//! products in a call each.
//! Words on the command line pick types by name, `short` two of the shapes, and a number is the tokens of prefill:
//! `cargo bench -p chelsea-linear -- Q4_K short 256`.

use chelsea_linear::{
    Activations, Choice, Experts, GgmlType, Input, Linear, Products, Routes, forward_experts, forward_many,
};
use std::time::{Duration, Instant};

const SHAPES: [(usize, usize); 9] = [
    (576, 576),
    (1536, 576),
    (576, 1536),
    (896, 896),
    (4864, 896),
    (896, 4864),
    (1536, 1536),
    (8960, 1536),
    (1536, 8960),
];
/// Tokens of prefill where none are given.
const PREFILL: usize = 128;
/// Sequences that decode beside a prefill.
const DECODING: usize = 8;
/// Bytes that decode walks over: more than the last cache.
const COLD: usize = 96 << 20;

/// Time of the fastest of many runs, in seconds: a fifth of a second's worth, at least `runs`.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    for run in 0.. {
        if run >= runs && begin.elapsed() > Duration::from_millis(200) {
            break;
        }
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

/// Time of one walk over all of `items`, in seconds: each item's fastest time of some walks.
fn best_walk<T>(items: &[T], mut work: impl FnMut(&T)) -> f64 {
    let mut times = vec![Duration::MAX; items.len()];
    for _ in 0..7 {
        for (item, time) in items.iter().zip(&mut times) {
            let start = Instant::now();
            work(item);
            *time = start.elapsed().min(*time);
        }
    }
    times.iter().sum::<Duration>().as_secs_f64()
}

fn random_blocks(ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut blocks: Vec<u8> = (0..ty.bytes_for(rows, cols).expect("whole blocks"))
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // No exponent of all ones: scales stay finite.
            (state >> 56) as u8 & 0x3b
        })
        .collect();
    if ty == GgmlType::MXFP4 {
        // Exponents of numbers of everyday size: what is below normal numbers is slow.
        blocks.chunks_exact_mut(ty.block_bytes()).for_each(|block| block[0] = 110 + block[0] % 16);
    }
    blocks
}

fn activations(m: usize, cols: usize) -> Vec<f32> {
    (0..m * cols).map(|i| (i % 251) as f32 * 0.01 - 1.25).collect()
}

fn main() {
    let mut filter: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let short = filter.iter().position(|f| f == "short").map(|i| filter.remove(i)).is_some();
    let tokens = filter.iter().position(|f| f.parse::<usize>().is_ok()).map(|i| filter.remove(i));
    // Products in f32 are measured on the first 64.
    let tokens = tokens.and_then(|f| f.parse().ok()).unwrap_or(PREFILL).max(64);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("{}, {threads} threads", chelsea_linear::instructions());
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread pool");
    if filter.iter().any(|f| f == "experts") {
        // Those of Qwen3-30B-A3B and of gpt-oss-20b.
        measure_experts(GgmlType::Q4K, 128, 8, 768, 2048);
        measure_experts(GgmlType::MXFP4, 32, 4, 2880, 2880);
        return;
    }
    let x = activations(64, 1536);
    let mut workspace = Activations::new();
    let time = one.install(|| best(5, || workspace.set(&x, &[64], 1536)));
    println!("activations rounded: {:.1} GB/s of f32, 1 thread", (x.len() * 4) as f64 / time / 1e9);
    println!(
        "type  rows x cols      bits   pack GB/s | prefill {tokens}, GOP/s: 1, {threads} threads | decode, GB/s: 1, {threads} threads | mixed: 1, {threads} threads | f32 64, GFLOP/s"
    );
    for ty in GgmlType::ALL {
        if !filter.is_empty() && !filter.iter().any(|f| f.eq_ignore_ascii_case(ty.name())) {
            continue;
        }
        for (rows, cols) in SHAPES {
            if cols % ty.block_len() == 0 && !(short && (rows, cols) != (8960, 1536) && (rows, cols) != (896, 4864)) {
                measure(ty, rows, cols, tokens, threads);
            }
        }
    }
}

fn measure(ty: GgmlType, rows: usize, cols: usize, tokens: usize, threads: usize) {
    let data = random_blocks(ty, rows, cols);
    let pools = [1, threads].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a thread pool"));
    let make = || Linear::new(ty, &data, rows, cols, Products::Fast, None).expect("a valid matrix");
    let linear = make();
    let copies: Vec<Linear> = (0..COLD.div_ceil(linear.bytes())).map(|_| pools[1].install(make)).collect();
    let pack = pools[1].install(|| best(3, || drop(make())));
    let x = activations(tokens + DECODING, cols);
    let mut y = vec![0.0; (tokens + DECODING) * rows];
    let mut workspace = Activations::new();
    let mut prefill = [0.0; 2];
    let mut decode = [0.0; 2];
    let mut mixed = [0.0; 2];
    for (i, pool) in pools.iter().enumerate() {
        pool.install(|| {
            let mut time = |chunks: &[usize]| {
                let rows_in: usize = chunks.iter().sum();
                let (x, y) = (&x[..rows_in * cols], &mut y[..rows_in * rows]);
                best(7, || forward_many(&mut [(&linear, &mut *y)], x, chunks, &mut workspace))
            };
            let alone = time(&[tokens]);
            prefill[i] = 2.0 * (tokens * rows * cols) as f64 / alone / 1e9;
            let mut chunks = [1; 1 + DECODING];
            let decoding = time(&chunks[1..]);
            chunks[0] = tokens;
            mixed[i] = time(&chunks) / (alone + decoding);
            let time = best_walk(&copies, |linear| linear.forward(&x[..cols], 1, &mut y[..rows]));
            decode[i] = (copies.len() * linear.bytes()) as f64 / time / 1e9;
        });
    }
    let exact = Linear::new(ty, &data, rows, cols, Products::F32, None).expect("a valid matrix");
    let (x, y) = (&x[..64 * cols], &mut y[..64 * rows]);
    let time = pools[0].install(|| best(2, || exact.forward(x, 64, y)));
    let exact = 2.0 * (64 * rows * cols) as f64 / time / 1e9;
    println!(
        "{:5} {:5} x {:<5} {:8.3} {:8.2}    | {:8.0} {:8.0}   | {:8.1} {:8.1}   | {:8.2} {:8.2}      | {exact:8.1}",
        ty.name(),
        rows,
        cols,
        linear.bytes() as f64 * 8.0 / (rows * cols) as f64,
        data.len() as f64 / pack / 1e9,
        prefill[0],
        prefill[1],
        decode[0],
        decode[1],
        mixed[0],
        mixed[1]
    );
}

/// Products of one matrix of `count` experts, of which every row meets `each`.
fn measure_experts(ty: GgmlType, count: usize, each: usize, rows: usize, cols: usize) {
    let data = random_blocks(ty, count * rows, cols);
    let experts = Experts::new(ty, &data, count, rows, cols, Products::Fast, None).expect("valid experts");
    let (mut routes, mut workspace) = (Routes::new(), Activations::new());
    for m in [1, 8, 128] {
        let x = activations(m, cols);
        // Steps with no common divisor: all experts are met, no expert twice by one row.
        let expert = |i: usize| ((i / each * 37 + i % each * 11) % count) as u32;
        let choices: Vec<Choice> = (0..m * each).map(|i| Choice { expert: expert(i), weight: 1.0 }).collect();
        let mut y = vec![0.0; m * each * rows];
        let together = best(7, || {
            routes.set(&[m], count, &choices);
            forward_experts(&mut [(&experts, &mut y)], &x, Input::Rows, &routes, &mut workspace);
        });
        let apart = best(7, || {
            for (expert, slots) in routes.experts() {
                let chosen = |choice: &Choice| choice.expert as usize == expert;
                let met = x.chunks_exact(cols).zip(choices.chunks_exact(each)).filter(|(_, c)| c.iter().any(chosen));
                let gathered: Vec<f32> = met.flat_map(|(x, _)| x).copied().collect();
                let y = &mut y[slots.start * rows..slots.end * rows];
                experts.matrices()[expert].forward(&gathered, slots.len(), y);
            }
        });
        let met = routes.experts().count();
        println!(
            "{ty} {count} experts of {rows} x {cols}, {m} rows, {each} each: {:.0} us, {:.1} GB/s of {met} experts, {:.2} of single calls",
            together * 1e6,
            (experts.bytes() / count * met) as f64 / together / 1e9,
            together / apart
        );
    }
}
