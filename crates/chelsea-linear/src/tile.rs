//! Packed tiles: the one copy of the weights that stays in memory.
//!
//! A tile holds [`TILE`] output rows over all columns, columns in blocks of [`BLOCK`]. Codes are
//! unsigned and lie in the order of the byte dot product: one vector of 64 bytes is a *step*, four
//! consecutive columns of each of the 16 rows (`byte = row * 4 + column % 4`), and a block is 8
//! steps. A code is split over bit planes, so that a weight takes no more bits than in its file:
//!
//! ```text
//! tile = [block][low plane] [block][high plane] [block or super-block][scales]      (padded to 64)
//!
//! low plane, 8 bits:  512 bytes: steps 0..8
//! low plane, 4 bits:  256 bytes: vector v holds step v (low nibbles) and step v + 4 (high nibbles)
//! low plane, 2 bits:  128 bytes: vector v holds step 2 p + v at bits 2 p
//! high plane, 2 bits: 128 bytes: as the low plane of 2 bits
//! high plane, 1 bit:   64 bytes: step p at bit p
//!
//! scales, Block:        per block of 32 columns:   d [16] f16
//! scales, BlockMin:     per block of 32 columns:   d [16] f16, m [16] f16
//! scales, SuperMin:     per 256 columns:           d [16] f16, m [16] f16, 4 x (a [16] u8, b [16] u8, c [16] u8)
//! scales, SuperSigned:  per 256 columns:           d [16] f16, 16 (or 8) x scale [16] i8
//! scales, SuperNibble:  per 256 columns:           d [16] f16, m [16] f16, 16 x (scale | min << 4) [16] u8
//! scales, Exponent:     per block of 32 columns:   e [16] u8
//! ```
//!
//! Six-bit scales and mins (SuperMin) of an even group and the odd one after it: `a` and `b` hold the
//! scale and the two low bits of the min, `scale | min << 6`; `c` holds the high bits of both mins,
//! `even >> 2 | odd >> 2 << 4`.
//!
//! Codes that are places in a table stay so: they are opened with the block.
//!
//! Rows past the last one of the matrix have zero scales and codes.

use crate::quant::{Codes, Quant, Scales, power_of_two};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::array;

/// Output rows of a tile.
pub(crate) const TILE: usize = 16;
/// Columns of a block of activations, and of a block of codes in a tile.
pub(crate) const BLOCK: usize = 32;
/// Columns of a super-block.
pub(crate) const SUPER: usize = 256;

/// Bytes of one block's low plane.
pub(crate) const fn low_bytes<Q: Quant>() -> usize {
    TILE * BLOCK * Q::LOW / 8
}

/// Bytes of one block's high plane.
pub(crate) const fn high_bytes<Q: Quant>() -> usize {
    TILE * BLOCK * Q::HIGH / 8
}

/// Bytes of the scales of one block (of 32 columns, or of 256 in types with super-blocks).
pub(crate) const fn scale_bytes<Q: Quant>() -> usize {
    match Q::SCALES {
        Scales::Block => 32,
        Scales::BlockMin => 64,
        Scales::SuperMin => 64 + 4 * 48,
        Scales::SuperSigned => 32 + Q::LEN / Q::GROUP * 16,
        Scales::SuperNibble => 64 + 16 * 16,
        Scales::Exponent => 16,
    }
}

/// Bytes that one block adds to a tile, its part of a super-block's scales included.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn block_bytes<Q: Quant>() -> usize {
    low_bytes::<Q>() + high_bytes::<Q>() + BLOCK * scale_bytes::<Q>() / Q::LEN
}

/// Where the planes of a tile with `blocks` blocks begin, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Start of the high plane.
    pub high: usize,
    /// Start of the scales.
    pub scales: usize,
    /// Bytes of a tile, a multiple of 64.
    pub bytes: usize,
}

impl Layout {
    pub const fn of<Q: Quant>(blocks: usize) -> Layout {
        let high = blocks * low_bytes::<Q>();
        let scales = high + blocks * high_bytes::<Q>();
        let end = scales + blocks * BLOCK / Q::LEN * scale_bytes::<Q>();
        Layout { high, scales, bytes: end.next_multiple_of(64) }
    }
}

/// Opened weights of one block of one tile.
pub(crate) struct OpenBlock {
    /// Numbers `q` of the codes, `[step][row * 4 + column % 4]`.
    pub q: [[u8; 64]; 8],
    /// Scales of the groups (one, or two of 16 columns), `[group][row]`.
    pub scale: [[f32; TILE]; 2],
    /// Mins of the groups, `[group][row]`.
    pub min: [[f32; TILE]; 2],
}

impl OpenBlock {
    pub fn new() -> OpenBlock {
        OpenBlock { q: [[0; 64]; 8], scale: [[0.0; TILE]; 2], min: [[0.0; TILE]; 2] }
    }
}

/// Writes one tile. `row(r, b, codes)` opens block `b` (of `Q::LEN` columns) of row `r` of the tile,
/// or answers false where the matrix has no such row.
pub(crate) fn pack<Q: Quant>(tile: &mut [u8], blocks: usize, mut row: impl FnMut(usize, usize, &mut Codes) -> bool) {
    let layout = Layout::of::<Q>(blocks);
    let mut codes = Codes::new();
    let steps = Q::LEN / 4;
    let mut q = [[0u8; 64]; SUPER / 4];
    for b in 0..blocks * BLOCK / Q::LEN {
        let scales = &mut tile[layout.scales + b * scale_bytes::<Q>()..][..scale_bytes::<Q>()];
        for r in 0..TILE {
            if !row(r, b, &mut codes) {
                for q in &mut q {
                    q[r * 4..][..4].fill(0);
                }
                continue;
            }
            for (q, codes) in q.iter_mut().zip(codes.q[..Q::LEN].chunks_exact(4)) {
                q[r * 4..][..4].copy_from_slice(codes);
            }
            write_scales::<Q>(scales, r, &codes);
        }
        for (i, q) in q[..steps].chunks_exact(8).enumerate() {
            let block = b * (Q::LEN / BLOCK) + i;
            let low = &mut tile[block * low_bytes::<Q>()..][..low_bytes::<Q>()];
            write_plane(low, q, 0, Q::LOW);
            let high = &mut tile[layout.high + block * high_bytes::<Q>()..][..high_bytes::<Q>()];
            write_plane(high, q, Q::LOW, Q::HIGH);
        }
    }
}

/// Step `s` of a plane of `bits` lies in vector `s % v` at bit `s / v * bits`, with `v = bits` vectors;
/// four-bit planes keep the first four steps in the low nibbles.
fn write_plane(plane: &mut [u8], q: &[[u8; 64]], shift: usize, bits: usize) {
    for (v, plane) in plane.chunks_exact_mut(64).enumerate() {
        for (s, q) in q.iter().enumerate().skip(v).step_by(bits) {
            let (at, mask) = (s / bits * bits, ((1u16 << bits) - 1) as u8);
            for (p, q) in plane.iter_mut().zip(q) {
                let field = ((q >> shift) & mask) << at;
                *p = if s == v { field } else { *p | field };
            }
        }
    }
}

fn write_scales<Q: Quant>(scales: &mut [u8], r: usize, codes: &Codes) {
    if Q::SCALES == Scales::Exponent {
        scales[r] = codes.d as u8;
        return;
    }
    scales[r * 2..][..2].copy_from_slice(&codes.d.to_le_bytes());
    match Q::SCALES {
        Scales::Block | Scales::Exponent => {}
        Scales::BlockMin => scales[32 + r * 2..][..2].copy_from_slice(&codes.m.to_le_bytes()),
        Scales::SuperMin => {
            scales[32 + r * 2..][..2].copy_from_slice(&codes.m.to_le_bytes());
            for pair in 0..4 {
                let at = 64 + pair * 48 + r;
                let (even, odd) = (codes.min[2 * pair], codes.min[2 * pair + 1]);
                scales[at] = codes.scale[2 * pair] | even << 6;
                scales[at + 16] = codes.scale[2 * pair + 1] | odd << 6;
                scales[at + 32] = even >> 2 | odd >> 2 << 4;
            }
        }
        Scales::SuperSigned => {
            for g in 0..Q::LEN / Q::GROUP {
                scales[32 + g * 16 + r] = codes.scale[g];
            }
        }
        Scales::SuperNibble => {
            scales[32 + r * 2..][..2].copy_from_slice(&codes.m.to_le_bytes());
            for g in 0..16 {
                scales[64 + g * 16 + r] = codes.scale[g] | codes.min[g] << 4;
            }
        }
    }
}

/// Opens block `block` (of 32 columns) of a tile: the plain twin of what the kernels do in registers.
#[inline(always)]
pub(crate) fn open<Q: Quant>(tile: &[u8], layout: Layout, block: usize, out: &mut OpenBlock) {
    open_codes::<Q>(tile, layout, block, &mut out.q);
    let per_scales = Q::LEN / BLOCK;
    let scales = &tile[layout.scales + block / per_scales * scale_bytes::<Q>()..][..scale_bytes::<Q>()];
    let groups = BLOCK / Q::GROUP;
    for g in 0..groups {
        (out.scale[g], out.min[g]) = group_scales::<Q>(scales, block % per_scales * groups + g);
    }
}

/// The numbers of block `block` (of 32 columns) of a tile, `[step][row * 4 + column % 4]`. Written for the
/// compiler to turn into vector instructions.
#[inline(always)]
pub(crate) fn open_codes<Q: Quant>(tile: &[u8], layout: Layout, block: usize, out: &mut [[u8; 64]; 8]) {
    let low = &tile[block * low_bytes::<Q>()..][..low_bytes::<Q>()];
    let high = &tile[layout.high + block * high_bytes::<Q>()..][..high_bytes::<Q>()];
    for (s, q) in out.iter_mut().enumerate() {
        for (i, q) in q.iter_mut().enumerate() {
            let code =
                field(low, s, i, Q::LOW) | if Q::HIGH > 0 { field(high, s, i, Q::HIGH) << (Q::LOW % 8) } else { 0 };
            *q = Q::number(code);
        }
    }
}

#[inline(always)]
fn field(plane: &[u8], s: usize, i: usize, bits: usize) -> u8 {
    (plane[s % bits * 64 + i] >> (s / bits * bits)) & ((1u16 << bits) - 1) as u8
}

/// Scales and mins of group `g` of a block, one per row.
#[inline(always)]
fn group_scales<Q: Quant>(scales: &[u8], g: usize) -> ([f32; TILE], [f32; TILE]) {
    let halves = |at: usize| {
        let bits: [f16; TILE] = array::from_fn(|r| f16::from_le_bytes([scales[at + r * 2], scales[at + r * 2 + 1]]));
        let mut numbers = [0.0; TILE];
        bits.convert_to_f32_slice(&mut numbers);
        numbers
    };
    let bytes = |at: usize| -> [u8; TILE] { array::from_fn(|r| scales[at + r]) };
    if Q::SCALES == Scales::Exponent {
        return (bytes(0).map(power_of_two), [0.0; TILE]);
    }
    let d = halves(0);
    let m = if Q::SCALES.has_min() { halves(32) } else { [0.0; TILE] };
    match Q::SCALES {
        Scales::Block | Scales::BlockMin | Scales::Exponent => (d, m),
        Scales::SuperMin => {
            let at = 64 + g / 2 * 48;
            let (low, high) = (bytes(at + g % 2 * 16), bytes(at + 32));
            let min = |r: usize| low[r] >> 6 | (high[r] >> (g % 2 * 4) & 15) << 2;
            (array::from_fn(|r| d[r] * f32::from(low[r] & 63)), array::from_fn(|r| m[r] * f32::from(min(r))))
        }
        Scales::SuperSigned => {
            let bytes = bytes(32 + g * 16);
            (array::from_fn(|r| d[r] * f32::from(bytes[r] as i8)), m)
        }
        Scales::SuperNibble => {
            let bytes = bytes(64 + g * 16);
            (array::from_fn(|r| d[r] * f32::from(bytes[r] & 15)), array::from_fn(|r| m[r] * f32::from(bytes[r] >> 4)))
        }
    }
}

/// Writes row `r` of a tile as numbers.
pub(crate) fn dequantize_row<Q: Quant>(tile: &[u8], blocks: usize, r: usize, out: &mut [f32]) {
    let layout = Layout::of::<Q>(blocks);
    let groups = BLOCK / Q::GROUP;
    let per_scales = Q::LEN / BLOCK;
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let low = &tile[block * low_bytes::<Q>()..][..low_bytes::<Q>()];
        let high = &tile[layout.high + block * high_bytes::<Q>()..][..high_bytes::<Q>()];
        let scales = &tile[layout.scales + block / per_scales * scale_bytes::<Q>()..][..scale_bytes::<Q>()];
        for (g, out) in out.chunks_mut(Q::GROUP).enumerate() {
            let (scale, min) = group_scales::<Q>(scales, block % per_scales * groups + g);
            let (scale, min) = (scale[r], min[r]);
            for (c, out) in out.iter_mut().enumerate() {
                let (s, i) = ((g * Q::GROUP + c) / 4, r * 4 + c % 4);
                let mut q = field(low, s, i, Q::LOW);
                if Q::HIGH > 0 {
                    q |= field(high, s, i, Q::HIGH) << (Q::LOW % 8);
                }
                *out = scale * (i32::from(Q::number(q)) - Q::OFFSET) as f32 - min;
            }
        }
    }
}
