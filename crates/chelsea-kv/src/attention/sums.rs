//! What the parts of a block leave behind, and how outputs are made of it.

#![allow(unsafe_code)]

use super::plan::{MOST_PARTS, Plan, RowBlock};
use super::simd::{Kernel, Simd};
use super::softmax::exponentials;
use crate::TILE;
use crate::form::rotate;
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
    /// Whether values are stored rotated, so that outputs are to be rotated back.
    pub rotated: bool,
    /// A logit of each query head that joins the sum of weights.
    pub sinks: Option<&'a [f32]>,
    pub first_token: usize,
    /// Outputs of the tokens from the first on, `[tokens, heads * group, value_dim]`.
    pub out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Merge { plan, blocks, sums, heads, group, value_dim: d, rotated, sinks, first_token, out } = self;
        let tokens = out.len() / (heads * group * d);
        let mut factors = [0.0; MOST_PARTS + TILE];
        for block in blocks {
            let rows = block.rows.start.max(first_token * group)..block.rows.end.min((first_token + tokens) * group);
            let parts = &plan.parts[block.parts.clone()];
            let (Some(first), Some(last)) = (parts.first(), parts.last()) else { continue };
            let held = &sums[first.sums.start..last.sums.end];
            for row in rows {
                let q_head = block.head * group + row % group;
                let out = &mut out[((row / group - first_token) * heads * group + q_head) * d..][..d];
                let sink = sinks.map(|sinks| sinks[q_head] * LOG2_E);
                // SAFETY: the caller promises the instruction set.
                unsafe { merge::<S>(held, block.rows.len(), row - block.rows.start, sink, &mut factors, out) };
                if rotated {
                    rotate(out);
                }
            }
        }
    }
}

/// Makes the output of row `row` of `rows` of what the parts of its block hold, one after the other in `held`. `factors`
/// is room to work in.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn merge<S: Simd>(
    held: &[f32],
    rows: usize,
    row: usize,
    sink: Option<f32>,
    factors: &mut [f32; MOST_PARTS + TILE],
    out: &mut [f32],
) {
    let d = out.len();
    let parts = held.chunks_exact(sums_len(rows, d));
    let count = parts.len();
    if count == 1 && sink.is_none() {
        let factor = 1.0 / held[rows * (d + 1) + row];
        return out.iter_mut().zip(&held[row * d..]).for_each(|(out, value)| *out = value * factor);
    }
    let mut max = sink.unwrap_or(f32::MIN);
    for (part, factor) in parts.clone().zip(&mut *factors) {
        *factor = part[rows * d + row];
        max = max.max(*factor);
    }
    // The sink has a place of its own after the parts. Numbers past it become anything, and are not read.
    factors[count] = sink.unwrap_or(max);
    let vectors = &mut factors[..(count + 1).next_multiple_of(S::LANES)];
    vectors.iter_mut().for_each(|x| *x -= max);
    // SAFETY: the caller promises the instruction set.
    unsafe { exponentials::<S>(vectors) };
    let mut weight = if sink.is_some() { factors[count] } else { 0.0 };
    for (part, factor) in parts.clone().zip(&*factors) {
        weight += part[rows * (d + 1) + row] * factor;
    }
    for (index, (part, factor)) in parts.zip(&*factors).enumerate() {
        let factor = factor / weight;
        let values = &part[row * d..][..d];
        let (vectors, rest) = out.split_at_mut(d / S::LANES * S::LANES);
        let (value_vectors, value_rest) = values.split_at(vectors.len());
        for (out, values) in vectors.chunks_exact_mut(S::LANES).zip(value_vectors.chunks_exact(S::LANES)) {
            // SAFETY: both chunks are one vector; the caller promises the instruction set.
            unsafe {
                let (values, factor) = (S::load(values.as_ptr()), S::splat(factor));
                let sum = match index {
                    0 => S::mul(values, factor),
                    _ => S::mul_add(values, factor, S::load(out.as_ptr())),
                };
                S::store(out.as_mut_ptr(), sum);
            }
        }
        for (out, value) in rest.iter_mut().zip(value_rest) {
            *out = if index == 0 { value * factor } else { *out + value * factor };
        }
    }
}

const _: () = assert!(MOST_PARTS.is_multiple_of(TILE));
