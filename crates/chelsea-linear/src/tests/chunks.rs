//! What a sequence gets does not depend on who is in the batch beside it, bit for bit.

use super::*;
use crate::forward::forward_on;
use crate::kernel::{Form, MIN_ROWS};

/// Every set of instructions, with matrices (the plain twin at least) and without.
fn machines() -> impl Iterator<Item = Machine> {
    let with = matrices().flat_map(|found| Isa::available().map(move |isa| Machine { isa, ..found }));
    Isa::available().map(bytes_on).chain(with)
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool")
}

fn numbers(n: usize, random: &mut Random) -> Vec<f32> {
    (0..n).map(|_| random.normal()).collect()
}

#[test]
fn the_form_of_a_row_follows_from_its_own_chunk() {
    for machine in machines() {
        for rows in [0, 1, 8, MIN_ROWS - 1] {
            assert_eq!(machine.form(rows), Form::Bytes);
        }
        let long = if machine.matrices.is_some() { Form::Bf16 } else { Form::Bytes };
        assert_eq!([MIN_ROWS, 10 * MIN_ROWS].map(|rows| machine.form(rows)), [long; 2]);
    }
}

#[test]
fn a_chunk_gets_the_same_alone_and_beside_others() {
    let mut random = Random(31);
    for ty in GgmlType::ALL {
        let cols = if ty.block_len() == 256 { 256 * (1 + random.below(3)) } else { 32 * (1 + random.below(20)) };
        let rows = 1 + random.below(150);
        let data = random_weights(ty, rows, cols, &mut random);
        let linear = packed(ty, &data, rows, cols);
        // Chunks of every width of a group, and around the length from which matrix instructions serve.
        let lengths = [1, 33, 2, 5, 128, 8, 31, 17];
        let x = numbers(lengths.iter().sum::<usize>() * cols, &mut random);
        for machine in machines() {
            let mut first = 0;
            let alone: Vec<f32> = lengths
                .iter()
                .flat_map(|&length| {
                    first += length;
                    products_on(machine, &linear, &x[(first - length) * cols..first * cols], &[length]).0
                })
                .collect();
            assert!(alone.iter().all(|y| y.is_finite()));
            for others in [1, 2, 7] {
                for start in 0..lengths.len() - others {
                    let chunks = &lengths[start..=start + others];
                    let first: usize = lengths[..start].iter().sum();
                    let end = first + chunks.iter().sum::<usize>();
                    let (together, _) = products_on(machine, &linear, &x[first * cols..end * cols], chunks);
                    assert!(together == alone[first * rows..end * rows], "{ty} {machine:?} {rows}x{cols} {chunks:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_in_groups_of_every_width() {
    let mut random = Random(41);
    for ty in GgmlType::ALL {
        let (rows, cols) = (37, if ty.block_len() == 256 { 768 } else { 32 * 7 });
        let linear = packed(ty, &random_weights(ty, rows, cols, &mut random), rows, cols);
        let x = numbers(8 * cols, &mut random);
        for isa in Isa::available() {
            let (all, _) = products_on(bytes_on(isa), &linear, &x, &[8]);
            for width in [1, 2, 3, 4, 7] {
                for first in 0..8 - width {
                    let x = &x[first * cols..(first + width) * cols];
                    let (some, _) = products_on(bytes_on(isa), &linear, x, &[width]);
                    assert!(some == all[first * rows..][..width * rows], "{ty} {isa:?} width {width}");
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let mut random = Random(37);
    let cols = 512;
    // More rows than one item takes, of both forms.
    let chunks = [1, 530, 3, 128, 1, 150, 20, 31, 30, 29, 28];
    let x = numbers(chunks.iter().sum::<usize>() * cols, &mut random);
    for ty in [GgmlType::Q4K, GgmlType::Q8_0, GgmlType::Q6K] {
        for rows in [20, 333] {
            let linear = packed(ty, &random_weights(ty, rows, cols, &mut random), rows, cols);
            for machine in machines() {
                let run = |threads| pool(threads).install(|| products_on(machine, &linear, &x, &chunks).0);
                let one = run(1);
                assert!(one.iter().all(|y| y.is_finite()));
                assert!([2, 3].into_iter().all(|threads| run(threads) == one), "{ty} {machine:?}");
            }
        }
    }
}

#[test]
fn products_in_f32_do_not_depend_on_neighbours() {
    let mut random = Random(43);
    for ty in GgmlType::ALL {
        let (rows, cols) = (21, 768);
        let data = random_weights(ty, rows, cols, &mut random);
        let linear = Linear::new(ty, &data, rows, cols, Products::F32, None).expect("a valid matrix");
        let x = numbers(40 * cols, &mut random);
        for machine in machines() {
            let (all, _) = products_on(machine, &linear, &x, &[1, 32, 7]);
            for (first, length) in [(0, 1), (1, 32), (33, 7), (39, 1)] {
                let (some, _) = products_on(machine, &linear, &x[first * cols..][..length * cols], &[length]);
                assert!(some == all[first * rows..][..length * rows], "{ty} {machine:?}");
            }
        }
    }
}

#[test]
fn several_matrices_and_chunks_without_rows_in_one_call() {
    let mut random = Random(47);
    let (cols, chunks) = (256, [0, 2, 0, 40, 1, 0]);
    let x = numbers(43 * cols, &mut random);
    for machine in machines() {
        let matrices: Vec<Linear> = [(GgmlType::Q4K, 70), (GgmlType::F16, 5), (GgmlType::Q8_0, 16)]
            .map(|(ty, rows)| packed(ty, &random_weights(ty, rows, cols, &mut random), rows, cols))
            .into();
        let mut together: Vec<Vec<f32>> = matrices.iter().map(|w| vec![f32::NAN; 43 * w.rows()]).collect();
        let mut parts: Vec<_> = matrices.iter().zip(together.iter_mut().map(|y| &mut y[..])).collect();
        forward_on(machine, &mut parts, &x, &chunks, &mut Activations::new());
        for (w, together) in matrices.iter().zip(&together) {
            let (alone, _) = products_on(machine, w, &x, &[2, 40, 1]);
            assert!(&alone == together, "{machine:?}");
        }
    }
}
