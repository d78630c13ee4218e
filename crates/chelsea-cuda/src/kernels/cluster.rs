//! Clustering of stretches of entries.

use super::launch;
use super::page::PageType;
use crate::device::{Address, Device, DeviceError};
use bytemuck::{NoUninit, Pod, Zeroable};

/// Most rows of a stretch.
pub const STRETCH_ROWS: usize = 4096;

/// Rows that are matched among themselves.
pub const CHUNK_ROWS: usize = 256;

/// A stretch, and how far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Stretch {
    /// Its first row.
    pub first: u32,
    /// Rows, at most [`STRETCH_ROWS`].
    pub count: u32,
    /// Clusters that are left at least.
    pub least: u32,
    /// What a row's numbers are multiples of: costs are in units of its square.
    pub unit: f32,
    /// Price beyond which there is no need to go on.
    pub ceiling: f32,
}

/// Arguments of [`cluster`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Cluster {
    /// [`Stretch`]es.
    pub stretches: Address,
    /// Rows, i16, `[rows][stride]`, filled up with zeros; changed as rows are joined.
    pub rows: Address,
    /// Tokens that each row stands for, u32; changed as rows are joined.
    pub weights: Address,
    /// Room for a number of 32 bits a row.
    pub lengths: Address,
    /// Who joins whom, u32, `[rows][2]`, by rows of the stretch: those of a stretch begin at its first row.
    pub pairs: Address,
    /// What each costs, or the one before it, if that was more: f32, `[rows]`.
    pub prices: Address,
    /// How many there are of each stretch, u32.
    pub counts: Address,
    /// Share of what is left that a round merges at most.
    pub share: f64,
    /// Numbers of a row: a multiple of 32.
    pub stride: u32,
    /// Nothing.
    pub unused: u32,
}

/// Clusters stretches as far as they may go.
///
/// # Errors
/// If the device fails.
pub fn cluster(device: &dyn Device, stretches: usize, arguments: &Cluster) -> Result<(), DeviceError> {
    let shared = STRETCH_ROWS / 2 * 8 + 2 * STRETCH_ROWS * 2 + STRETCH_ROWS / 2 * 3 + 256 * 4;
    launch(device, "cluster", [stretches as u32, 1], 256, shared, arguments)
}

/// Candidates of a head that become rows.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FeatureHead {
    /// Place of the head's first page in the list of pages.
    pub pages: u32,
    /// The first candidate, an entry of the head.
    pub first: u32,
    /// Candidates.
    pub count: u32,
    /// Where their rows begin.
    pub row: u32,
    /// Row of the balances that keys are stored divided by, or [`super::NO_BALANCE`].
    pub balance: u32,
    /// What values are multiplied by; 0 leaves them out.
    pub value_factor: f32,
}

/// Arguments of [`features`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Features {
    /// The pool of pages.
    pub pool: Address,
    /// [`FeatureHead`]s, all with values or all without.
    pub heads: Address,
    /// Numbers of pages, u32: those of each head follow one another.
    pub pages: Address,
    /// What keys are divided by, f32, `[balances][dim]`.
    pub balances: Address,
    /// Of each rotary pair, f32, `[pairs]`.
    pub frequencies: Address,
    /// What keys' dimensions are multiplied by, f32, `[heads][dim]`.
    pub scales: Address,
    /// Room for the mean key before RoPE of each head, f32, `[heads][dim]`.
    pub centres: Address,
    /// Room for the unit of each head's rows, f32.
    pub units: Address,
    /// Rows, i16, `[rows][stride]`.
    pub rows: Address,
    /// Tokens that each stands for, u32.
    pub weights: Address,
    /// Head size.
    pub dim: u32,
    /// Pairs of dimensions that RoPE turns.
    pub pairs: u32,
    /// Numbers of a row: [`row_stride`].
    pub stride: u32,
    /// The largest number of a row: [`largest_number`].
    pub most: f32,
}

/// Numbers from one row to the next, for rows of so many.
pub fn row_stride(numbers: usize) -> usize {
    numbers.next_multiple_of(32)
}

/// The largest number of rows of so many: with it, no distance exceeds 32 bits.
pub fn largest_number(numbers: usize) -> f32 {
    ((1u64 << 29) as f64 / numbers.max(1) as f64).sqrt().floor().min(f64::from(i16::MAX)) as f32
}

/// Writes the rows of `heads` heads, of which none has more candidates than `most_candidates`; first finds means and units.
///
/// # Errors
/// If the device fails.
pub fn features(
    device: &dyn Device,
    ty: PageType,
    heads: usize,
    most_candidates: usize,
    arguments: &Features,
) -> Result<(), DeviceError> {
    let (measure, write) = match ty {
        PageType::F16 => ("measure_f16", "features_f16"),
        PageType::Q8 => ("measure_q8", "features_q8"),
        PageType::K8V4 => ("measure_k8v4", "features_k8v4"),
    };
    launch(device, measure, [heads as u32, 1], 256, 256 * (16 + 16 + 4), arguments)?;
    launch(device, write, [most_candidates.div_ceil(16) as u32, heads as u32], 128, 0, arguments)
}
