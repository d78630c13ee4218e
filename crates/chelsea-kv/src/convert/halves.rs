//! Numbers of 16 bits.
#![allow(unsafe_code)]

use super::Number;
#[cfg(target_arch = "x86_64")]
use crate::simd::Level;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

impl Number for f16 {
    fn widen(src: &[f16], _: f32, out: &mut [f32]) {
        assert_eq!(src.len(), out.len());
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if src.len() >= WIDE {
            done = match Level::detect() {
                // SAFETY: `detect` found AVX-512 F on this processor.
                Level::Avx512 => unsafe { widen_avx512(src, out) },
                // SAFETY: `detect` found F16C and AVX2 on this processor.
                Level::Avx2 => unsafe { widen_f16c(src, out) },
                Level::Plain => 0,
            };
        }
        src[done..].convert_to_f32_slice(&mut out[done..]);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [f16]) {
        assert_eq!(src.len(), out.len());
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if src.len() >= WIDE {
            done = match Level::detect() {
                // SAFETY: `detect` found AVX-512 F on this processor.
                Level::Avx512 => unsafe { narrow_avx512(src, out) },
                // SAFETY: `detect` found F16C and AVX2 on this processor.
                Level::Avx2 => unsafe { narrow_f16c(src, out) },
                Level::Plain => 0,
            };
        }
        out[done..].convert_from_f32_slice(&src[done..]);
    }
}

impl Number for bf16 {
    fn widen(src: &[bf16], _: f32, out: &mut [f32]) {
        src.convert_to_f32_slice(out);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [bf16]) {
        out.convert_from_f32_slice(src);
    }
}

/// Numbers converted at once; the kernels below return how many they did, whole groups of this.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 16;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(src: &[f16], out: &mut [f32]) -> usize {
    for (src, out) in src.chunks_exact(WIDE).zip(out.chunks_exact_mut(WIDE)) {
        // SAFETY: both hold 16 numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(src.as_ptr().cast()))) };
    }
    src.len() / WIDE * WIDE
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16c(src: &[f16], out: &mut [f32]) -> usize {
    for (src, out) in src.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both hold 8 numbers.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast()))) };
    }
    src.len() / 8 * 8
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn narrow_avx512(src: &[f32], out: &mut [f16]) -> usize {
    for (src, out) in src.chunks_exact(WIDE).zip(out.chunks_exact_mut(WIDE)) {
        // SAFETY: both hold 16 numbers.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(src.as_ptr()));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
        }
    }
    src.len() / WIDE * WIDE
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn narrow_f16c(src: &[f32], out: &mut [f16]) -> usize {
    for (src, out) in src.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both hold 8 numbers.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), half);
        }
    }
    src.len() / 8 * 8
}
