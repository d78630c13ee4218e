//! The few vector operations that the attention kernels are written in, and their implementations.
//!
//! A kernel is generic over [`Simd`] and inlined as a whole into [`Simd::run`], the one function an
//! implementation compiles with its instruction set enabled. So there is a single kernel, and what
//! differs between machines is this folder.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

use crate::page::{Format, Number};
use half::{bf16, f16};

/// A vector of [`LANES`](Self::LANES) f32 numbers and what can be done with it.
///
/// # Safety
/// Every method may be called only where the implementation's instruction set is available; loads and
/// stores need [`LANES`](Self::LANES) readable or writable numbers at their pointer, of any alignment.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Simd: Copy {
    type V: Copy;
    /// Numbers of a vector; divides [`TILE`](crate::TILE).
    const LANES: usize;
    /// Vectors that fit in registers.
    const REGISTERS: usize;
    /// Rows of the register block when there are many.
    const ROWS: usize;

    /// Runs `kernel` compiled for this instruction set.
    unsafe fn run<K: Kernel>(kernel: K);

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn load_f16(at: *const f16) -> Self::V;
    unsafe fn load_bf16(at: *const bf16) -> Self::V;
    unsafe fn store(at: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the machine can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `2^n` for every lane that holds `n + 1.5 * 2^23`, `n` a whole number in `-127 ..= 127`; -127
    /// gives 0.
    unsafe fn power_of_two(shifted: Self::V) -> Self::V;
    unsafe fn reduce_max(v: Self::V) -> f32;
    unsafe fn reduce_add(v: Self::V) -> f32;
    /// `table[index]` lane by lane, of a table and indices of one vector each; indices are below its lanes.
    unsafe fn pick(table: *const f32, index: *const u32) -> Self::V;
    /// Asks for the cache line at `at`, which may be any address.
    unsafe fn prefetch(at: *const u8);

    /// `2^x` for `x <= 0`, within 2e-7 of it; 0 below -126.5.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        // Minimax on [-1/2, 1/2], largest relative error 7.5e-8.
        const C: [f32; 6] = [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];
        // SAFETY: the caller promises the instruction set.
        unsafe {
            let x = Self::max(x, Self::splat(-127.0));
            let shifted = Self::add(x, Self::splat(SHIFT));
            let rest = Self::sub(x, Self::sub(shifted, Self::splat(SHIFT)));
            let mut p = Self::splat(C[5]);
            p = Self::mul_add(p, rest, Self::splat(C[4]));
            p = Self::mul_add(p, rest, Self::splat(C[3]));
            p = Self::mul_add(p, rest, Self::splat(C[2]));
            p = Self::mul_add(p, rest, Self::splat(C[1]));
            p = Self::mul_add(p, rest, Self::splat(C[0]));
            Self::mul(p, Self::power_of_two(shifted))
        }
    }
}

/// Something to run with an instruction set enabled.
pub(super) trait Kernel {
    /// # Safety
    /// `S`'s instruction set is available.
    unsafe fn run<S: Simd>(self);
}

/// Stored floats that vectors are loaded from.
pub(super) trait Element: Number {
    /// A vector of numbers.
    ///
    /// # Safety
    /// As [`Simd`]'s loads.
    unsafe fn load<S: Simd>(at: *const Self) -> S::V;
    /// One number.
    fn single(self) -> f32;
}

/// Keys and values that vectors are loaded from.
pub(super) trait Stored: Format<Key: Element, Value: Element> {}

impl<F: Format<Key: Element, Value: Element>> Stored for F {}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(at) }
    }
    fn single(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(at) }
    }
    fn single(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(at: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(at) }
    }
    fn single(self) -> f32 {
        self.to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest relative error of `exp2` where its result is a normal number.
    struct Exp2Error<'a>(&'a mut f64);

    impl Kernel for Exp2Error<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let mut out = [0.0f32; 16];
            for step in 0..200_000u32 {
                let x = -126.0 * (step as f32 / 200_000.0).powi(3);
                // SAFETY: the caller promises the instruction set; a vector has at most 16 lanes.
                unsafe { S::store(out.as_mut_ptr(), S::exp2(S::splat(x))) };
                let exact = f64::from(x).exp2();
                let error = (f64::from(out[0]) - exact).abs() / exact;
                *self.0 = self.0.max(error);
            }
            for x in [-127.0, -1000.0, f32::MIN, f32::NEG_INFINITY] {
                // SAFETY: as above.
                unsafe { S::store(out.as_mut_ptr(), S::exp2(S::splat(x))) };
                assert_eq!(out[0], 0.0, "2^{x}");
            }
        }
    }

    /// Conversions of every half-precision and bfloat16 number that is not a NaN.
    struct Widening;

    impl Kernel for Widening {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let mut out = [0.0f32; 16];
            for bits in 0..=u16::MAX {
                let (half, brain) = ([f16::from_bits(bits); 16], [bf16::from_bits(bits); 16]);
                // SAFETY: the caller promises the instruction set; a vector has at most 16 lanes.
                unsafe { S::store(out.as_mut_ptr(), f16::load::<S>(half.as_ptr())) };
                assert!(half[0].is_nan() || out[0].to_bits() == half[0].to_f32().to_bits(), "f16 {bits:#x}");
                // SAFETY: as above.
                unsafe { S::store(out.as_mut_ptr(), bf16::load::<S>(brain.as_ptr())) };
                assert!(brain[0].is_nan() || out[0].to_bits() == brain[0].to_f32().to_bits(), "bf16 {bits:#x}");
            }
        }
    }

    fn on_each(run: impl Fn(super::super::Isa)) {
        super::super::Isa::available().for_each(run);
    }

    #[test]
    fn powers_of_two_are_exact_to_a_few_units() {
        on_each(|isa| {
            let mut error = 0.0;
            isa.run(Exp2Error(&mut error));
            assert!(error < 3e-7, "{isa:?}: {error:e}");
        });
    }

    /// Every lane picks every lane.
    struct Picks;

    impl Kernel for Picks {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let table: [f32; 16] = std::array::from_fn(|i| i as f32 + 0.5);
            for turn in 0..S::LANES {
                let index: [u32; 16] = std::array::from_fn(|i| ((i * 3 + turn) % S::LANES) as u32);
                let mut out = [0.0f32; 16];
                // SAFETY: the caller promises the instruction set; a vector has at most 16 lanes.
                unsafe { S::store(out.as_mut_ptr(), S::pick(table.as_ptr(), index.as_ptr())) };
                assert!((0..S::LANES).all(|i| out[i] == table[index[i] as usize]), "{index:?}: {out:?}");
            }
        }
    }

    #[test]
    fn lanes_are_picked_by_index() {
        on_each(|isa| isa.run(Picks));
    }

    #[test]
    fn stored_numbers_widen_exactly() {
        on_each(|isa| isa.run(Widening));
    }
}
