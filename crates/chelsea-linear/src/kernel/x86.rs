//! What the kernels of several x86 instruction sets share.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// How far ahead of the codes in use the weights are asked for, in bytes. The hardware alone keeps too
/// few lines on their way from memory when a block takes as much arithmetic as here.
const AHEAD: usize = 16 << 10;

/// Asks for the lines of the `bytes` bytes that lie [`AHEAD`] of `tiles[at]`; past the end, for the last one.
///
/// `bytes` is a constant of the caller, so that there is no branch: one that depends on where lines begin
/// is mispredicted about once per block.
#[inline(always)]
pub(super) fn prefetch(tiles: &[u8], at: usize, bytes: usize) {
    for i in 0..bytes.div_ceil(64) {
        let at = (at + AHEAD + i * 64).min(tiles.len() - 1);
        // SAFETY: a prefetch has no effect but on caches.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(tiles.as_ptr().wrapping_add(at).cast()) };
    }
}

/// Minus the sums of the first and of the last 16 of 32 bytes, in four 16-bit numbers; see
/// [`crate::byte_block`].
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn minus_sums(q: __m256i) -> [[i16; 2]; 2] {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
    let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
    let sums = _mm256_sub_epi16(_mm256_setzero_si256(), pairs);
    let (first, last) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    bytemuck::cast([_mm_cvtsi128_si32(first), _mm_cvtsi128_si32(last)])
}
