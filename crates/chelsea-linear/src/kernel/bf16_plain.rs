//! The plain twin of operands and products in bf16.

use crate::quant::Quant;
use crate::rows::Picked;
use crate::tile::{BLOCK, Layout, OpenBlock, TILE, open};
use chelsea_simd::BLOCK_BYTES;
use half::bf16;

/// See [`super::bf16::Matrices::pack`].
pub(super) fn pack_rows(rows: Picked<'_>, out: &mut [u8]) {
    out.fill(0);
    for (t, x) in rows.iter().enumerate() {
        for (x, out) in x.chunks(BLOCK).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
            for (&x, out) in x.iter().zip(out[t * 2 * BLOCK..].as_chunks_mut::<2>().0) {
                *out = bf16::from_f32(x).to_le_bytes();
            }
        }
    }
}

/// See [`super::bf16::Matrices::open`].
pub(super) fn open_tile<Q: Quant>(tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
    let layout = Layout::of::<Q>(blocks);
    let mut w = OpenBlock::new();
    for (b, out) in (first..).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
        open::<Q>(tile, layout, b, &mut w);
        let out = out.as_chunks_mut::<2>().0;
        for r in 0..TILE {
            for c in 0..BLOCK {
                let g = c / Q::GROUP;
                let code = f32::from(w.q[c / 4][r * 4 + c % 4]);
                // In one rounding, as a multiply-add has it; the zero of symmetric codes is part of the min.
                let min = w.scale[g][r].mul_add(Q::OFFSET as f32, w.min[g][r]);
                let weight = w.scale[g][r].mul_add(code, -min);
                out[c / 2 * 2 * TILE + 2 * r + c % 2] = rounded(weight).to_le_bytes();
            }
        }
    }
}

/// To the nearest bf16, ties away from zero.
fn rounded(x: f32) -> u16 {
    if x.is_nan() { bf16::NAN.to_bits() } else { (x.to_bits().wrapping_add(0x8000) >> 16) as u16 }
}

/// Products of one left operand with one right one, in the order of the depth.
#[cfg(test)]
pub(super) fn multiply(left: &[u8], right: &[u8], sums: &mut [[f32; TILE]; TILE], fresh: bool) {
    assert!(!left.is_empty() && left.len() == right.len() && left.len().is_multiple_of(BLOCK_BYTES));
    let number = |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32();
    if fresh {
        *sums = [[0.0; TILE]; TILE];
    }
    for (left, right) in left.chunks_exact(BLOCK_BYTES).zip(right.chunks_exact(BLOCK_BYTES)) {
        let (left, right) = (left.as_chunks::<2>().0, right.as_chunks::<2>().0);
        for (i, sums) in sums.iter_mut().enumerate() {
            for k in 0..BLOCK {
                let x = number(&left[i * BLOCK + k]);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum += x * number(&right[k / 2 * 2 * TILE + 2 * j + k % 2]);
                }
            }
        }
    }
}
