//! The kernels by their names, what each takes, and how it is launched.
//!
//! A kernel's file in `kernels/` says what it computes and how its operands lie; [`crate::twins`] computes the same plainly.
//! A launching function holds its caller to nothing but types: addresses and sizes are the caller's affair, and a wrong one
//! is found by the device, if at all. A launch of no blocks is none.

mod attention;
pub mod cluster;
mod enter;
mod fold;
pub mod halves;
pub mod linear;
mod page;
pub mod rows;

pub use attention::{Decode, Join, MOST_GROUP, Part, Prefill, Reach, decode, join, part_numbers, prefill};
pub use enter::{Enter, enter};
pub use fold::{Fold, FoldRun, fold};
pub use page::{Append, Clear, MOST_DIM, NO_BALANCE, PageLayout, PageType, Run, append, clear_slots};

use crate::device::{DeviceError, Launcher, Shape};

/// Launches a kernel of `blocks` blocks with its arguments.
fn launch<A: bytemuck::NoUninit>(
    device: &dyn Launcher,
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

/// The machine code of all kernels, for every generation of GPUs that it is made for: a fatbin as drivers load it. It is
/// made of the files in `kernels/` by `cargo xtask kernels`.
///
/// # Errors
/// If what was compiled in is damaged.
pub fn program() -> Result<Vec<u8>, DeviceError> {
    static PACKED: &[u8] = include_bytes!("../kernels/chelsea.fatbin.z");
    // What is damaged may claim any size.
    const MOST: usize = 64 << 20;
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(PACKED, MOST)
        .map_err(|error| DeviceError::Failed { doing: "unpack the kernels", why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_has_the_kernels_that_the_table_lists() {
        let program = program().expect("it is whole");
        // The number that fatbins begin with.
        assert_eq!(program[..4], 0xba55_ed50u32.to_le_bytes());
        let table = include_str!("../kernels/registers.txt");
        let names: Vec<&str> = table.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
        assert!(names.len() > 50 && names.is_sorted());
    }
}
