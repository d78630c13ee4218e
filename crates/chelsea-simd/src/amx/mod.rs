//! AMX: the matrix instructions of x86 processors, in bf16 with f32 sums.
//!
//! One instruction multiplies 16 rows by 16 columns, 32 deep. An *operand* is a run of blocks of
//! [`BLOCK_BYTES`], one for every [`DEPTH`] numbers along the depth:
//!
//! ```text
//! left:   [16 rows][32 deep] bf16
//! right:  [16 pairs along the depth][16 columns][2] bf16
//! ```
//!
//! The compiler's own functions for these instructions are not stable, so they are written out. So far they are
//! used on Linux only, which hands out the registers to processes that ask; elsewhere [`Amx::detect`] finds nothing.

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", target_os = "linux"))]
mod linux;
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", target_os = "linux")))]
mod none;

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", target_os = "linux"))]
use linux as imp;
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", target_os = "linux")))]
use none as imp;

use crate::Level;

pub(crate) use imp::available;

/// Rows of a left operand, and columns of a right one.
pub const SIDE: usize = 16;
/// Depth of a block.
pub const DEPTH: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 * SIDE * DEPTH;

/// Proof that this machine has the instructions, with AVX-512 (F, BW, VL, VNNI, BF16) beside them, and that this
/// process may use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amx(());

impl Amx {
    /// Looked for, and asked of the operating system, once.
    pub fn detect() -> Option<Amx> {
        Level::Amx.is_available().then_some(Amx(()))
    }

    /// Shapes the matrix registers of this thread, for [`Amx::multiply`].
    pub fn configure(self) {
        // SAFETY: the machine has the instruction.
        #[allow(unsafe_code)]
        unsafe {
            imp::configure();
        }
    }

    /// Gives the matrix registers back, so that switching threads is cheap again: after the last
    /// [`Amx::multiply`] for a while.
    pub fn release(self) {
        // SAFETY: the machine has the instruction.
        #[allow(unsafe_code)]
        unsafe {
            imp::release();
        }
    }

    /// Products of two left operands with two right ones: `sums[2 i + j]` are those of `left[i]` with `right[j]`,
    /// added to what is there unless `fresh`. Of `sums` each is the first number of 16 rows of 16, and rows lie
    /// `stride` bytes apart.
    ///
    /// # Panics
    /// When the operands differ in length, or have none.
    ///
    /// # Safety
    /// This thread has called [`Amx::configure`] and not [`Amx::release`] since. Each of `sums` is good for 16 rows of
    /// 64 bytes, `stride` bytes apart, which hold numbers unless `fresh`; the four do not overlap, and nothing else
    /// reads or writes them meanwhile.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn multiply(self, left: [&[u8]; 2], right: [&[u8]; 2], sums: [*mut f32; 4], stride: usize, fresh: bool) {
        let blocks = blocks(&left, &right);
        // SAFETY: by the assertions in `blocks` and the contract.
        unsafe { imp::multiply(left.map(<[u8]>::as_ptr), right.map(<[u8]>::as_ptr), blocks, sums, stride, fresh) }
    }

    /// As [`Amx::multiply`], of numbers that are split in two: the first half of each operand holds what they round
    /// to, the second what is left. The products of two second halves, below 2^-16 of the whole, are left out.
    ///
    /// # Panics
    /// When the operands differ in length, have none, or no halves.
    ///
    /// # Safety
    /// As [`Amx::multiply`].
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn multiply_split(
        self,
        left: [&[u8]; 2],
        right: [&[u8]; 2],
        sums: [*mut f32; 4],
        stride: usize,
        fresh: bool,
    ) {
        let blocks = blocks(&left, &right);
        assert!(blocks.is_multiple_of(2));
        let (left, right) = (left.map(<[u8]>::as_ptr), right.map(<[u8]>::as_ptr));
        // SAFETY: by the assertions and the contract.
        unsafe { imp::multiply_split(left, right, blocks / 2, sums, stride, fresh) }
    }

    /// As [`Amx::multiply_split`], where nothing is left of the numbers of right operands: they are half as long.
    ///
    /// # Panics
    /// When left operands are not twice as long as right ones, or any has no block.
    ///
    /// # Safety
    /// As [`Amx::multiply`].
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn multiply_left_split(
        self,
        left: [&[u8]; 2],
        right: [&[u8]; 2],
        sums: [*mut f32; 4],
        stride: usize,
        fresh: bool,
    ) {
        let halves = left.map(|operand| operand.split_at(operand.len() / 2));
        let blocks = blocks(&halves.map(|(first, _)| first), &right);
        assert!(halves.iter().all(|(first, second)| first.len() == second.len()));
        let (left, right) = (left.map(<[u8]>::as_ptr), right.map(<[u8]>::as_ptr));
        // SAFETY: by the assertions and the contract.
        unsafe { imp::multiply_left_split(left, right, blocks, sums, stride, fresh) }
    }
}

/// Blocks of each of four operands that go together.
#[inline(always)]
fn blocks(left: &[&[u8]; 2], right: &[&[u8]; 2]) -> usize {
    let blocks = left[0].len() / BLOCK_BYTES;
    assert!(blocks > 0);
    assert!(left.iter().chain(right).all(|operand| operand.len() == blocks * BLOCK_BYTES));
    blocks
}

#[cfg(test)]
mod tests;
