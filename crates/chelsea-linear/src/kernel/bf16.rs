//! Matrix instructions in bf16, and their operands: rows of activations rounded to it, and weights opened to it.
//!
//! Weights are opened from their tile once for all rows that pass, scale and min included. [`Matrices::Twin`] does
//! the same in plain code, so that how products are cut is tested on every machine.

use crate::quant::Quant;
use crate::rows::Picked;
use crate::tile::{BLOCK, Layout, TILE};
use chelsea_simd::{Amx, DEPTH};
pub(crate) use chelsea_simd::{BLOCK_BYTES, SIDE};

#[cfg(any(test, not(target_arch = "x86_64")))]
use super::bf16_plain as plain;
#[cfg(target_arch = "x86_64")]
use super::bf16_x86 as x86;

/// Products of a run of 16 rows with a tile.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Sums(pub [[f32; TILE]; SIDE]);

/// What multiplies matrices.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Matrices {
    /// AMX.
    Amx(Amx),
    /// Plain code.
    #[cfg(test)]
    Twin,
}

impl Matrices {
    /// What this machine has.
    pub fn detect() -> Option<Matrices> {
        Amx::detect().map(Matrices::Amx)
    }

    /// Before the first [`Matrices::multiply`] of this thread.
    pub fn configure(self) {
        match self {
            Matrices::Amx(amx) => amx.configure(),
            #[cfg(test)]
            Matrices::Twin => {}
        }
    }

    /// After the last [`Matrices::multiply`] for a while.
    pub fn release(self) {
        match self {
            Matrices::Amx(amx) => amx.release(),
            #[cfg(test)]
            Matrices::Twin => {}
        }
    }

    /// Writes up to 16 rows as a left operand, rounded to the nearest bf16, ties to even; rows and columns that do
    /// not exist are zeros.
    ///
    /// # Panics
    /// When there are more than 16 rows or `out` is no `cols / 32` blocks (rounded up).
    pub fn pack(self, rows: Picked<'_>, out: &mut [u8]) {
        assert!(rows.len() <= SIDE && out.len() == rows.cols.div_ceil(BLOCK) * BLOCK_BYTES);
        match self {
            #[cfg(target_arch = "x86_64")]
            Matrices::Amx(amx) => x86::pack_rows(amx, rows, out),
            #[cfg(not(target_arch = "x86_64"))]
            Matrices::Amx(_) => plain::pack_rows(rows, out),
            #[cfg(test)]
            Matrices::Twin => plain::pack_rows(rows, out),
        }
    }

    /// Opens blocks `first..` of a tile of `blocks`, as many as `out` has room for, as a right operand. Rounding is to
    /// nearest, ties away from zero.
    ///
    /// # Panics
    /// When the tile has no such blocks.
    pub fn open<Q: Quant>(self, tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
        assert!(tile.len() >= Layout::of::<Q>(blocks).bytes && first + out.len() / BLOCK_BYTES <= blocks);
        match self {
            #[cfg(target_arch = "x86_64")]
            Matrices::Amx(amx) => x86::open_tile::<Q>(amx, tile, blocks, first, out),
            #[cfg(not(target_arch = "x86_64"))]
            Matrices::Amx(_) => plain::open_tile::<Q>(tile, blocks, first, out),
            #[cfg(test)]
            Matrices::Twin => plain::open_tile::<Q>(tile, blocks, first, out),
        }
    }

    /// Adds the products of two left operands with two right ones: `sums[2 i + j]` are those of `left[i]` with
    /// `right[j]`, from zero where `fresh`.
    ///
    /// # Panics
    /// When the operands differ in length, or have none.
    ///
    /// # Safety
    /// This thread has called [`Matrices::configure`] and not [`Matrices::release`] since.
    #[allow(unsafe_code)]
    pub unsafe fn multiply(self, left: [&[u8]; 2], right: [&[u8]; 2], sums: [&mut Sums; 4], fresh: bool) {
        match self {
            Matrices::Amx(amx) => {
                let sums = sums.map(|sums| sums.0.as_flattened_mut().as_mut_ptr());
                // SAFETY: the registers are configured; sums are 16 rows of 16 numbers that are this thread's.
                unsafe { amx.multiply(left, right, sums, 4 * TILE, fresh) }
            }
            #[cfg(test)]
            Matrices::Twin => {
                for (i, sums) in sums.into_iter().enumerate() {
                    plain::multiply(left[i / 2], right[i % 2], &mut sums.0, fresh);
                }
            }
        }
    }
}

const _: () = assert!(TILE == SIDE && BLOCK == DEPTH);
