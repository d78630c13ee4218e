//! Numbers of 8 bits.

use super::Number;
use crate::TILE;

/// A whole number from -127 to 127, stored with 128 added: the dot products of processors multiply bytes without a sign by
/// such with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Byte(pub(super) u8);

impl Byte {
    /// What is added to a number.
    pub(crate) const OFFSET: i32 = 128;
    /// Bytes of one word: those that a dot product adds up.
    pub(crate) const WORD: usize = 4;

    pub(super) fn get(self) -> f32 {
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
