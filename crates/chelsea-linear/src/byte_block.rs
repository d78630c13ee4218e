//! Activations as bytes, block by block: the format that the byte kernels read.
//!
//! Each block of 32 columns of each row is rounded to symmetric signed bytes under one f32 scale. Rows lie in
//! groups of up to [`GROUP`], block by block, so that a kernel reads one stream:
//!
//! ```text
//! [block] { q [T][32] i8, scale [T] f32, -sums(first 16 of q) [T][2] i16, -sums(last 16 of q) [T][2] i16 }
//! ```
//!
//! Both sums of 16 columns are split in two, columns `4 k` and `4 k + 1` apart from `4 k + 2` and
//! `4 k + 3`, which is how kernels that add in 16 bits begin.
//!
//! `T`, the width, is one of [`WIDTHS`]; rows that do not exist are zeros. A block that holds a NaN or an infinity
//! gets a scale that is one, so the products of that row are not finite either.

use crate::tile::BLOCK;

/// Rows of a full group.
pub(crate) const GROUP: usize = 8;
/// Group widths that have a kernel.
pub(crate) const WIDTHS: [usize; 4] = [1, 2, 4, GROUP];
/// Blocks with no number above this count as zeros: the inverse of their scale would overflow.
pub(crate) const SMALLEST: f32 = 1e-35;
/// Bytes of one row's block.
pub(crate) const ROW_BYTES: usize = BLOCK + 12;

/// The narrowest width that takes `rows` rows.
pub(crate) fn width_of(rows: usize) -> usize {
    WIDTHS.into_iter().find(|&width| width >= rows).unwrap_or(GROUP)
}

/// One block of a group, read plainly.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Block<'a> {
    #[inline(always)]
    pub fn of(bytes: &'a [u8], width: usize) -> Block<'a> {
        Block { bytes, width }
    }

    /// The bytes of row `t`.
    #[inline(always)]
    pub fn q(self, t: usize) -> &'a [i8] {
        bytemuck::cast_slice(&self.bytes[t * BLOCK..][..BLOCK])
    }

    /// The scale of row `t`.
    #[inline(always)]
    pub fn scale(self, t: usize) -> f32 {
        f32::from_ne_bytes(self.word(self.width * BLOCK + t * 4))
    }

    #[cfg(target_arch = "aarch64")]
    /// Minus the sum of the bytes of row `t`: of all 32, or of the first or last 16 (`half`).
    #[inline(always)]
    pub fn minus_sum(self, t: usize, half: Option<usize>) -> i32 {
        let sum = |half: usize| {
            let word = self.word(self.width * (BLOCK + 4 + 4 * half) + t * 4);
            i32::from(i16::from_ne_bytes([word[0], word[1]])) + i32::from(i16::from_ne_bytes([word[2], word[3]]))
        };
        half.map_or_else(|| sum(0) + sum(1), sum)
    }

    #[inline(always)]
    fn word(self, at: usize) -> [u8; 4] {
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]
    }
}
