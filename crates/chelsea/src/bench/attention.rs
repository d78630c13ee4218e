//! Attention alone, for the shape of a model, beside a plain read of memory in the same run. Decode attention reads the
//! whole cache for each token, so it should come near the speed of that read; prefill attention should come near the most
//! operations that the processor can do.

use super::subject::{Subject, label};
use super::trials::{Samples, Spread, interleaved};
use crate::cli::BenchArgs;
use anyhow::{Result, bail};
use chelsea_kv::{Budget, CacheShape, SequenceCache};
use rayon::prelude::*;
use serde::Serialize;
use std::time::Instant;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Attention {
    /// Reading memory with all threads, in GB a second.
    pub ram_gb_per_s: Spread,
    pub rows: Vec<Row>,
}

/// One depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    /// Bytes that one decode step reads, over all layers.
    pub bytes: usize,
    /// One query a head over all layers.
    pub decode_ms: Spread,
    pub decode_gb_per_s: f64,
    pub decode_gflop_per_s: f64,
    /// Queries of the prefill block.
    pub queries: usize,
    /// A block of queries over one layer.
    pub prefill_layer_ms: Option<Spread>,
    pub prefill_gflop_per_s: Option<f64>,
}

/// Bytes of the plain read: several times what a processor's cache holds.
const READ: usize = 512 << 20;

struct Case {
    depth: usize,
    budget: Budget,
    cache: SequenceCache,
    decode: Samples,
    prefill: Samples,
}

/// Measures every depth above 0 under every budget.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Attention> {
    let mut cases = Vec::new();
    for &depth in args.depths.iter().filter(|&&depth| depth > 0) {
        for budget in args.budgets() {
            let cache = subject.cache(args, depth, budget, 0)?;
            cases.push(Case { depth, budget, cache, decode: Samples::default(), prefill: Samples::default() });
        }
    }
    if cases.is_empty() {
        bail!("--what attention needs a depth above 0");
    }
    let shape = subject.model.cache_shape();
    let numbers = vec![1u64; READ / 8];
    let mut ram = Samples::default();
    let width = shape.layer(0).query_width();
    let block = queries(args.prefill.max(1) * width);
    let mut out = vec![0.0; block.len()];
    interleaved("attending", &mut cases, args.trials, quiet, |case, counts| {
        let read = subject.pool.install(|| read(&numbers));
        let decode = subject.pool.install(|| -> Result<f64> {
            let start = Instant::now();
            for layer in 0..shape.layers().len() {
                case.cache.attend(layer, &block[..width], &mut out[..width])?;
            }
            Ok(start.elapsed().as_secs_f64())
        })?;
        let n = rows(args, &case.cache) * width;
        let prefill = (n > 0).then(|| {
            subject.pool.install(|| -> Result<f64> {
                let start = Instant::now();
                case.cache.attend(0, &block[..n], &mut out[..n])?;
                Ok(start.elapsed().as_secs_f64())
            })
        });
        let prefill = prefill.transpose()?;
        if counts {
            ram.push(READ as f64 / read / 1e9);
            case.decode.push(1e3 * decode);
            if let Some(time) = prefill {
                case.prefill.push(1e3 * time);
            }
        }
        Ok(())
    })?;
    let Some(ram_gb_per_s) = ram.spread() else { bail!("no trial was finished") };
    let rows = cases.iter().filter_map(|case| row(args, &shape, case)).collect();
    Ok(Attention { ram_gb_per_s, rows })
}

/// Queries of the prefill block: no more than the shortest head has entries.
fn rows(args: &BenchArgs, cache: &SequenceCache) -> usize {
    args.prefill.min(cache.heads().iter().map(chelsea_kv::Head::len).min().unwrap_or(0))
}

fn row(args: &BenchArgs, shape: &CacheShape, case: &Case) -> Option<Row> {
    let memory = case.cache.memory();
    let bytes = memory.keys + memory.values + memory.scales + memory.ln_counts;
    let decode_ms = case.decode.spread()?;
    let per_s = |work: f64, ms: f64| work / ms / 1e6;
    let entries: usize = case.cache.heads().iter().map(chelsea_kv::Head::len).sum();
    let n = rows(args, &case.cache);
    let first_layer: usize = case.cache.heads()[shape.heads_of(0)]
        .iter()
        // Token i of the block sees all but the n - 1 - i entries after it.
        .map(|head| n * head.len() - n * n.saturating_sub(1) / 2)
        .sum();
    let prefill_layer_ms = case.prefill.spread();
    Some(Row {
        depth: case.depth,
        budget: label(args, case.budget),
        bytes,
        decode_ms,
        decode_gb_per_s: per_s(bytes as f64, decode_ms.median),
        decode_gflop_per_s: per_s(operations(shape, entries), decode_ms.median),
        queries: n,
        prefill_layer_ms,
        prefill_gflop_per_s: prefill_layer_ms.map(|ms| per_s(operations(shape, first_layer), ms.median)),
    })
}

/// Multiplications and additions of query-key and weight-value products, given pairs of a token and an entry it sees
/// in each KV head.
fn operations(shape: &CacheShape, pairs: usize) -> f64 {
    4.0 * (shape.layer(0).group() * shape.layer(0).key_dim) as f64 * pairs as f64
}

fn queries(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

/// Seconds that reading all `numbers` takes.
fn read(numbers: &[u64]) -> f64 {
    let start = Instant::now();
    let sum = numbers
        .par_chunks(1 << 16)
        .map(|chunk| {
            let mut lanes = [0u64; 16];
            for part in chunk.chunks_exact(16) {
                lanes.iter_mut().zip(part).for_each(|(lane, &x)| *lane = lane.wrapping_add(x));
            }
            lanes.iter().fold(0u64, |a, &b| a.wrapping_add(b))
        })
        .reduce(|| 0, u64::wrapping_add);
    std::hint::black_box(sum);
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_kv::Rotary;

    #[test]
    fn operations_are_four_a_dimension_query_head_and_pair() {
        let shape = CacheShape::uniform(1, 6, 2, 16, Rotary::none()).unwrap();
        // 10 entries in each of the two KV heads, each seen by three query heads.
        assert_eq!(operations(&shape, 20), (20 * 3 * 16 * 4) as f64);
    }
}
