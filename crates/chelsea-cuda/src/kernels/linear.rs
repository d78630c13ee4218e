//! Products with quantised weights, and rows of them as numbers.

use super::launch;
use super::rows::Activation;
use crate::device::{Address, DeviceError, Launcher};
use bytemuck::{NoUninit, Pod, Zeroable};

/// Columns of a block.
pub const BLOCK: usize = 32;

/// How a weight lies: bits of its code, and columns that share a scale and a min. Kernels know them by their places here.
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
pub fn quantize(device: &dyn Launcher, arguments: &Quantize) -> Result<(), DeviceError> {
    let blocks = (arguments.tokens as usize * arguments.blocks as usize).div_ceil(4);
    launch(device, "quantize", [blocks as u32, 1], 128, 0, arguments)
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct GateRound {
    gate: Address,
    up: Address,
    bytes: Address,
    scales: Address,
    columns: u32,
    blocks: u32,
    tokens: u32,
    activation: u32,
    alpha: f32,
    limit: f32,
}

/// Rounds `activation(gate) * up` to bytes, where `arguments.x` is the gate: what [`super::rows::gate`] and [`quantize`] give.
///
/// # Errors
/// If the device fails.
pub fn gate_round(
    device: &dyn Launcher,
    activation: Activation,
    up: Address,
    arguments: &Quantize,
) -> Result<(), DeviceError> {
    let &Quantize { x: gate, bytes, scales, columns, blocks, tokens, .. } = arguments;
    let (activation, alpha, limit) = activation.numbers();
    let all = (tokens as usize * blocks as usize).div_ceil(4);
    let arguments = GateRound { gate, up, bytes, scales, columns, blocks, tokens, activation, alpha, limit };
    launch(device, "gate_round", [all as u32, 1], 128, 0, &arguments)
}

/// Arguments of [`norm_round`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct NormRound {
    /// Rows, f32, `[rows][width]`.
    pub x: Address,
    /// What is added to them first, f32, `[rows][width]`; or 0.
    pub y: Address,
    /// What normed numbers are multiplied by, f32, `[width]`.
    pub weight: Address,
    /// Bytes, `[rows][blocks][32]`.
    pub bytes: Address,
    /// Scales and sums, f32, `[rows][blocks][4]`.
    pub scales: Address,
    /// Numbers of a row.
    pub width: u32,
    /// Blocks of a row.
    pub blocks: u32,
    /// What is added to the mean square.
    pub eps: f32,
    /// Nothing.
    pub unused: u32,
}

/// `x += y`, and the root-mean-square norm of `x`, rounded to bytes: what [`super::rows::add`], [`super::rows::rms_norm`] and
/// [`quantize`] give, bit for bit.
///
/// # Errors
/// If the device fails.
pub fn norm_round(device: &dyn Launcher, rows: usize, arguments: &NormRound) -> Result<(), DeviceError> {
    launch(device, "norm_round", [rows as u32, 1], 256, 32, arguments)
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
    /// What is added to the outputs of each token, f32, `[rows]`; or 0.
    pub bias: Address,
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
pub const FEW_TOKENS: u32 = 8;

/// Most matrices that the same few tokens are multiplied by in one launch.
pub const MOST_MATRICES: usize = 3;

/// Tokens of a block of a product by matrix instructions.
const MANY_TOKENS: u32 = 64;

/// A matrix of a launch of several.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OneOfSeveral {
    weights: Address,
    out: Address,
    bias: Address,
    rows: u32,
    format: u32,
}

#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct Products {
    bytes: Address,
    scales: Address,
    matrices: [OneOfSeveral; MOST_MATRICES],
    blocks: u32,
    tokens: u32,
    count: u32,
    unused: u32,
}

/// Multiplies the same rows by some matrices: `out = x W^T + bias` for each. Up to [`FEW_TOKENS`] rows are multiplied by up to
/// [`MOST_MATRICES`] matrices in one launch; their sums over columns have the same order however many rows and matrices there
/// are.
///
/// # Errors
/// If the device fails, or if few rows are multiplied by more matrices.
pub fn products(device: &dyn Launcher, products: &[(Format, Product)]) -> Result<(), DeviceError> {
    let Some((_, first)) = products.first() else { return Ok(()) };
    if first.tokens > FEW_TOKENS {
        return products.iter().try_for_each(|(format, arguments)| product(device, *format, arguments));
    }
    let mut matrices = [OneOfSeveral::zeroed(); MOST_MATRICES];
    if products.len() > matrices.len() {
        let why = format!("{} matrices at once, of {MOST_MATRICES} at most", products.len());
        return Err(DeviceError::Failed { doing: "multiply", why });
    }
    for (matrix, (format, p)) in matrices.iter_mut().zip(products) {
        let format = *format as u32;
        *matrix = OneOfSeveral { weights: p.weights, out: p.out, bias: p.bias, rows: p.rows, format };
    }
    let &Product { bytes, scales, blocks, tokens, .. } = first;
    let count = products.len() as u32;
    let arguments = Products { bytes, scales, matrices, blocks, tokens, count, unused: 0 };
    let name = match tokens {
        0 => return Ok(()),
        1 => "gemv_1",
        2 => "gemv_2",
        3..=4 => "gemv_4",
        _ => "gemv_8",
    };
    let blocks = products.iter().map(|(_, p)| p.rows.div_ceil(8)).sum();
    launch(device, name, [blocks, 1], 128, 0, &arguments)
}

/// Multiplies rows by a matrix: `out = x W^T + bias`.
///
/// # Errors
/// If the device fails.
pub fn product(device: &dyn Launcher, format: Format, arguments: &Product) -> Result<(), DeviceError> {
    // For up to sixteen tokens, and for more.
    let names = match format {
        Format::Bits4By16 => ["gemm_4_16_16", "gemm_4_16_64"],
        Format::Bits4By32 => ["gemm_4_32_16", "gemm_4_32_64"],
        Format::Bits5By32 => ["gemm_5_32_16", "gemm_5_32_64"],
        Format::Bits6By16 => ["gemm_6_16_16", "gemm_6_16_64"],
        Format::Bits8By32 => ["gemm_8_32_16", "gemm_8_32_64"],
    };
    let tiles = |count: usize| 4 * count * 8 * 17 * 4;
    let rows = arguments.rows.div_ceil(16);
    match arguments.tokens {
        0..=FEW_TOKENS => products(device, &[(format, *arguments)]),
        9..=16 => launch(device, names[0], [rows, 1], 128, tiles(2), arguments),
        many => launch(device, names[1], [rows, many.div_ceil(MANY_TOKENS)], 128, tiles(8), arguments),
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
pub fn fetch(device: &dyn Launcher, format: Format, arguments: &Fetch) -> Result<(), DeviceError> {
    let name = match format {
        Format::Bits4By16 => "fetch_4_16",
        Format::Bits4By32 => "fetch_4_32",
        Format::Bits5By32 => "fetch_5_32",
        Format::Bits6By16 => "fetch_6_16",
        Format::Bits8By32 => "fetch_8_32",
    };
    launch(device, name, [arguments.columns.div_ceil(256), arguments.tokens], 256, 0, arguments)
}
