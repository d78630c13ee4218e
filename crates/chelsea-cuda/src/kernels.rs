//! The kernels by their names, what each takes, and how it is launched.
//!
//! A kernel's file in `kernels/` says what it computes and how its operands lie; [`crate::twins`] computes the same plainly.
//! A launching function holds its caller to nothing but types: addresses and sizes are the caller's affair, and a wrong one
//! is found by the device, if at all. A launch of no blocks is none.

mod attention;
mod fold;
pub mod linear;
mod page;
pub mod rows;

pub use attention::{Decode, Join, MOST_GROUP, Part, Prefill, Reach, decode, join, part_numbers, prefill};
pub use fold::{Fold, FoldRun, fold};
pub use page::{Append, Clear, MOST_DIM, NO_BALANCE, PageLayout, PageType, Run, append, clear_slots};

use crate::device::{Device, DeviceError, Shape};

/// Launches a kernel of `blocks` blocks with its arguments.
fn launch<A: bytemuck::NoUninit>(
    device: &dyn Device,
    kernel: &'static str,
    blocks: [u32; 2],
    threads: u32,
    shared: usize,
    arguments: &A,
) -> Result<(), DeviceError> {
    if blocks.contains(&0) {
        return Ok(());
    }
    let shape = Shape { grid: [blocks[0], blocks[1], 1], block: [threads, 1, 1], shared: shared as u32 };
    device.launch(kernel, shape, bytemuck::bytes_of(arguments))
}
