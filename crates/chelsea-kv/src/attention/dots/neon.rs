//! NEON: the bytes of words in 32 bits each, times one factor after the other; and with dot products of bytes, whose
//! factors are cut into two bytes.

use super::super::simd::neon::Neon;
use super::{DotKernel, Dots, Four, WORD, fives_at};
use core::arch::aarch64::*;
use core::arch::asm;

#[derive(Clone, Copy)]
pub(in super::super) struct Widened;

// SAFETY of every block below: NEON belongs to the base of aarch64, and the trait's callers promise pointers that are good
// for what is read.
impl Dots for Widened {
    type S = Neon;
    /// Byte by byte.
    type Words = [int32x4_t; WORD];
    type Sum = int32x4_t;
    const SUM_REGISTERS: usize = 1;
    const WORD_REGISTERS: usize = 4;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        #[target_feature(enable = "neon")]
        unsafe fn enabled<K: DotKernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Widened>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [int32x4_t; WORD] {
        // SAFETY: as above.
        unsafe { bytes(vreinterpretq_u32_u8(vld1q_u8(at))) }
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> [int32x4_t; WORD] {
        // SAFETY: as above.
        unsafe { bytes(vreinterpretq_u32_u8(halves(vld1q_u8(at), part))) }
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> [int32x4_t; WORD] {
        // SAFETY: as above.
        unsafe { bytes(vreinterpretq_u32_u8(fives::<PART>(at))) }
    }
    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, words: [int32x4_t; WORD], factors: *const Four) -> int32x4_t {
        // SAFETY: as above.
        unsafe {
            let factors = *factors;
            let factor = |byte: usize| i32::from((factors[byte / 2] >> (16 * (byte % 2))) as i16);
            let sum = vmlaq_n_s32(vmlaq_n_s32(sum, words[0], factor(0)), words[1], factor(1));
            vmlaq_n_s32(vmlaq_n_s32(sum, words[2], factor(2)), words[3], factor(3))
        }
    }
    #[inline(always)]
    unsafe fn finish(sum: int32x4_t, less: i32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvtq_f32_s32(vsubq_s32(sum, vdupq_n_s32(less))) }
    }
    #[inline(always)]
    fn four(factors: [i16; WORD]) -> Four {
        let pair = |i: usize| u32::from(factors[i] as u16) | u32::from(factors[i + 1] as u16) << 16;
        [pair(0), pair(2)]
    }
}

/// The four bytes of words, in 32 bits each.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn bytes(words: uint32x4_t) -> [int32x4_t; WORD] {
    // SAFETY: NEON belongs to the base of aarch64.
    unsafe {
        let low = vdupq_n_u32(0xff);
        [
            vreinterpretq_s32_u32(vandq_u32(words, low)),
            vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32::<8>(words), low)),
            vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32::<16>(words), low)),
            vreinterpretq_s32_u32(vshrq_n_u32::<24>(words)),
        ]
    }
}

/// One half of every byte.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn halves(bytes: uint8x16_t, part: usize) -> uint8x16_t {
    // SAFETY: NEON belongs to the base of aarch64.
    unsafe { if part == 0 { vandq_u8(bytes, vdupq_n_u8(0xf)) } else { vshrq_n_u8::<4>(bytes) } }
}

/// Bytes of five bits.
///
/// # Safety
/// `at` is good for the lines of a group.
#[inline(always)]
unsafe fn fives<const PART: usize>(at: *const u8) -> uint8x16_t {
    // SAFETY: the caller's promise; NEON belongs to the base of aarch64.
    unsafe {
        let [low, rest] = fives_at::<PART>(at).map(|at| vld1q_u8(at));
        let rest = vshlq_u8(rest, vdupq_n_s8(4 - PART as i8));
        vorrq_u8(halves(low, PART % 2), vandq_u8(rest, vdupq_n_u8(0x10)))
    }
}

/// With dot products of bytes, all of which have a sign: the stored ones less 128.
#[derive(Clone, Copy)]
pub(in super::super) struct Dotprod;

// SAFETY of every block below: as above, and the callers promise the extension for dot products.
impl Dots for Dotprod {
    type S = Neon;
    type Words = int8x16_t;
    /// Of the factors' high bytes, and of their low ones.
    type Sum = [int32x4_t; 2];
    const SUM_REGISTERS: usize = 2;
    const WORD_REGISTERS: usize = 1;
    const TAKEN: i32 = 128;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn enabled<K: DotKernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Dotprod>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> int8x16_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), vdupq_n_u8(0x80))) }
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> int8x16_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_s8_u8(halves(vld1q_u8(at), part)) }
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> int8x16_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_s8_u8(fives::<PART>(at)) }
    }
    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 2] {
        // SAFETY: as above.
        unsafe { [vdupq_n_s32(0); 2] }
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [int32x4_t; 2], words: int8x16_t, factors: *const Four) -> [int32x4_t; 2] {
        // SAFETY: as above; the extension's intrinsics are newer than the oldest compiler this crate supports.
        unsafe {
            for (sum, bytes) in sum.iter_mut().zip(*factors) {
                let bytes = vreinterpretq_s8_s32(vdupq_n_s32(bytes as i32));
                asm!("sdot {sum:v}.4s, {words:v}.16b, {bytes:v}.16b", sum = inout(vreg) *sum, words = in(vreg) words,
                    bytes = in(vreg) bytes, options(pure, nomem, nostack, preserves_flags));
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn finish(sum: [int32x4_t; 2], less: i32) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            let whole = vaddq_s32(vshlq_n_s32::<8>(sum[0]), sum[1]);
            vcvtq_f32_s32(vsubq_s32(whole, vdupq_n_s32(less)))
        }
    }
    #[inline(always)]
    fn four(factors: [i16; WORD]) -> Four {
        let high = factors.map(|x| ((x + 128) >> 8) as u8);
        [u32::from_le_bytes(high), u32::from_le_bytes(factors.map(|x| x as u8))]
    }
}
