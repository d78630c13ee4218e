//! Codes of a block in AVX2: from their bit planes to one byte each, eight rows per vector.

#![allow(unsafe_code)]

use crate::quant::{Quant, numbers};
use std::arch::x86_64::*;

/// Log2 of the code that counts as zero in the sums of 16 bits.
pub(super) const fn middle<Q: Quant>() -> Option<i32> {
    if Q::OFFSET > 0 {
        Some(Q::OFFSET.trailing_zeros() as i32)
    } else if Q::LOW + Q::HIGH == 5 {
        Some(4)
    } else {
        None
    }
}

/// Steps `4 P..4 P + 4` of a block, each as two vectors of eight rows.
///
/// # Safety
/// `low` and `high` must point at a block's planes.
#[inline(always)]
pub(super) unsafe fn unpack<Q: Quant, const P: usize>(low: *const u8, high: *const u8) -> [[__m256i; 2]; 4] {
    // SAFETY: by the contract; a vector of a plane is 64 bytes.
    unsafe {
        let load = |p: *const u8, v: usize, half: usize| _mm256_loadu_si256(p.add(v * 64 + half * 32).cast());
        let right = |v: __m256i, n: usize| if n == 0 { v } else { _mm256_srl_epi16(v, _mm_cvtsi32_si128(n as i32)) };
        let shift = |v: __m256i, right_by: isize| {
            if right_by < 0 {
                _mm256_sll_epi16(v, _mm_cvtsi32_si128(-right_by as i32))
            } else {
                right(v, right_by as usize)
            }
        };
        let mut steps = [[_mm256_setzero_si256(); 2]; 4];
        for (s, step) in steps.iter_mut().enumerate() {
            let p = 4 * P + s;
            for (half, step) in step.iter_mut().enumerate() {
                let bits = right(load(low, p % Q::LOW, half), p / Q::LOW * Q::LOW);
                *step = _mm256_and_si256(bits, _mm256_set1_epi8(((1u16 << Q::LOW) - 1) as i8));
                if Q::TABLE.is_some() {
                    *step = _mm256_shuffle_epi8(table::<Q>(), *step);
                }
                if Q::HIGH > 0 {
                    // Moved to bit `LOW` of its byte.
                    let at = p / Q::HIGH.max(1) * Q::HIGH;
                    let bits = shift(load(high, p % Q::HIGH.max(1), half), at as isize - Q::LOW as isize);
                    let mask = ((1u16 << Q::HIGH) - 1) << (Q::LOW % 8);
                    *step = _mm256_or_si256(*step, _mm256_and_si256(bits, _mm256_set1_epi8(mask as i8)));
                }
            }
        }
        steps
    }
}

/// The unsigned numbers of codes of four bits, for the shuffle that looks them up.
#[inline(always)]
unsafe fn table<Q: Quant>() -> __m256i {
    // SAFETY: sixteen bytes; the caller has AVX2.
    unsafe {
        let numbers = const { &numbers::<Q>() };
        _mm256_broadcastsi128_si256(_mm_loadu_si128(numbers.as_ptr().cast()))
    }
}

/// Step `s` of eight rows, as unsigned numbers of eight bits.
///
/// # Safety
/// `low` must point at a block's plane.
#[inline(always)]
pub(super) unsafe fn wide<Q: Quant>(low: *const u8, s: usize, half: usize) -> __m256i {
    // SAFETY: by the contract; a vector of a plane is 64 bytes.
    unsafe {
        let codes = _mm256_loadu_si256(low.add(s % Q::LOW * 64 + half * 32).cast());
        if Q::TABLE.is_none() {
            return codes;
        }
        let codes = if s < Q::LOW { codes } else { _mm256_srli_epi16::<4>(codes) };
        _mm256_shuffle_epi8(table::<Q>(), _mm256_and_si256(codes, _mm256_set1_epi8(15)))
    }
}
