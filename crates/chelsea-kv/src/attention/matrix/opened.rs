//! Stored keys and values as vectors of floats, in the order that operands want them.

#![allow(unsafe_code)]

use crate::convert::fives;
use crate::page::{Byte, Columns, Fives, Nibbles, Number, Rows};
use crate::{PAGE, TILE};
use core::arch::x86_64::*;
use half::{bf16, f16};

/// In how many parts bf16 holds a number.
pub(in super::super) trait Parts {
    /// Whether it holds every number in one.
    const IN_BF16: bool;
}

/// Numbers of keys.
pub(in super::super) trait Key: Columns + Parts {
    /// Dimension `i` of the [`TILE`] keys of a tile.
    ///
    /// # Safety
    /// The machine has AVX-512.
    unsafe fn dimension(tile: &[Self], i: usize) -> __m512;
}

/// Numbers of values.
pub(in super::super) trait Value: Rows + Parts {
    /// Dimensions `first` and the 15 that follow of the value of entry `slot`, of `dim`.
    ///
    /// # Safety
    /// The machine has AVX-512.
    unsafe fn dimensions(values: &[Self], dim: usize, slot: usize, first: usize) -> __m512;
}

impl Parts for f16 {
    const IN_BF16: bool = false;
}

impl Parts for bf16 {
    const IN_BF16: bool = true;
}

impl Parts for Byte {
    const IN_BF16: bool = true;
}

impl Parts for Fives {
    const IN_BF16: bool = true;
}

impl Parts for Nibbles {
    const IN_BF16: bool = true;
}

/// Sixteen numbers of two bytes.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn halves<T: Number>(numbers: &[T]) -> __m256i {
    const { assert!(size_of::<T>() == 2) };
    let numbers = &numbers[..TILE];
    // SAFETY: 32 bytes; the caller has the instructions.
    unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
}

/// Of sixteen words of four bytes the number that begins at bit `shift`, without the bits that `mask` lacks and less `offset`.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn of_words<T: bytemuck::Pod>(words: &[T], shift: usize, mask: i32, offset: i32) -> __m512 {
    const { assert!(size_of::<T>() == 1) };
    let words = &words[..TILE * Byte::WORD];
    // SAFETY: 64 bytes; the caller has the instructions.
    unsafe {
        let words = _mm512_loadu_si512(words.as_ptr().cast());
        let shifted = _mm512_srl_epi32(words, _mm_cvtsi32_si128(shift as i32));
        let numbers = _mm512_and_si512(shifted, _mm512_set1_epi32(mask));
        _mm512_cvtepi32_ps(_mm512_sub_epi32(numbers, _mm512_set1_epi32(offset)))
    }
}

impl Key for f16 {
    #[inline(always)]
    unsafe fn dimension(tile: &[f16], i: usize) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_cvtph_ps(halves(&tile[i * TILE..])) }
    }
}

impl Value for f16 {
    #[inline(always)]
    unsafe fn dimensions(values: &[f16], dim: usize, slot: usize, first: usize) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_cvtph_ps(halves(&values[slot * dim + first..])) }
    }
}

/// Sixteen numbers in bf16.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn widen(numbers: &[bf16]) -> __m512 {
    // SAFETY: the caller has the instructions.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves(numbers)))) }
}

impl Key for bf16 {
    #[inline(always)]
    unsafe fn dimension(tile: &[bf16], i: usize) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { widen(&tile[i * TILE..]) }
    }
}

impl Value for bf16 {
    #[inline(always)]
    unsafe fn dimensions(values: &[bf16], dim: usize, slot: usize, first: usize) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { widen(&values[slot * dim + first..]) }
    }
}

impl Key for Byte {
    #[inline(always)]
    unsafe fn dimension(tile: &[Byte], i: usize) -> __m512 {
        let words = &tile[i / Byte::WORD * TILE * Byte::WORD..];
        // SAFETY: the caller has the instructions.
        unsafe { of_words(words, i % Byte::WORD * 8, 0xff, Byte::OFFSET) }
    }
}

impl Key for Fives {
    #[inline(always)]
    unsafe fn dimension(tile: &[Fives], i: usize) -> __m512 {
        let line = TILE * Byte::WORD;
        let (group, word, byte) = (&tile[i / fives::GROUP * fives::LINES * line..], i % fives::GROUP / 4, i % 4);
        let halves = &group[word / 2 * line..];
        let rest = &group[(fives::LINES - 1) * line..];
        // SAFETY: the caller has the instructions.
        unsafe {
            let low = of_words(halves, byte * 8 + word % 2 * 4, 0xf, Fives::OFFSET);
            let high = of_words(rest, byte * 8 + word, 1, 0);
            _mm512_fmadd_ps(high, _mm512_set1_ps(16.0), low)
        }
    }
}

impl Value for Byte {
    #[inline(always)]
    unsafe fn dimensions(values: &[Byte], dim: usize, slot: usize, first: usize) -> __m512 {
        let words = &values[(slot / Self::GROUP * dim + first) * Byte::WORD..];
        // SAFETY: the caller has the instructions.
        unsafe { of_words(words, slot % Self::GROUP * 8, 0xff, Byte::OFFSET) }
    }
}

impl Value for Nibbles {
    #[inline(always)]
    unsafe fn dimensions(values: &[Nibbles], dim: usize, slot: usize, first: usize) -> __m512 {
        let words = &values[(slot / Self::GROUP * dim + first) * Byte::WORD..];
        let (byte, part) = (slot % Self::TOGETHER, slot / Self::TOGETHER % Self::SHARED);
        // SAFETY: the caller has the instructions.
        unsafe { of_words(words, byte * 8 + part * 4, 0xf, Nibbles::OFFSET) }
    }
}

const _: () = assert!(PAGE.is_multiple_of(<Nibbles as Rows>::GROUP));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Format, K5V4, K8V4};
    use crate::{Dtype, Head};
    use chelsea_simd::Level;

    /// Numbers of a page as they are read, without scales, and as vectors.
    fn check<F: Format<Key: Key, Value: Value>>(dtype: Dtype) {
        let dim = 32;
        let mut head = Head::new(dim, dtype);
        let row = |i: usize| -> Vec<f32> { (0..dim).map(|k| ((i * 37 + k * 11) % 23) as f32 - 11.0).collect() };
        (0..PAGE).for_each(|i| head.push(&row(i), &row(i + 7), 1, i as f32));
        let page = &head.pages()[0];
        let scales = page.scales::<F>();
        let (mut row, mut out) = (vec![0.0; dim], [0.0f32; TILE]);
        for slot in 0..PAGE {
            let of = |which: &[f32; PAGE]| which[slot];
            let (key_scale, value_scale) = scales.map_or((1.0, 1.0), |scales| (of(scales.keys), of(scales.values)));
            let keys = page.keys::<F>();
            let len = TILE * F::Key::stored(dim);
            let tile = &keys[slot / TILE * len..][..len];
            page.read_key(slot, dtype, &mut row);
            for (i, &x) in row.iter().enumerate() {
                // SAFETY: the machine has AVX-512.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), F::Key::dimension(tile, i)) };
                assert_eq!(out[slot % TILE] * key_scale, x, "{dtype:?}, key {slot}, dimension {i}");
            }
            page.read_value(slot, dtype, &mut row);
            for (first, part) in row.chunks_exact(TILE).enumerate() {
                // SAFETY: as above.
                let numbers = unsafe { F::Value::dimensions(page.values::<F>(), dim, slot, first * TILE) };
                // SAFETY: as above; there is room for a vector.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), numbers) };
                let scaled = out.map(|x| x * value_scale);
                assert_eq!(scaled, *part, "{dtype:?}, value {slot} from {}", first * TILE);
            }
        }
    }

    #[test]
    fn vectors_hold_what_is_read_one_by_one() {
        if Level::Avx512.is_available() {
            check::<f16>(Dtype::F16);
            check::<bf16>(Dtype::Bf16);
            check::<Byte>(Dtype::Q8);
            check::<K8V4>(Dtype::K8V4);
            check::<K5V4>(Dtype::K5V4);
        }
    }
}
