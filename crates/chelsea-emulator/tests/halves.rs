//! Products of 16-bit numbers: weights that are opened, rows that become halves, and both multiplied by a library and by the
//! kernel that stands in for one.

mod common;

use chelsea_cuda::kernels::halves::{
    HalveNormed, Halves, Open, Settled, halve, halve_gated, halve_normed, multiply, open, product, settle,
};
use chelsea_cuda::kernels::linear::{Format, Matrix};
use chelsea_cuda::kernels::rows::{Activation, Add, Norm, add, gate, rms_norm};
use chelsea_cuda::twins::linear as twin;
use chelsea_cuda::{Buffer, Device, DeviceError, HalvesProduct};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_linear::{GgmlType, Linear, Products, open_codes};
use common::{Lots, Outcome, device, difference};
use half::f16;
use std::sync::Arc;

fn bits(halves: &[f16]) -> Vec<u16> {
    halves.iter().map(|half| half.to_bits()).collect()
}

/// Opens rows of a packed matrix on a device; behind them lies a row that nothing is to be written to.
fn opened(
    device: &Arc<dyn Device>,
    (matrix, packed): (Matrix, &[u8]),
    rows: std::ops::Range<usize>,
    unit: f32,
) -> Result<Vec<u16>, DeviceError> {
    let weights = Buffer::with(device, packed)?;
    let numbers = (rows.len() + 1) * matrix.blocks() * 32;
    let out = Buffer::with(device, &vec![0xffffu16; numbers])?;
    let arguments = Open {
        weights: weights.at(),
        out: out.at(),
        rows: matrix.rows as u32,
        blocks: matrix.blocks() as u32,
        first: rows.start as u32,
        count: rows.len() as u32,
        factor: 1.0 / unit,
        unused: 0,
    };
    open(&**device, matrix.format, &arguments)?;
    let mut found: Vec<u16> = out.values(numbers)?;
    assert!(found.split_off(rows.len() * matrix.blocks() * 32).iter().all(|&bits| bits == 0xffff));
    Ok(found)
}

#[test]
fn weights_are_opened_as_the_twin_does_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(51);
    for (i, format) in Format::ALL.into_iter().enumerate() {
        for (rows, columns, unit) in [(3, 64, 1.0), (7, 272, 0.25), (19, 32, 4.0), (2, 1100, 2f32.powi(-30))] {
            let matrix = Matrix { format, rows, columns };
            let groups = columns.div_ceil(format.group());
            let mut packed = vec![0xff; matrix.bytes()];
            for row in 0..rows {
                let codes: Vec<u8> = (0..columns).map(|_| lots.below(1 << format.bits()) as u8).collect();
                let mut scales: Vec<f32> = (0..groups).map(|_| lots.number() * 1e-2 * unit).collect();
                // Weights that fill the last block up are zeros.
                let mut mins: Vec<f32> = (0..groups).map(|_| lots.number() * 1e-1 * unit).collect();
                if !columns.is_multiple_of(format.group()) {
                    (scales[groups - 1], mins[groups - 1]) = (unit * 1e-2, 0.0);
                }
                twin::pack(matrix, &mut packed, row, twin::Row { codes: &codes, scales: &scales, mins: &mins });
            }
            let device = device(Schedule::ALL[i % 3]);
            let first = lots.below(rows);
            for strip in [0..rows, first..rows, first..first + 1] {
                let found = opened(&device, (matrix, &packed), strip.clone(), unit)?;
                let wanted: Vec<u16> =
                    strip.flat_map(|row| bits(&twin::open_halves(matrix, &packed, row, unit))).collect();
                assert!(found == wanted, "{format:?}, {rows} by {columns}");
            }
        }
    }
    Ok(())
}

/// A row of a type, by lot: blocks of any bytes, with scales that are finite.
fn row_of(ty: GgmlType, columns: usize, lots: &mut Lots) -> Vec<u8> {
    let bytes = columns / ty.block_len() * ty.block_bytes();
    let mut data: Vec<u8> = (0..bytes).map(|_| lots.bits() as u8).collect();
    match ty {
        GgmlType::F32 => data.chunks_exact_mut(4).for_each(|b| b[3] = b[3] & 0x80 | 0x3e),
        GgmlType::BF16 => data.chunks_exact_mut(2).for_each(|b| b[1] = b[1] & 0x80 | 0x3e),
        GgmlType::MXFP4 => data.chunks_exact_mut(17).for_each(|b| b[0] = 120 + b[0] % 8),
        _ => data.iter_mut().for_each(|b| *b &= 0xb7),
    }
    data
}

#[test]
fn weights_of_every_type_are_opened_to_what_the_cpu_multiplies() -> Outcome {
    let mut lots = Lots::new(52);
    for ty in GgmlType::ALL {
        let columns = 512;
        let data = row_of(ty, columns, &mut lots);
        let shape = ty.code_shape();
        let format = Format::holding(shape.bits, shape.group).expect("every type has a format");
        let matrix = Matrix { format, rows: 1, columns };
        let groups = columns / format.group();
        let (mut codes, mut scales, mut mins) = (vec![0; columns], vec![0.0; groups], vec![0.0; groups]);
        open_codes(ty, &data, &mut codes, &mut scales, &mut mins).expect("whole blocks");
        let mut packed = vec![0; matrix.bytes()];
        twin::pack(matrix, &mut packed, 0, twin::Row { codes: &codes, scales: &scales, mins: &mins });
        let mut wanted = vec![0.0; columns];
        Linear::new(ty, &data, 1, columns, Products::Fast, None).expect("a row").row(0, &mut wanted);
        let largest = wanted.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let unit = f32::from_bits(largest.to_bits() & 0x7f80_0000);
        let found = opened(&device(Schedule::InOrder), (matrix, &packed), 0..1, unit)?;
        for (i, (&found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let found = f16::from_bits(found).to_f32() * unit;
            // Half a step of halves, of the weight and of what it is made of; none is smaller than that of the smallest halves.
            let steps = 1e-3 * (wanted.abs() + mins[i / format.group()].abs()) + unit * 2f32.powi(-24);
            assert!((found - wanted).abs() <= steps, "{ty}, weight {i}: {found}, {wanted}");
        }
    }
    Ok(())
}

/// Rows on the device as halves, and their units.
fn halved(device: &Arc<dyn Device>, x: &[f32], rows: usize) -> Result<(Buffer, Buffer), DeviceError> {
    let width = x.len() / rows;
    let columns = width.next_multiple_of(32);
    let x = Buffer::with(device, x)?;
    let (out, units) = (Buffer::new(device, rows * columns * 2)?, Buffer::new(device, rows * 4)?);
    let to = Halves { out: out.at(), units: units.at(), width: width as u32, columns: columns as u32 };
    halve(&**device, rows, x.at(), to)?;
    Ok((out, units))
}

/// Bits of halves, and of units.
fn read(halves: &(Buffer, Buffer), rows: usize, width: usize) -> Result<(Vec<u16>, Vec<u32>), DeviceError> {
    Ok((halves.0.values(rows * width.next_multiple_of(32))?, halves.1.values(rows)?))
}

#[test]
fn rows_become_halves_as_the_twin_makes_them_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(53);
    for (schedule, width) in Schedule::ALL.into_iter().zip([64usize, 33, 1100]) {
        let device = device(schedule);
        // Rows of ordinary numbers, of large ones, of small ones, of zeros, of tiny ones, and with what is infinite or none.
        let sizes = [3.0, 1e30, 1e-20, 0.0, 1e-39, 1.0, 1.0, 2f32.powi(14), 2f32.powi(-11)];
        let mut x: Vec<f32> = sizes.iter().flat_map(|&size| lots.row(width, size)).collect();
        (x[5 * width + 3], x[6 * width + 1]) = (f32::NAN, f32::INFINITY);
        let found = read(&halved(&device, &x, sizes.len())?, sizes.len(), width)?;
        let wanted: Vec<(Vec<f16>, f32)> = x.chunks(width).map(twin::halve).collect();
        let is_none = |bits: u16| f16::from_bits(bits).is_nan();
        let halves = wanted.iter().flat_map(|(row, _)| bits(row));
        assert!(found.0.iter().zip(halves).all(|(&x, y)| x == y || is_none(x) && is_none(y)), "{width}");
        assert_eq!(found.1, wanted.iter().map(|(_, unit)| unit.to_bits()).collect::<Vec<_>>());
        let is_one = |row: usize| wanted[row].1 == 1.0;
        assert!(is_one(0) && !is_one(1) && !is_one(2), "units are 1 where numbers fit, and only there");
        assert!(wanted[1].0.iter().chain(&wanted[2].0).all(|x| x.to_f32().abs() < 2.0));
    }
    Ok(())
}

#[test]
fn norms_and_gates_become_the_halves_that_single_kernels_give() -> Outcome {
    let mut lots = Lots::new(54);
    for (schedule, width) in Schedule::ALL.into_iter().zip([64usize, 300, 1100]) {
        let device = device(schedule);
        let rows = 3usize;
        let (x, y) = (lots.row(rows * width, 2.0), lots.row(rows * width, 1.0));
        let weight = lots.row(width, if width == 300 { 1e6 } else { 1.0 });
        let (y_at, weight_at) = (Buffer::with(&device, &y)?, Buffer::with(&device, &weight)?);
        let columns = width.next_multiple_of(32);
        let room =
            || Ok::<_, DeviceError>((Buffer::new(&device, rows * columns * 2)?, Buffer::new(&device, rows * 4)?));
        let to = |room: &(Buffer, Buffer)| Halves {
            out: room.0.at(),
            units: room.1.at(),
            width: width as u32,
            columns: columns as u32,
        };
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
            let apart = read(&halved(&device, &normed.values::<f32>(rows * width)?, rows)?, rows, width)?;
            let summed: Vec<u32> = x_at.values(rows * width)?;
            let (fused, fused_x) = (room()?, Buffer::with(&device, &x)?);
            let arguments = HalveNormed {
                x: fused_x.at(),
                y: if with_y { y_at.at() } else { 0 },
                weight: weight_at.at(),
                to: to(&fused),
                eps: 1e-5,
                unused: 0,
            };
            halve_normed(&*device, rows, &arguments)?;
            assert!(read(&fused, rows, width)? == apart && fused_x.values::<u32>(rows * width)? == summed, "{width}");
        }
        let (x_at, up) = (Buffer::with(&device, &x)?, Buffer::with(&device, &y)?);
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let fused = room()?;
            halve_gated(&*device, rows, (activation, x_at.at(), up.at()), to(&fused))?;
            let gated = Buffer::with(&device, &x)?;
            gate(&*device, activation, gated.at(), up.at(), (rows * width) as u32)?;
            let apart = halved(&device, &gated.values::<f32>(rows * width)?, rows)?;
            assert!(read(&fused, rows, width)? == read(&apart, rows, width)?, "{activation:?}");
        }
    }
    Ok(())
}

/// A product by lot: its operands, and what it is in f64, with units and biases and without.
struct Asked {
    weights: Buffer,
    x: Buffer,
    out: Buffer,
    units: Buffer,
    bias: Buffer,
    product: HalvesProduct,
    wanted: Vec<f64>,
    settled: Vec<f64>,
}

impl Asked {
    /// Outputs go `before` places behind the start of each token's, as those of a strip do.
    fn new(
        device: &Arc<dyn Device>,
        [rows, tokens, columns]: [usize; 3],
        (before, stride): (usize, usize),
        lots: &mut Lots,
    ) -> Result<Self, DeviceError> {
        let mut halves = |count: usize| lots.row(count, 0.5).into_iter().map(f16::from_f32).collect::<Vec<_>>();
        let (weights, x) = (halves(rows * columns), halves(tokens * columns));
        let units: Vec<f32> = (0..tokens).map(|_| 2f32.powi(lots.below(3) as i32)).collect();
        let (bias, factor) = (lots.row(rows, 1.0), 0.25f32);
        let dot = |token: usize, row: usize| {
            let of = |matrix: &[f16], i: usize| matrix[i * columns..(i + 1) * columns].to_vec();
            f64::from(factor) * twin::product_of_halves(&of(&weights, row), &of(&x, token))
        };
        let places: Vec<(usize, usize)> =
            (0..tokens).flat_map(|token| (0..rows).map(move |row| (token, row))).collect();
        let wanted: Vec<f64> = places.iter().map(|&(token, row)| dot(token, row)).collect();
        let settle =
            |(sum, &(token, row)): (&f64, &(usize, usize))| sum * f64::from(units[token]) + f64::from(bias[row]);
        let settled = wanted.iter().zip(&places).map(settle).collect();
        let out = Buffer::with(device, &vec![f32::NAN; tokens * stride])?;
        let (weights, x) = (Buffer::with(device, &bits(&weights))?, Buffer::with(device, &bits(&x))?);
        let product = HalvesProduct {
            weights: weights.at(),
            x: x.at(),
            out: out.at() + (before * 4) as u64,
            rows: rows as u32,
            tokens: tokens as u32,
            columns: columns as u32,
            stride: stride as u32,
            factor,
        };
        let (units, bias) = (Buffer::with(device, &units)?, Buffer::with(device, &bias)?);
        Ok(Asked { weights, x, out, units, bias, product, wanted, settled })
    }

    /// What was written, of which nothing lies beside its places.
    fn found(&self, before: usize) -> Result<Vec<f32>, DeviceError> {
        let (rows, stride) = (self.product.rows as usize, self.product.stride as usize);
        let all: Vec<f32> = self.out.values(self.product.tokens as usize * stride)?;
        let of_token = |row: &[f32]| {
            let (left, own) = row.split_at(before);
            let (own, right) = own.split_at(rows);
            assert!(left.iter().chain(right).all(|x| x.is_nan()), "something was written beside the outputs");
            own.to_vec()
        };
        Ok(all.chunks(stride).flat_map(of_token).collect())
    }

    fn settled_by(&self) -> Settled {
        Settled { units: self.units.at(), bias: self.bias.at() }
    }
}

/// Outputs, tokens, columns; where the outputs of a token begin, and how many there are of all strips.
const SHAPES: [([usize; 3], (usize, usize)); 5] = [
    ([128, 5, 64], (0, 128)),
    ([40, 130, 96], (0, 40)),
    ([4, 1, 32], (8, 16)),
    ([132, 70, 32], (128, 260)),
    ([260, 129, 160], (0, 264)),
];

#[test]
fn a_library_and_the_kernel_give_the_products_of_the_twin() -> Outcome {
    let mut lots = Lots::new(55);
    for (i, (sizes, (before, stride))) in SHAPES.into_iter().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let asked = Asked::new(&device, sizes, (before, stride), &mut lots)?;
        // What a library forms is settled behind it, the kernel does both.
        if device.multiply(&asked.product)? {
            assert!(difference(&asked.found(before)?, &asked.wanted) < 1e-6, "{sizes:?}");
            settle(&*device, &asked.product, asked.settled_by())?;
            assert!(difference(&asked.found(before)?, &asked.settled) < 1e-6, "{sizes:?}");
        }
        device.write(asked.out.at(), bytemuck::cast_slice(&vec![f32::NAN; sizes[1] * stride]))?;
        multiply(&*device, &asked.product, asked.settled_by())?;
        let off = difference(&asked.found(before)?, &asked.settled);
        assert!(off < 1e-6, "{sizes:?}: off by {off}");
    }
    Ok(())
}

#[test]
fn rows_whose_unit_is_one_are_settled_by_their_bias_alone() -> Outcome {
    let device = device(Schedule::Reversed);
    let ([rows, tokens], mut lots) = ([300, 3], Lots::new(56));
    let x = lots.row(rows * tokens, 1.0);
    let out = Buffer::with(&device, &x)?;
    let units = Buffer::with(&device, &[1.0f32, 4.0, 1.0])?;
    let product = HalvesProduct {
        weights: 0,
        x: 0,
        out: out.at(),
        rows: rows as u32,
        tokens: tokens as u32,
        columns: 32,
        stride: rows as u32,
        factor: 1.0,
    };
    settle(&*device, &product, Settled { units: units.at(), bias: 0 })?;
    let wanted: Vec<f32> = x.iter().enumerate().map(|(i, x)| if i / rows == 1 { x * 4.0 } else { *x }).collect();
    assert_eq!(out.values::<f32>(rows * tokens)?, wanted);
    let bias = Buffer::with(&device, &vec![0.5f32; rows])?;
    settle(&*device, &product, Settled { units: units.at(), bias: bias.at() })?;
    let again = wanted.iter().enumerate().map(|(i, x)| if i / rows == 1 { x * 4.0 + 0.5 } else { x + 0.5 });
    assert_eq!(out.values::<f32>(rows * tokens)?, again.collect::<Vec<_>>());
    Ok(())
}

#[test]
fn what_no_library_takes_is_multiplied_by_the_kernel() -> Outcome {
    let mut lots = Lots::new(57);
    let with: Arc<dyn Device> = Arc::new(Emulator::new(Schedule::InOrder));
    let without: Arc<dyn Device> = Arc::new(Emulator::new(Schedule::InOrder).without_library());
    for (device, sizes, place, takes) in [
        (&with, [12, 9, 64], (0, 12), true),
        // Rows of outputs that begin anywhere.
        (&with, [11, 9, 64], (0, 11), false),
        (&with, [11, 9, 64], (1, 12), false),
        (&without, [12, 9, 64], (0, 12), false),
    ] {
        let asked = Asked::new(device, sizes, place, &mut lots)?;
        assert_eq!(device.multiply(&asked.product)?, takes, "{sizes:?}");
        if !takes {
            assert!(asked.out.values::<f32>(sizes[1] * place.1)?.iter().all(|x| x.is_nan()), "nothing was done");
        }
        product(&**device, &asked.product, asked.settled_by())?;
        assert!(difference(&asked.found(place.0)?, &asked.settled) < 1e-6, "{sizes:?}");
    }
    // Rows that are no whole blocks, operands that are not there, and outputs of a token that reach into the next one's.
    let asked = Asked::new(&with, [12, 9, 64], (0, 12), &mut lots)?;
    assert!(multiply(&*with, &HalvesProduct { columns: 40, ..asked.product }, asked.settled_by()).is_err());
    for wrong in [
        HalvesProduct { weights: asked.weights.at() + 16, ..asked.product },
        HalvesProduct { x: asked.x.at() + 16, ..asked.product },
        HalvesProduct { out: asked.out.at() + 16, ..asked.product },
        HalvesProduct { stride: 8, ..asked.product },
    ] {
        assert!(with.multiply(&wrong).is_err(), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn a_row_has_the_same_bits_in_products_of_any_number_of_rows() -> Outcome {
    let mut lots = Lots::new(58);
    let device = device(Schedule::Shuffled(3));
    let asked = Asked::new(&device, [20, 140, 96], (0, 20), &mut lots)?;
    multiply(&*device, &asked.product, asked.settled_by())?;
    let all: Vec<u32> = asked.out.values(140 * 20)?;
    for tokens in [1, 16, 129] {
        device.write(asked.out.at(), bytemuck::cast_slice(&vec![f32::NAN; 140 * 20]))?;
        multiply(&*device, &HalvesProduct { tokens, ..asked.product }, asked.settled_by())?;
        assert_eq!(asked.out.values::<u32>(tokens as usize * 20)?, all[..tokens as usize * 20]);
    }
    Ok(())
}
