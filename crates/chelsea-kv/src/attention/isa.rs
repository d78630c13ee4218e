//! Which instruction set the kernels run on.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
use super::dots::neon::{Dotprod, Widened};
use super::dots::{DotKernel, Dots, portable::Plain};
#[cfg(target_arch = "x86_64")]
use super::dots::{
    avx2::Pairs256,
    avx512::{Pairs512, Vnni},
};
#[cfg(target_arch = "x86_64")]
use super::matrix;
use super::plan::BlockRows;
#[cfg(target_arch = "x86_64")]
use super::simd::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::simd::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use super::simd::neon::Neon;
use super::simd::{Kernel, Simd, portable::Portable};
use crate::Head;
use chelsea_simd::Level;
use std::sync::OnceLock;

/// An instruction set that the attention kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the target is compiled for, through plain Rust.
    Portable,
    /// AArch64's 128-bit vectors.
    Neon,
    /// 256-bit vectors with FMA and half-precision loads.
    Avx2,
    /// 512-bit vectors.
    Avx512,
    /// 512-bit vectors, and matrix instructions for many rows.
    Amx,
}

impl Isa {
    /// All of them, the slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => Level::Plain,
            Isa::Neon => Level::Neon,
            Isa::Avx2 => Level::Avx2,
            Isa::Avx512 => Level::Avx512,
            Isa::Amx => Level::Amx,
        }
        .is_available()
    }

    /// Those that this machine has, the slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The fastest that this machine has.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().unwrap_or(Isa::Portable))
    }

    /// Sizes of the blocks of a head with so many rows: queries, scores and sums stay in the second-level cache, and
    /// blocks are whole register blocks. The more rows, the less it matters that every page has to be brought into the
    /// form of matrix instructions first.
    #[allow(unused_variables)]
    pub(super) fn block_rows(self, rows: usize, head: &Head) -> BlockRows {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if rows >= matrix::ROWS && matrix::suit(head) => {
                BlockRows { most: 384, step: matrix::ROWS, speed: 600.0 }
            }
            _ => BlockRows { most: 96, step: 12, speed: 90.0 },
        }
    }

    /// Runs a kernel compiled for this instruction set. The caller has checked that the machine has it.
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        debug_assert!(self.is_available());
        // SAFETY: `attend_with` and `best` let only available instruction sets through.
        unsafe {
            match self {
                // What matrix instructions are for goes another way, through `Block::attend`.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => Avx512::run(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => Avx2::run(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => Neon::run(kernel),
                _ => Portable::run(kernel),
            }
        }
    }

    /// Runs a kernel of dot products compiled for this instruction set. The caller has checked that the machine has it.
    pub(super) fn run_dots<K: DotKernel>(self, kernel: K) {
        debug_assert!(self.is_available());
        // SAFETY: as in `run`; dot products of bytes are looked for apart from the rest.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx if Level::Avx512Vnni.is_available() => Vnni::run(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => Pairs512::run(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => Pairs256::run(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon if Level::NeonDot.is_available() => Dotprod::run(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => Widened::run(kernel),
                _ => Plain::run(kernel),
            }
        }
    }
}
