//! Matching: its cost over the number of entries, and what the partition of a chunk is worth.
//!
//! Beside criterion's timings this prints two results:
//! - the slope of log time over log n, which is 1 when the cost is linear;
//! - the summed cost of the cheapest edges, at equal numbers of edges, for the alternating partition and
//!   for the two that it is compared with, on keys that drift like those of neighbouring tokens.

use chelsea_kv::matching::rounded::{self, Word, match_rounded};
use chelsea_kv::matching::{Cut, Edge, Measure, Scratch, match_chunks};
use criterion::{BenchmarkId, Criterion, Throughput};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

const DIM: usize = 64;
const CHUNK: usize = 256;

/// Keys that drift from token to token and jump at times.
fn drifting_keys(n: usize, rng: &mut StdRng) -> Vec<f32> {
    let mut key = vec![0.0f32; DIM];
    let mut rows = Vec::with_capacity(n * DIM);
    for _ in 0..n {
        let stay = if rng.random::<f32>() < 0.05 { 0.2 } else { 0.9 };
        for x in &mut key {
            *x = stay * *x + (1.0 - stay * stay).sqrt() * (rng.random::<f32>() * 2.0 - 1.0);
        }
        rows.extend_from_slice(&key);
    }
    rows
}

fn matched(rows: &[f32], scratch: &mut Scratch, edges: &mut Vec<Edge>) {
    edges.clear();
    match_chunks(rows, DIM, CHUNK, Measure::SquaredDistance, scratch, edges);
}

/// The rows as the default policy compares them.
fn rounded(rows: &[f32]) -> Vec<Word> {
    let reach = rows.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let words = rounded::words(DIM);
    let mut out = vec![Word::default(); rows.len() / DIM * words];
    for (row, out) in rows.chunks_exact(DIM).zip(out.chunks_exact_mut(words)) {
        rounded::round(row, rounded::largest(DIM) / reach, out);
    }
    out
}

/// Seconds that this thread has run, so that other work on the machine does not count; seconds by the
/// clock where the system does not tell.
fn clock() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(wall, |ns| ns / 1e9)
}

fn linearity(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let (mut scratch, mut edges) = (rounded::Scratch::default(), Vec::new());
    let mut matched = |rows: &[Word]| {
        edges.clear();
        match_rounded(rows, rounded::words(DIM), CHUNK, &mut scratch, &mut edges);
    };
    let sizes = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15];
    let mut group = c.benchmark_group("match_rounded");
    let mut points = Vec::new();
    for n in sizes {
        let rows = rounded(&drifting_keys(n, &mut rng));
        group.throughput(Throughput::Elements(n as u64));
        group.bench_with_input(BenchmarkId::from_parameter(n), &rows, |b, rows| {
            b.iter(|| matched(black_box(rows)));
        });
        let repeats = (1 << 19) / n;
        let run = |_| {
            let start = clock();
            (0..repeats).for_each(|_| matched(black_box(&rows)));
            (clock() - start) / repeats as f64
        };
        let fastest = (0..5).map(run).fold(f64::INFINITY, f64::min);
        points.push(((n as f64).ln(), fastest.ln()));
        let macs = n as f64 / 2.0 * CHUNK as f64 / 2.0 * DIM as f64;
        println!("n {n:6}: {:8.3} ms, {:5.1} GOP/s", fastest * 1e3, 2.0 * macs / fastest / 1e9);
    }
    group.finish();
    let (slope, error) = fit(&points);
    println!("log-log fit of time over n: slope {slope:.3} (1 is linear), largest residual {:.1}%", error * 100.0);
}

/// Slope of the least-squares line, and the largest deviation from it.
fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let slope = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>()
        / points.iter().map(|p| (p.0 - mx).powi(2)).sum::<f64>();
    let residual = |p: &(f64, f64)| (p.1 - my - slope * (p.0 - mx)).abs();
    (slope, points.iter().map(residual).fold(0.0, f64::max))
}

/// Lays out every chunk such that matching, which alternates, sees the partition `order`: even places
/// for B, odd ones for A.
fn rearranged(rows: &[f32], mut order: impl FnMut(usize) -> Vec<usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(CHUNK * DIM) {
        for i in order(chunk.len() / DIM) {
            out.extend_from_slice(&chunk[i * DIM..][..DIM]);
        }
    }
    out
}

fn partitions() {
    let mut rng = StdRng::seed_from_u64(2);
    let rows = drifting_keys(8192, &mut rng);
    let alternating = rows.clone();
    let halves =
        rearranged(&rows, |n| (0..n).map(|i| if i % 2 == 0 { i / 2 } else { n.div_ceil(2) + i / 2 }).collect());
    let random = rearranged(&rows, |n| {
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut rng);
        order
    });
    let (mut scratch, mut edges) = (Scratch::default(), Vec::new());
    println!("summed cost of the cheapest edges of 8192 drifting keys, by the partition of a chunk:");
    println!("{:>8} {:>12} {:>12} {:>12}", "edges", "alternating", "half/half", "random");
    for share in [0.125, 0.25, 0.5] {
        let r = (8192.0 * share) as usize;
        let mut sum = |rows: &[f32]| {
            matched(rows, &mut scratch, &mut edges);
            let mut cut = Cut::cheapest(edges.iter().map(|edge| edge.cost), r);
            edges.iter().filter(|edge| cut.takes(edge.cost)).map(|edge| f64::from(edge.cost)).sum::<f64>()
        };
        let sums = [sum(&alternating), sum(&halves), sum(&random)];
        println!("{r:>8} {:>12.1} {:>12.1} {:>12.1}", sums[0], sums[1], sums[2]);
        assert!(sums[0] < sums[1] && sums[0] < sums[2], "the alternating partition is the cheapest");
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .configure_from_args();
    linearity(&mut criterion);
    partitions();
    criterion.final_summary();
}
