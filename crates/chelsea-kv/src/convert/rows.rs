//! Numbers that lie in rows, several rows together: values.

use super::{Byte, Number};
use crate::TILE;
use bytemuck::Pod;
use chelsea_simd::vectorized;

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
pub struct Nibbles(pub(super) u8);

impl Nibbles {
    /// What is added to a number.
    pub(crate) const OFFSET: i32 = 8;

    /// One of the two numbers.
    #[inline(always)]
    pub(crate) fn get(self, part: usize) -> i8 {
        (self.0 >> (4 * part) & 0xf) as i8 - 8
    }

    pub(super) fn set(&mut self, part: usize, x: i8) {
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
pub(super) fn best_scale<const N: usize>(row: &[f32], steps: [f32; N], whole: impl Fn(f32) -> f32) -> f32 {
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
