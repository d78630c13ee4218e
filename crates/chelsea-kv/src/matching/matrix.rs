//! Inner products of rows of A with all of B by matrix instructions.
//!
//! Every number is split into two in bf16, what it rounds to and what is left, and products are formed three times:
//! first parts with first parts, first with second, second with first.
#![allow(unsafe_code)]

use crate::page::Line;
use crate::simd::{split, squares, transpose};
use bytemuck::Zeroable;
use chelsea_simd::{Amx, BLOCK_BYTES, DEPTH, SIDE};
use std::arch::x86_64::*;

/// Rows of A, and of B, that are multiplied at once.
pub(super) const ROWS: usize = 2 * SIDE;

/// What splitting may add to the error of an inner product, in parts of `|a| |b|`: each factor is off by at most
/// 2^-18, and as much is left out.
pub(super) const SLACK: f32 = 1.0 / (1 << 16) as f32;

/// All of B, and [`ROWS`] rows of A, `[row / 16]` operands each.
#[derive(Debug, Default)]
pub(super) struct Operands {
    left: Vec<Line>,
    right: Vec<Line>,
}

/// Bytes of an operand of 16 rows.
fn operand_bytes(dim: usize) -> usize {
    2 * dim / DEPTH * BLOCK_BYTES
}

impl Operands {
    /// The matrix instructions, if there are any and rows of `dim` numbers fill whole operands.
    pub(super) fn suit(dim: usize) -> Option<Amx> {
        if dim.is_multiple_of(DEPTH) { Amx::detect() } else { None }
    }

    /// Bytes of operands for `rows` rows of B.
    pub(super) fn bytes(dim: usize, rows: usize) -> usize {
        (rows.next_multiple_of(ROWS) + ROWS) / SIDE * operand_bytes(dim)
    }

    /// Takes in B, the even rows of a chunk (`[n][dim]`).
    pub(super) fn pack(&mut self, _: Amx, chunk: &[f32], dim: usize) {
        assert!(dim.is_multiple_of(DEPTH) && chunk.len().is_multiple_of(dim));
        let rows = (chunk.len() / dim).div_ceil(2).next_multiple_of(ROWS);
        // SAFETY: there is AVX-512 F, BW and BF16 wherever there is AMX.
        unsafe { pack::<true>(chunk, dim, 0, rows, &mut self.right) };
    }

    /// `out[i][j]` = inner product of row `2 (first + i) + 1` and row `2 j` of the chunk whose B was taken in, of
    /// [`ROWS`] rows of A; those of rows past the last are zeros, and so are those that fill up B.
    pub(super) fn products(&mut self, amx: Amx, chunk: &[f32], dim: usize, first: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { pack::<false>(chunk, dim, 2 * first + 1, ROWS, &mut self.left) };
        let (bytes, width) = (operand_bytes(dim), out.len() / ROWS);
        let (left, right): (&[u8], &[u8]) = (bytemuck::cast_slice(&self.left), bytemuck::cast_slice(&self.right));
        assert!(left.len() == 2 * bytes && right.len() == width / SIDE * bytes && out.len() == ROWS * width);
        assert!(width.is_multiple_of(ROWS));
        let left = left.split_at(bytes);
        amx.configure();
        for (column, right) in right.chunks_exact(2 * bytes).enumerate() {
            let right = right.split_at(bytes);
            let sums = squares(out, width, column * ROWS);
            // SAFETY: the registers are configured; `sums` are four squares of 16 in the 32 rows of `out`.
            unsafe { amx.multiply_split([left.0, left.1], [right.0, right.1], sums, 4 * width, true) };
        }
        amx.release();
    }
}

/// Splits `rows` rows of `chunk`, every other one from `first` on, into operands: as rows, or with `RIGHT` as
/// columns. Rows past the last are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack<const RIGHT: bool>(chunk: &[f32], dim: usize, first: usize, rows: usize, out: &mut Vec<Line>) {
    let bytes = operand_bytes(dim);
    out.resize(rows / SIDE * bytes / 64, Line::zeroed());
    let out: &mut [u8] = bytemuck::cast_slice_mut(out);
    for (operand, out) in out.chunks_exact_mut(bytes).enumerate() {
        let (firsts, seconds) = out.split_at_mut(bytes / 2);
        let blocks = firsts.chunks_exact_mut(BLOCK_BYTES).zip(seconds.chunks_exact_mut(BLOCK_BYTES));
        for (block, (firsts, seconds)) in blocks.enumerate() {
            let (mut first_parts, mut second_parts) = ([_mm512_setzero_ps(); SIDE], [_mm512_setzero_ps(); SIDE]);
            for i in 0..SIDE {
                let start = (first + 2 * (operand * SIDE + i)) * dim + block * DEPTH;
                if let Some(part) = chunk.get(start..start + DEPTH) {
                    // SAFETY: `part` holds 32 numbers.
                    let (low, high) = unsafe { (_mm512_loadu_ps(part.as_ptr()), _mm512_loadu_ps(part[16..].as_ptr())) };
                    // SAFETY: this function has the instructions.
                    let ((low, low_rest), (high, high_rest)) = unsafe { (split(low), split(high)) };
                    (first_parts[i], second_parts[i]) = (join(low, high), join(low_rest, high_rest));
                }
            }
            for (mut parts, out) in [(first_parts, firsts), (second_parts, seconds)] {
                if RIGHT {
                    parts = transpose(parts);
                }
                for (part, out) in parts.into_iter().zip(out.chunks_exact_mut(64)) {
                    // SAFETY: `out` holds 64 bytes.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), part) };
                }
            }
        }
    }
}

/// 32 numbers in bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn join(low: __m512, high: __m512) -> __m512 {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

const _: () = assert!(ROWS == super::kernel::LANES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_scalars() {
        let Some(amx) = Amx::detect() else { return };
        for (n, dim) in [(2, 32), (3, 64), (77, 128), (100, 96), (256, 128)] {
            let chunk: Vec<f32> = (0..n * dim).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect();
            let (height, width) = ((n / 2usize).next_multiple_of(ROWS), n.div_ceil(2).next_multiple_of(ROWS));
            let mut out = vec![f32::NAN; height * width];
            let mut operands = Operands::default();
            operands.pack(amx, &chunk, dim);
            for (block, out) in out.chunks_exact_mut(ROWS * width).enumerate() {
                operands.products(amx, &chunk, dim, block * ROWS, out);
            }
            let row = |i: usize| chunk.get(i * dim..(i + 1) * dim).unwrap_or(&[]);
            let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
            for (i, out) in out.chunks_exact(width).enumerate() {
                for (j, &product) in out.iter().enumerate() {
                    let (a, b) = (row(2 * i + 1), row(2 * j));
                    let direct: f64 = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                    let error = (SLACK + dim as f32 * f32::EPSILON) * length(a) * length(b);
                    assert!((direct - f64::from(product)).abs() <= f64::from(error), "{n} {dim} {i} {j}");
                }
            }
        }
    }
}
