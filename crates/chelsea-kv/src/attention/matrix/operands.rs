//! Operands of matrix instructions.
//!
//! Every number is split into two in bf16, what it rounds to and what is left, and both products are formed
//! three times: first parts with first parts, first with second, second with first. What is lost is below 2^-16
//! of each term, and the instructions are so many times faster than others that three products cost less than
//! one. An operand holds all first parts, then all second parts. Of stored numbers nothing is lost: bf16 and integers of 8
//! bits have no second part, which saves a product, and those in f16 are the sum of two; ones of 32 bits would be cut
//! short, and stay with vectors.
//!
//! A score that is infinite comes out as NaN, because infinity less what it rounds to is NaN.

#![allow(unsafe_code)]

use super::ROWS;
use super::opened::{Key, Parts, Value};
use crate::form::Form;
use crate::page::{Columns, Format, Line, Rows};
use crate::simd::{split, squares};
use crate::{PAGE, TILE};
use bytemuck::Zeroable;
use chelsea_simd::{Amx, BLOCK_BYTES, DEPTH, SIDE};
use core::arch::x86_64::*;
use core::ops::Range;

/// Blocks of [`DEPTH`] entries in a page.
const PAGE_BLOCKS: usize = PAGE / DEPTH;

/// Operands of one block of rows and one page, kept from block to block.
#[derive(Default)]
pub(in super::super) struct Operands {
    /// `[row / 16]`, twice the head size deep.
    queries: Vec<Line>,
    /// `[entry / 16]`, the head size deep, or twice that where keys have two parts.
    keys: Vec<Line>,
    /// `[row / 16]`, two pages deep.
    weights: Vec<Line>,
    /// `[dim / 16]`, a page deep, or two where values have two parts.
    values: Vec<Line>,
    /// Scores and then weights, `[rows][PAGE]`.
    scores: Vec<Line>,
    /// Weighted sums of values, `[rows][d]`.
    sums: Vec<Line>,
}

/// Parts that a number is split into.
const fn parts<E: Parts>() -> usize {
    if E::IN_BF16 { 1 } else { 2 }
}

/// Bytes of `operands` operands of `blocks` blocks, all parts together.
fn bytes(lines: &mut Vec<Line>, operands: usize, blocks: usize) -> &mut [u8] {
    let len = operands * blocks * BLOCK_BYTES;
    if lines.len() * 64 < len {
        lines.resize(len / 64, Line::zeroed());
    }
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

/// The first `len` numbers.
fn numbers(lines: &mut Vec<Line>, len: usize) -> &mut [f32] {
    if lines.len() * 16 < len {
        lines.resize(len.div_ceil(16), Line::zeroed());
    }
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

/// Operand `i` of several, of `blocks` blocks, all parts together.
fn operand(all: &[Line], i: usize, blocks: usize) -> &[u8] {
    &bytemuck::cast_slice(all)[i * blocks * BLOCK_BYTES..][..blocks * BLOCK_BYTES]
}

/// Products of operands of two parts with such of `E`, which have one part or two.
///
/// # Safety
/// As [`Amx::multiply_split`].
#[inline(always)]
unsafe fn multiply<E: Parts>(
    amx: Amx,
    left: [&[u8]; 2],
    right: [&[u8]; 2],
    sums: [*mut f32; 4],
    stride: usize,
    fresh: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if E::IN_BF16 {
            amx.multiply_left_split(left, right, sums, stride, fresh);
        } else {
            amx.multiply_split(left, right, sums, stride, fresh);
        }
    }
}

impl Operands {
    /// Takes in the queries of a block, `[rows][d]`, times `scale`, as `form` wants them.
    ///
    /// # Safety
    /// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
    #[inline(always)]
    pub unsafe fn set_queries<'q>(
        &mut self,
        rows: usize,
        d: usize,
        scale: f32,
        form: Option<&Form>,
        query: impl Fn(usize) -> &'q [f32],
    ) {
        let blocks = d / DEPTH;
        let all = bytes(&mut self.queries, rows.next_multiple_of(ROWS) / SIDE, 2 * blocks);
        let mut row = vec![0.0f32; d];
        for r in 0..rows {
            row.iter_mut().zip(query(r)).for_each(|(x, q)| *x = q * scale);
            if let Some(form) = form {
                form.query(&mut row);
            }
            let out = &mut all[r / SIDE * 2 * blocks * BLOCK_BYTES..];
            for (b, part) in row.chunks_exact(DEPTH).enumerate() {
                // SAFETY: 32 numbers; the caller has the instructions.
                unsafe {
                    let low = _mm512_loadu_ps(part.as_ptr());
                    let high = _mm512_loadu_ps(part.as_ptr().add(16));
                    split_row(low, high, out, blocks, b, r % SIDE);
                }
            }
        }
    }

    /// Opens the keys of a page. Nobody sees entries outside `used`, whatever they are.
    ///
    /// # Safety
    /// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
    #[inline(always)]
    pub unsafe fn open_keys<F: Format<Key: Key, Value: Value>>(
        &mut self,
        keys: &[F::Key],
        d: usize,
        used: Range<usize>,
    ) {
        let tile_len = TILE * F::Key::stored(d);
        assert!(keys.len() >= PAGE / TILE * tile_len && d.is_multiple_of(DEPTH));
        let blocks = d / DEPTH;
        let deep = parts::<F::Key>() * blocks;
        let out = bytes(&mut self.keys, PAGE / SIDE, deep);
        let tiles = keys.chunks_exact(tile_len).zip(out.chunks_exact_mut(deep * BLOCK_BYTES));
        for (tile, (keys, out)) in tiles.enumerate() {
            if tile * TILE >= used.end || (tile + 1) * TILE <= used.start {
                out.fill(0);
                continue;
            }
            for pair in 0..d / 2 {
                // SAFETY: the caller has the instructions.
                unsafe {
                    let (even, odd) = (F::Key::dimension(keys, 2 * pair), F::Key::dimension(keys, 2 * pair + 1));
                    split_pair::<F::Key>(even, odd, out, blocks, pair);
                }
            }
        }
    }

    /// Opens the values of a page, of which nobody sees those outside `used`.
    ///
    /// # Safety
    /// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
    #[inline(always)]
    pub unsafe fn open_values<F: Format<Key: Key, Value: Value>>(
        &mut self,
        values: &[F::Value],
        d: usize,
        used: Range<usize>,
    ) {
        assert!(values.len() * F::Value::SHARED >= PAGE * d && d.is_multiple_of(DEPTH));
        let deep = parts::<F::Value>() * PAGE_BLOCKS;
        let out = bytes(&mut self.values, d / SIDE, deep);
        // What nobody sees is zero: a weight of zero times what is not a number would be none.
        // SAFETY: the caller has the instructions.
        let zero = unsafe { _mm512_setzero_ps() };
        for pair in 0..PAGE / 2 {
            let (first, second) = (used.contains(&(2 * pair)), used.contains(&(2 * pair + 1)));
            for (c, out) in out.chunks_exact_mut(deep * BLOCK_BYTES).enumerate() {
                // SAFETY: the caller has the instructions.
                unsafe {
                    let even = if first { F::Value::dimensions(values, d, 2 * pair, c * SIDE) } else { zero };
                    let odd = if second { F::Value::dimensions(values, d, 2 * pair + 1, c * SIDE) } else { zero };
                    split_pair::<F::Value>(even, odd, out, PAGE_BLOCKS, pair);
                }
            }
        }
    }

    /// Scores of all rows with the page, `[rows][PAGE]`, to be replaced by weights.
    ///
    /// # Safety
    /// The registers are configured; queries and keys were set for `rows` and `d`.
    #[inline(always)]
    pub unsafe fn scores<F: Format<Key: Key, Value: Value>>(&mut self, amx: Amx, rows: usize, d: usize) -> &mut [f32] {
        let blocks = d / DEPTH;
        let scores = numbers(&mut self.scores, rows.next_multiple_of(ROWS) * PAGE);
        for (r, scores) in scores.chunks_exact_mut(ROWS * PAGE).enumerate() {
            let left = [0, 1].map(|i| operand(&self.queries, 2 * r + i, 2 * blocks));
            for e in 0..PAGE / (2 * SIDE) {
                let right = [0, 1].map(|i| operand(&self.keys, 2 * e + i, parts::<F::Key>() * blocks));
                let sums = squares(scores, PAGE, 2 * e * SIDE);
                // SAFETY: four squares of 16 in two times 16 rows.
                unsafe { multiply::<F::Key>(amx, left, right, sums, 4 * PAGE, true) };
            }
        }
        &mut scores[..rows * PAGE]
    }

    /// The weighted sums of values, `[rows][d]`.
    pub fn sums(&mut self, rows: usize, d: usize) -> &mut [f32] {
        numbers(&mut self.sums, rows * d)
    }

    /// Adds the values of the page, by the weights that the scores have become, to what `factors` leaves of the
    /// sums.
    ///
    /// # Safety
    /// The registers are configured; scores were made for `rows`, and values opened for `d`.
    #[inline(always)]
    pub unsafe fn add_values<F: Format<Key: Key, Value: Value>>(
        &mut self,
        amx: Amx,
        rows: usize,
        d: usize,
        factors: &[f32],
    ) {
        let weights: &[f32] = &*numbers(&mut self.scores, rows * PAGE);
        let padded = rows.next_multiple_of(ROWS);
        let sums = numbers(&mut self.sums, padded * d);
        for (sums, &factor) in sums.chunks_exact_mut(d).zip(&factors[..rows]) {
            if factor != 1.0 {
                sums.iter_mut().for_each(|sum| *sum *= factor);
            }
        }
        let out = bytes(&mut self.weights, padded / SIDE, 2 * PAGE_BLOCKS);
        for (r, weights) in weights.chunks_exact(PAGE).enumerate() {
            let out = &mut out[r / SIDE * 2 * PAGE_BLOCKS * BLOCK_BYTES..];
            for (b, part) in weights.chunks_exact(DEPTH).enumerate() {
                // SAFETY: 32 numbers; the caller has the instructions.
                unsafe {
                    let (low, high) = (_mm512_loadu_ps(part.as_ptr()), _mm512_loadu_ps(part.as_ptr().add(16)));
                    split_row(low, high, out, PAGE_BLOCKS, b, r % SIDE);
                }
            }
        }
        for (r, sums) in sums.chunks_exact_mut(ROWS * d).enumerate() {
            let left = [0, 1].map(|i| operand(&self.weights, 2 * r + i, 2 * PAGE_BLOCKS));
            for c in 0..d / (2 * SIDE) {
                let right = [0, 1].map(|i| operand(&self.values, 2 * c + i, parts::<F::Value>() * PAGE_BLOCKS));
                let sums = squares(sums, d, 2 * c * SIDE);
                // SAFETY: four squares of 16 in two times 16 rows.
                unsafe { multiply::<F::Value>(amx, left, right, sums, 4 * d, false) };
            }
        }
    }
}

/// Writes 32 numbers of a row to block `b` of each half of a left operand.
///
/// # Safety
/// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
#[inline(always)]
unsafe fn split_row(low: __m512, high: __m512, out: &mut [u8], blocks: usize, b: usize, row: usize) {
    assert!(out.len() >= 2 * blocks * BLOCK_BYTES && b < blocks && row < SIDE);
    // SAFETY: 64 bytes of a row inside each half of the operand; the caller has the instructions.
    unsafe {
        let ((low, low_rest), (high, high_rest)) = (split(low), split(high));
        let first: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
        let second: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(high_rest, low_rest));
        let at = out.as_mut_ptr().add(b * BLOCK_BYTES + row * 2 * DEPTH);
        _mm512_storeu_si512(at.cast(), first);
        _mm512_storeu_si512(at.add(blocks * BLOCK_BYTES).cast(), second);
    }
}

/// Writes two steps along the depth of 16 columns as pair `pair` of each part of a right operand of `E`.
///
/// # Safety
/// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
#[inline(always)]
unsafe fn split_pair<E: Parts>(even: __m512, odd: __m512, out: &mut [u8], blocks: usize, pair: usize) {
    assert!(out.len() >= parts::<E>() * blocks * BLOCK_BYTES && pair < blocks * DEPTH / 2);
    // SAFETY: 64 bytes of a pair inside each part of the operand; the caller has the instructions.
    unsafe {
        let at = out.as_mut_ptr().add(pair * 64);
        if E::IN_BF16 {
            _mm512_storeu_si512(at.cast(), join(even, odd));
        } else {
            let ((even, even_rest), (odd, odd_rest)) = (split(even), split(odd));
            _mm512_storeu_si512(at.cast(), join(even, odd));
            _mm512_storeu_si512(at.add(blocks * BLOCK_BYTES).cast(), join(even_rest, odd_rest));
        }
    }
}

/// The upper halves of the numbers of both, one from each in turns.
///
/// # Safety
/// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
#[inline(always)]
unsafe fn join(even: __m512, odd: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
        _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_castps_si512(odd))
    }
}

const _: () = assert!(TILE == SIDE && PAGE.is_multiple_of(2 * SIDE) && PAGE.is_multiple_of(DEPTH));
