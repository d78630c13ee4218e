//! Decoding of GGML blocks against the gguf package's (`scripts/ggml_blocks.py`).

use chelsea_linear::{GgmlType, Linear, LinearError, Products, dequantize, mxfp4_blocks};

/// `(type, blocks, weights)` of every record.
fn golden() -> Vec<(GgmlType, &'static [u8], Vec<f32>)> {
    let mut rest: &[u8] = include_bytes!("golden/ggml-blocks.bin");
    let mut records = Vec::new();
    while !rest.is_empty() {
        let word = |i: usize| u32::from_le_bytes(rest[i * 4..][..4].try_into().expect("four bytes"));
        let (weights, bytes) = (word(1) as usize, word(2) as usize);
        let ty = GgmlType::from_id(word(0)).expect("a supported type");
        let (blocks, tail) = rest[12..].split_at(bytes);
        let (numbers, tail) = tail.split_at(weights * 4);
        records.push((ty, blocks, numbers.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()));
        rest = tail;
    }
    records
}

#[test]
fn every_type_is_decoded_as_gguf_decodes_it() {
    let records = golden();
    assert_eq!(records.len(), GgmlType::ALL.len());
    for (ty, blocks, expected) in records {
        let mut found = vec![0.0; expected.len()];
        dequantize(ty, blocks, &mut found).expect("whole blocks");
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            assert!((f - e).abs() <= 1e-6 * e.abs().max(0.1), "{ty} weight {i}: {f} against {e}");
        }
    }
}

#[test]
fn packed_rows_hold_the_same_weights_as_the_file() {
    for (ty, blocks, expected) in golden() {
        if ty.block_len() == 1 {
            continue;
        }
        // One block of columns: as many rows as fit, more than a tile for the small blocks if repeated.
        let (cols, rows) = (ty.block_len().max(64), expected.len() / ty.block_len().max(64));
        let (data, expected) = (blocks.repeat(3), expected.repeat(3));
        for products in [Products::Fast, Products::F32] {
            let linear = Linear::new(ty, &data, rows * 3, cols, products, None).expect("a valid matrix");
            let mut row = vec![0.0; cols];
            for (i, expected) in expected.chunks_exact(cols).enumerate() {
                linear.row(i, &mut row);
                for (f, e) in row.iter().zip(expected) {
                    assert!((f - e).abs() <= 1e-6 * e.abs().max(0.1), "{ty} {products:?} row {i}: {f} against {e}");
                }
            }
        }
    }
}

#[test]
fn float_weights_are_rounded_to_eight_bits_in_packed_tiles() {
    let weights: Vec<f32> = (0..40 * 50).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let linear =
        Linear::new(GgmlType::F32, bytemuck::cast_slice(&weights), 40, 50, Products::Fast, None).expect("valid");
    let mut row = vec![0.0; 50];
    for (i, expected) in weights.chunks_exact(50).enumerate() {
        linear.row(i, &mut row);
        for (f, e) in row.iter().zip(expected) {
            assert!((f - e).abs() <= 0.5 / 127.0 * 0.51, "row {i}: {f} against {e}");
        }
    }
}

#[test]
fn a_damaged_float_weight_shows_in_its_row_alone() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut weights = vec![0.5f32; 3 * 64];
        weights[64 + 5] = bad;
        let linear =
            Linear::new(GgmlType::F32, bytemuck::cast_slice(&weights), 3, 64, Products::Fast, None).expect("valid");
        for m in [1, 40] {
            let mut out = vec![0.0; 3 * m];
            linear.forward(&vec![1.0; 64 * m], m, &mut out);
            for out in out.chunks_exact(3) {
                assert!((out[0] - 32.0).abs() < 0.5 && out[1].is_nan() && (out[2] - 32.0).abs() < 0.5, "{out:?}");
            }
        }
    }
}

#[test]
fn a_row_order_picks_source_rows() {
    let weights: Vec<f32> = (0..6 * 32).map(|i| (i / 32) as f32).collect();
    let order = [5, 3, 1, 0, 2, 4];
    for products in [Products::Fast, Products::F32] {
        let linear =
            Linear::new(GgmlType::F32, bytemuck::cast_slice(&weights), 6, 32, products, Some(&order)).expect("valid");
        let mut row = vec![0.0; 32];
        for (i, &source) in order.iter().enumerate() {
            linear.row(i, &mut row);
            assert!((row[7] - source as f32).abs() < 1e-2 * source as f32 + 1e-6);
        }
    }
}

#[test]
fn wrong_shapes_and_lengths_are_errors() {
    let new = |ty, data: &[u8], rows, cols, order: Option<&[u32]>| {
        Linear::new(ty, data, rows, cols, Products::Fast, order).map(|_| ()).expect_err("must be refused")
    };
    let q4 = vec![0; 18 * 4];
    assert_eq!(
        new(GgmlType::Q4_0, &q4[..71], 4, 32, None),
        LinearError::Length { ty: GgmlType::Q4_0, expected: 72, found: 71 }
    );
    assert!(matches!(new(GgmlType::Q4_0, &q4, 4, 33, None), LinearError::PartialBlock { cols: 33, block: 32, .. }));
    assert!(matches!(new(GgmlType::Q4K, &q4, 1, 128, None), LinearError::PartialBlock { .. }));
    assert!(matches!(new(GgmlType::Q4_0, &[], 0, 32, None), LinearError::Empty { .. }));
    assert!(matches!(new(GgmlType::Q4_0, &[], 4, 0, None), LinearError::Empty { .. }));
    assert!(matches!(new(GgmlType::F32, &[], usize::MAX / 2, 32, None), LinearError::TooLarge { .. }));
    assert!(matches!(new(GgmlType::Q4_0, &q4, 4, 32, Some(&[0, 1, 2])), LinearError::RowOrder { rows: 4 }));
    assert!(matches!(new(GgmlType::Q4_0, &q4, 4, 32, Some(&[0, 1, 2, 4])), LinearError::RowOrder { rows: 4 }));
    assert!(dequantize(GgmlType::Q8_0, &[0; 34], &mut [0.0; 31]).is_err());
    assert!(dequantize(GgmlType::Q8_0, &[0; 33], &mut [0.0; 32]).is_err());
}

#[test]
fn unsupported_types_are_named() {
    assert_eq!(
        GgmlType::from_id(16).expect_err("not supported").to_string(),
        "weights of GGML type IQ2_XXS (id 16) are not supported"
    );
    assert!(GgmlType::from_id(4_000_000_000).expect_err("not a type").to_string().contains("unknown"));
    for ty in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ty.id()), Ok(ty));
    }
}

#[test]
fn codes_and_scales_of_mxfp4_become_the_numbers_of_its_standard() {
    // Every code twice: 0, 1, 2 .. 15, 0, 1 .. 15. The second block is four times the first.
    let codes: Vec<u8> = (0..16).cycle().take(32).map(|i: u8| (2 * i % 16) | (2 * i % 16 + 1) << 4).collect();
    let blocks = mxfp4_blocks(&codes, &[127, 129]).expect("two blocks");
    let mut found = [0.0; 64];
    dequantize(GgmlType::MXFP4, &blocks, &mut found).expect("whole blocks");
    // The numbers of E2M1 in the Microscaling Formats (MX) Specification.
    let sizes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (i, found) in found.iter().enumerate() {
        let sign = if i % 16 < 8 { 1.0 } else { -1.0 };
        let scale = if i < 32 { 1.0 } else { 4.0 };
        assert_eq!(*found, sign * scale * sizes[i % 8], "weight {i}");
    }
    assert!(matches!(mxfp4_blocks(&codes, &[127]), Err(LinearError::Length { expected: 16, found: 32, .. })));
    assert_eq!(mxfp4_blocks(&[], &[]), Ok(Vec::new()));
}
