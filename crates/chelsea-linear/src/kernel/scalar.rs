//! Plain code: the twin that the vector kernels are held against, and what runs where there are none.

use crate::byte_block::{Block, ROW_BYTES, SMALLEST};
use crate::quant::Quant;
use crate::rows::Picked;
use crate::tile::{BLOCK, Layout, OpenBlock, TILE, open};

/// See [`super::TileKernel`]. The width of the group is `out.len()`.
pub(crate) fn tile<Q: Quant>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    let width = out.len();
    let blocks = acts.len() / (width * ROW_BYTES);
    let layout = Layout::of::<Q>(blocks);
    let mut w = OpenBlock::new();
    out.fill([0.0; TILE]);
    for (b, acts) in acts.chunks_exact(width * ROW_BYTES).enumerate() {
        open::<Q>(tile, layout, b, &mut w);
        let acts = Block::of(acts, width);
        for (t, out) in out.iter_mut().enumerate() {
            let (x, x_scale) = (acts.q(t), acts.scale(t));
            for (g, x) in x.chunks_exact(Q::GROUP).enumerate() {
                let mut dot = [0i32; TILE];
                let mut sum = 0i32;
                for (x, q) in x.chunks_exact(4).zip(&w.q[g * Q::GROUP / 4..]) {
                    for (dot, q) in dot.iter_mut().zip(q.chunks_exact(4)) {
                        *dot += x.iter().zip(q).map(|(&x, &q)| i32::from(x) * i32::from(q)).sum::<i32>();
                    }
                    sum += x.iter().map(|&x| i32::from(x)).sum::<i32>();
                }
                for (r, out) in out.iter_mut().enumerate() {
                    *out += w.scale[g][r] * x_scale * (dot[r] - Q::OFFSET * sum) as f32;
                    *out -= w.min[g][r] * (x_scale * sum as f32);
                }
            }
        }
    }
}

/// See [`super::quantize_group`].
#[inline(always)]
pub(crate) fn quantize_group(rows: Picked<'_>, width: usize, out: &mut [u8]) {
    out.fill(0);
    for (t, x) in rows.iter().enumerate() {
        for (x, out) in x.chunks(BLOCK).zip(out.chunks_exact_mut(width * ROW_BYTES)) {
            // As integers, absolute values order like the numbers, with infinity and NaN on top.
            let amax = f32::from_bits(x.iter().fold(0, |a, v| a.max(v.abs().to_bits())));
            let scale = amax * (1.0 / 127.0);
            let inverse = if amax > SMALLEST { 127.0 / amax } else { 0.0 };
            let mut sums = [[0i16; 2]; 2];
            for (c, (&x, out)) in x.iter().zip(&mut out[t * BLOCK..][..BLOCK]).enumerate() {
                let q = (x * inverse).round_ties_even() as i8;
                *out = q as u8;
                sums[c / 16][c / 2 % 2] -= i16::from(q);
            }
            out[width * BLOCK + t * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
            for (half, sums) in sums.into_iter().enumerate() {
                out[width * (BLOCK + 4 + 4 * half) + t * 4..][..4].copy_from_slice(bytemuck::bytes_of(&sums));
            }
        }
    }
}
