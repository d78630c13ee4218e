//! Products of one tile of weights with one group of activations, and the choice of instructions.
//!
//! A [`TileKernel`] takes a tile (see [`crate::tile`]), a group of activations (see
//! [`crate::activations`]) and writes `[T][16]` sums. Per block of 32 columns it forms exact integer
//! dot products, then adds `scale * activation scale * dot - min * activation scale * sum` in f32.
//! [`scalar`] is the plain twin that every other set of kernels is held against.

pub(crate) mod scalar;

use crate::GgmlType;
use crate::blocks::with_quant;
use crate::tile::TILE;
use std::sync::OnceLock;

/// Sets of instructions that have kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain code.
    Scalar,
}

impl Isa {
    /// The best set that this machine has, found once.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::Scalar)
    }
}

/// `(tile, activations of one group, out [T][16])`.
pub(crate) type TileKernel = fn(&[u8], &[u8], &mut [[f32; TILE]]);

/// The kernel for weights of a packed type and groups `width` tokens wide.
pub(crate) fn tile_kernel(isa: Isa, ty: GgmlType, width: usize) -> TileKernel {
    match isa {
        Isa::Scalar => {
            let _ = width;
            with_quant!(ty, Q => scalar::tile::<Q> as TileKernel, _ => scalar::tile::<Q8_0>)
        }
    }
}

/// Quantises the tokens of one group, `[tokens][cols]`, into `out`; see [`crate::activations`].
pub(crate) fn quantize_group(isa: Isa, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    match isa {
        Isa::Scalar => scalar::quantize_group(x, cols, width, out),
    }
}
