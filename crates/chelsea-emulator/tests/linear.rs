//! Products with quantised weights.

mod common;

use chelsea_cuda::kernels::linear::{
    Fetch, Format, Matrix, NormRound, Product, Quantize, fetch, gate_round, norm_round, product, products, quantize,
};
use chelsea_cuda::kernels::rows::{Activation, Add, Norm, add, gate, rms_norm};
use chelsea_cuda::twins::linear as twin;
use chelsea_cuda::{Buffer, Device, DeviceError};
use chelsea_emulator::Schedule;
use common::{Lots, Outcome, device, difference};
use std::sync::Arc;

/// A matrix of weights by lot.
fn packed(matrix: Matrix, lots: &mut Lots) -> Vec<u8> {
    let mut bytes = vec![0xff; matrix.bytes()];
    let groups = matrix.columns.div_ceil(matrix.format.group());
    for row in 0..matrix.rows {
        let codes: Vec<u8> = (0..matrix.columns).map(|_| lots.below(1 << matrix.format.bits()) as u8).collect();
        let scales: Vec<f32> = (0..groups).map(|_| lots.number() * 1e-3).collect();
        let mins: Vec<f32> = (0..groups).map(|_| lots.number() * 1e-2).collect();
        twin::pack(matrix, &mut bytes, row, twin::Row { codes: &codes, scales: &scales, mins: &mins });
    }
    bytes
}

/// Rows in bytes on the device: bytes and scales.
fn rounded(device: &Arc<dyn Device>, x: &[f32], tokens: usize) -> Result<(Buffer, Buffer), DeviceError> {
    let columns = x.len() / tokens;
    let blocks = columns.div_ceil(32);
    let rows = Buffer::with(device, x)?;
    let (bytes, scales) = (Buffer::new(device, tokens * blocks * 32)?, Buffer::new(device, tokens * blocks * 16)?);
    let arguments = Quantize {
        x: rows.at(),
        bytes: bytes.at(),
        scales: scales.at(),
        columns: columns as u32,
        blocks: blocks as u32,
        tokens: tokens as u32,
        unused: 0,
    };
    quantize(&**device, &arguments)?;
    Ok((bytes, scales))
}

/// What a product of rows by lot is off by.
fn off(device: &Arc<dyn Device>, matrix: Matrix, tokens: usize, lots: &mut Lots) -> Result<f64, DeviceError> {
    let weights = packed(matrix, lots);
    let x = lots.row(tokens * matrix.columns, 1.0);
    let (bytes, scales) = rounded(device, &x, tokens)?;
    let (weights_at, out) = (Buffer::with(device, &weights)?, Buffer::new(device, tokens * matrix.rows * 4)?);
    // Of every second shape, there is a bias.
    let bias = if matrix.rows.is_multiple_of(2) { lots.row(matrix.rows, 1.0) } else { vec![0.0; matrix.rows] };
    let bias_at = Buffer::with(device, &bias)?;
    let arguments = Product {
        weights: weights_at.at(),
        bytes: bytes.at(),
        scales: scales.at(),
        out: out.at(),
        bias: if matrix.rows.is_multiple_of(2) { bias_at.at() } else { 0 },
        rows: matrix.rows as u32,
        blocks: matrix.blocks() as u32,
        tokens: tokens as u32,
        unused: 0,
    };
    product(&**device, matrix.format, &arguments)?;
    let found = out.values(tokens * matrix.rows)?;
    let rows: Vec<twin::Bytes> = x.chunks(matrix.columns).map(twin::quantize).collect();
    let wanted: Vec<f64> =
        rows.iter().flat_map(|x| (0..matrix.rows).map(|row| twin::product(matrix, &weights, row, x))).collect();
    let wanted: Vec<f64> = wanted.iter().zip(bias.iter().cycle()).map(|(x, bias)| x + f64::from(*bias)).collect();
    Ok(difference(&found, &wanted))
}

#[test]
fn rows_become_bytes_as_the_twin_makes_them_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(11);
    for (schedule, columns) in Schedule::ALL.into_iter().zip([64, 33, 200]) {
        let device = device(schedule);
        let mut x = lots.row(5 * columns, 3.0);
        x[columns..columns + 32].fill(0.0);
        (x[2], x[40]) = (1e-38, 1e30);
        let (bytes, scales) = rounded(&device, &x, 5)?;
        let blocks = columns.div_ceil(32);
        let (bytes, scales): (Vec<i8>, Vec<f32>) = (bytes.values(5 * blocks * 32)?, scales.values(5 * blocks * 4)?);
        let wanted: Vec<twin::Bytes> = x.chunks(columns).map(twin::quantize).collect();
        assert!(bytes == wanted.iter().flat_map(|row| row.bytes.clone()).collect::<Vec<_>>());
        assert!(scales == wanted.iter().flat_map(|row| row.scales.clone()).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn infinite_numbers_and_what_is_none_become_a_scale_that_is_none() -> Outcome {
    let device = device(Schedule::InOrder);
    for odd in [f32::NAN, f32::INFINITY] {
        let mut x = [1.0f32; 32];
        x[7] = odd;
        let (bytes, scales) = rounded(&device, &x, 1)?;
        assert_eq!(bytes.values::<i8>(32)?, [0; 32]);
        assert!(!scales.values::<f32>(1)?[0].is_finite());
    }
    Ok(())
}

#[test]
fn one_token_and_a_few_are_multiplied() -> Outcome {
    let mut lots = Lots::new(12);
    for (i, format) in Format::ALL.into_iter().enumerate() {
        for (tokens, rows, columns) in [(1, 17, 64), (2, 8, 1100), (3, 9, 96), (4, 3, 224), (5, 18, 64), (8, 7, 320)] {
            let off = off(&device(Schedule::ALL[i % 3]), Matrix { format, rows, columns }, tokens, &mut lots)?;
            assert!(off < 1e-5, "{format:?}, {tokens} tokens, {rows} by {columns}: off by {off}");
        }
    }
    Ok(())
}

#[test]
fn many_tokens_are_multiplied_by_matrix_instructions() -> Outcome {
    let mut lots = Lots::new(13);
    for (i, format) in Format::ALL.into_iter().enumerate() {
        for (tokens, rows, columns) in [(9, 33, 64), (16, 16, 160), (17, 20, 96), (70, 9, 64)] {
            let off = off(&device(Schedule::ALL[i % 3]), Matrix { format, rows, columns }, tokens, &mut lots)?;
            assert!(off < 1e-5, "{format:?}, {tokens} tokens, {rows} by {columns}: off by {off}");
        }
    }
    Ok(())
}

#[test]
fn matrices_that_are_multiplied_together_give_what_each_gives_alone_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(16);
    for (schedule, tokens) in Schedule::ALL.into_iter().zip([1usize, 6, 10]) {
        let device = device(schedule);
        let columns = 224;
        let (bytes, scales) = rounded(&device, &lots.row(tokens * columns, 1.0), tokens)?;
        let mut held = Vec::new();
        let mut all = Vec::new();
        for (format, rows) in [(Format::Bits4By32, 40), (Format::Bits6By16, 9), (Format::Bits8By32, 17)] {
            let matrix = Matrix { format, rows, columns };
            let weights = Buffer::with(&device, &packed(matrix, &mut lots))?;
            let bias = Buffer::with(&device, &lots.row(rows, 1.0))?;
            let outs = [Buffer::new(&device, tokens * rows * 4)?, Buffer::new(&device, tokens * rows * 4)?];
            let own = Product {
                weights: weights.at(),
                bytes: bytes.at(),
                scales: scales.at(),
                out: outs[0].at(),
                bias: bias.at(),
                rows: rows as u32,
                blocks: matrix.blocks() as u32,
                tokens: tokens as u32,
                unused: 0,
            };
            product(&*device, format, &own)?;
            all.push((format, Product { out: outs[1].at(), ..own }));
            held.push((weights, bias, outs, rows));
        }
        products(&*device, &all)?;
        for (_, _, [alone, together], rows) in &held {
            assert_eq!(alone.values::<u32>(tokens * rows)?, together.values::<u32>(tokens * rows)?);
        }
        let four = [all[0], all[1], all[2], all[0]];
        assert_eq!(products(&*device, &four).is_err(), tokens <= 8, "few rows have three matrices at most");
    }
    Ok(())
}

#[test]
fn a_row_is_multiplied_to_the_same_bits_beside_up_to_seven_others() -> Outcome {
    let mut lots = Lots::new(17);
    let matrix = Matrix { format: Format::Bits4By16, rows: 11, columns: 160 };
    let device = device(Schedule::Reversed);
    let weights = Buffer::with(&device, &packed(matrix, &mut lots))?;
    let x = lots.row(8 * matrix.columns, 1.0);
    let mut of_first = Vec::new();
    for tokens in 1..=8 {
        let (bytes, scales) = rounded(&device, &x[..tokens * matrix.columns], tokens)?;
        let out = Buffer::new(&device, tokens * matrix.rows * 4)?;
        let arguments = Product {
            weights: weights.at(),
            bytes: bytes.at(),
            scales: scales.at(),
            out: out.at(),
            bias: 0,
            rows: matrix.rows as u32,
            blocks: matrix.blocks() as u32,
            tokens: tokens as u32,
            unused: 0,
        };
        product(&*device, matrix.format, &arguments)?;
        of_first.push(out.values::<u32>(matrix.rows)?);
    }
    assert!(of_first.iter().all(|bits| *bits == of_first[0]));
    Ok(())
}

/// What one buffer of bytes and one of scales hold.
type Rounded = (Vec<i8>, Vec<u32>);

#[test]
fn norms_and_gates_are_rounded_to_the_bits_that_single_kernels_give() -> Outcome {
    let mut lots = Lots::new(18);
    for (schedule, width) in Schedule::ALL.into_iter().zip([64usize, 300, 1100]) {
        let device = device(schedule);
        let (rows, blocks) = (3usize, width.div_ceil(32));
        let (x, y, weight) = (lots.row(rows * width, 2.0), lots.row(rows * width, 1.0), lots.row(width, 1.0));
        let (y_at, weight_at) = (Buffer::with(&device, &y)?, Buffer::with(&device, &weight)?);
        for with_y in [false, true] {
            let (x_at, normed) = (Buffer::with(&device, &x)?, Buffer::new(&device, rows * width * 4)?);
            let count = (rows * width) as u32;
            if with_y {
                add(&*device, &Add { x: x_at.at(), y: y_at.at(), count, period: count })?;
            }
            let norm = Norm {
                x: x_at.at(),
                weight: weight_at.at(),
                out: normed.at(),
                width: width as u32,
                rows: rows as u32,
                x_stride: width as u32,
                out_stride: width as u32,
                eps: 1e-5,
                unused: 0,
            };
            rms_norm(&*device, &norm)?;
            let (bytes, scales) = rounded(&device, &normed.values::<f32>(rows * width)?, rows)?;
            let apart: Rounded = (bytes.values(rows * blocks * 32)?, scales.values(rows * blocks * 4)?);
            let summed: Vec<u32> = x_at.values(rows * width)?;

            let fused_x = Buffer::with(&device, &x)?;
            let (bytes, scales) =
                (Buffer::new(&device, rows * blocks * 32)?, Buffer::new(&device, rows * blocks * 16)?);
            let arguments = NormRound {
                x: fused_x.at(),
                y: if with_y { y_at.at() } else { 0 },
                weight: weight_at.at(),
                bytes: bytes.at(),
                scales: scales.at(),
                width: width as u32,
                blocks: blocks as u32,
                eps: 1e-5,
                unused: 0,
            };
            norm_round(&*device, rows, &arguments)?;
            let fused: Rounded = (bytes.values(rows * blocks * 32)?, scales.values(rows * blocks * 4)?);
            assert!(fused == apart && fused_x.values::<u32>(rows * width)? == summed, "{width}, {with_y}");
        }
        let (x_at, up) = (Buffer::with(&device, &x)?, Buffer::with(&device, &y)?);
        let (bytes, scales) = (Buffer::new(&device, rows * blocks * 32)?, Buffer::new(&device, rows * blocks * 16)?);
        let arguments = Quantize {
            x: x_at.at(),
            bytes: bytes.at(),
            scales: scales.at(),
            columns: width as u32,
            blocks: blocks as u32,
            tokens: rows as u32,
            unused: 0,
        };
        for activation in [Activation::Silu, Activation::GeluTanh] {
            gate_round(&*device, activation, up.at(), &arguments)?;
            let fused: Rounded = (bytes.values(rows * blocks * 32)?, scales.values(rows * blocks * 4)?);
            let gated = Buffer::with(&device, &x)?;
            gate(&*device, activation, gated.at(), up.at(), (rows * width) as u32)?;
            let (bytes, scales) = rounded(&device, &gated.values::<f32>(rows * width)?, rows)?;
            assert!(fused == (bytes.values(rows * blocks * 32)?, scales.values(rows * blocks * 4)?), "{activation:?}");
        }
    }
    Ok(())
}

#[test]
fn rows_of_a_matrix_are_fetched_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(14);
    for (i, format) in Format::ALL.into_iter().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let matrix = Matrix { format, rows: 9, columns: 272 };
        let (weights, ids) = (packed(matrix, &mut lots), [3u32, 8, 0, 3]);
        let (weights_at, ids_at) = (Buffer::with(&device, &weights)?, Buffer::with(&device, &ids)?);
        let out = Buffer::new(&device, ids.len() * matrix.columns * 4)?;
        let arguments = Fetch {
            weights: weights_at.at(),
            ids: ids_at.at(),
            out: out.at(),
            rows: 9,
            blocks: matrix.blocks() as u32,
            tokens: ids.len() as u32,
            columns: matrix.columns as u32,
            factor: 2.0,
            unused: 0,
        };
        fetch(&*device, format, &arguments)?;
        let wanted: Vec<f32> =
            ids.iter().flat_map(|&id| twin::open(matrix, &weights, id as usize)).map(|x| x * 2.0).collect();
        assert_eq!(out.values::<f32>(wanted.len())?, wanted, "{format:?}");
    }
    Ok(())
}

#[test]
fn what_is_packed_is_opened_again() {
    let mut lots = Lots::new(15);
    for format in Format::ALL {
        let matrix = Matrix { format, rows: 2, columns: 80 };
        let groups = 80usize.div_ceil(format.group());
        let mut bytes = vec![0xff; matrix.bytes()];
        let codes: Vec<u8> = (0..80).map(|_| lots.below(1 << format.bits()) as u8).collect();
        // Scales that are halves, and mins that are whole multiples of them, lose nothing.
        let scales: Vec<f32> = (0..groups).map(|g| (g as f32 + 1.0) / 512.0).collect();
        let mins: Vec<f32> = scales.iter().map(|scale| scale * 8.0).collect();
        twin::pack(matrix, &mut bytes, 1, twin::Row { codes: &codes, scales: &scales, mins: &mins });
        let wanted: Vec<f32> = (0..80).map(|i| scales[i / format.group()] * (f32::from(codes[i]) - 8.0)).collect();
        assert_eq!(twin::open(matrix, &bytes, 1), wanted, "{format:?}");
    }
}
