//! AVX-512 with VNNI: one instruction multiplies four bytes and adds the products up. Factors are cut into two bytes, so
//! that there are two sums.

use super::super::simd::Simd;
use super::super::simd::avx512::Avx512;
use super::{DotKernel, Dots, Four, WORD, fives_at};
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(in super::super) struct Vnni;

// SAFETY of every block below: the trait's callers promise AVX-512 (F, BW, VL, VNNI), and pointers that are good for what is
// read and written.
impl Dots for Vnni {
    type S = Avx512;
    type Words = __m512i;
    /// Of the factors' high bytes, and of their low ones.
    type Sum = [__m512i; 2];
    const SUM_REGISTERS: usize = 2;
    const WORD_REGISTERS: usize = 1;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn enabled<K: DotKernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Vnni>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let both = Self::load(at);
            let half = if part == 0 { both } else { _mm512_srli_epi32::<4>(both) };
            _mm512_and_si512(half, _mm512_set1_epi8(0xf))
        }
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { fives::<PART>(at) }
    }
    #[inline(always)]
    unsafe fn zero() -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_setzero_si512(); 2] }
    }
    #[inline(always)]
    unsafe fn dot(sum: [__m512i; 2], words: __m512i, factors: *const Four) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let [high, low] = *factors;
            [
                _mm512_dpbusd_epi32(sum[0], words, _mm512_set1_epi32(high as i32)),
                _mm512_dpbusd_epi32(sum[1], words, _mm512_set1_epi32(low as i32)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn finish(sum: [__m512i; 2], less: i32) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let whole = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum[0]), sum[1]);
            _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(less)))
        }
    }
    fn four(factors: [i16; WORD]) -> Four {
        // Each is 256 times the high byte and the low one, both with a sign.
        let low = factors.map(|x| x as u8);
        let high = factors.map(|x| ((x + 128) >> 8) as u8);
        [u32::from_le_bytes(high), u32::from_le_bytes(low)]
    }

    #[inline(always)]
    unsafe fn store(numbers: __m512, at: *mut Four) {
        // SAFETY: as above.
        unsafe {
            let whole = _mm512_cvtps_epi32(numbers);
            let low = _mm512_cvtepi32_epi8(whole);
            let high = _mm512_cvtepi32_epi8(_mm512_srai_epi32::<8>(_mm512_add_epi32(whole, _mm512_set1_epi32(128))));
            _mm_storeu_si128(at.cast(), _mm_unpacklo_epi32(high, low));
            _mm_storeu_si128(at.add(2).cast(), _mm_unpackhi_epi32(high, low));
        }
    }
}

/// Bytes of five bits.
///
/// # Safety
/// As above, but for VNNI.
#[inline(always)]
unsafe fn fives<const PART: usize>(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let [halves, rest] = fives_at::<PART>(at).map(|at| _mm512_loadu_si512(at.cast()));
        let halves = if PART.is_multiple_of(2) { halves } else { _mm512_srli_epi32::<4>(halves) };
        let rest = match PART {
            0 => _mm512_slli_epi32::<4>(rest),
            1 => _mm512_slli_epi32::<3>(rest),
            2 => _mm512_slli_epi32::<2>(rest),
            3 => _mm512_slli_epi32::<1>(rest),
            4 => rest,
            5 => _mm512_srli_epi32::<1>(rest),
            6 => _mm512_srli_epi32::<2>(rest),
            _ => _mm512_srli_epi32::<3>(rest),
        };
        let halves = _mm512_and_si512(halves, _mm512_set1_epi8(0xf));
        // halves | (rest & 0x10)
        _mm512_ternarylogic_epi32::<0xf8>(halves, rest, _mm512_set1_epi8(0x10))
    }
}

/// AVX-512 without VNNI: pairs of 16-bit numbers are multiplied and added up.
#[derive(Clone, Copy)]
pub(in super::super) struct Pairs512;

// SAFETY of every block below: as above, but for VNNI.
impl Dots for Pairs512 {
    type S = Avx512;
    /// Even bytes and odd ones, in 16 bits each.
    type Words = [__m512i; 2];
    type Sum = __m512i;
    const SUM_REGISTERS: usize = 1;
    const WORD_REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn enabled<K: DotKernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Pairs512>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm512_loadu_si512(at.cast());
            [_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm512_loadu_si512(at.cast());
            let half = if part == 0 { both } else { _mm512_srli_epi32::<4>(both) };
            let half = _mm512_and_si512(half, _mm512_set1_epi8(0xf));
            [_mm512_and_si512(half, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(half)]
        }
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let all = fives::<PART>(at);
            [_mm512_and_si512(all, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(all)]
        }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn dot(sum: __m512i, words: [__m512i; 2], factors: *const Four) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let [even, odd] = *factors;
            let even = _mm512_madd_epi16(words[0], _mm512_set1_epi32(even as i32));
            let odd = _mm512_madd_epi16(words[1], _mm512_set1_epi32(odd as i32));
            _mm512_add_epi32(sum, _mm512_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn finish(sum: __m512i, less: i32) -> <Avx512 as Simd>::V {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(less))) }
    }
    #[inline(always)]
    fn four(factors: [i16; WORD]) -> Four {
        super::avx2::even_and_odd(factors)
    }
}
