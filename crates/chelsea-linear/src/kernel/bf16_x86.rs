//! Operands of matrix instructions on x86; [`super::bf16_plain`] is the plain twin.

#![allow(unsafe_code)]

use super::avx512::{Group, group_scales, super_scales, unpack};
use crate::quant::Quant;
use crate::rows::Picked;
use crate::tile::{BLOCK, Layout, high_bytes, low_bytes, scale_bytes};
use chelsea_simd::{Amx, BLOCK_BYTES, SIDE};
use std::arch::x86_64::*;

/// See [`super::bf16::Matrices::pack`]; sizes were checked there.
pub(super) fn pack_rows(_: Amx, rows: Picked<'_>, out: &mut [u8]) {
    // SAFETY: the instructions are here.
    unsafe { pack(rows, out) }
}

/// See [`super::bf16::Matrices::open`].
///
/// # Panics
/// When the tile has no such blocks.
pub(super) fn open_tile<Q: Quant>(_: Amx, tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
    assert!(tile.len() >= Layout::of::<Q>(blocks).bytes && first + out.len() / BLOCK_BYTES <= blocks);
    // SAFETY: the instructions are here; all blocks lie inside the tile.
    unsafe { open::<Q>(tile, blocks, first, out) }
}

/// See [`pack_rows`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack(rows: Picked<'_>, out: &mut [u8]) {
    let mut x: [&[f32]; SIDE] = [&[]; SIDE];
    x.iter_mut().zip(rows.iter()).for_each(|(x, row)| *x = row);
    // Block by block: sixteen rows are read side by side, and what is written lies in a row.
    for (b, out) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let first = b * BLOCK;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(2 * BLOCK)) {
            let x = x.get(first..).unwrap_or(&[]);
            let mask = u32::MAX.checked_shr((BLOCK - BLOCK.min(x.len())) as u32).unwrap_or(0);
            let x = x.as_ptr();
            // SAFETY: loads are masked to the numbers that are there; the store fills `out`.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask as u16, x);
                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(16));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
    }
}

/// See [`open_tile`].
///
/// # Safety
/// The machine must have the instructions that this function enables; the blocks must lie inside the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn open<Q: Quant>(tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
    let layout = Layout::of::<Q>(blocks);
    let per_scales = Q::LEN / BLOCK;
    // SAFETY: the planes and scales of block `b < blocks` lie inside the tile by `layout`.
    unsafe {
        for (b, out) in (first..).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
            let scales = tile.as_ptr().add(layout.scales + b / per_scales * scale_bytes::<Q>());
            let (d, m) = super_scales::<Q>(scales);
            let group = group_scales::<Q>(scales, b % per_scales, d, m);
            let low = tile.as_ptr().add(b * low_bytes::<Q>());
            let codes = unpack::<Q>(low, tile.as_ptr().add(layout.high + b * high_bytes::<Q>()));
            // Of what is not a number the bits must survive the rounding below.
            let sane =
                |x: __m512| _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), _mm512_set1_ps(f32::NAN));
            let group = Group { scale: group.scale.map(sane), min: group.min.map(sane) };
            // The zero of symmetric codes is part of what is subtracted.
            let zero = _mm512_set1_ps(Q::OFFSET as f32);
            let min = [
                _mm512_fmadd_ps(group.scale[0], zero, group.min[0]),
                _mm512_fmadd_ps(group.scale[1], zero, group.min[1]),
            ];
            let byte = _mm512_set1_epi32(0xff);
            let half = _mm512_set1_epi32(0x8000);
            for (s, &q) in codes.iter().enumerate() {
                let (scale, min) = (group.scale[s * 4 / Q::GROUP], min[s * 4 / Q::GROUP]);
                let weight = |q| {
                    let number = _mm512_fmsub_ps(_mm512_cvtepi32_ps(q), scale, min);
                    _mm512_add_epi32(_mm512_castps_si512(number), half)
                };
                let pair = |even, odd| {
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(weight(even)), weight(odd))
                };
                let a = pair(_mm512_and_si512(q, byte), _mm512_and_si512(_mm512_srli_epi32::<8>(q), byte));
                let b = pair(_mm512_and_si512(_mm512_srli_epi32::<16>(q), byte), _mm512_srli_epi32::<24>(q));
                let out = out.as_mut_ptr().add(s * 128);
                _mm512_storeu_si512(out.cast(), a);
                _mm512_storeu_si512(out.add(64).cast(), b);
            }
        }
    }
}
