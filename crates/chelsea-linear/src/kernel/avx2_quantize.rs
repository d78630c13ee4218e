//! Activations rounded to bytes in AVX2: a block of 32 numbers in four vectors, bit for bit as
//! [`super::scalar::quantize_group`].

#![allow(unsafe_code)]

use super::x86::minus_sums;
use crate::byte_block::{ROW_BYTES, SMALLEST};
use crate::rows::Picked;
use crate::tile::BLOCK;
use std::arch::x86_64::*;

/// See [`super::quantize_group`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize_group(rows: Picked<'_>, width: usize, out: &mut [u8]) {
    let blocks = rows.cols.div_ceil(BLOCK);
    assert!(out.len() == blocks * width * ROW_BYTES && rows.len() <= width);
    if rows.len() < width {
        out.fill(0);
    }
    for (t, x) in rows.iter().enumerate() {
        for (x, out) in x.chunks(BLOCK).zip(out.chunks_exact_mut(width * ROW_BYTES)) {
            // SAFETY: token `t < width` of a block.
            unsafe {
                if let Ok(x) = x.try_into() {
                    quantize_block(x, t, width, out);
                } else {
                    let mut padded = [0.0; BLOCK];
                    padded[..x.len()].copy_from_slice(x);
                    quantize_block(&padded, t, width, out);
                }
            }
        }
    }
}

/// Writes token `t` of a block of `width` tokens.
///
/// # Safety
/// `out` must be such a block, `t < width`; the machine must have AVX2.
#[inline(always)]
unsafe fn quantize_block(x: &[f32; BLOCK], t: usize, width: usize, out: &mut [u8]) {
    // SAFETY: 32 numbers are read; stores stay inside this token's part of the block.
    unsafe {
        let x: [__m256; 4] = std::array::from_fn(|i| _mm256_loadu_ps(x.as_ptr().add(i * 8)));
        // As integers, absolute values order like the numbers, with infinity and NaN on top.
        let abs = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX)));
        let max = _mm256_max_epi32(_mm256_max_epi32(abs[0], abs[1]), _mm256_max_epi32(abs[2], abs[3]));
        let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
        let amax = f32::from_bits(_mm_cvtsi128_si32(max) as u32);
        let inverse = _mm256_set1_ps(if amax > SMALLEST { 127.0 / amax } else { 0.0 });
        let finite = _mm256_set1_epi32(if amax.is_finite() { -1 } else { 0 });
        let q = x.map(|x| _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)), finite));
        // Packing works within halves of a vector: the fours come out as 0, 2, 4, 6, 1, 3, 5, 7.
        let q = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        let q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        let out = out.as_mut_ptr();
        _mm256_storeu_si256(out.add(t * BLOCK).cast(), q);
        let tail = out.add(width * BLOCK + t * 4);
        tail.cast::<f32>().write_unaligned(amax * (1.0 / 127.0));
        let [first, last] = minus_sums(q);
        tail.add(width * 4).cast::<[i16; 2]>().write_unaligned(first);
        tail.add(width * 8).cast::<[i16; 2]>().write_unaligned(last);
    }
}
