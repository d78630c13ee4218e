//! The emulator itself: matrix instructions against the tables of fragments in the PTX manual ("Matrix Fragments for
//! mma.m16n8k16 with floating point type", "... mma.m16n8k32", "... mma.m16n8k16" with `.u8`, "movmatrix"), and mistakes
//! that have to show.

mod common;

use bytemuck::{NoUninit, Pod};
use chelsea_cuda::{Buffer, Device, DeviceError, Shape};
use chelsea_emulator::{Emulator, Schedule};
use common::{Lots, Outcome};
use half::f16;
use std::sync::Arc;

/// Always an emulated one: a GPU has no probes among its kernels, and is not what is tested here.
fn device(schedule: Schedule) -> Arc<dyn Device> {
    Arc::new(Emulator::new(schedule))
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Registers {
    operands: u64,
    results: u64,
}

/// Runs an instruction on a warp: registers `[32][6]`, results `[32][4]` before and after.
fn run<T: Pod>(kernel: &'static str, operands: &[[u32; 6]; 32], results: &mut [[T; 4]; 32]) -> Outcome {
    for schedule in Schedule::ALL {
        let device = device(schedule);
        let (operands, out) =
            (Buffer::with(&device, operands.as_flattened())?, Buffer::with(&device, results.as_flattened())?);
        let arguments = Registers { operands: operands.at(), results: out.at() };
        device.launch(kernel, Shape::line(1, 32), bytemuck::bytes_of(&arguments))?;
        if schedule == Schedule::ALL[2] {
            device.read(out.at(), bytemuck::cast_slice_mut(results))?;
        }
    }
    Ok(())
}

/// Row and column of element `i` of a lane's part of the 16 by 16 operand of halves, as the manual's table has it.
fn halves_left(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 2 + i % 2 + if i >= 4 { 8 } else { 0 })
}

/// Of the 16 by 8 operand.
fn halves_right(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i % 2 + if i >= 2 { 8 } else { 0 }, lane / 4)
}

/// Of the 16 by 8 result.
fn result(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + i % 2)
}

/// Of the 16 by 32 operand of bytes.
fn bytes_left(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 4 || (8..12).contains(&i) { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 4 + i % 4 + if i >= 8 { 16 } else { 0 })
}

/// Of the 32 by 8 operand of bytes.
fn bytes_right(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 4 + i % 4 + if i >= 4 { 16 } else { 0 }, lane / 4)
}

#[test]
fn halves_are_multiplied_as_the_tables_of_fragments_say() -> Outcome {
    let mut lots = Lots::new(61);
    // Small whole numbers: sums are exact in any order.
    let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<f32>> {
        (0..rows).map(|_| (0..columns).map(|_| lots.below(17) as f32 - 8.0).collect()).collect()
    };
    let (a, b, c) = (matrix(16, 16), matrix(16, 8), matrix(16, 8));
    let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let (mut operands, mut results) = ([[0u32; 6]; 32], [[0f32; 4]; 32]);
    for lane in 0..32 {
        for i in 0..8 {
            let (row, k) = halves_left(lane, i);
            operands[lane][i / 2] |= half(a[row][k]) << (16 * (i % 2));
        }
        for i in 0..4 {
            let (k, column) = halves_right(lane, i);
            operands[lane][4 + i / 2] |= half(b[k][column]) << (16 * (i % 2));
            let (row, column) = result(lane, i);
            results[lane][i] = c[row][column];
        }
    }
    run("probe_multiply_halves", &operands, &mut results)?;
    for (lane, found) in results.iter().enumerate() {
        for (i, found) in found.iter().enumerate() {
            let (row, column) = result(lane, i);
            let wanted = c[row][column] + (0..16).map(|k| a[row][k] * b[k][column]).sum::<f32>();
            assert_eq!(*found, wanted, "row {row}, column {column}");
        }
    }
    Ok(())
}

/// Bytes of a matrix, and what they mean where they are signed or not.
fn number(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

#[test]
fn bytes_are_multiplied_as_the_tables_of_fragments_say() -> Outcome {
    let mut lots = Lots::new(62);
    for (kernel, depth, left, right) in [
        ("probe_multiply_ss", 32, true, true),
        ("probe_multiply_su", 32, true, false),
        ("probe_multiply_us", 32, false, true),
        ("probe_multiply_uu", 32, false, false),
        ("probe_multiply_us16", 16, false, true),
    ] {
        let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<u8>> {
            (0..rows).map(|_| (0..columns).map(|_| lots.bits() as u8).collect()).collect()
        };
        let (a, b) = (matrix(16, depth), matrix(depth, 8));
        let (mut operands, mut results) = ([[0u32; 6]; 32], [[5i32; 4]; 32]);
        for (lane, operands) in operands.iter_mut().enumerate() {
            for i in 0..depth / 2 {
                let (row, k) = bytes_left(lane, i);
                operands[i / 4] |= u32::from(a[row][k]) << (8 * (i % 4));
            }
            for i in 0..depth / 4 {
                let (k, column) = bytes_right(lane, i);
                operands[4 + i / 4] |= u32::from(b[k][column]) << (8 * (i % 4));
            }
        }
        run(kernel, &operands, &mut results)?;
        for (lane, found) in results.iter().enumerate() {
            for (i, found) in found.iter().enumerate() {
                let (row, column) = result(lane, i);
                let term = |k: usize| number(a[row][k], left) * number(b[k][column], right);
                assert_eq!(*found, 5 + (0..depth).map(term).sum::<i32>(), "{kernel}: row {row}, column {column}");
            }
        }
    }
    Ok(())
}

#[test]
fn eight_by_eight_halves_are_transposed() -> Outcome {
    let (mut operands, mut results) = ([[0u32; 6]; 32], [[0u32; 4]; 32]);
    // Number 10 row + column, at row lane / 4 and column 2 (lane % 4) + i.
    let at = |row: usize, column: usize| (10 * row + column) as u32;
    for (lane, operands) in operands.iter_mut().enumerate() {
        operands[0] = at(lane / 4, lane % 4 * 2) | at(lane / 4, lane % 4 * 2 + 1) << 16;
    }
    run("probe_transpose", &operands, &mut results)?;
    for (lane, found) in results.iter().enumerate() {
        let wanted = at(lane % 4 * 2, lane / 4) | at(lane % 4 * 2 + 1, lane / 4) << 16;
        assert_eq!(found[0], wanted, "lane {lane}");
    }
    Ok(())
}

#[test]
fn bytes_are_permuted_summed_up_and_shuffled() -> Outcome {
    let mut operands = [[0u32; 6]; 32];
    for (lane, operands) in operands.iter_mut().enumerate() {
        *operands = [0x8070_6050 + lane as u32, 0xf0e0_d0c0, 0x7430, 0, 0, 0];
    }
    let mut results = [[0u32; 4]; 32];
    run("probe_permute", &operands, &mut results)?;
    assert_eq!(results[0][0], 0xf0c0_8050);
    let mut sums = [[0i32; 4]; 32];
    run("probe_dots", &operands, &mut sums)?;
    let term = |signed: bool| {
        let (x, y) = (operands[3][0].to_le_bytes(), operands[3][1].to_le_bytes());
        x.iter().zip(y).map(|(&x, y)| number(x, signed) * i32::from(y as i8)).sum::<i32>() + 0x7430
    };
    assert_eq!(sums[3][..2], [term(false), term(true)]);
    run("probe_shuffle", &operands, &mut results)?;
    for (lane, found) in results.iter().enumerate() {
        assert_eq!(found[..2], [operands[lane / 2][0], operands[lane ^ 5][0]]);
    }
    Ok(())
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Words {
    words: u64,
    mistake: u32,
    unused: u32,
}

/// What a probe of 128 threads leaves in memory.
fn probe(kernel: &'static str, schedule: Schedule, shape: Shape, mistake: u32) -> Result<Vec<u32>, DeviceError> {
    let device: Arc<dyn Device> = Arc::new(Emulator::new(schedule));
    let words = Buffer::new(&device, 128 * 4)?;
    let arguments = Words { words: words.at(), mistake, unused: 0 };
    device.launch(kernel, shape, bytemuck::bytes_of(&arguments))?;
    words.values(128)
}

const BLOCK: Shape = Shape { grid: [1, 1, 1], block: [128, 1, 1], shared: 512 };

#[test]
fn a_barrier_that_is_missing_shows_in_every_schedule() -> Outcome {
    let right: Vec<u32> = (0..128).map(|i| (i + 1) % 128 + 1).collect();
    for schedule in Schedule::ALL {
        assert_eq!(probe("probe_neighbours", schedule, BLOCK, 0)?, right);
        assert_ne!(probe("probe_neighbours", schedule, BLOCK, 1)?, right);
    }
    Ok(())
}

#[test]
fn threads_that_wait_forever_are_an_error() {
    for schedule in Schedule::ALL {
        for mistake in [1, 2] {
            let stuck = probe("probe_missing_thread", schedule, BLOCK, mistake);
            assert!(matches!(stuck, Err(DeviceError::Failed { .. })), "{stuck:?}");
        }
        assert!(probe("probe_missing_thread", schedule, BLOCK, 0).is_ok());
    }
}

#[test]
fn memory_that_nobody_wrote_holds_no_numbers() -> Outcome {
    let shared = probe("probe_shared", Schedule::InOrder, Shape { grid: [2, 1, 1], ..BLOCK }, 0)?;
    assert!(shared.iter().all(|&word| f32::from_bits(word).is_nan()));
    let global = Buffer::new(&device(Schedule::InOrder), 64)?.values::<f32>(16)?;
    assert!(global.iter().all(|x| x.is_nan()));
    Ok(())
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Copied {
    from: u64,
    to: u64,
    mistake: u32,
    unused: u32,
}

#[test]
fn copies_are_there_when_their_group_was_waited_for_and_no_sooner() -> Outcome {
    for schedule in Schedule::ALL {
        let device = device(schedule);
        let from: Vec<u32> = (0..64 * 12).collect();
        let (from_at, to) = (Buffer::with(&device, &from)?, Buffer::new(&device, 64 * 16)?);
        // Of the last groups, so many are not waited for; the third was never ended.
        for left in 0..3 {
            let arguments = Copied { from: from_at.at(), to: to.at(), mistake: left, unused: 0 };
            let shape = Shape { shared: 64 * 48, ..Shape::line(1, 64) };
            device.launch("probe_copies", shape, bytemuck::bytes_of(&arguments))?;
            let found: Vec<u32> = to.values(64 * 4)?;
            for (thread, found) in found.chunks(4).enumerate() {
                let number = |thread: usize, word: usize| from[thread * 12 + word];
                let there = |is: bool, number: u32| if is { number } else { u32::MAX };
                let first = left < 2;
                let wanted = [
                    there(first, number(thread, 0)),
                    there(left < 1, number(thread, 5)),
                    u32::MAX,
                    there(first, number((thread + 1) % 64, 3)),
                ];
                assert_eq!(found, wanted, "all groups but {left}");
            }
        }
    }
    Ok(())
}

#[test]
fn blocks_run_in_the_order_that_the_schedule_says() -> Outcome {
    let order = |schedule| -> Result<Vec<u32>, DeviceError> {
        let device = device(schedule);
        let words = Buffer::with(&device, &[0u32; 9])?;
        let arguments = Words { words: words.at(), mistake: 0, unused: 0 };
        device.launch("probe_blocks", Shape::line(8, 1), bytemuck::bytes_of(&arguments))?;
        Ok(words.values(9)?[1..].to_vec())
    };
    assert_eq!(order(Schedule::InOrder)?, (0..8).collect::<Vec<_>>());
    assert_eq!(order(Schedule::Reversed)?, (0..8).rev().collect::<Vec<_>>());
    let mut shuffled = order(Schedule::Shuffled(3))?;
    assert!(!shuffled.is_sorted());
    shuffled.sort();
    assert_eq!(shuffled, (0..8).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn launches_that_no_gpu_takes_are_errors() {
    let launch = |kernel, shape: Shape| probe(kernel, Schedule::InOrder, shape, 0);
    assert_eq!(launch("no such kernel", BLOCK), Err(DeviceError::Kernel("no such kernel")));
    for shape in [
        Shape { grid: [0, 1, 1], ..BLOCK },
        Shape { block: [1025, 1, 1], ..BLOCK },
        Shape { block: [16, 2, 1], ..BLOCK },
        Shape { shared: 49 << 10, ..BLOCK },
    ] {
        assert!(matches!(launch("probe_shared", shape), Err(DeviceError::Failed { .. })), "{shape:?}");
    }
    let device = device(Schedule::InOrder);
    let refused = device.launch("probe_shared", BLOCK, &[0; 8]);
    assert!(matches!(refused, Err(DeviceError::Failed { .. })), "{refused:?}");
}

#[test]
fn memory_outside_of_allocations_is_refused() -> Outcome {
    let device = Emulator::with_memory(Schedule::InOrder, 1000);
    let at = device.allocate(600)?;
    assert!(at.is_multiple_of(256));
    assert_eq!(device.allocate(500), Err(DeviceError::Memory { bytes: 500 }));
    assert!(device.write(at + 599, &[0; 2]).is_err() && device.write(at + 599, &[0; 1]).is_ok());
    assert!(device.read(at - 1, &mut [0]).is_err() && device.zero(at + 600, 1).is_err());
    assert!(device.copy(at, at + 300, 301).is_err() && device.copy(at, at + 300, 300).is_ok());
    device.free(at, 600);
    assert_eq!(device.held(), 0);
    assert!(device.read(at, &mut [0]).is_err());
    Ok(())
}

/// Run with the feature `sanitize` this ends the process, as `scripts/kernels/sanitize.sh` wants.
#[test]
#[ignore = "ends the process where the sanitizer is on"]
fn a_write_behind_its_memory_is_found_by_the_sanitizer() {
    let written = probe("probe_bounds", Schedule::InOrder, BLOCK, 128);
    assert!(written.is_ok());
}
