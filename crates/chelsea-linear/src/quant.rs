//! What quantised types have in common. Every one is brought to one meaning:
//!
//! `weight = (d * scale[g]) * (q - OFFSET) - m * min[g]`
//!
//! with unsigned numbers `q`, half-precision `d` and `m` of the block, and small integers `scale` and
//! `min` of each group `g` of 16 or 32 weights. A block holds `q` itself as a code, or a code of four bits that a table
//! opens.

use half::f16;

/// Where the scales of a type lie and what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// One half-precision `d` for 32 weights; no min.
    Block,
    /// Half-precision `d` and `m` for 32 weights.
    BlockMin,
    /// `d`, `m` for 256 weights; unsigned bytes `scale`, `min` for 32.
    SuperMin,
    /// `d` for 256 weights; a signed byte `scale` for each group.
    SuperSigned,
    /// `d`, `m` for 256 weights; `scale` and `min` share a byte (low and high nibble) for 16.
    SuperNibble,
    /// A power of two for 32 weights, as one byte `e`: `2^(e - 128)`.
    Exponent,
}

/// The number of an exponent; the smallest two are below what normal numbers reach.
pub(crate) fn power_of_two(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x20_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// One opened block.
pub(crate) struct Codes {
    /// Unsigned codes; the first 32 or all 256.
    pub q: [u8; 256],
    /// Bits of the half-precision scale of the block; its exponent for [`Scales::Exponent`].
    pub d: u16,
    /// Bits of the half-precision min of the block.
    pub m: u16,
    /// Scale of each group; signed for [`Scales::SuperSigned`].
    pub scale: [u8; 16],
    /// Min of each group.
    pub min: [u8; 16],
}

impl Scales {
    /// Whether there are mins.
    pub const fn has_min(self) -> bool {
        matches!(self, Scales::BlockMin | Scales::SuperMin | Scales::SuperNibble)
    }
}

impl Codes {
    pub fn new() -> Codes {
        Codes { q: [0; 256], d: 0, m: 0, scale: [1; 16], min: [1; 16] }
    }

    /// Scale and min of group `g`, as the numbers that multiply a code and that are subtracted.
    pub fn group(&self, scales: Scales, g: usize) -> (f32, f32) {
        let (d, m) = (f16::from_bits(self.d).to_f32(), f16::from_bits(self.m).to_f32());
        match scales {
            Scales::Exponent => (power_of_two(self.d as u8), 0.0),
            Scales::Block => (d, 0.0),
            Scales::BlockMin => (d, m),
            Scales::SuperSigned => (d * f32::from(self.scale[g] as i8), 0.0),
            Scales::SuperMin | Scales::SuperNibble => (d * f32::from(self.scale[g]), m * f32::from(self.min[g])),
        }
    }
}

/// A quantised type: its block and its shape in packed tiles.
pub(crate) trait Quant: Copy + Send + Sync + 'static {
    /// Weights of a block: 32 or 256.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Bits of a code that lie in the low plane: 2, 4 or 8.
    const LOW: usize;
    /// Bits of a code that lie in the high plane: 0, 1 or 2.
    const HIGH: usize;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// The code of weight zero in symmetric types (a power of two), 0 in those with a min.
    const OFFSET: i32;
    /// Meaning of the scales.
    const SCALES: Scales;
    /// `q - OFFSET` of every code of four bits, in types whose codes are places in a table.
    const TABLE: Option<[i8; 16]> = None;
    /// Opens a block of `BYTES` bytes.
    fn open(block: &[u8], codes: &mut Codes);

    /// The unsigned number `q` of a code.
    #[inline(always)]
    fn number(code: u8) -> u8 {
        match Self::TABLE {
            Some(_) => (const { numbers::<Self>() })[usize::from(code & 15)],
            None => code,
        }
    }
}

/// [`Quant::number`] of all codes of four bits.
pub(crate) const fn numbers<Q: Quant>() -> [u8; 16] {
    let mut numbers = [0; 16];
    if let Some(table) = Q::TABLE {
        let mut code = 0;
        while code < 16 {
            numbers[code] = (table[code] as i32 + Q::OFFSET) as u8;
            code += 1;
        }
    }
    numbers
}
