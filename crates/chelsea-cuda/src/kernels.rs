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

    /// Numbers in a cell of a table.
    fn numbers(cell: &str) -> Vec<u32> {
        // What stands in brackets or quotes are names of kernels and types.
        let plain: String = cell.split('`').step_by(2).collect();
        plain.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    }

    #[test]
    fn every_kernel_has_its_row_in_the_read_me() {
        // Of sm_90a: registers and spilled bytes.
        let of_kernel = |line: &'static str| {
            let mut cells = line.split_whitespace();
            let name = cells.next().expect("a name");
            let cell: Vec<u32> = cells.nth(2).expect("a third architecture").split('/').flat_map(str::parse).collect();
            (name, cell[0], cell[2])
        };
        let kernels: Vec<_> = include_str!("../kernels/registers.txt").lines().skip(2).map(of_kernel).collect();
        let mut told = vec![false; kernels.len()];
        let read_me = include_str!("../kernels/README.md").split("| kernel | registers |").nth(1).expect("a table");
        for row in read_me.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').collect();
            let patterns: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
            let fits = |pattern: &str, name: &str| match pattern.split_once('*') {
                Some((start, end)) => name.starts_with(start) && name.ends_with(end),
                None => name == pattern,
            };
            let (mut registers, mut spilled) = (Vec::new(), 0);
            for pattern in patterns {
                let own = kernels.iter().enumerate().filter(|(_, kernel)| fits(pattern, kernel.0));
                let own: Vec<_> = own.inspect(|(i, _)| told[*i] = true).collect();
                registers.push(own.iter().map(|(_, kernel)| kernel.1).max().expect(pattern));
                spilled = own.iter().map(|(_, kernel)| kernel.2).fold(spilled, u32::max);
            }
            let most = registers.iter().copied().max();
            let said = numbers(cells[2]);
            assert!(said == registers || said.len() == 1 && said.first().copied() == most, "{registers:?}: {row}");
            assert_eq!(numbers(cells[3]).into_iter().max(), Some(spilled), "{row}");
        }
        let left: Vec<_> = kernels.iter().zip(told).filter(|(_, told)| !told).map(|(kernel, _)| kernel.0).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
