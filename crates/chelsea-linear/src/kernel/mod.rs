//! Products of one tile of weights with one group of activations, and the choice of instructions.
//!
//! A [`TileKernel`] takes a tile (see [`crate::tile`]), a group of activations (see
//! [`crate::activations`]) and writes `[T][16]` sums. Per block of 32 columns it forms exact integer
//! dot products, then adds `scale * activation scale * dot - min * activation scale * sum` in f32.
//! [`scalar`] is the plain twin that every other set of kernels is held against.

/// Repeats an expression with a constant index, so that arrays of registers stay in registers.
#[allow(unused_macros)]
macro_rules! unroll {
    ($i:ident, $body:expr, $($n:literal)*) => {{ $({ let $i: usize = $n; $body; })* }};
}

#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod scalar;

use crate::GgmlType;
use crate::blocks::with_quant;
use crate::tile::TILE;
use std::sync::OnceLock;

/// Sets of instructions that have kernels. Values are made by [`Isa::detect`] and [`Isa::available`]
/// only, so one that exists may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain code.
    Scalar,
    /// AVX-512 with byte dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best set that this machine has, found once.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().last().unwrap_or(Isa::Scalar))
    }

    /// The sets that this machine has, the best one last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        [
            Some(Isa::Scalar),
            #[cfg(target_arch = "x86_64")]
            (std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vl")
                && std::arch::is_x86_feature_detected!("avx512vnni"))
            .then_some(Isa::Avx512),
        ]
        .into_iter()
        .flatten()
    }

    /// A name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "plain code",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512 VNNI",
        }
    }
}

/// `(tile and those that will follow, activations of one group, out [T][16])`: what follows the first tile
/// is only asked for ahead of time.
pub(crate) type TileKernel = fn(&[u8], &[u8], &mut [[f32; TILE]]);

/// The kernel for weights of a packed type and groups `width` tokens wide.
pub(crate) fn tile_kernel(isa: Isa, ty: GgmlType, width: usize) -> TileKernel {
    match isa {
        Isa::Scalar => with_quant!(ty, Q => scalar::tile::<Q> as TileKernel, _ => scalar::tile::<Q8_0>),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => with_quant!(ty, Q => avx512_kernel::<Q>(width), _ => avx512_kernel::<Q8_0>(width)),
    }
}

/// Quantises the tokens of one group, `[tokens][cols]`, into `out`; see [`crate::activations`].
pub(crate) fn quantize_group(isa: Isa, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    match isa {
        Isa::Scalar => scalar::quantize_group(x, cols, width, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` that exists may be used.
        #[allow(unsafe_code)]
        Isa::Avx512 => unsafe { avx512::quantize_group(x, cols, width, out) },
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512_kernel<Q: crate::blocks::Quant>(width: usize) -> TileKernel {
    fn run<Q: crate::blocks::Quant, const T: usize>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
        // SAFETY: handed out for `Isa::Avx512` only, and an `Isa` that exists may be used.
        #[allow(unsafe_code)]
        unsafe {
            avx512::tile::<Q, T>(tile, acts, out);
        }
    }
    match width {
        1 => run::<Q, 1>,
        2 => run::<Q, 2>,
        4 => run::<Q, 4>,
        _ => run::<Q, { crate::activations::GROUP }>,
    }
}

#[cfg(test)]
mod tests;
