//! Tokens that become entries while their keys are turned, and their queries beside them.

use super::launch;
use super::page::{Append, PageType};
use crate::device::{Address, DeviceError, Launcher};
use bytemuck::NoUninit;
use chelsea_kv::PAGE;

/// Arguments of [`enter`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Enter {
    /// The tokens that become entries; their keys are turned on the way, and stay as they are where they lie.
    pub append: Append,
    /// Queries, f32, `[rows][q_heads][dim]`: turned in place, and multiplied by what the keys of their heads are divided by.
    pub queries: Address,
    /// f32, `[rows][pairs]`.
    pub cosines: Address,
    /// f32, `[rows][pairs]`.
    pub sines: Address,
    /// Where queries go, too, before they are multiplied: for statistics. f32, `[rows][q_heads][dim]`; or 0.
    pub noted: Address,
    /// The row of [`Append::balances`] for each KV head of each row, u32, `[rows][q_heads / group]`, `u32::MAX` for none; or 0.
    pub which: Address,
    /// Pairs of numbers of a head that are turned, in the half-split layout; 0 where all of them were before.
    pub pairs: u32,
    /// Runs of tokens that become entries.
    pub runs: u32,
    /// Rows of queries; 0 where another launch has them.
    pub rows: u32,
    /// Query heads of a row.
    pub q_heads: u32,
    /// Query heads of each KV head.
    pub group: u32,
    /// Nothing.
    pub unused: u32,
}

/// What [`super::rows::rope`] of keys and queries, [`super::append`] and [`super::rows::scale_heads`] give, bit for bit.
///
/// # Errors
/// If the device fails.
pub fn enter(device: &dyn Launcher, ty: PageType, arguments: &Enter) -> Result<(), DeviceError> {
    const THREADS: u32 = 128;
    let name = match ty {
        PageType::F16 => "enter_f16",
        PageType::Q8 => "enter_q8",
        PageType::K8V4 => "enter_k8v4",
    };
    let numbers = arguments.rows * arguments.q_heads * (arguments.append.dim - arguments.pairs);
    let blocks = arguments.runs + numbers.div_ceil(THREADS);
    launch(device, name, [blocks, 1], THREADS, PAGE * 9 * 4, arguments)
}
