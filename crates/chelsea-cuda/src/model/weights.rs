//! Weights in a device's memory.

use super::ModelRefused;
use super::products::Onto;
use crate::device::{Address, Buffer, Device};
use crate::kernels::linear::{Format, Matrix};
use crate::twins::linear::{Row, pack};
use chelsea_linear::{Linear, open_codes};
use chelsea_model::device;
use rayon::prelude::*;
use std::sync::Arc;

/// Rows that are packed before they are put together.
const ROWS_AT_ONCE: usize = 4096;

/// A weight matrix on the device.
#[derive(Debug)]
pub(super) struct Weight {
    pub matrix: Matrix,
    planes: Buffer,
    /// A power of two: what weights are divided by where they are opened to halves, so that the largest are about 1.
    pub unit: f32,
}

/// A matrix and its bias, `[rows]`.
#[derive(Debug)]
pub(super) struct Biased {
    pub weight: Weight,
    pub bias: Option<Buffer>,
}

impl Weight {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// If its weights do not lie as in the file, or the device has no room for them.
    pub fn upload(device: &Arc<dyn Device>, weight: &Linear) -> Result<Self, ModelRefused> {
        let (ty, rows, columns) = (weight.source_type(), weight.rows(), weight.cols());
        let data = weight.source().ok_or(ModelRefused::Packed)?;
        let shape = ty.code_shape();
        let format = Format::holding(shape.bits, shape.group).ok_or(ModelRefused::Type(ty.name()))?;
        let matrix = Matrix { format, rows, columns };
        let planes = Buffer::new(device, matrix.bytes())?;
        let one = Matrix { rows: 1, ..matrix };
        let row_bytes = data.len() / rows;
        // A matrix of a single row has the same planes, one row long each.
        let packed = |row: &[u8]| -> Result<(Vec<u8>, f32), ModelRefused> {
            let groups = columns.div_ceil(format.group());
            let (mut codes, mut scales, mut mins) = (vec![0; columns], vec![0.0; groups], vec![0.0; groups]);
            open_codes(ty, row, &mut codes, &mut scales, &mut mins).map_err(ModelRefused::Weights)?;
            let mut bytes = vec![0; one.bytes()];
            pack(one, &mut bytes, 0, Row { codes: &codes, scales: &scales, mins: &mins });
            let most = ((1u32 << format.bits()) - 1) as f32;
            let largest = scales.iter().zip(&mins).map(|(scale, min)| min.abs().max((scale * most - min).abs()));
            Ok((bytes, largest.fold(0.0, f32::max)))
        };
        let mut largest = 0.0f32;
        let ends = [0, one.high(), one.scales(), one.units(), one.bytes()];
        let starts = [0, matrix.high(), matrix.scales(), matrix.units()];
        for (chunk, data) in data.chunks(ROWS_AT_ONCE * row_bytes).enumerate() {
            let some: Vec<(Vec<u8>, f32)> = data.par_chunks_exact(row_bytes).map(packed).collect::<Result<_, _>>()?;
            largest = some.iter().fold(largest, |largest, (_, of_row)| largest.max(*of_row));
            for (plane, start) in starts.into_iter().enumerate() {
                let of_row = ends[plane]..ends[plane + 1];
                let bytes: Vec<u8> = some.iter().flat_map(|(row, _)| &row[of_row.clone()]).copied().collect();
                let first = start + chunk * ROWS_AT_ONCE * of_row.len();
                device.write(planes.at() + first as Address, &bytes)?;
            }
        }
        Ok(Weight::of(matrix, planes, largest))
    }

    /// A matrix whose planes lie in `planes`, and whose weights are not larger than `largest`.
    pub fn of(matrix: Matrix, planes: Buffer, largest: f32) -> Self {
        let exponent = largest.to_bits() & 0x7f80_0000;
        let is_plain = !(0x1000_0000..=0x7000_0000).contains(&exponent);
        Weight { matrix, planes, unit: if is_plain { 1.0 } else { f32::from_bits(exponent) } }
    }

    /// Where its planes lie.
    pub fn at(&self) -> Address {
        self.planes.at()
    }

    /// Outputs of a row.
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.planes.bytes()
    }

    /// The product whose outputs go to `out`.
    pub fn onto(&self, out: Address) -> Onto<'_> {
        Onto { weight: self, bias: None, out }
    }
}

impl Biased {
    /// Copies a matrix and its bias to the device.
    pub fn upload(device: &Arc<dyn Device>, product: &device::Product<'_>) -> Result<Self, ModelRefused> {
        let bias = product.bias.map(|bias| Buffer::with(device, bias)).transpose()?;
        Ok(Biased { weight: Weight::upload(device, product.weight)?, bias })
    }

    /// The product whose outputs go to `out`.
    pub fn onto(&self, out: Address) -> Onto<'_> {
        Onto { bias: self.bias.as_ref(), ..self.weight.onto(out) }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Buffer::bytes)
    }
}
