//! Which vector instructions this processor has, found at run time, and what kernels share.
#![allow(unsafe_code)]

use bytemuck::Pod;
#[cfg(target_arch = "x86_64")]
use chelsea_simd::SIDE;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, BW, DQ and VL, with FMA.
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// Whatever the target guarantees.
    Plain,
}

impl Level {
    /// The best set of this processor.
    pub(crate) fn detect() -> Level {
        match chelsea_simd::Level::best() {
            best if best >= chelsea_simd::Level::Avx512 => Level::Avx512,
            best if best >= chelsea_simd::Level::Avx2 => Level::Avx2,
            _ => Level::Plain,
        }
    }
}

/// Asks for memory that will be read soon, where there is an instruction for that.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: every x86-64 processor has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// `out[k * stride + lane + i] = rows[i][k]`, for items of four bytes each; an empty row stands for zeros that are there
/// already.
#[inline(always)]
pub(crate) fn interleave<T: Pod>(rows: &[&[T]; 4], out: &mut [T], stride: usize, lane: usize) {
    const { assert!(size_of::<T>() == 4) };
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    let dim = rows[0].len();
    #[cfg(target_arch = "x86_64")]
    if rows.iter().all(|row| row.len() == dim) {
        for k in (0..dim / 4 * 4).step_by(4) {
            let part = &mut out[k * stride + lane..][..3 * stride + 4];
            // SAFETY: every x86-64 processor has SSE; the rows hold 4 items from `k` on, and `part` ends
            // 4 items after the last offset.
            unsafe {
                let load = |i: usize| _mm_loadu_ps(rows[i].as_ptr().add(k).cast());
                let (mut a, mut b, mut c, mut d) = (load(0), load(1), load(2), load(3));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                _mm_storeu_ps(part.as_mut_ptr().cast(), a);
                _mm_storeu_ps(part.as_mut_ptr().add(stride).cast(), b);
                _mm_storeu_ps(part.as_mut_ptr().add(2 * stride).cast(), c);
                _mm_storeu_ps(part.as_mut_ptr().add(3 * stride).cast(), d);
            }
        }
        done = dim / 4 * 4;
    }
    for (i, row) in rows.iter().enumerate() {
        for (k, &x) in row.iter().enumerate().skip(done) {
            out[k * stride + lane + i] = x;
        }
    }
}

/// The transpose of 16 vectors of 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let wide = |i: usize| _mm512_castps_pd(pairs[i]);
    // Quarter q of `fours[4 i + j]` holds column 4 q + j of rows 4 i to 4 i + 3.
    let mut fours = rows;
    for i in (0..16).step_by(4) {
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(i), wide(i + 2)));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(i), wide(i + 2)));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(i + 1), wide(i + 3)));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(i + 1), wide(i + 3)));
    }
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (even_low, even_high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (odd_low, odd_high) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
        columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
        columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}

/// The first numbers of the four squares of 16 by 16 that begin at `column` of 32 rows of `width`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn squares(rows: &mut [f32], width: usize, column: usize) -> [*mut f32; 4] {
    assert!(rows.len() == 2 * SIDE * width && column + 2 * SIDE <= width);
    let start = rows.as_mut_ptr();
    [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)].map(|(r, c)| start.wrapping_add(r * width + column + c))
}

/// The part of each number that bf16 holds, as f32, ties away from zero; and what is left.
///
/// # Safety
/// The machine has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn split(x: __m512) -> (__m512, __m512) {
    // SAFETY: the caller has the instructions.
    unsafe {
        let rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        let first = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-0x1_0000)));
        (first, _mm512_sub_ps(x, first))
    }
}
