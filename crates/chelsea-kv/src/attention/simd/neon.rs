//! NEON: 32 registers of 4 lanes.

use super::{Kernel, Simd};
use core::arch::aarch64::*;
use core::arch::asm;
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(in super::super) struct Neon;

// SAFETY of every block below: NEON belongs to the base of aarch64, and the trait's callers promise
// pointers that are good for a whole vector.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn run<K: Kernel>(kernel: K) {
        #[target_feature(enable = "neon")]
        unsafe fn enabled<K: Kernel>(kernel: K) {
            // SAFETY: as above.
            unsafe { kernel.run::<Neon>() }
        }
        // SAFETY: as above.
        unsafe { enabled(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(at) }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> float32x4_t {
        // SAFETY: as above; the conversion is in the base instruction set, only its intrinsic is newer
        // than the oldest compiler this crate supports.
        unsafe {
            let narrow = vld1_u16(at.cast());
            let wide: float32x4_t;
            asm!("fcvtl {wide:v}.4s, {narrow:v}.4h", wide = out(vreg) wide, narrow = in(vreg) narrow,
                options(pure, nomem, nostack, preserves_flags));
            wide
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: float32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_f32(at, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn power_of_two(shifted: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted));
            vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(127 << 23)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: float32x4_t) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: float32x4_t) -> f32 {
        // SAFETY: as above.
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn pick(table: *const f32, index: *const u32) -> float32x4_t {
        // SAFETY: as above; indices are below the number of lanes.
        unsafe {
            let lane = |i: usize| *table.add(*index.add(i) as usize);
            let picked = [lane(0), lane(1), lane(2), lane(3)];
            vld1q_f32(picked.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags)) }
    }
}
