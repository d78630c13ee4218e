//! Products of one tile of weights with one group of activations, and the choice of instructions.
//!
//! A [`TileKernel`] takes a tile (see [`crate::tile`]), a group of activations (see
//! [`crate::byte_block`]) and writes `[T][16]` sums. Per block of 32 columns it forms exact integer
//! dot products, then adds `scale * activation scale * dot - min * activation scale * sum` in f32.
//! [`scalar`] is the plain twin that every other set of kernels is held against.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_codes;
#[cfg(target_arch = "x86_64")]
mod avx2_quantize;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bf16;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod bf16_plain;
#[cfg(target_arch = "x86_64")]
mod bf16_x86;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::blocks::with_quant;
use crate::quant::Quant;
use crate::rows::Picked;
use crate::tile::TILE;
use crate::types::GgmlType;
use bf16::Matrices;
use chelsea_simd::Level;
use std::sync::OnceLock;

/// Sets of instructions that have kernels. Values are made by [`Isa::detect`] and [`Isa::available`]
/// only, so one that exists may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain code.
    Scalar,
    /// NEON with byte dot products.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with byte dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best set that this machine has.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().unwrap_or(Isa::Scalar))
    }

    /// The sets that this machine has, the best one last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        [
            (Isa::Scalar, Level::Plain),
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, Level::NeonDot),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Level::Avx512Vnni),
        ]
        .into_iter()
        .filter_map(|(isa, level)| level.is_available().then_some(isa))
    }

    /// A name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "plain code",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "NEON dotprod",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512 VNNI",
        }
    }
}

/// Chunks of fewer rows than this are multiplied in bytes: opening weights to bf16 would cost more than it saves.
pub(crate) const MIN_ROWS: usize = 32;

/// What activations are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Bytes with scales.
    Bytes,
    /// bf16, for matrix instructions.
    Bf16,
}

/// What products run on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Vector instructions.
    pub isa: Isa,
    /// Matrix instructions.
    pub matrices: Option<Matrices>,
}

impl Machine {
    /// What this machine has.
    pub fn detect() -> Machine {
        Machine { isa: Isa::detect(), matrices: Matrices::detect() }
    }

    /// The form of the rows of a chunk of `rows` rows. It depends on nothing else: what a sequence gets must not
    /// depend on who runs beside it.
    pub fn form(self, rows: usize) -> Form {
        if self.matrices.is_some() && rows >= MIN_ROWS { Form::Bf16 } else { Form::Bytes }
    }
}

/// `(tile and those that will follow, activations of one group, out [T][16])`: what follows the first tile
/// is only asked for ahead of time.
pub(crate) type TileKernel = fn(&[u8], &[u8], &mut [[f32; TILE]]);

/// The kernel for weights of a packed type and groups `width` tokens wide.
pub(crate) fn tile_kernel(isa: Isa, ty: GgmlType, width: usize) -> TileKernel {
    with_quant!(ty, Q => kernel_of::<Q>(isa, width), _ => unreachable!("float weights are packed as Q8_0"))
}

#[allow(unused_variables)]
fn kernel_of<Q: Quant>(isa: Isa, width: usize) -> TileKernel {
    match isa {
        Isa::Scalar => scalar::tile::<Q>,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon_tile::<Q>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => match width {
            1 => avx2_tile::<Q, 1>,
            2 => avx2_tile::<Q, 2>,
            4 => avx2_tile::<Q, 4>,
            _ => avx2_tile::<Q, { crate::byte_block::GROUP }>,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => match width {
            1 => avx512_tile::<Q, 1>,
            2 => avx512_tile::<Q, 2>,
            4 => avx512_tile::<Q, 4>,
            _ => avx512_tile::<Q, { crate::byte_block::GROUP }>,
        },
    }
}
#[cfg(target_arch = "x86_64")]
fn avx512_tile<Q: Quant, const T: usize>(tiles: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    // SAFETY: chosen for an `Isa` only, and one that exists may be used.
    #[allow(unsafe_code)]
    unsafe {
        avx512::tile::<Q, T>(tiles, acts, out);
    }
}

#[cfg(target_arch = "x86_64")]
fn avx2_tile<Q: Quant, const T: usize>(tiles: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    // SAFETY: chosen for an `Isa` only, and one that exists may be used.
    #[allow(unsafe_code)]
    unsafe {
        avx2::tile::<Q, T>(tiles, acts, out);
    }
}

#[cfg(target_arch = "aarch64")]
fn neon_tile<Q: Quant>(tiles: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    // SAFETY: chosen for an `Isa` only, and one that exists may be used.
    #[allow(unsafe_code)]
    unsafe {
        neon::tile::<Q>(tiles, acts, out);
    }
}

/// Quantises the rows of one group into `out`; see [`crate::byte_block`].
pub(crate) fn quantize_group(isa: Isa, rows: Picked<'_>, width: usize, out: &mut [u8]) {
    match isa {
        Isa::Scalar => scalar::quantize_group(rows, width, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => scalar::quantize_group(rows, width, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` that exists may be used.
        #[allow(unsafe_code)]
        Isa::Avx2 => unsafe { avx2_quantize::quantize_group(rows, width, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` that exists may be used.
        #[allow(unsafe_code)]
        Isa::Avx512 => unsafe { avx512::quantize_group(rows, width, out) },
    }
}
