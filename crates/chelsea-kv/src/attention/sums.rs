//! What the parts of a block leave behind, and how outputs are made of it.

#![allow(unsafe_code)]

use super::plan::{MOST_PARTS, Plan, RowBlock};
use super::simd::{Kernel, Simd};
use super::softmax::exponentials;
use crate::TILE;
use core::f32::consts::LOG2_E;

/// Numbers that the sums of `rows` rows take: see [`Sums`].
pub(super) const fn sums_len(rows: usize, value_dim: usize) -> usize {
    rows * (value_dim + 2)
}

/// What a part leaves behind: for each row the weighted sum of values, the largest score in powers of
/// two, and the sum of weights relative to that score. The weighted sums are to be divided by the sum
/// of weights.
pub(super) struct Sums<'a> {
    /// `[rows, value_dim]`.
    pub values: &'a mut [f32],
    /// Largest score of each row, times `log2 e`; `f32::MIN` if no entry was visible.
    pub max: &'a mut [f32],
    /// Sum of weights of each row.
    pub weight: &'a mut [f32],
}

impl<'a> Sums<'a> {
    /// Sums over a buffer of [`sums_len`] numbers.
    pub fn new(buffer: &'a mut [f32], rows: usize, value_dim: usize) -> Self {
        let (values, rest) = buffer.split_at_mut(rows * value_dim);
        let (max, rest) = rest.split_at_mut(rows);
        Sums { values, max, weight: &mut rest[..rows] }
    }
}

/// Adds up what the parts of each block hold for some tokens of a request, in the order of the parts, and writes their
/// outputs.
pub(super) struct Merge<'a> {
    pub plan: &'a Plan,
    /// Blocks of the request, head by head.
    pub blocks: &'a [RowBlock],
    /// Sums of all parts of the plan.
    pub sums: &'a [f32],
    /// KV heads of the layer.
    pub heads: usize,
    /// Query heads of each.
    pub group: usize,
    pub value_dim: usize,
    /// A logit of each query head that joins the sum of weights.
    pub sinks: Option<&'a [f32]>,
    pub first_token: usize,
    /// Outputs of the tokens from the first on, `[tokens, heads * group, value_dim]`.
    pub out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Merge { plan, blocks, sums, heads, group, value_dim: d, sinks, first_token, out } = self;
        let tokens = out.len() / (heads * group * d);
        for block in blocks {
            let rows = block.rows.start.max(first_token * group)..block.rows.end.min((first_token + tokens) * group);
            let parts = &plan.parts[block.parts.clone()];
            for row in rows {
                let q_head = block.head * group + row % group;
                let out = &mut out[((row / group - first_token) * heads * group + q_head) * d..][..d];
                let sink = sinks.map(|sinks| sinks[q_head] * LOG2_E);
                let held = |part: usize| &sums[parts[part].sums.clone()];
                // SAFETY: the caller promises the instruction set.
                unsafe { merge::<S>(held, parts.len(), block.rows.len(), row - block.rows.start, sink, out) };
            }
        }
    }
}

/// Makes the output of row `row` of `rows` of what `parts` parts hold.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn merge<'a, S: Simd>(
    held: impl Fn(usize) -> &'a [f32],
    parts: usize,
    rows: usize,
    row: usize,
    sink: Option<f32>,
    out: &mut [f32],
) {
    let d = out.len();
    let max_of = |part: usize| held(part)[rows * d + row];
    let mut max = sink.unwrap_or(f32::MIN);
    for part in 0..parts {
        max = max.max(max_of(part));
    }
    let mut factors = [0.0; MOST_PARTS + TILE];
    for (part, factor) in factors[..parts].iter_mut().enumerate() {
        *factor = max_of(part) - max;
    }
    // The sink has a place of its own after the parts; numbers past it become 1 and are not read.
    factors[parts] = sink.map_or(0.0, |sink| sink - max);
    // SAFETY: the caller promises the instruction set.
    unsafe { exponentials::<S>(&mut factors[..(parts + 1).next_multiple_of(S::LANES)]) };
    let mut weight = if sink.is_some() { factors[parts] } else { 0.0 };
    for part in 0..parts {
        weight += held(part)[rows * (d + 1) + row] * factors[part];
    }
    for factor in &mut factors[..parts] {
        *factor /= weight;
    }
    let whole = d / S::LANES * S::LANES;
    for v in (0..whole).step_by(S::LANES) {
        // SAFETY: `row` of every part and of `out` has `d` numbers, `v` and what follows are a vector of them.
        unsafe {
            let load = |part: usize| S::load(held(part)[row * d + v..][..S::LANES].as_ptr());
            let mut sum = S::mul(load(0), S::splat(factors[0]));
            for (part, &factor) in factors[..parts].iter().enumerate().skip(1) {
                sum = S::mul_add(load(part), S::splat(factor), sum);
            }
            S::store(out[v..][..S::LANES].as_mut_ptr(), sum);
        }
    }
    for (v, out) in out.iter_mut().enumerate().skip(whole) {
        *out = factors[..parts].iter().enumerate().map(|(part, factor)| held(part)[row * d + v] * factor).sum();
    }
}

const _: () = assert!(MOST_PARTS.is_multiple_of(TILE));
