//! AVX2: pairs of 16-bit numbers are multiplied and added up, the even bytes of words apart from the odd ones.

use super::super::simd::avx2::Avx2;
use super::{DotKernel, Dots, Four, WORD, fives_at};
use core::arch::x86_64::*;

/// The factors of a word's even bytes, and those of its odd ones.
#[inline(always)]
pub(super) fn even_and_odd(factors: [i16; WORD]) -> Four {
    let pair = |i: usize| u32::from(factors[i] as u16) | u32::from(factors[i + 2] as u16) << 16;
    [pair(0), pair(1)]
}

#[derive(Clone, Copy)]
pub(in super::super) struct Pairs256;

// SAFETY of every block below: the trait's callers promise AVX2, and pointers that are good for what is read.
impl Dots for Pairs256 {
    type S = Avx2;
    /// Even bytes and odd ones, in 16 bits each.
    type Words = [__m256i; 2];
    type Sum = __m256i;
    const SUM_REGISTERS: usize = 1;
    const WORD_REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn enabled<K: DotKernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Pairs256>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm256_loadu_si256(at.cast());
            [_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm256_loadu_si256(at.cast());
            let half = if part == 0 { both } else { _mm256_srli_epi32::<4>(both) };
            let half = _mm256_and_si256(half, _mm256_set1_epi8(0xf));
            [_mm256_and_si256(half, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(half)]
        }
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let [halves, rest] = fives_at::<PART>(at).map(|at| _mm256_loadu_si256(at.cast()));
            let halves = if PART.is_multiple_of(2) { halves } else { _mm256_srli_epi32::<4>(halves) };
            let rest = match PART {
                0 => _mm256_slli_epi32::<4>(rest),
                1 => _mm256_slli_epi32::<3>(rest),
                2 => _mm256_slli_epi32::<2>(rest),
                3 => _mm256_slli_epi32::<1>(rest),
                4 => rest,
                5 => _mm256_srli_epi32::<1>(rest),
                6 => _mm256_srli_epi32::<2>(rest),
                _ => _mm256_srli_epi32::<3>(rest),
            };
            let halves = _mm256_and_si256(halves, _mm256_set1_epi8(0xf));
            let all = _mm256_or_si256(halves, _mm256_and_si256(rest, _mm256_set1_epi8(0x10)));
            [_mm256_and_si256(all, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(all)]
        }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot(sum: __m256i, words: [__m256i; 2], factors: *const Four) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let [even, odd] = *factors;
            let even = _mm256_madd_epi16(words[0], _mm256_set1_epi32(even as i32));
            let odd = _mm256_madd_epi16(words[1], _mm256_set1_epi32(odd as i32));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn finish(sum: __m256i, less: i32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(less))) }
    }
    #[inline(always)]
    fn four(factors: [i16; WORD]) -> Four {
        even_and_odd(factors)
    }
}
