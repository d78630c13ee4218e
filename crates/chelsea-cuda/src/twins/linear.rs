//! Products with quantised weights, and how weights come into a device's layout.

use crate::kernels::linear::{BLOCK, Matrix};
use half::f16;

/// A row of weights before it is packed: a weight is `scale * code - min`.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Unsigned codes, one for each column.
    pub codes: &'a [u8],
    /// Of each group of columns.
    pub scales: &'a [f32],
    /// Of each group of columns.
    pub mins: &'a [f32],
}

/// Packs row `row` of a matrix into `bytes`, those of the whole matrix. Scales and mins become halves relative to a unit that
/// the row has, a power of two: those that are halves, or whole multiples of one, stay as they are.
///
/// # Panics
/// If the row does not fit the matrix, or a code has more bits than its format.
pub fn pack(matrix: Matrix, bytes: &mut [u8], row: usize, source: Row<'_>) {
    let Matrix { format, rows, columns } = matrix;
    let (blocks, groups) = (matrix.blocks(), matrix.groups());
    let own_groups = columns.div_ceil(format.group());
    assert!(bytes.len() == matrix.bytes() && row < rows && source.codes.len() == columns);
    assert!(source.scales.len() == own_groups && source.mins.len() == own_groups, "a scale and a min for each group");
    let limit = if format.bits() == 8 { u8::MAX } else { (1u8 << format.bits()) - 1 };
    for (b, codes) in source.codes.chunks(BLOCK).enumerate() {
        let low = &mut bytes[(row * blocks + b) * format.low()..][..format.low()];
        low.fill(0);
        for (i, &code) in codes.iter().enumerate() {
            assert!(code <= limit, "a code has {} bits", format.bits());
            if format.bits() == 8 {
                low[i] = code;
            } else {
                low[i % 16] |= (code & 15) << (i / 16 * 4);
            }
        }
        let high = &mut bytes[matrix.high() + (row * blocks + b) * format.high()..][..format.high()];
        high.fill(0);
        for (i, &code) in codes.iter().enumerate() {
            let bit = match format.bits() {
                5 => i % 4 * 8 + i / 4,
                6 => i / 16 * 32 + i % 4 * 8 + i % 16 / 4 * 2,
                _ => continue,
            };
            high[bit / 8] |= code >> 4 << (bit % 8);
        }
    }
    let largest = source.scales.iter().chain(source.mins).fold(0.0f32, |largest, x| largest.max(x.abs()));
    // The largest becomes 2^14 or more, below what halves reach.
    let exponent = largest.to_bits() & 0x7f80_0000;
    let plain = !(0x1000_0000..=0x7000_0000).contains(&exponent);
    let unit = if plain { 1.0 } else { f32::from_bits(exponent) * 2f32.powi(-14) };
    let halves = |x: f32| f16::from_f32(x / unit).to_le_bytes();
    for g in 0..groups {
        let (scale, min) = if g < own_groups { (source.scales[g], source.mins[g]) } else { (0.0, 0.0) };
        let at = matrix.scales() + (row * groups + g) * 4;
        bytes[at..at + 2].copy_from_slice(&halves(scale));
        bytes[at + 2..at + 4].copy_from_slice(&halves(min));
    }
    let at = matrix.units() + row * 4;
    bytes[at..at + 4].copy_from_slice(&unit.to_le_bytes());
}

/// Row `row` of a packed matrix as numbers.
///
/// # Panics
/// If there is no such row.
pub fn open(matrix: Matrix, bytes: &[u8], row: usize) -> Vec<f32> {
    let Matrix { format, columns, .. } = matrix;
    let (blocks, groups) = (matrix.blocks(), matrix.groups());
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    let at = matrix.units() + row * 4;
    let unit = f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let weight = |column: usize| {
        let (b, i) = (row * blocks + column / BLOCK, column % BLOCK);
        let low = &bytes[b * format.low()..];
        let high = &bytes[matrix.high() + b * format.high()..];
        let code = match format.bits() {
            8 => low[i],
            bits => {
                let bit = if bits == 5 { i % 4 * 8 + i / 4 } else { i / 16 * 32 + i % 4 * 8 + i % 16 / 4 * 2 };
                let mask = (1u8 << (bits - 4)) - 1;
                let top = if bits == 4 { 0 } else { high[bit / 8] >> (bit % 8) & mask };
                low[i % 16] >> (i / 16 * 4) & 15 | top << 4
            }
        };
        let at = matrix.scales() + (row * groups + column / format.group()) * 4;
        (half(at) * f32::from(code) - half(at + 2)) * unit
    };
    (0..columns).map(weight).collect()
}

/// A row of activations in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Bytes {
    /// `[blocks][32]`.
    pub bytes: Vec<i8>,
    /// `[blocks][4]`: a block's scale, and the sums of its first and its last 16 bytes times the scale, and 0.
    pub scales: Vec<f32>,
}

/// Rounds a row to bytes.
pub fn quantize(x: &[f32]) -> Bytes {
    let mut out = Bytes { bytes: Vec::new(), scales: Vec::new() };
    for x in x.chunks(BLOCK) {
        // As whole numbers, magnitudes are in the order of the numbers, with what is infinite or no number on top.
        let largest = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).fold(0, u32::max));
        let scale = largest * (1.0 / 127.0);
        let inverse = if largest > 1e-35 { 127.0 / largest } else { 0.0 };
        let mut sums = [0i32; 2];
        for i in 0..BLOCK {
            let byte = x.get(i).map_or(0, |x| (x * inverse).round_ties_even() as i8);
            out.bytes.push(byte);
            sums[i / 16] += i32::from(byte);
        }
        out.scales.extend([scale, scale * sums[0] as f32, scale * sums[1] as f32, 0.0]);
    }
    out
}

/// The product of a row in bytes with row `row` of a matrix, in f64.
pub fn product(matrix: Matrix, bytes: &[u8], row: usize, x: &Bytes) -> f64 {
    let weights = open(matrix, bytes, row);
    let term = |(i, w): (usize, &f32)| f64::from(*w) * f64::from(x.bytes[i]) * f64::from(x.scales[i / BLOCK * 4]);
    weights.iter().enumerate().map(term).sum()
}

/// Row `row` of a packed matrix as halves, which are to be multiplied by `unit`, filled up with zeros to whole blocks.
///
/// # Panics
/// If there is no such row.
pub fn open_halves(matrix: Matrix, bytes: &[u8], row: usize, unit: f32) -> Vec<f16> {
    let opened = open(matrix, bytes, row);
    let mut halves: Vec<f16> = opened.iter().map(|weight| f16::from_f32(weight * (1.0 / unit))).collect();
    halves.resize(matrix.blocks() * BLOCK, f16::ZERO);
    halves
}

/// A row as halves, filled up with zeros to whole blocks, and what they are to be multiplied by: 1, unless its numbers are too
/// large or too small for halves.
pub fn halve(x: &[f32]) -> (Vec<f16>, f32) {
    // As whole numbers, magnitudes are in the order of the numbers, with what is infinite or no number on top.
    let exponent = x.iter().map(|x| x.abs().to_bits()).fold(0, u32::max) & 0x7f80_0000;
    let exponent_of = |x: f32| x.to_bits();
    let fits = (exponent_of(2f32.powi(-10))..=exponent_of(2f32.powi(14))).contains(&exponent);
    let plain = fits || !(0x1000_0000..=0x7e00_0000).contains(&exponent);
    let unit = if plain { 1.0 } else { f32::from_bits(exponent) };
    let mut halves: Vec<f16> = x.iter().map(|x| f16::from_f32(x * (1.0 / unit))).collect();
    halves.resize(x.len().next_multiple_of(BLOCK), f16::ZERO);
    (halves, unit)
}

/// The product of two rows of halves, in f64.
pub fn product_of_halves(weights: &[f16], x: &[f16]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
}
