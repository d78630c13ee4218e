//! NEON with byte dot products: `sdot` multiplies four columns of four rows, so a step of a tile takes
//! four of them. Codes below 128 are signed bytes as they are; eight-bit codes are made signed.
//!
//! The instruction is written as assembly: its intrinsic is not stable.

#![allow(unsafe_code)]

use crate::byte_block::{Block, ROW_BYTES};
use crate::quant::Quant;
use crate::tile::{BLOCK, Layout, OpenBlock, TILE, open};
use std::arch::aarch64::*;
use std::arch::asm;

/// See [`super::TileKernel`]. The width of the group is `out.len()`.
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn tile<Q: Quant>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    let width = out.len();
    let blocks = acts.len() / (width * ROW_BYTES);
    let layout = Layout::of::<Q>(blocks);
    let mut w = OpenBlock::new();
    out.fill([0.0; TILE]);
    for (b, x) in acts.chunks_exact(width * ROW_BYTES).enumerate() {
        open::<Q>(tile, layout, b, &mut w);
        if Q::OFFSET == 128 {
            w.q.as_flattened_mut().iter_mut().for_each(|q| *q ^= 0x80);
        }
        let x = Block::of(x, width);
        for (t, out) in out.iter_mut().enumerate() {
            for g in 0..BLOCK / Q::GROUP {
                let steps = Q::GROUP / 4;
                let dot = dot(&w.q[g * steps..][..steps], &x.q(t)[g * Q::GROUP..][..Q::GROUP]);
                let minus_sum = x.minus_sum(t, (Q::GROUP != BLOCK).then_some(g));
                let offset = if Q::OFFSET == 128 { 0 } else { minus_sum * Q::OFFSET };
                let (x_scale, x_min) = (x.scale(t), x.scale(t) * minus_sum as f32);
                for (r, out) in out.iter_mut().enumerate() {
                    *out += w.scale[g][r] * x_scale * (dot[r] + offset) as f32;
                    if Q::SCALES.has_min() {
                        *out += w.min[g][r] * x_min;
                    }
                }
            }
        }
    }
}

/// Dot products of sixteen rows with four columns per step.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot(codes: &[[u8; 64]], x: &[i8]) -> [i32; TILE] {
    let mut sums = [vdupq_n_s32(0); 4];
    for (codes, x) in codes.iter().zip(x.chunks_exact(4)) {
        let x = i32::from_ne_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]);
        let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: sixteen bytes of the 64.
            let codes = vreinterpretq_s8_u8(unsafe { vld1q_u8(codes.as_ptr().add(i * 16)) });
            // SAFETY: reads and writes the named registers only; the instruction is here.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.16b",
                    sum = inout(vreg) *sum,
                    codes = in(vreg) codes,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    }
    let mut out = [0; TILE];
    for (out, sum) in out.chunks_exact_mut(4).zip(sums) {
        // SAFETY: four numbers.
        unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
    }
    out
}
