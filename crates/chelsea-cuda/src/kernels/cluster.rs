//! Plans: candidates become rows, rows are clustered in stretches, and the cheapest merges of all become lists of members.

use super::launch;
use super::page::PageType;
use crate::device::{Address, Device, DeviceError};
use bytemuck::{NoUninit, Pod, Zeroable};

/// Most rows of a stretch.
pub const STRETCH_ROWS: usize = 4096;

/// Rows that are matched among themselves.
pub const CHUNK_ROWS: usize = 256;

/// A head that has candidates.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct PlannedHead {
    /// Place of the head's first page in the list of pages.
    pub pages: u32,
    /// The first candidate, an entry of the head.
    pub first: u32,
    /// Candidates.
    pub count: u32,
    /// Entries of the head.
    pub len: u32,
    /// Row of the balances that keys are stored divided by, or [`super::NO_BALANCE`].
    pub balance: u32,
    /// Mean of `|value|^2` over its candidates, or 0: to be measured.
    pub value_scale: f32,
    /// Its first stretch.
    pub stretch: u32,
    /// How many follow one another.
    pub stretches: u32,
    /// Where its list of starts begins: as many as it has survivors, and one more.
    pub start: u32,
    /// Where its list of members begins: all entries from the page of the first candidate on.
    pub member: u32,
}

/// What is found out about a head.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Found {
    /// What its rows' numbers are multiples of: costs are in units of its square.
    pub unit: f32,
    /// What values are multiplied by in rows.
    pub value_factor: f32,
    /// Mean of `|value|^2` over its candidates; 1 if all are zero.
    pub value_scale: f32,
    /// Candidates that survive.
    pub left: u32,
}

/// Candidates of a head that are clustered on their own, and how far that goes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Stretch {
    /// Which of the heads.
    pub head: u32,
    /// Its first candidate, counted from the head's first.
    pub first: u32,
    /// Candidates, at most [`STRETCH_ROWS`].
    pub count: u32,
    /// Where its rows begin.
    pub row: u32,
    /// Where its merges and their prices begin: as many as it has candidates.
    pub list: u32,
    /// Clusters that are left at least.
    pub least: u32,
    /// Price beyond which there is no need to go on.
    pub ceiling: f32,
    /// Nothing.
    pub unused: u32,
}

/// Arguments of [`measure`] and [`features`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Features {
    /// The pool of pages.
    pub pool: Address,
    /// [`PlannedHead`]s of one layout and one rotary embedding.
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
    /// Room for [`Found`] of each head.
    pub found: Address,
    /// [`Stretch`]es of these heads.
    pub stretches: Address,
    /// Rows, i16, `[rows][stride]`.
    pub rows: Address,
    /// Tokens that each stands for, u32.
    pub weights: Address,
    /// Weight of the squared distance of values; 0 leaves them out.
    pub value_weight: f64,
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

/// Finds out about `heads` heads: mean keys, the scale of values, and units.
///
/// # Errors
/// If the device fails.
pub fn measure(device: &dyn Device, ty: PageType, heads: usize, arguments: &Features) -> Result<(), DeviceError> {
    let name = match ty {
        PageType::F16 => "measure_f16",
        PageType::Q8 => "measure_q8",
        PageType::K8V4 => "measure_k8v4",
    };
    launch(device, name, [heads as u32, 1], 256, 256 * (16 + 16 + 4), arguments)
}

/// Writes the rows of `stretches` stretches, of which none has more candidates than `most_candidates`.
///
/// # Errors
/// If the device fails.
pub fn features(
    device: &dyn Device,
    ty: PageType,
    stretches: usize,
    most_candidates: usize,
    arguments: &Features,
) -> Result<(), DeviceError> {
    let name = match ty {
        PageType::F16 => "features_f16",
        PageType::Q8 => "features_q8",
        PageType::K8V4 => "features_k8v4",
    };
    launch(device, name, [most_candidates.div_ceil(16) as u32, stretches as u32], 128, 0, arguments)
}

/// Arguments of [`cluster`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Cluster {
    /// [`Stretch`]es.
    pub stretches: Address,
    /// [`Found`] of the heads that they name.
    pub found: Address,
    /// Rows, i16, `[rows][stride]`, filled up with zeros; changed as rows are joined.
    pub rows: Address,
    /// Tokens that each row stands for, u32; changed as rows are joined.
    pub weights: Address,
    /// Room for a number of 32 bits a row.
    pub lengths: Address,
    /// Lists of who joins whom, u32 `[2]` each, by rows of the stretch.
    pub pairs: Address,
    /// Lists of what each costs, or the one before it, if that was more: f32.
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

/// Arguments of [`select`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Select {
    /// All [`Stretch`]es, head by head.
    pub stretches: Address,
    /// [`PlannedHead`]s.
    pub heads: Address,
    /// [`Found`] of each, of which `left` is written.
    pub found: Address,
    /// Lists of prices, as [`Cluster`] has them.
    pub prices: Address,
    /// How long they are, u32 a stretch.
    pub counts: Address,
    /// How many merges of each stretch are carried out, u32.
    pub taken: Address,
    /// Which survivor of its head the first of each stretch is, u32.
    pub places: Address,
    /// Stretches.
    pub count: u32,
    /// Heads.
    pub head_count: u32,
    /// Merges over all.
    pub wanted: u32,
    /// Nothing.
    pub unused: u32,
}

/// Selects the cheapest merges of all lists.
///
/// # Errors
/// If the device fails.
pub fn select(device: &dyn Device, arguments: &Select) -> Result<(), DeviceError> {
    launch(device, "select", [1, 1], 256, 256 * 4, arguments)
}

/// Arguments of [`list_members`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Members {
    /// As [`Select`] has them.
    pub stretches: Address,
    /// As [`Select`] has them.
    pub heads: Address,
    /// As [`Select`] has them.
    pub found: Address,
    /// As [`Select`] has them.
    pub taken: Address,
    /// As [`Select`] has them.
    pub places: Address,
    /// As [`Cluster`] has them.
    pub pairs: Address,
    /// Where the members of each survivor begin, u32: as [`super::Fold`] takes them.
    pub starts: Address,
    /// Members: entries of the head, u32.
    pub members: Address,
}

/// Lists the members of every survivor of heads that have `stretches` stretches together.
///
/// # Errors
/// If the device fails.
pub fn list_members(device: &dyn Device, stretches: usize, arguments: &Members) -> Result<(), DeviceError> {
    launch(device, "list_members", [stretches as u32, 1], 256, STRETCH_ROWS * 8 + 256 * 4, arguments)
}
