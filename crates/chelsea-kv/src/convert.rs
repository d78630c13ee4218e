//! Stored numbers to `f32` and back, many at a time, and how they lie in rows.
#![allow(unsafe_code)]

use crate::TILE;
use crate::fives::Fives;
#[cfg(target_arch = "x86_64")]
use crate::simd::Level;
use bytemuck::Pod;
use chelsea_simd::vectorized;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A type that keys and values may be stored in.
pub trait Number: Pod {
    /// Numbers that lie side by side where rows run across: dimensions of a key, or values of as many entries.
    const TOGETHER: usize = 1;
    /// Whether a row of these numbers needs a scale to mean anything; 1 serves those that need none.
    const SCALED: bool = false;
    /// The scale of a row: what it is stored with, and read with.
    fn scale(_row: &[f32]) -> f32 {
        1.0
    }
    /// `out[i] = src[i] * scale`; both have the same length.
    fn widen(src: &[Self], scale: f32, out: &mut [f32]);
    /// `out[i] = src[i] / scale`, rounded to nearest even; both have the same length.
    fn narrow(src: &[f32], scale: f32, out: &mut [Self]);
    /// Reads a tile of keys without their scales into `out`, `[key_dim][TILE]`.
    fn widen_tile(src: &[Self], out: &mut [f32]) {
        Self::widen(&src[..out.len()], 1.0, out);
    }
}

impl Number for f32 {
    fn widen(src: &[f32], _: f32, out: &mut [f32]) {
        out.copy_from_slice(src);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [f32]) {
        out.copy_from_slice(src);
    }
}

impl Number for f16 {
    fn widen(src: &[f16], _: f32, out: &mut [f32]) {
        assert_eq!(src.len(), out.len());
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if src.len() >= WIDE {
            done = match Level::detect() {
                // SAFETY: `detect` found AVX-512 F on this processor.
                Level::Avx512 => unsafe { widen_avx512(src, out) },
                // SAFETY: `detect` found F16C and AVX2 on this processor.
                Level::Avx2 => unsafe { widen_f16c(src, out) },
                Level::Plain => 0,
            };
        }
        src[done..].convert_to_f32_slice(&mut out[done..]);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [f16]) {
        assert_eq!(src.len(), out.len());
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if src.len() >= WIDE {
            done = match Level::detect() {
                // SAFETY: `detect` found AVX-512 F on this processor.
                Level::Avx512 => unsafe { narrow_avx512(src, out) },
                // SAFETY: `detect` found F16C and AVX2 on this processor.
                Level::Avx2 => unsafe { narrow_f16c(src, out) },
                Level::Plain => 0,
            };
        }
        out[done..].convert_from_f32_slice(&src[done..]);
    }
}

impl Number for bf16 {
    fn widen(src: &[bf16], _: f32, out: &mut [f32]) {
        src.convert_to_f32_slice(out);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [bf16]) {
        out.convert_from_f32_slice(src);
    }
}

/// A whole number from -127 to 127, stored with 128 added: the dot products of processors multiply bytes without a sign by
/// such with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Byte(u8);

impl Byte {
    /// What is added to a number.
    pub(crate) const OFFSET: i32 = 128;
    /// Bytes of one word: those that a dot product adds up.
    pub(crate) const WORD: usize = 4;

    fn get(self) -> f32 {
        (i32::from(self.0) - Self::OFFSET) as f32
    }

    /// `x` rounded to nearest even.
    fn of(x: f32) -> Self {
        // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
        const SHIFT: f32 = 12_582_912.0 + Byte::OFFSET as f32;
        Byte((x.clamp(-127.0, 127.0) + SHIFT).to_bits() as u8)
    }
}

/// Symmetric: a row's largest magnitude becomes 127. What is stored is always finite: a row with infinite
/// numbers saturates, a NaN becomes some number.
impl Number for Byte {
    const TOGETHER: usize = Byte::WORD;
    const SCALED: bool = true;
    fn scale(row: &[f32]) -> f32 {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = largest.min(f32::MAX / 2.0) / 127.0;
        // A row of subnormal numbers is taken for zeros: its scale would have no inverse.
        if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
    }
    fn widen(src: &[Byte], scale: f32, out: &mut [f32]) {
        assert_eq!(src.len(), out.len());
        out.iter_mut().zip(src).for_each(|(out, x)| *out = x.get() * scale);
    }
    fn narrow(src: &[f32], scale: f32, out: &mut [Byte]) {
        assert_eq!(src.len(), out.len());
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out.iter_mut().zip(src).for_each(|(out, &x)| *out = Byte::of(x * inverse));
    }
    fn widen_tile(src: &[Byte], out: &mut [f32]) {
        let words: &[[[u8; Byte::WORD]; TILE]] = bytemuck::cast_slice(src);
        for (out, words) in out.chunks_mut(Byte::WORD * TILE).zip(words) {
            let words = words.map(u32::from_le_bytes);
            for (byte, row) in out.chunks_exact_mut(TILE).enumerate() {
                let number = |word: u32| ((word >> (8 * byte) & 0xff) as i32 - Byte::OFFSET) as f32;
                row.iter_mut().zip(words).for_each(|(x, word)| *x = number(word));
            }
        }
    }
}

/// How keys and values of one [`Dtype`](crate::Dtype) are stored. Both have scales where keys do.
pub trait Format {
    /// What keys are made of.
    type Key: Columns;
    /// What rows of values are made of.
    type Value: Rows;
}

impl<T: Number> Format for T {
    type Key = T;
    type Value = T;
}

/// [`Dtype::K8V4`](crate::Dtype::K8V4).
#[derive(Debug, Clone, Copy)]
pub enum K8V4 {}

impl Format for K8V4 {
    type Key = Byte;
    type Value = Nibbles;
}

/// [`Dtype::K5V4`](crate::Dtype::K5V4).
#[derive(Debug, Clone, Copy)]
pub enum K5V4 {}

impl Format for K5V4 {
    type Key = Fives;
    type Value = Nibbles;
}

/// What columns of numbers are made of, which are the keys of a tile: an element's neighbours in a column are
/// [`Columns::TOGETHER`] side by side, and so on every `TILE` times as many elements further on.
pub trait Columns: Pod {
    /// Elements of a column that lie side by side.
    const TOGETHER: usize;
    /// Whether a column needs a scale to mean anything; 1 serves those that need none.
    const SCALED: bool;
    /// Elements that a column of `dim` numbers takes.
    fn stored(dim: usize) -> usize;
    /// The scale of a column: what it is stored with, and read with.
    fn column_scale(row: &[f32]) -> f32;
    /// Reads the column that begins with `src`, times `scale`.
    fn read_column(src: &[Self], scale: f32, out: &mut [f32]);
    /// Stores `row`, divided by `scale`, as the column that begins with `out`.
    fn write_column(row: &[f32], scale: f32, out: &mut [Self]);
    /// Reads a tile without the columns' scales into `out`, `[dim][TILE]`.
    fn read_tile(src: &[Self], out: &mut [f32]);
}

impl<T: Number> Columns for T {
    const TOGETHER: usize = T::TOGETHER;
    const SCALED: bool = T::SCALED;

    fn stored(dim: usize) -> usize {
        dim.next_multiple_of(T::TOGETHER)
    }
    fn column_scale(row: &[f32]) -> f32 {
        T::scale(row)
    }
    fn read_column(src: &[T], scale: f32, out: &mut [f32]) {
        let mut stored = [T::zeroed(); TILE];
        for (part, first) in out.chunks_mut(TILE).zip((0..).step_by(TILE)) {
            let words = src[first * TILE..].chunks(TILE * T::TOGETHER);
            stored[..part.len()]
                .chunks_mut(T::TOGETHER)
                .zip(words)
                .for_each(|(to, word)| to.copy_from_slice(&word[..to.len()]));
            T::widen(&stored[..part.len()], scale, part);
        }
    }
    fn write_column(row: &[f32], scale: f32, out: &mut [T]) {
        let mut narrow = [T::zeroed(); TILE];
        for (part, first) in row.chunks(TILE).zip((0..).step_by(TILE)) {
            T::narrow(part, scale, &mut narrow[..part.len()]);
            let words = out[first * TILE..].chunks_mut(TILE * T::TOGETHER);
            narrow[..part.len()]
                .chunks(T::TOGETHER)
                .zip(words)
                .for_each(|(from, word)| word[..from.len()].copy_from_slice(from));
        }
    }
    fn read_tile(src: &[T], out: &mut [f32]) {
        T::widen_tile(src, out);
    }
}

/// What rows of numbers are made of. [`Rows::TOGETHER`] times [`Rows::SHARED`] rows lie together: for each column as many
/// elements as are together, each of which holds a number of every so-manieth row. Row `r` of these is in element
/// `r % TOGETHER` of every column, as part `r / TOGETHER` of it.
pub trait Rows: Pod {
    /// Elements that lie side by side.
    const TOGETHER: usize;
    /// Numbers in an element.
    const SHARED: usize = 1;
    /// Rows that lie together.
    const GROUP: usize = Self::TOGETHER * Self::SHARED;
    /// The scale of a row: what it is stored with, and read with.
    fn row_scale(row: &[f32]) -> f32;
    /// Reads one part of elements, times `scale`, into `out`: every [`Rows::TOGETHER`]th of `src`.
    fn read(src: &[Self], part: usize, scale: f32, out: &mut [f32]);
    /// Stores `row`, divided by `scale`, as one part of elements: of every [`Rows::TOGETHER`]th of `out`.
    fn write(row: &[f32], scale: f32, out: &mut [Self], part: usize);
    /// This element with its part `part` taken from part `of` of `source`.
    fn with(self, part: usize, source: Self, of: usize) -> Self;
}

impl<T: Number> Rows for T {
    const TOGETHER: usize = T::TOGETHER;
    fn row_scale(row: &[f32]) -> f32 {
        T::scale(row)
    }
    fn read(src: &[T], _: usize, scale: f32, out: &mut [f32]) {
        if T::TOGETHER == 1 {
            return T::widen(&src[..out.len()], scale, out);
        }
        let mut some = [T::zeroed(); TILE];
        for (out, src) in out.chunks_mut(TILE).zip(src.chunks(TILE * T::TOGETHER)) {
            some.iter_mut().zip(src.iter().step_by(T::TOGETHER)).for_each(|(x, &y)| *x = y);
            T::widen(&some[..out.len()], scale, out);
        }
    }
    fn write(row: &[f32], scale: f32, out: &mut [T], _: usize) {
        if T::TOGETHER == 1 {
            return T::narrow(row, scale, &mut out[..row.len()]);
        }
        let mut some = [T::zeroed(); TILE];
        for (row, out) in row.chunks(TILE).zip(out.chunks_mut(TILE * T::TOGETHER)) {
            T::narrow(row, scale, &mut some[..row.len()]);
            out.iter_mut().step_by(T::TOGETHER).zip(some).for_each(|(x, y)| *x = y);
        }
    }
    fn with(self, _: usize, source: T, _: usize) -> T {
        source
    }
}

/// Two numbers of 4 bits, of the same column of two rows: the first in the low half. They are -8 to 7, and stored with 8
/// added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Nibbles(u8);

impl Nibbles {
    /// What is added to a number.
    pub(crate) const OFFSET: i32 = 8;

    /// One of the two numbers.
    #[inline(always)]
    pub(crate) fn get(self, part: usize) -> i8 {
        (self.0 >> (4 * part) & 0xf) as i8 - 8
    }

    fn set(&mut self, part: usize, x: i8) {
        self.0 = self.0 & !(0xf << (4 * part)) | ((x + 8) as u8 & 0xf) << (4 * part);
    }
}

impl Rows for Nibbles {
    const TOGETHER: usize = Byte::WORD;
    const SHARED: usize = 2;

    /// Of several steps, with which the number of largest magnitude becomes -7 or is cut to -8, the one with the least
    /// squared error.
    fn row_scale(row: &[f32]) -> f32 {
        const LARGEST: [f32; 8] = [8.0, 7.0, 7.5, 8.5, 9.0, 10.0, 11.0, 12.5];
        best_scale(row, LARGEST, whole)
    }
    fn read(src: &[Nibbles], part: usize, scale: f32, out: &mut [f32]) {
        let src = src.iter().step_by(Self::TOGETHER);
        out.iter_mut().zip(src).for_each(|(out, x)| *out = f32::from(x.get(part)) * scale);
    }
    fn write(row: &[f32], scale: f32, out: &mut [Nibbles], part: usize) {
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        let out = out.iter_mut().step_by(Self::TOGETHER);
        out.zip(row).for_each(|(out, &x)| out.set(part, whole(x * inverse) as i8));
    }
    fn with(mut self, part: usize, source: Nibbles, of: usize) -> Nibbles {
        self.set(part, source.get(of));
        self
    }
}

/// The scale of a row that is stored in few bits. The number of largest magnitude goes to the negative end, which reaches
/// further, so the scale has its sign turned round. Of the numbers that it may become, `largest`, the one is taken with
/// which the squared error of rounding to `whole` numbers is least, and the first where errors are no numbers. What is
/// stored is always finite, as with bytes.
#[inline(always)]
pub(crate) fn best_scale<const N: usize>(row: &[f32], steps: [f32; N], whole: impl Fn(f32) -> f32) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, &x| if x.abs() > largest.abs() { x } else { largest });
    let largest = largest.clamp(-f32::MAX / 2.0, f32::MAX / 2.0);
    if (largest / (2.0 * steps[0])).abs() < f32::MIN_POSITIVE {
        return 0.0;
    }
    // In units of the largest, so that no square is too large or too small.
    let unit = -largest.recip();
    let mut errors = vectorized(
        #[inline(always)]
        || {
            // An array of its own, which the compiler keeps in registers.
            let mut errors = [0.0f32; N];
            for &x in row {
                let x = x * unit;
                for i in 0..N {
                    let x = x * steps[i];
                    let off = x - whole(x);
                    errors[i] += off * off;
                }
            }
            errors
        },
    );
    errors.iter_mut().zip(steps).for_each(|(error, steps)| *error /= steps * steps);
    let best = (1..N).fold(0, |best, i| if errors[i] < errors[best] { i } else { best });
    -largest / steps[best]
}

/// The nearest number that 4 bits hold.
#[inline(always)]
fn whole(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number.
    const SHIFT: f32 = 12_582_912.0;
    (x.clamp(-8.0, 7.0) + SHIFT) - SHIFT
}

/// Numbers converted at once; the kernels below return how many they did, whole groups of this.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 16;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(src: &[f16], out: &mut [f32]) -> usize {
    for (src, out) in src.chunks_exact(WIDE).zip(out.chunks_exact_mut(WIDE)) {
        // SAFETY: both hold 16 numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(src.as_ptr().cast()))) };
    }
    src.len() / WIDE * WIDE
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16c(src: &[f16], out: &mut [f32]) -> usize {
    for (src, out) in src.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both hold 8 numbers.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast()))) };
    }
    src.len() / 8 * 8
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn narrow_avx512(src: &[f32], out: &mut [f16]) -> usize {
    for (src, out) in src.chunks_exact(WIDE).zip(out.chunks_exact_mut(WIDE)) {
        // SAFETY: both hold 16 numbers.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(src.as_ptr()));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
        }
    }
    src.len() / WIDE * WIDE
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn narrow_f16c(src: &[f32], out: &mut [f16]) -> usize {
    for (src, out) in src.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both hold 8 numbers.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), half);
        }
    }
    src.len() / 8 * 8
}

/// Runs `$body` with `$T` standing for the [`Format`] that `$dtype` is stored in.
macro_rules! with_format {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::Dtype::Q8 => {
                type $T = $crate::convert::Byte;
                $body
            }
            $crate::Dtype::K8V4 => {
                type $T = $crate::convert::K8V4;
                $body
            }
            $crate::Dtype::K5V4 => {
                type $T = $crate::convert::K5V4;
                $body
            }
        }
    };
}
pub(crate) use with_format;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_goes_to_single_and_back() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect();
        let mut wide = vec![0.0; halves.len()];
        f16::widen(&halves, 1.0, &mut wide);
        assert!(halves.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()));
        let mut narrow = vec![f16::ZERO; halves.len()];
        f16::narrow(&wide, 1.0, &mut narrow);
        assert!(halves.iter().zip(&narrow).all(|(h, n)| h.to_bits() == n.to_bits()));
    }

    #[test]
    fn single_is_rounded_to_the_nearest_half() {
        for len in [1, 7, 8, 16, 45] {
            let wide: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37 - 3.0).exp()).collect();
            let (mut narrow, mut brain) = (vec![f16::ZERO; len], vec![bf16::ZERO; len]);
            f16::narrow(&wide, 1.0, &mut narrow);
            bf16::narrow(&wide, 1.0, &mut brain);
            for i in 0..len {
                assert_eq!(narrow[i], f16::from_f32(wide[i]));
                assert_eq!(brain[i], bf16::from_f32(wide[i]));
            }
        }
    }

    /// Rows of several sizes, with numbers of several magnitudes.
    fn rows() -> impl Iterator<Item = Vec<f32>> {
        let number = |i: usize| (i as f32 * 0.7).sin() * (i as f32 * 0.37).cos();
        [1e-30f32, 1e-3, 1.0, 800.0, 1e30].into_iter().flat_map(move |size| {
            [1, 2, 15, 16, 17, 64, 130].into_iter().map(move |len| (0..len).map(|i| number(i + 3) * size).collect())
        })
    }

    #[test]
    fn bytes_stay_within_half_a_step() {
        for row in rows() {
            let scale = Byte::scale(&row);
            let (mut narrow, mut back) = (vec![Byte(0); row.len()], vec![0.0; row.len()]);
            Byte::narrow(&row, scale, &mut narrow);
            Byte::widen(&narrow, scale, &mut back);
            let worst = row.iter().zip(&back).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= scale * 0.5001, "{worst} of {scale}");
            assert!(narrow.iter().any(|x| x.get().abs() == 127.0), "the largest number has the largest byte");
            // What was read is stored the same again.
            let mut again = vec![Byte(0); row.len()];
            Byte::narrow(&back, Byte::scale(&back), &mut again);
            assert_eq!(again, narrow);
        }
    }

    #[test]
    fn half_bytes_stay_within_half_a_step_or_at_an_end() {
        for row in rows() {
            let scale = Nibbles::row_scale(&row);
            let (mut narrow, mut back) = (vec![Nibbles(0x5a); 4 * row.len()], vec![0.0; row.len()]);
            for part in 0..2 {
                Nibbles::write(&row, scale, &mut narrow, part);
                Nibbles::read(&narrow, part, scale, &mut back);
                for ((x, y), stored) in row.iter().zip(&back).zip(narrow.iter().step_by(4)) {
                    let cut = matches!(stored.get(part), -8 | 7) && x.abs() > y.abs();
                    assert!(cut || (x - y).abs() <= scale.abs() * 0.5001, "{x}: {y}, step {scale}");
                }
            }
            // Both hold the same now; what was read is stored the same again.
            assert!(narrow.iter().step_by(4).all(|x| x.get(0) == x.get(1)));
            assert!(narrow.iter().enumerate().all(|(i, &x)| i % 4 == 0 || x == Nibbles(0x5a)));
            let (mut again, scale) = (narrow.clone(), Nibbles::row_scale(&back));
            Nibbles::write(&back, scale, &mut again, 1);
            let mut twice = vec![0.0; row.len()];
            Nibbles::read(&again, 1, scale, &mut twice);
            assert!(back.iter().zip(&twice).all(|(x, y)| (x - y).abs() <= 1e-5 * scale.abs()), "{back:?} {twice:?}");
        }
    }

    #[test]
    fn the_step_of_half_bytes_is_chosen_for_all_numbers_of_a_row() {
        let error = |row: &[f32], scale: f32| {
            let (mut narrow, mut back) = (vec![Nibbles(0); 4 * row.len()], vec![0.0; row.len()]);
            Nibbles::write(row, scale, &mut narrow, 0);
            Nibbles::read(&narrow, 0, scale, &mut back);
            row.iter().zip(&back).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()
        };
        let (mut chosen, mut plain) = (0.0, 0.0);
        for row in rows().filter(|row| row.len() >= 16 && (1e-3..1e3).contains(&row[0].abs())) {
            let largest = row.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
            let unit = (largest * largest).recip();
            let (best, simple) = (error(&row, Nibbles::row_scale(&row)), error(&row, -largest / 8.0));
            assert!(best <= simple * 1.0001);
            (chosen, plain) = (chosen + best * unit, plain + simple * unit);
        }
        assert!(chosen < 0.97 * plain, "{chosen} of {plain}");
    }

    #[test]
    fn a_half_byte_leaves_the_other_alone() {
        for byte in 0..=u8::MAX {
            let pair = Nibbles(byte);
            assert_eq!((pair.get(0), pair.get(1)), ((byte & 0xf) as i8 - 8, (byte >> 4) as i8 - 8));
            for part in 0..2 {
                for x in -8..8 {
                    let mut other = pair;
                    other.set(part, x);
                    assert_eq!((other.get(part), other.get(1 - part)), (x, pair.get(1 - part)));
                    assert_eq!(pair.with(part, other, part), other);
                    assert_eq!(pair.with(1 - part, other, part).get(1 - part), x);
                }
            }
        }
    }

    #[test]
    fn bytes_of_any_row_are_finite() {
        for row in [[0.0; 4], [-0.0; 4], [1e-45; 4], [f32::INFINITY, -1.0, 0.0, 3e38], [f32::NAN, 1.0, 2.0, -3.0]] {
            let scale = Byte::scale(&row);
            let (mut narrow, mut back) = ([Byte(1); 4], [f32::NAN; 4]);
            Byte::narrow(&row, scale, &mut narrow);
            Byte::widen(&narrow, scale, &mut back);
            assert!(scale.is_finite() && back.iter().all(|x| x.is_finite()), "{row:?}: {back:?}");
            if row.iter().all(|x| x.abs() < 1e-40) {
                assert_eq!(narrow, [Byte(128); 4]);
            }
            let scale = Nibbles::row_scale(&row);
            let mut narrow = [Nibbles(0xff); 16];
            Nibbles::write(&row, scale, &mut narrow, 1);
            Nibbles::read(&narrow, 1, scale, &mut back);
            assert!(scale.is_finite() && back.iter().all(|x| x.is_finite()), "{row:?}: {back:?}");
            if row.iter().all(|x| x.abs() < 1e-40) {
                assert!(narrow.iter().step_by(4).all(|&x| x == Nibbles(0x8f)));
            }
        }
    }
}
