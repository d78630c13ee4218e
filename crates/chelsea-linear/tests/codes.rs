//! Weights as whole numbers with scales.

use chelsea_linear::{GgmlType, Linear, LinearError, Products, dequantize, open_codes};

/// A row of `columns` weights of a type, by lot: blocks of any bytes, with scales that are finite.
fn row(ty: GgmlType, columns: usize) -> Vec<u8> {
    let mut bits = 12345u32;
    let mut data: Vec<u8> = (0..columns / ty.block_len() * ty.block_bytes())
        .map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (bits >> 24) as u8
        })
        .collect();
    // No exponent of a half is at its end.
    match ty {
        GgmlType::F32 => data.chunks_exact_mut(4).for_each(|b| b[3] = b[3] & 0x80 | 0x3e),
        GgmlType::BF16 => data.chunks_exact_mut(2).for_each(|b| b[1] = b[1] & 0x80 | 0x3e),
        GgmlType::MXFP4 => data.chunks_exact_mut(17).for_each(|b| b[0] = 120 + b[0] % 8),
        _ => data.iter_mut().for_each(|b| *b &= 0xb7),
    }
    data
}

#[test]
fn codes_and_scales_are_the_weights() {
    for ty in GgmlType::ALL {
        let data = row(ty, 512);
        let shape = ty.code_shape();
        let groups = 512 / shape.group;
        let (mut codes, mut scales, mut mins) = (vec![0; 512], vec![0.0; groups], vec![0.0; groups]);
        open_codes(ty, &data, &mut codes, &mut scales, &mut mins).expect("whole blocks");
        let mut wanted = vec![0.0; 512];
        if ty.block_len() == 1 {
            let linear = Linear::new(ty, &data, 1, 512, Products::Fast, None).expect("a row of weights");
            linear.row(0, &mut wanted);
        } else {
            dequantize(ty, &data, &mut wanted).expect("whole blocks");
        }
        assert!(codes.iter().all(|&code| usize::from(code) < 1 << shape.bits), "{ty}: {shape:?}");
        for (i, wanted) in wanted.iter().enumerate() {
            let (scale, min) = (scales[i / shape.group], mins[i / shape.group]);
            let found = scale * f32::from(codes[i]) - min;
            assert!((found - wanted).abs() <= 1e-6 * (wanted.abs() + min.abs()), "{ty}, weight {i}: {found}, {wanted}");
        }
    }
}

#[test]
fn codes_have_few_bits() {
    let bits = |ty: GgmlType| (ty.code_shape().bits, ty.code_shape().group);
    assert_eq!(bits(GgmlType::Q4K), (4, 32));
    assert_eq!(bits(GgmlType::Q6K), (6, 16));
    assert_eq!(bits(GgmlType::Q2K), (2, 16));
    assert_eq!(bits(GgmlType::MXFP4), (5, 32));
    assert_eq!(bits(GgmlType::IQ4NL), (8, 32));
    assert_eq!(bits(GgmlType::BF16), (8, 32));
}

#[test]
fn data_of_another_length_is_refused() {
    let refused = open_codes(GgmlType::Q8_0, &[0; 33], &mut [0; 32], &mut [0.0], &mut [0.0]);
    assert!(matches!(refused, Err(LinearError::Length { expected: 34, found: 33, .. })), "{refused:?}");
}
