//! Stored numbers to `f32` and back, many at a time.
#![allow(unsafe_code)]

use crate::simd::Level;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A type that keys and values may be stored in.
pub(crate) trait Number: Pod {
    /// `out[i] = src[i]`; both have the same length.
    fn widen(src: &[Self], out: &mut [f32]);
    /// `out[i] = src[i]`, rounded to nearest even; both have the same length.
    fn narrow(src: &[f32], out: &mut [Self]);
}

impl Number for f32 {
    fn widen(src: &[f32], out: &mut [f32]) {
        out.copy_from_slice(src);
    }
    fn narrow(src: &[f32], out: &mut [f32]) {
        out.copy_from_slice(src);
    }
}

impl Number for f16 {
    fn widen(src: &[f16], out: &mut [f32]) {
        assert_eq!(src.len(), out.len());
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
    fn narrow(src: &[f32], out: &mut [f16]) {
        assert_eq!(src.len(), out.len());
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
    fn widen(src: &[bf16], out: &mut [f32]) {
        src.convert_to_f32_slice(out);
    }
    fn narrow(src: &[f32], out: &mut [bf16]) {
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

/// Runs `$body` with `$T` standing for the Rust type that `$dtype` is stored in.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_number;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_goes_to_single_and_back() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect();
        let mut wide = vec![0.0; halves.len()];
        f16::widen(&halves, &mut wide);
        assert!(halves.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()));
        let mut narrow = vec![f16::ZERO; halves.len()];
        f16::narrow(&wide, &mut narrow);
        assert!(halves.iter().zip(&narrow).all(|(h, n)| h.to_bits() == n.to_bits()));
    }

    #[test]
    fn single_is_rounded_to_the_nearest_half() {
        for len in [1, 7, 8, 16, 45] {
            let wide: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37 - 3.0).exp()).collect();
            let (mut narrow, mut brain) = (vec![f16::ZERO; len], vec![bf16::ZERO; len]);
            f16::narrow(&wide, &mut narrow);
            bf16::narrow(&wide, &mut brain);
            for i in 0..len {
                assert_eq!(narrow[i], f16::from_f32(wide[i]));
                assert_eq!(brain[i], bf16::from_f32(wide[i]));
            }
        }
    }
}
