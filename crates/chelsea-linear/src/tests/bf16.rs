//! Products in bf16: of the plain twin on every machine, and of the instructions where they are.

use super::*;
use crate::blocks::with_quant;
use crate::kernel::MIN_ROWS;
use crate::kernel::bf16::{BLOCK_BYTES, SIDE};
use crate::linear::Weights;
use crate::tile::{BLOCK, TILE};
use half::bf16;

#[test]
fn tokens_are_rounded_to_the_nearest_bf16() {
    for machine in matrices() {
        let mut random = Random(3);
        for cols in [1, 31, 32, 33, 100, 576] {
            let m = MIN_ROWS + random.below(40);
            let mut x: Vec<f32> = (0..m * cols).map(|_| random.normal()).collect();
            x[random.below(m * cols)] = f32::INFINITY;
            let mut acts = Activations::new();
            acts.arrange(machine, &[m], cols);
            acts.fill(machine, &x);
            let mut found = vec![0.0; cols];
            for (t, x) in x.chunks_exact(cols).enumerate() {
                acts.dequantize(t, &mut found);
                assert!(
                    x.iter().zip(&found).all(|(&x, &found)| bf16::from_f32(x).to_f32() == found),
                    "token {t}, {cols}"
                );
            }
            // Tokens and columns that do not exist are zeros, whatever was there before.
            let (_, padded) = acts.run((m - 1) / SIDE);
            for (b, block) in padded.chunks_exact(BLOCK_BYTES).enumerate() {
                for (t, row) in block.chunks_exact(2 * BLOCK).enumerate() {
                    let real = if (m - 1) / SIDE * SIDE + t < m { BLOCK.min(cols - b * BLOCK) } else { 0 };
                    assert!(row[2 * real..].iter().all(|&b| b == 0), "token {t}, block {b}, {cols} columns");
                }
            }
        }
    }
}

#[test]
fn weights_of_every_type_are_opened_to_the_nearest_bf16() {
    for machine in matrices() {
        let mut random = Random(23);
        for ty in GgmlType::ALL {
            let (rows, cols) = (TILE, 512);
            let linear = packed(ty, &random_weights(ty, rows, cols, &mut random), rows, cols);
            let Weights::Packed { ty: kind, tiles, .. } = linear.weights() else { panic!("{ty} is not packed") };
            let (blocks, first) = (cols / BLOCK, 3);
            let mut opened = vec![7; (blocks - first) * BLOCK_BYTES];
            with_quant!(*kind, Q => machine.matrices.expect("matrices").open::<Q>(tiles.bytes(), blocks, first, &mut opened), _ => unreachable!("float tiles"));
            let mut row = vec![0.0; cols];
            for r in 0..rows {
                linear.row(r, &mut row);
                for (c, &w) in row.iter().enumerate().skip(first * BLOCK) {
                    let at = c / BLOCK - first;
                    let at = at * BLOCK_BYTES + c % BLOCK / 2 * 4 * TILE + r * 4 + c % 2 * 2;
                    let found = bf16::from_le_bytes([opened[at], opened[at + 1]]).to_f32();
                    // Half a step of the last of eight bits, and the rounding of what is rounded.
                    let size = w.abs().max(row.iter().fold(0.0, |a: f32, b| a.max(b.abs())) * 1e-4);
                    assert!((found - w).abs() <= size * 1.001 / 256.0, "{ty} row {r} column {c}: {found}, {w}");
                }
            }
        }
    }
}

#[test]
fn sums_of_integers_are_exact() {
    for machine in matrices() {
        let mut random = Random(5);
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
            // One operand and several, whole and not; more columns than are opened at once.
            for (rows, cols, m) in [(1, 256, 32), (16, 256, 47), (37, 768, 33), (160, 1280, 48), (290, 256, 530)] {
                let linear = packed(ty, &integer_weights(ty, rows, cols, &mut random), rows, cols);
                let x: Vec<f32> = (0..m * cols).map(|_| random.below(65) as f32 - 32.0).collect();
                let (y, acts) = products_on(machine, &linear, &x, &[m]);
                let expected = reference(&linear, &acts, m);
                for (i, (&y, (e, _))) in y.iter().zip(&expected).enumerate() {
                    assert_eq!(f64::from(y), *e, "{ty} {rows}x{cols} m={m} at {i}");
                }
            }
        }
    }
}

#[test]
fn products_agree_with_f64_but_for_the_rounding_of_weights() {
    for machine in matrices() {
        let mut random = Random(7);
        for ty in GgmlType::ALL {
            let cols = if ty.block_len() == 256 { 768 } else { 32 * (1 + random.below(40)) };
            let (rows, m) = (1 + random.below(300), MIN_ROWS + random.below(150));
            let linear = packed(ty, &random_weights(ty, rows, cols, &mut random), rows, cols);
            let x: Vec<f32> = (0..m * cols).map(|_| random.normal()).collect();
            let (y, acts) = products_on(machine, &linear, &x, &[m]);
            for (i, (&y, (e, size))) in y.iter().zip(&reference(&linear, &acts, m)).enumerate() {
                let bound = size / 256.0;
                assert!((f64::from(y) - e).abs() <= bound, "{ty} {rows}x{cols} m={m} at {i}: {y} against {e} ({size})");
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_a_number_spoils_its_row() {
    for machine in matrices() {
        for bits in [0x7e00u16, 0x7fff, 0xffff] {
            // One block of Q8_0 a row; the third row's scale is not a number.
            let mut data = vec![1u8; 16 * 34];
            data.chunks_exact_mut(34).for_each(|block| block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes()));
            data[2 * 34..][..2].copy_from_slice(&bits.to_le_bytes());
            let linear = packed(GgmlType::Q8_0, &data, 16, 32);
            let (y, _) = products_on(machine, &linear, &[1.0; 32 * 32], &[32]);
            for (i, y) in y.iter().enumerate() {
                assert_eq!(y.is_nan(), i % 16 == 2, "{bits:x}, {i}: {y}");
            }
        }
    }
}

#[test]
fn a_number_that_is_not_finite_spoils_its_token_only() {
    for machine in matrices() {
        let mut random = Random(3);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let linear = packed(GgmlType::Q4K, &random_weights(GgmlType::Q4K, 16, 256, &mut random), 16, 256);
            let mut x: Vec<f32> = (0..40 * 256).map(|_| random.normal()).collect();
            x[256 + 70] = bad;
            let (y, _) = products_on(machine, &linear, &x, &[40]);
            assert!(y[16..32].iter().all(|y| !y.is_finite()));
            assert!(y[..16].iter().chain(&y[32..]).all(|y| y.is_finite()));
        }
    }
}
