//! Every set of kernels against the plain twin, and the twin against a product in f64.

use super::*;
use crate::byte_block::{GROUP, ROW_BYTES, WIDTHS};
use crate::kernel::quantize_group;
use crate::rows::{Picked, Place};

#[test]
fn products_of_every_kernel_agree_with_f64() {
    let mut random = Random(7);
    for ty in GgmlType::ALL {
        for round in 0..6 {
            let (rows, cols, m) = random_shape(ty, &mut random);
            let data = random_weights(ty, rows, cols, &mut random);
            let linear = packed(ty, &data, rows, cols);
            let x: Vec<f32> = (0..m * cols).map(|_| random.normal()).collect();
            let acts = in_bytes(&x, m, cols);
            let expected = reference(&linear, &acts, m);
            for isa in Isa::available() {
                let (y, _) = products_on(bytes_on(isa), &linear, &x, &[m]);
                for (i, (&y, (e, size))) in y.iter().zip(&expected).enumerate() {
                    // Mins and codes cancel: errors are relative to terms of up to both sizes.
                    let bound = 1e-5 * size + 1e-5;
                    assert!(
                        (f64::from(y) - e).abs() <= bound,
                        "{ty} {isa:?} round {round} {rows}x{cols} m={m} at {i}: {y} against {e} ({size})"
                    );
                }
            }
        }
    }
}

#[test]
fn integer_sums_are_exact_in_every_kernel() {
    let mut random = Random(5);
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
        // Groups of every width, with and without tokens that do not exist.
        for (extreme, m) in [1, 2, 3, 4, 8, 15].into_iter().flat_map(|m| [(false, m), (true, m)]) {
            let (rows, cols) = (37, 256);
            let data = integer_weights(ty, rows, cols, &mut random);
            let linear = packed(ty, &data, rows, cols);
            let sign = |t: usize| if t.is_multiple_of(2) { 127.0 } else { -127.0 };
            let mut x: Vec<f32> = (0..m * cols).map(|_| random.below(255) as f32 - 127.0).collect();
            for (t, x) in x.chunks_exact_mut(cols).enumerate() {
                x.iter_mut().enumerate().filter(|(c, _)| extreme || c % 32 == 0).for_each(|(_, x)| *x = sign(t));
            }
            let acts = in_bytes(&x, m, cols);
            let mut seen = vec![0.0; cols];
            acts.dequantize(m - 1, &mut seen);
            assert_eq!(seen, x[(m - 1) * cols..], "the scale of activations is 1 here");
            let expected = reference(&linear, &acts, m);
            for isa in Isa::available() {
                let (y, _) = products_on(bytes_on(isa), &linear, &x, &[m]);
                for (i, (&y, (e, _))) in y.iter().zip(&expected).enumerate() {
                    assert_eq!(f64::from(y), *e, "{ty} {isa:?} extreme {extreme} m={m} at {i}");
                }
            }
        }
    }
}

#[test]
fn every_width_and_odd_count_of_blocks_agrees_with_plain_code() {
    let mut random = Random(17);
    for ty in GgmlType::ALL {
        for blocks in [1, 2, 3, 5, 7] {
            let cols = if ty.block_len() == 1 { blocks * 32 - blocks } else { blocks * ty.block_len() };
            let rows = 1 + random.below(40);
            let data = random_weights(ty, rows, cols, &mut random);
            let linear = packed(ty, &data, rows, cols);
            for m in 1..=GROUP + 1 {
                let x: Vec<f32> = (0..m * cols).map(|_| random.normal()).collect();
                let acts = in_bytes(&x, m, cols);
                let sizes = reference(&linear, &acts, m);
                let products = |isa| products_on(bytes_on(isa), &linear, &x, &[m]).0;
                let expected = products(Isa::Scalar);
                for isa in Isa::available() {
                    for (i, ((y, e), (_, size))) in products(isa).iter().zip(&expected).zip(&sizes).enumerate() {
                        let bound = 1e-5 * *size as f32 + 1e-5;
                        assert!((y - e).abs() <= bound, "{ty} {isa:?} {rows}x{cols} m={m} at {i}: {y} against {e}");
                    }
                }
            }
        }
    }
}

/// Codes, integer scales and activations whose sums are as large as they get, in either direction.
#[test]
fn the_largest_sums_of_every_type_do_not_overflow() {
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
        for (codes, scales) in [(0xff, 0xff), (0xff, 0x7f), (0xff, 0x80), (0, 0xff), (0, 0x7f), (0, 0x80)] {
            let mut random = Random(2);
            let (rows, cols, m) = (17, 512, 5);
            let mut data = integer_weights(ty, rows, cols, &mut random);
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                // Everything but the half-precision numbers, which are 1 already, and the integer scales.
                let (code_bytes, scale_bytes) = match ty {
                    GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL => (2..block.len(), 0..0),
                    GgmlType::IQ4XS => (8..block.len(), 2..8),
                    GgmlType::MXFP4 => (1..block.len(), 0..0),
                    GgmlType::Q4_1 | GgmlType::Q5_1 => (4..block.len(), 0..0),
                    GgmlType::Q4K | GgmlType::Q5K => (16..block.len(), 4..16),
                    GgmlType::Q2K => (16..80, 0..16),
                    GgmlType::Q3K => (0..96, 96..108),
                    _ => (0..192, 192..208),
                };
                block[code_bytes].fill(codes);
                block[scale_bytes].fill(scales);
            }
            // Signed codes of eight bits: 0x80 and 0x7f are the ends.
            if ty == GgmlType::Q8_0 {
                data.chunks_exact_mut(ty.block_bytes()).for_each(|block| block[2..].fill(scales));
            }
            let linear = packed(ty, &data, rows, cols);
            let x: Vec<f32> = (0..m * cols).map(|i| if i / cols % 2 == 0 { 127.0 } else { -127.0 }).collect();
            let acts = in_bytes(&x, m, cols);
            let expected = reference(&linear, &acts, m);
            for isa in Isa::available() {
                let (y, _) = products_on(bytes_on(isa), &linear, &x, &[m]);
                for (i, (&y, (e, size))) in y.iter().zip(&expected).enumerate() {
                    assert!(
                        (f64::from(y) - e).abs() <= 1e-6 * size,
                        "{ty} {isa:?} {codes:x} {scales:x} at {i}: {y}, {e}"
                    );
                }
            }
        }
    }
}

#[test]
fn products_in_f32_agree_with_f64() {
    let mut random = Random(13);
    for ty in GgmlType::ALL {
        let (rows, cols, m) = random_shape(ty, &mut random);
        for (m, products) in [(1, Products::F32), (m, Products::F32), (1, Products::Source), (m, Products::Source)] {
            let data = random_weights(ty, rows, cols, &mut random);
            let linear = Linear::new(ty, &data, rows, cols, products, None).expect("a valid matrix");
            let kept = ty.block_len() == 1 || products == Products::Source;
            assert_eq!(linear.source(), kept.then_some(&data[..]), "float weights are kept as they are");
            let x: Vec<f32> = (0..m * cols).map(|_| random.normal()).collect();
            let mut w = vec![0.0; cols];
            for isa in Isa::available() {
                let (y, _) = products_on(bytes_on(isa), &linear, &x, &[m]);
                for (row, data) in data.chunks_exact(data.len() / rows).enumerate() {
                    crate::dequantize(ty, data, &mut w).expect("whole blocks");
                    for (t, x) in x.chunks_exact(cols).enumerate() {
                        let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                        let (e, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        let y = f64::from(y[t * rows + row]);
                        assert!((y - e).abs() <= 2e-6 * size + 1e-30, "{ty} {isa:?} {rows}x{cols} m={m}: {y}, {e}");
                    }
                }
            }
        }
    }
}

#[test]
fn activations_are_quantised_alike_by_every_kernel() {
    let mut random = Random(11);
    for width in WIDTHS {
        for cols in [1, 31, 32, 33, 64, 575, 576] {
            let tokens = 1 + random.below(width);
            let mut x: Vec<f32> = (0..tokens * cols).map(|_| random.normal() * 3.0).collect();
            x[random.below(tokens * cols)] = 0.0;
            if cols > 32 {
                x[..32].fill(0.0);
            }
            if cols > 64 {
                x[70] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-36, f32::MAX][random.below(6)];
            }
            let bytes = cols.div_ceil(32) * width * ROW_BYTES;
            // The last row first.
            let places: Vec<Place> = (0..tokens).rev().map(|from| Place { from, to: 0 }).collect();
            let picked = Picked { x: &x, cols, places: &places };
            let mut expected = vec![7; bytes];
            quantize_group(Isa::Scalar, picked, width, &mut expected);
            for isa in Isa::available() {
                let mut found = vec![9; bytes];
                quantize_group(isa, picked, width, &mut found);
                assert!(found == expected, "{isa:?} width {width} cols {cols} tokens {tokens}");
            }
        }
    }
}

#[test]
fn a_number_that_is_not_finite_spoils_its_token_only() {
    let mut random = Random(3);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for ty in [GgmlType::Q4_0, GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q8_0] {
            let data = random_weights(ty, 16, 256, &mut random);
            let linear = Linear::new(ty, &data, 16, 256, Products::Fast, None).expect("a valid matrix");
            let mut x: Vec<f32> = (0..3 * 256).map(|_| random.normal()).collect();
            x[256 + 70] = bad;
            for isa in Isa::available() {
                let (y, _) = products_on(bytes_on(isa), &linear, &x, &[3]);
                assert!(y[..16].iter().all(|y| y.is_finite()), "{ty} {isa:?}");
                assert!(y[16..32].iter().all(|y| !y.is_finite()), "{ty} {isa:?}");
                assert!(y[32..].iter().all(|y| y.is_finite()), "{ty} {isa:?}");
            }
        }
    }
}
