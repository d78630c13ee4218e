//! Attention weights themselves, which attention proper never writes down: for the statistics that some
//! policies want of them.
//!
//! Keys lie in transposed tiles, so the loops run over lanes and the compiler makes vectors of them, once
//! for each instruction set.
#![allow(unsafe_code)]

use crate::simd::Level;
use crate::{Head, PAGE, TILE};
use std::ops::Range;

/// Queries that are taken together.
pub(crate) const ROWS: usize = 16;

/// A query, and how many entries of the head come no later than it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub query: &'a [f32],
    pub visible: usize,
}

/// Buffers, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    tile: Vec<f32>,
    block: Vec<f32>,
}

impl Weights {
    /// Bytes that weights over `entries` entries of a head take for a while.
    pub(crate) fn bytes(entries: usize, head_dim: usize) -> usize {
        (ROWS * entries + TILE * head_dim) * 4
    }

    /// Calls `f(row, weights)` for every row: `softmax(q . k * scale + ln count)` over those entries of
    /// `spans` that the row sees, in order; 0 for the others. Spans are disjoint and ascending.
    pub(crate) fn each(
        &mut self,
        head: &Head,
        spans: &[Range<usize>],
        rows: &[Row<'_>],
        scale: f32,
        mut f: impl FnMut(usize, &[f32]),
    ) {
        let width: usize = spans.iter().map(Range::len).sum();
        if width == 0 {
            return;
        }
        self.tile.resize(TILE * head.head_dim(), 0.0);
        self.block.resize(ROWS * width, 0.0);
        for (b, rows) in rows.chunks(ROWS).enumerate() {
            let mut at = 0;
            for span in spans {
                let mut next = span.start;
                while next < span.end {
                    let (page, lane) = (&head.pages()[next / PAGE], next % TILE);
                    let here = (TILE - lane).min(span.end - next);
                    let first = next % PAGE - lane;
                    head.read_key_tile(next, &mut self.tile);
                    let ln_counts = &page.ln_counts()[first..][..TILE];
                    let block = &mut self.block[..];
                    scores(&self.tile, ln_counts, rows, scale, lane..lane + here, &mut block[at..], width);
                    (next, at) = (next + here, at + here);
                }
            }
            for (i, row) in rows.iter().enumerate() {
                let weights = &mut self.block[i * width..][..width];
                // Spans ascend: what is seen comes first.
                let seen = spans.iter().map(|span| row.visible.clamp(span.start, span.end) - span.start).sum();
                softmax(&mut weights[..seen]);
                weights[seen..].fill(0.0);
                f(b * ROWS + i, weights);
            }
        }
    }
}

/// Scores of the entries `lanes` of one tile: `out[row * width + i]` for lane `lanes.start + i`.
fn scores(
    tile: &[f32],
    ln_counts: &[f32],
    rows: &[Row<'_>],
    scale: f32,
    lanes: Range<usize>,
    out: &mut [f32],
    width: usize,
) {
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { scores_avx512(tile, ln_counts, rows, scale, lanes, out, width) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { scores_avx2(tile, ln_counts, rows, scale, lanes, out, width) },
        _ => scores_any(tile, ln_counts, rows, scale, lanes, out, width),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn scores_avx512(
    tile: &[f32],
    ln_counts: &[f32],
    rows: &[Row<'_>],
    scale: f32,
    lanes: Range<usize>,
    out: &mut [f32],
    width: usize,
) {
    scores_any(tile, ln_counts, rows, scale, lanes, out, width);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn scores_avx2(
    tile: &[f32],
    ln_counts: &[f32],
    rows: &[Row<'_>],
    scale: f32,
    lanes: Range<usize>,
    out: &mut [f32],
    width: usize,
) {
    scores_any(tile, ln_counts, rows, scale, lanes, out, width);
}

#[inline(always)]
fn scores_any(
    tile: &[f32],
    ln_counts: &[f32],
    rows: &[Row<'_>],
    scale: f32,
    lanes: Range<usize>,
    out: &mut [f32],
    width: usize,
) {
    for (i, row) in rows.iter().enumerate() {
        let mut sums = [0.0f32; TILE];
        for (column, &q) in tile.chunks_exact(TILE).zip(row.query) {
            for (sum, &k) in sums.iter_mut().zip(column) {
                *sum += q * k;
            }
        }
        for (sum, &ln_count) in sums.iter_mut().zip(ln_counts) {
            *sum = *sum * scale + ln_count;
        }
        out[i * width..][..lanes.len()].copy_from_slice(&sums[lanes.clone()]);
    }
}

/// Turns scores into weights that add up to 1.
fn softmax(scores: &mut [f32]) {
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { softmax_avx512(scores) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { softmax_avx2(scores) },
        _ => softmax_any(scores),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn softmax_avx512(scores: &mut [f32]) {
    softmax_any(scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn softmax_avx2(scores: &mut [f32]) {
    softmax_any(scores);
}

#[inline(always)]
fn softmax_any(scores: &mut [f32]) {
    const LANES: usize = 16;
    let mut tops = [f32::NEG_INFINITY; LANES];
    for part in scores.chunks(LANES) {
        tops.iter_mut().zip(part).for_each(|(top, &x)| *top = if x > *top { x } else { *top });
    }
    let top = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    for part in scores.chunks_mut(LANES) {
        for (sum, x) in sums.iter_mut().zip(part) {
            *x = exp(*x - top);
            *sum += *x;
        }
    }
    let factor = 1.0 / sums.iter().sum::<f32>();
    scores.iter_mut().for_each(|x| *x *= factor);
}

/// `e^x` for `x <= 0`, within 3e-7 of it relatively, and 0 where that is below the smallest normal number;
/// without branches.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and taking off 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.max(-88.0) * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (x.max(-88.0) - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    // Minimax polynomial of the Cephes library.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| 2.0 * next()).collect()
    }

    #[test]
    fn the_exponential_is_exact_to_single_precision() {
        for i in 0..100_000 {
            let x = -(i as f32) * 1e-3;
            let (got, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            let allowed = if x < -87.0 { 2e-38 } else { 3e-7 * wanted };
            assert!((got - wanted).abs() <= allowed, "{x}: {got} {wanted}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn weights_are_those_of_their_definition_on_every_instruction_set() {
        for (dim, len, rows) in [(6, 1, 1), (8, 70, 17), (64, 200, 3), (10, 33, 40)] {
            let mut head = Head::new(dim, Dtype::F32);
            let keys = noise(len * dim, 3);
            for (i, key) in keys.chunks(dim).enumerate() {
                head.push(key, key, 1 + i as u32 % 3, i as f32);
            }
            let queries = noise(rows * dim, 5);
            let rows: Vec<Row<'_>> =
                queries.chunks(dim).enumerate().map(|(i, query)| Row { query, visible: 1 + (7 * i) % len }).collect();
            let spans = if len > 40 { vec![0..3, 5..21, 37..len] } else { vec![0..1, 1..len] };
            let columns: Vec<usize> = spans.iter().cloned().flatten().collect();
            let mut seen = 0;
            Weights::default().each(&head, &spans, &rows, 0.3, |r, weights| {
                assert_eq!(weights.len(), columns.len());
                let score = |i: usize| {
                    let dot: f64 =
                        keys[i * dim..][..dim].iter().zip(rows[r].query).map(|(&a, &b)| f64::from(a * b)).sum();
                    if i < rows[r].visible { (dot * 0.3).exp() * f64::from(head.count(i)) } else { 0.0 }
                };
                let total: f64 = columns.iter().map(|&i| score(i)).sum();
                for (&i, &w) in columns.iter().zip(weights) {
                    assert!((f64::from(w) - score(i) / total).abs() < 1e-6);
                }
                seen += 1;
            });
            assert_eq!(seen, rows.len());
        }
    }

    #[test]
    fn vector_instructions_and_their_plain_twins_agree() {
        for len in [1, 5, 16, 17, 100] {
            let (mut fast, mut plain) = (noise(len, 9), noise(len, 9));
            softmax(&mut fast);
            softmax_any(&mut plain);
            assert!(fast.iter().zip(&plain).all(|(x, y)| (x - y).abs() < 1e-6));
            let (tile, query) = (noise(len * TILE, 1), noise(len, 2));
            let rows = [Row { query: &query, visible: TILE }];
            let (mut fast, mut plain) = ([0.0; 11], [0.0; 11]);
            scores(&tile, &[0.5; TILE], &rows, 0.1, 3..14, &mut fast, 11);
            scores_any(&tile, &[0.5; TILE], &rows, 0.1, 3..14, &mut plain, 11);
            assert!(fast.iter().zip(&plain).all(|(x, y)| (x - y).abs() < 1e-4));
        }
    }
}
