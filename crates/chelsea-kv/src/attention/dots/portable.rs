//! Plain Rust on arrays of eight words.

use super::super::simd::Simd;
use super::super::simd::portable::Portable;
use super::{DotKernel, Dots, Four, WORD, fives_at};

const LANES: usize = Portable::LANES;

#[derive(Clone, Copy)]
pub(in super::super) struct Plain;

// SAFETY of every block below: the trait's callers promise pointers that are good for what is read.
impl Dots for Plain {
    type S = Portable;
    type Words = [u32; LANES];
    type Sum = [i32; LANES];
    const SUM_REGISTERS: usize = 1;
    const WORD_REGISTERS: usize = 1;

    #[inline(always)]
    unsafe fn run<K: DotKernel>(kernel: K) {
        // SAFETY: no instruction set beyond the target's own is asked for.
        unsafe { kernel.run::<Plain>() }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [u32; LANES] {
        // SAFETY: as above.
        unsafe { at.cast::<[[u8; WORD]; LANES]>().read_unaligned() }.map(u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn load_halves(at: *const u8, part: usize) -> [u32; LANES] {
        // SAFETY: as above.
        unsafe { Self::load(at) }.map(|word| word >> (4 * part) & 0x0f0f_0f0f)
    }
    #[inline(always)]
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> [u32; LANES] {
        // SAFETY: as above.
        let [halves, rest] = fives_at::<PART>(at).map(|at| unsafe { Self::load(at) });
        let number = |i: usize| halves[i] >> (4 * (PART % 2)) & 0x0f0f_0f0f | (rest[i] >> PART & 0x0101_0101) << 4;
        core::array::from_fn(number)
    }
    #[inline(always)]
    unsafe fn zero() -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; LANES], words: [u32; LANES], factors: *const Four) -> [i32; LANES] {
        // SAFETY: as above.
        let factors = unsafe { *factors };
        for byte in 0..WORD {
            let factor = i32::from((factors[byte / 2] >> (16 * (byte % 2))) as i16);
            for (sum, word) in sum.iter_mut().zip(&words) {
                *sum = sum.wrapping_add((word >> (8 * byte) & 0xff) as i32 * factor);
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn finish(sum: [i32; LANES], less: i32) -> [f32; LANES] {
        sum.map(|sum| sum.wrapping_sub(less) as f32)
    }
    #[inline(always)]
    fn four(factors: [i16; WORD]) -> Four {
        let pair = |i: usize| u32::from(factors[i] as u16) | u32::from(factors[i + 1] as u16) << 16;
        [pair(0), pair(2)]
    }
}
