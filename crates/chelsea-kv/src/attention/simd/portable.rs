//! Plain Rust on arrays of eight numbers, which the compiler turns into what the target's base
//! instruction set has: the path of machines without a kernel of their own.

use super::{Kernel, Simd};
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(in super::super) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; 8] {
    let mut v = [0.0; 8];
    for (i, x) in v.iter_mut().enumerate() {
        *x = f(i);
    }
    v
}

/// The larger of two numbers, without `f32::max`'s care for NaN, which costs a second comparison.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Half precision by shifting, so that the compiler can vectorise it: the exponent is put right by a
/// multiplication, which also makes subnormal numbers normal.
#[inline(always)]
fn widen(h: f16) -> f32 {
    let bits = u32::from(h.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(239 << 23)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let absolute = if bits & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits(absolute | (bits & 0x8000) << 16)
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const REGISTERS: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn run<K: Kernel>(kernel: K) {
        // SAFETY: no instruction set beyond the target's own is asked for.
        unsafe { kernel.run::<Portable>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> [f32; 8] {
        // SAFETY: the caller promises eight numbers at `at`.
        unsafe { at.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> [f32; 8] {
        // SAFETY: the caller promises eight numbers at `at`.
        let narrow = unsafe { at.cast::<[f16; 8]>().read_unaligned() };
        each(|i| widen(narrow[i]))
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> [f32; 8] {
        // SAFETY: the caller promises eight numbers at `at`.
        let narrow = unsafe { at.cast::<[bf16; 8]>().read_unaligned() };
        each(|i| f32::from_bits(u32::from(narrow[i].to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller promises room for eight numbers at `at`.
        unsafe { at.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each(|i| larger(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Not `f32::mul_add`: without the instruction that is a call to a slow library function.
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn power_of_two(shifted: [f32; 8]) -> [f32; 8] {
        each(|i| f32::from_bits((shifted[i].to_bits() << 23).wrapping_add(127 << 23)))
    }
    #[inline(always)]
    unsafe fn reduce_max(v: [f32; 8]) -> f32 {
        let mut max = v[0];
        for x in v {
            max = larger(max, x);
        }
        max
    }
    #[inline(always)]
    unsafe fn reduce_add(v: [f32; 8]) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    unsafe fn pick(table: *const f32, index: *const u32) -> Self::V {
        // SAFETY: as above; indices are below the number of lanes.
        core::array::from_fn(|i| unsafe { *table.add(*index.add(i) as usize) })
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
