//! Products with quantised weights, and rows of them as numbers.

use super::launch;
use crate::device::{Address, Device, DeviceError};
use bytemuck::NoUninit;

/// Columns of a block.
pub const BLOCK: usize = 32;

/// How a weight lies: bits of its code, and columns that share a scale and a min.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bits, groups of 16.
    Bits4By16,
    /// 4 bits, groups of 32.
    Bits4By32,
    /// 5 bits, groups of 32.
    Bits5By32,
    /// 6 bits, groups of 16.
    Bits6By16,
    /// 8 bits, groups of 32.
    Bits8By32,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 5] =
        [Format::Bits4By16, Format::Bits4By32, Format::Bits5By32, Format::Bits6By16, Format::Bits8By32];

    /// The smallest format that holds codes of so many bits in groups of so many columns, if there is one.
    pub fn holding(bits: usize, group: usize) -> Option<Self> {
        match (bits, group) {
            (0..=4, 16) => Some(Format::Bits4By16),
            (0..=4, 32) => Some(Format::Bits4By32),
            (5, 32) => Some(Format::Bits5By32),
            (5..=6, 16) => Some(Format::Bits6By16),
            (6..=8, 32) => Some(Format::Bits8By32),
            _ => None,
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Format::Bits4By16 | Format::Bits4By32 => 4,
            Format::Bits5By32 => 5,
            Format::Bits6By16 => 6,
            Format::Bits8By32 => 8,
        }
    }

    /// Columns that share a scale and a min.
    pub fn group(self) -> usize {
        match self {
            Format::Bits4By16 | Format::Bits6By16 => 16,
            _ => 32,
        }
    }

    /// Bytes of a block's low plane.
    pub fn low(self) -> usize {
        if self == Format::Bits8By32 { 32 } else { 16 }
    }

    /// Bytes of a block's high plane.
    pub fn high(self) -> usize {
        match self {
            Format::Bits5By32 => 4,
            Format::Bits6By16 => 8,
            _ => 0,
        }
    }
}

/// A matrix of weights: its shape, and where its planes lie (`kernels/linear.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// How weights lie.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs. The last block is filled up with weights of zero.
    pub columns: usize,
}

impl Matrix {
    /// Blocks of a row.
    pub fn blocks(self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Groups of a row.
    pub fn groups(self) -> usize {
        self.blocks() * (BLOCK / self.format.group())
    }

    /// Where the high plane begins, in bytes.
    pub fn high(self) -> usize {
        self.rows * self.blocks() * self.format.low()
    }

    /// Where scales and mins begin.
    pub fn scales(self) -> usize {
        self.high() + self.rows * self.blocks() * self.format.high()
    }

    /// Where the rows' units begin.
    pub fn units(self) -> usize {
        self.scales() + self.rows * self.groups() * 4
    }

    /// Bytes of all planes.
    pub fn bytes(self) -> usize {
        self.units() + self.rows * 4
    }
}

/// Arguments of [`quantize`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Quantize {
    /// Rows, f32, `[tokens][columns]`.
    pub x: Address,
    /// Bytes, `[tokens][blocks][32]`.
    pub bytes: Address,
    /// Scales and sums, f32, `[tokens][blocks][4]`.
    pub scales: Address,
    /// Numbers of a row.
    pub columns: u32,
    /// Blocks of a row.
    pub blocks: u32,
    /// Rows.
    pub tokens: u32,
    /// Nothing.
    pub unused: u32,
}

/// Rounds rows to bytes, for products with quantised weights.
///
/// # Errors
/// If the device fails.
pub fn quantize(device: &dyn Device, arguments: &Quantize) -> Result<(), DeviceError> {
    let blocks = (arguments.tokens as usize * arguments.blocks as usize).div_ceil(4);
    launch(device, "quantize", [blocks as u32, 1], 128, 0, arguments)
}

/// Arguments of [`product`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Product {
    /// A [`Matrix`].
    pub weights: Address,
    /// Rows of bytes, by [`quantize`].
    pub bytes: Address,
    /// Their scales and sums.
    pub scales: Address,
    /// Outputs, f32, `[tokens][rows]`.
    pub out: Address,
    /// Outputs of a token.
    pub rows: u32,
    /// Blocks of a row.
    pub blocks: u32,
    /// Tokens.
    pub tokens: u32,
    /// Nothing.
    pub unused: u32,
}

/// Most tokens of a product that goes without matrix instructions.
pub const FEW_TOKENS: u32 = 4;

/// Tokens of a block of a product by matrix instructions.
const MANY_TOKENS: u32 = 64;

/// Multiplies rows by a matrix: `out = x W^T`.
///
/// # Errors
/// If the device fails.
pub fn product(device: &dyn Device, format: Format, arguments: &Product) -> Result<(), DeviceError> {
    // For one token, for up to four, for up to sixteen, for more.
    let names = match format {
        Format::Bits4By16 => ["gemv_4_16_1", "gemv_4_16_4", "gemm_4_16_16", "gemm_4_16_64"],
        Format::Bits4By32 => ["gemv_4_32_1", "gemv_4_32_4", "gemm_4_32_16", "gemm_4_32_64"],
        Format::Bits5By32 => ["gemv_5_32_1", "gemv_5_32_4", "gemm_5_32_16", "gemm_5_32_64"],
        Format::Bits6By16 => ["gemv_6_16_1", "gemv_6_16_4", "gemm_6_16_16", "gemm_6_16_64"],
        Format::Bits8By32 => ["gemv_8_32_1", "gemv_8_32_4", "gemm_8_32_16", "gemm_8_32_64"],
    };
    let tiles = |count: usize| 4 * count * 8 * 17 * 4;
    let rows = arguments.rows.div_ceil(16);
    match arguments.tokens {
        0 => Ok(()),
        1 => launch(device, names[0], [arguments.rows.div_ceil(8), 1], 128, 0, arguments),
        2..=FEW_TOKENS => launch(device, names[1], [arguments.rows.div_ceil(8), 1], 128, 0, arguments),
        5..=16 => launch(device, names[2], [rows, 1], 128, tiles(2), arguments),
        many => launch(device, names[3], [rows, many.div_ceil(MANY_TOKENS)], 128, tiles(8), arguments),
    }
}

/// Arguments of [`fetch`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Fetch {
    /// A [`Matrix`].
    pub weights: Address,
    /// Which rows, u32, `[tokens]`.
    pub ids: Address,
    /// Where they go, f32, `[tokens][columns]`.
    pub out: Address,
    /// Rows of the matrix.
    pub rows: u32,
    /// Blocks of a row.
    pub blocks: u32,
    /// How many are wanted.
    pub tokens: u32,
    /// Numbers of a row.
    pub columns: u32,
    /// What they are multiplied by.
    pub factor: f32,
    /// Nothing.
    pub unused: u32,
}

/// Writes rows of a matrix as numbers: embeddings of tokens.
///
/// # Errors
/// If the device fails.
pub fn fetch(device: &dyn Device, format: Format, arguments: &Fetch) -> Result<(), DeviceError> {
    let name = match format {
        Format::Bits4By16 => "fetch_4_16",
        Format::Bits4By32 => "fetch_4_32",
        Format::Bits5By32 => "fetch_5_32",
        Format::Bits6By16 => "fetch_6_16",
        Format::Bits8By32 => "fetch_8_32",
    };
    launch(device, name, [arguments.columns.div_ceil(256), arguments.tokens], 256, 0, arguments)
}
