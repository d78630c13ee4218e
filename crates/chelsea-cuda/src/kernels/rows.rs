//! What happens to rows between products.

use super::launch;
use crate::device::{Address, DeviceError, Launcher};
use bytemuck::NoUninit;

/// Threads of a block.
const THREADS: u32 = 256;

/// Arguments of [`rms_norm`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Norm {
    /// Rows, f32.
    pub x: Address,
    /// What normed numbers are multiplied by, f32, `[width]`.
    pub weight: Address,
    /// Where they go; may be `x`.
    pub out: Address,
    /// Numbers of a row.
    pub width: u32,
    /// Rows.
    pub rows: u32,
    /// Numbers from one row to the next.
    pub x_stride: u32,
    /// Numbers from one row to the next where they go.
    pub out_stride: u32,
    /// What is added to the mean square.
    pub eps: f32,
    /// Nothing.
    pub unused: u32,
}

/// Root-mean-square norm of rows. A row may be a token, or one of its heads.
///
/// # Errors
/// If the device fails.
pub fn rms_norm(device: &dyn Launcher, arguments: &Norm) -> Result<(), DeviceError> {
    // Short rows, as heads are, need no more threads than numbers.
    let threads = arguments.width.next_multiple_of(32).min(THREADS);
    launch(device, "rms_norm", [arguments.rows, 1], threads, 32, arguments)
}

/// Arguments of [`add`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Add {
    /// Numbers, f32.
    pub x: Address,
    /// What is added to them, f32.
    pub y: Address,
    /// How many of `x`.
    pub count: u32,
    /// How many of `y`, over and over.
    pub period: u32,
}

/// `x += y`: a residual, or a bias of all rows.
///
/// # Errors
/// If the device fails.
pub fn add(device: &dyn Launcher, arguments: &Add) -> Result<(), DeviceError> {
    launch(device, "add", [arguments.count.div_ceil(THREADS), 1], THREADS, 0, arguments)
}

/// Arguments of [`scale`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Scale {
    /// Numbers, f32.
    pub x: Address,
    /// How many.
    pub count: u32,
    /// What they are multiplied by.
    pub factor: f32,
    /// What they do not exceed: they become `cap * tanh(x / cap)`. 0 for no cap.
    pub cap: f32,
    /// Nothing.
    pub unused: u32,
}

/// Multiplies numbers, and caps them softly.
///
/// # Errors
/// If the device fails.
pub fn scale(device: &dyn Launcher, arguments: &Scale) -> Result<(), DeviceError> {
    launch(device, "scale", [arguments.count.div_ceil(THREADS), 1], THREADS, 0, arguments)
}

/// The activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU in the form with `tanh`.
    GeluTanh,
    /// `x` and `up` are cut at `limit`; `x / (1 + e^(-alpha x)) (up + 1)`.
    ClampedSwiglu {
        /// Steepness.
        alpha: f32,
        /// Where they are cut.
        limit: f32,
    },
}

impl Activation {
    /// What kernels know it by, and its two numbers.
    pub(super) fn numbers(self) -> (u32, f32, f32) {
        match self {
            Activation::Silu => (0, 0.0, 0.0),
            Activation::GeluTanh => (1, 0.0, 0.0),
            Activation::ClampedSwiglu { alpha, limit } => (2, alpha, limit),
        }
    }
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Gate {
    gate: Address,
    up: Address,
    count: u32,
    activation: u32,
    alpha: f32,
    limit: f32,
}

/// `gate = activation(gate) * up`, for `count` numbers at these addresses.
///
/// # Errors
/// If the device fails.
pub fn gate(
    device: &dyn Launcher,
    activation: Activation,
    gate: Address,
    up: Address,
    count: u32,
) -> Result<(), DeviceError> {
    let (activation, alpha, limit) = activation.numbers();
    let arguments = Gate { gate, up, count, activation, alpha, limit };
    launch(device, "gate", [count.div_ceil(THREADS), 1], THREADS, 0, &arguments)
}

/// Arguments of [`rope`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Rope {
    /// Rows, f32, each of `heads` heads.
    pub x: Address,
    /// f32, `[tokens][pairs]`.
    pub cosines: Address,
    /// f32, `[tokens][pairs]`.
    pub sines: Address,
    /// Rows.
    pub tokens: u32,
    /// Heads of a row.
    pub heads: u32,
    /// Numbers of a head.
    pub dim: u32,
    /// Pairs of numbers that are turned.
    pub pairs: u32,
    /// Numbers from one row to the next.
    pub stride: u32,
    /// Nothing.
    pub unused: u32,
}

/// Turns queries or keys in place, in the half-split layout: number `i` pairs with number `i + pairs`.
///
/// # Errors
/// If the device fails.
pub fn rope(device: &dyn Launcher, arguments: &Rope) -> Result<(), DeviceError> {
    let numbers = arguments.tokens * arguments.heads * arguments.pairs;
    launch(device, "rope", [numbers.div_ceil(THREADS), 1], THREADS, 0, arguments)
}

/// Arguments of [`largest`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Largest {
    /// Rows, f32, `[rows][width]`.
    pub x: Address,
    /// Places, u32, `[rows]`.
    pub out: Address,
    /// Numbers of a row.
    pub width: u32,
    /// Rows.
    pub rows: u32,
}

/// The place of the largest number of each row, the first of equal ones: 0 where no number is one.
///
/// # Errors
/// If the device fails.
pub fn largest(device: &dyn Launcher, arguments: &Largest) -> Result<(), DeviceError> {
    launch(device, "largest", [arguments.rows, 1], THREADS, THREADS as usize * 8, arguments)
}

/// How many of a row [`likeliest`] finds.
pub const LIKELIEST: usize = 256;

/// Numbers of a row that a block of threads takes.
const LIKELIEST_SLICE: usize = 8192;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Likeliest {
    x: Address,
    out: Address,
    width: u32,
    parts: u32,
    pairs: u32,
    unused: u32,
}

/// Bytes that [`likeliest`] works in, for rows of `width` numbers: pairs of each stage but the last.
pub fn likeliest_bytes(rows: usize, width: usize) -> usize {
    let (mut parts, mut bytes) = (width.div_ceil(LIKELIEST_SLICE), 0);
    while parts > 1 {
        bytes += rows * parts * LIKELIEST * 8;
        parts = (parts * LIKELIEST).div_ceil(LIKELIEST_SLICE);
    }
    bytes
}

/// The [`LIKELIEST`] largest of each of `rows` rows of `width` numbers at `x`, of equal ones the first: to `out`, `[rows]` times
/// as many pairs of a number (f32) and its place (u32), in no order that means anything. Where a row has fewer, the rest have
/// the place `u32::MAX`. What is no finite number counts as larger than all others. `room` are [`likeliest_bytes`].
///
/// # Errors
/// If the device fails.
pub fn likeliest(
    device: &dyn Launcher,
    x: Address,
    (rows, width): (usize, usize),
    room: Address,
    out: Address,
) -> Result<(), DeviceError> {
    let (mut x, mut width, mut room, mut pairs) = (x, width, room, 0);
    loop {
        let parts = width.div_ceil(LIKELIEST_SLICE);
        let to = if parts > 1 { room } else { out };
        let arguments = Likeliest { x, out: to, width: width as u32, parts: parts as u32, pairs, unused: 0 };
        launch(device, "likeliest", [parts as u32, rows as u32], THREADS, 64, &arguments)?;
        if parts <= 1 {
            return Ok(());
        }
        (x, width, pairs) = (room, parts * LIKELIEST, 1);
        room += (rows * parts * LIKELIEST * 8) as Address;
    }
}

/// Arguments of [`scale_heads`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct ScaleHeads {
    /// Queries, f32, `[rows][stride]`.
    pub x: Address,
    /// What their keys were divided by, f32, `[..][dim]`.
    pub factors: Address,
    /// The row of `factors` for each KV head of each row, u32, `[rows][kv_heads]`; `u32::MAX` for none.
    pub which: Address,
    /// Rows.
    pub rows: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Query heads of each.
    pub group: u32,
    /// Head size.
    pub dim: u32,
    /// Numbers from one row to the next.
    pub stride: u32,
    /// Nothing.
    pub unused: u32,
}

/// Multiplies queries in place by what the keys of their heads are stored divided by.
///
/// # Errors
/// If the device fails.
pub fn scale_heads(device: &dyn Launcher, arguments: &ScaleHeads) -> Result<(), DeviceError> {
    let numbers = arguments.rows * arguments.kv_heads * arguments.group * arguments.dim;
    launch(device, "scale_heads", [numbers.div_ceil(THREADS), 1], THREADS, 0, arguments)
}
