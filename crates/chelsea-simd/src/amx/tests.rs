use super::*;

/// Small integers, exact in bf16: the bytes of `n` of them, and the numbers.
fn integers(n: usize, seed: u32) -> (Vec<u8>, Vec<f32>) {
    let mut state = seed;
    let numbers: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as f32 - 128.0
        })
        .collect();
    let bytes = numbers.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
    (bytes, numbers)
}

/// The plain twin: one left operand with one right one.
fn product(left: &[f32], right: &[f32], i: usize, j: usize) -> f32 {
    let blocks = left.chunks_exact(SIDE * DEPTH).zip(right.chunks_exact(SIDE * DEPTH));
    blocks.flat_map(|(l, r)| (0..DEPTH).map(move |k| l[i * DEPTH + k] * r[k / 2 * 2 * SIDE + 2 * j + k % 2])).sum()
}

#[test]
fn products_are_those_of_plain_code() {
    // Nothing to test where there are no such instructions.
    let Some(amx) = Amx::detect() else { return };
    for blocks in [1, 2, 5] {
        let operands: Vec<_> = (0..4).map(|seed| integers(blocks * SIDE * DEPTH, seed)).collect();
        // Two by two squares in a matrix that is wider than they are.
        let width = 3 * SIDE;
        let mut sums = vec![1.0f32; 2 * SIDE * width];
        amx.configure();
        for fresh in [true, false] {
            let at = [0, SIDE, SIDE * width, SIDE * width + SIDE].map(|at| sums[at..].as_mut_ptr());
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| &operands[i].0[..]);
            // SAFETY: the registers are configured; the squares lie inside `sums`.
            #[allow(unsafe_code)]
            unsafe {
                amx.multiply([a, b], [c, d], at, 4 * width, fresh);
            }
        }
        amx.release();
        for (at, &sum) in sums.iter().enumerate() {
            let (i, j) = (at / width, at % width);
            let expected = if j < 2 * SIDE {
                2.0 * product(&operands[i / SIDE].1, &operands[2 + j / SIDE].1, i % SIDE, j % SIDE)
            } else {
                1.0
            };
            assert_eq!(sum, expected, "{blocks} blocks, row {i}, column {j}");
        }
    }
}

#[test]
fn split_products_leave_out_second_halves_with_second_halves() {
    let Some(amx) = Amx::detect() else { return };
    for blocks in [1, 3] {
        let half = blocks * SIDE * DEPTH;
        let operands: Vec<_> = (0..4).map(|seed| integers(2 * half, seed + 9)).collect();
        let mut sums = [1.0f32; 2 * SIDE * 2 * SIDE];
        let at = [0, SIDE, 2 * SIDE * SIDE, 2 * SIDE * SIDE + SIDE].map(|at| sums[at..].as_mut_ptr());
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| &operands[i].0[..]);
        amx.configure();
        // SAFETY: the registers are configured; the squares lie inside `sums`.
        #[allow(unsafe_code)]
        unsafe {
            amx.multiply_split([a, b], [c, d], at, 4 * 2 * SIDE, false);
        }
        amx.release();
        for (at, &sum) in sums.iter().enumerate() {
            let (i, j) = (at / (2 * SIDE), at % (2 * SIDE));
            let ((a, b), (c, d)) = (operands[i / SIDE].1.split_at(half), operands[2 + j / SIDE].1.split_at(half));
            let expected: f32 = [(a, c), (a, d), (b, c)].map(|(l, r)| product(l, r, i % SIDE, j % SIDE)).iter().sum();
            assert_eq!(sum, 1.0 + expected, "{blocks} blocks, row {i}, column {j}");
        }
    }
}

#[test]
fn right_operands_of_one_part_meet_both_parts_of_left_ones() {
    let Some(amx) = Amx::detect() else { return };
    for blocks in [1, 4] {
        let half = blocks * SIDE * DEPTH;
        let left: Vec<_> = (0..2).map(|seed| integers(2 * half, seed + 9)).collect();
        let right: Vec<_> = (0..2).map(|seed| integers(half, seed + 21)).collect();
        for fresh in [true, false] {
            let mut sums = [1.0f32; 2 * SIDE * 2 * SIDE];
            let at = [0, SIDE, 2 * SIDE * SIDE, 2 * SIDE * SIDE + SIDE].map(|at| sums[at..].as_mut_ptr());
            let ([a, b], [c, d]) = ([0, 1].map(|i| &left[i].0[..]), [0, 1].map(|i| &right[i].0[..]));
            amx.configure();
            // SAFETY: the registers are configured; the squares lie inside `sums`.
            #[allow(unsafe_code)]
            unsafe {
                amx.multiply_left_split([a, b], [c, d], at, 4 * 2 * SIDE, fresh);
            }
            amx.release();
            for (at, &sum) in sums.iter().enumerate() {
                let (i, j) = (at / (2 * SIDE), at % (2 * SIDE));
                let ((a, b), c) = (left[i / SIDE].1.split_at(half), &right[j / SIDE].1);
                let expected: f32 = [a, b].map(|l| product(l, c, i % SIDE, j % SIDE)).iter().sum();
                let before = if fresh { 0.0 } else { 1.0 };
                assert_eq!(sum, before + expected, "{blocks} blocks, row {i}, column {j}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "operand.len()")]
fn operands_of_different_lengths_are_refused() {
    let operand = [0; 2 * BLOCK_BYTES];
    blocks(&[&operand, &operand], &[&operand, &operand[..BLOCK_BYTES]]);
}
