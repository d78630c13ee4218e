//! Products of 16-bit numbers: weights that are opened, and tokens that become halves.

use super::launch;
use super::linear::Format;
use super::rows::Activation;
use crate::device::{Address, DeviceError, HalvesProduct, Launcher};
use bytemuck::NoUninit;

/// Arguments of [`open`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Open {
    /// A [`super::linear::Matrix`].
    pub weights: Address,
    /// Weights of the rows that are opened, f16, `[count][32 blocks]`.
    pub out: Address,
    /// Rows of the matrix.
    pub rows: u32,
    /// Blocks of a row.
    pub blocks: u32,
    /// The first row that is opened.
    pub first: u32,
    /// How many are opened.
    pub count: u32,
    /// What weights are multiplied by: one over the unit of the matrix.
    pub factor: f32,
    /// Nothing.
    pub unused: u32,
}

/// Opens some rows of a matrix to halves.
///
/// # Errors
/// If the device fails.
pub fn open(device: &dyn Launcher, format: Format, arguments: &Open) -> Result<(), DeviceError> {
    let name = match format {
        Format::Bits4By16 => "open_4_16",
        Format::Bits4By32 => "open_4_32",
        Format::Bits5By32 => "open_5_32",
        Format::Bits6By16 => "open_6_16",
        Format::Bits8By32 => "open_8_32",
    };
    let quarters = arguments.count as usize * arguments.blocks as usize * 4;
    launch(device, name, [quarters.div_ceil(256) as u32, 1], 256, 0, arguments)
}

/// Where rows go that become halves.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Halves {
    /// f16, `[rows][columns]`.
    pub out: Address,
    /// What the halves of each row are to be multiplied by, a power of two, f32, `[rows]`.
    pub units: Address,
    /// Numbers of a row.
    pub width: u32,
    /// Numbers of a row with the zeros that fill its last block up.
    pub columns: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Halve {
    x: Address,
    to: Halves,
}

/// Rounds rows at `x`, f32, `[rows][width]`, to halves.
///
/// # Errors
/// If the device fails.
pub fn halve(device: &dyn Launcher, rows: usize, x: Address, to: Halves) -> Result<(), DeviceError> {
    launch(device, "halve", [rows as u32, 1], 256, 32, &Halve { x, to })
}

/// Arguments of [`halve_normed`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct HalveNormed {
    /// Rows, f32, `[rows][width]`.
    pub x: Address,
    /// What is added to them first, f32, `[rows][width]`; or 0.
    pub y: Address,
    /// What normed numbers are multiplied by, f32, `[width]`.
    pub weight: Address,
    /// Where they go.
    pub to: Halves,
    /// What is added to the mean square.
    pub eps: f32,
    /// Nothing.
    pub unused: u32,
}

/// `x += y`, and the root-mean-square norm of `x`, rounded to halves: what [`super::rows::add`], [`super::rows::rms_norm`] and
/// [`halve`] give, bit for bit.
///
/// # Errors
/// If the device fails.
pub fn halve_normed(device: &dyn Launcher, rows: usize, arguments: &HalveNormed) -> Result<(), DeviceError> {
    launch(device, "halve_normed", [rows as u32, 1], 256, 32, arguments)
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct HalveGated {
    gate: Address,
    up: Address,
    to: Halves,
    activation: u32,
    alpha: f32,
    limit: f32,
    unused: u32,
}

/// Rounds `activation(gate) * up` to halves, for rows of both, f32, `[rows][width]`: what [`super::rows::gate`] and [`halve`]
/// give, bit for bit.
///
/// # Errors
/// If the device fails.
pub fn halve_gated(
    device: &dyn Launcher,
    rows: usize,
    (activation, gate, up): (Activation, Address, Address),
    to: Halves,
) -> Result<(), DeviceError> {
    let (activation, alpha, limit) = activation.numbers();
    let arguments = HalveGated { gate, up, to, activation, alpha, limit, unused: 0 };
    launch(device, "halve_gated", [rows as u32, 1], 256, 32, &arguments)
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Multiply {
    weights: Address,
    x: Address,
    out: Address,
    rows: u32,
    tokens: u32,
    columns: u32,
    stride: u32,
    units: Address,
    bias: Address,
    factor: f32,
    unused: u32,
}

/// What is done with the outputs of a product of halves.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// What those of each token are multiplied by, f32, `[tokens]`.
    pub units: Address,
    /// What is added to them then, f32, `[rows]`; or 0.
    pub bias: Address,
}

/// Multiplies halves by matrix instructions: `out = factor (x W^T) units + bias`.
///
/// # Errors
/// If the device fails, or rows are no whole blocks of 32 numbers.
pub fn multiply(device: &dyn Launcher, product: &HalvesProduct, settled: Settled) -> Result<(), DeviceError> {
    let &HalvesProduct { weights, x, out, rows, tokens, columns, stride, factor } = product;
    if !columns.is_multiple_of(32) {
        return Err(DeviceError::Failed { doing: "multiply", why: format!("rows of {columns} numbers") });
    }
    let Settled { units, bias } = settled;
    let arguments = Multiply { weights, x, out, rows, tokens, columns, stride, units, bias, factor, unused: 0 };
    let tiles = |numbers: u32| numbers.div_ceil(128);
    // Three slabs of both operands: 128 rows of 32 halves.
    let slabs = 3 * 2 * 128 * 64;
    launch(device, "multiply_opened", [tiles(tokens), tiles(rows)], 256, slabs, &arguments)
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Settle {
    out: Address,
    units: Address,
    bias: Address,
    rows: u32,
    stride: u32,
}

/// What [`multiply`] does with outputs, where a library has formed the product.
///
/// # Errors
/// If the device fails.
pub fn settle(device: &dyn Launcher, product: &HalvesProduct, settled: Settled) -> Result<(), DeviceError> {
    let &HalvesProduct { out, rows, tokens, stride, .. } = product;
    let Settled { units, bias } = settled;
    launch(device, "settle", [rows.div_ceil(256), tokens], 256, 0, &Settle { out, units, bias, rows, stride })
}

/// Multiplies halves by the device's library, if it has one that takes this product, and by matrix instructions otherwise.
///
/// # Errors
/// If the device fails.
pub fn product(device: &dyn crate::Device, product: &HalvesProduct, settled: Settled) -> Result<(), DeviceError> {
    match device.multiply(product)? {
        true => settle(device, product, settled),
        false => multiply(device, product, settled),
    }
}
