//! Weights in a device's memory.

use super::ModelRefused;
use crate::device::{Address, Buffer, Device, DeviceError};
use crate::kernels::linear::{self, BLOCK, Format, Matrix, Product, Quantize};
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
    matrix: Matrix,
    planes: Buffer,
}

/// A matrix and its bias, `[rows]`.
#[derive(Debug)]
pub(super) struct Biased {
    pub weight: Weight,
    pub bias: Option<Buffer>,
}

/// Rows in bytes, for products: where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounded {
    bytes: Address,
    scales: Address,
    rows: usize,
    columns: usize,
}

impl Rounded {
    /// Bytes that the numbers of `rows` rows take, and their scales.
    pub fn room(rows: usize, columns: usize) -> (usize, usize) {
        let blocks = rows * columns.div_ceil(BLOCK);
        (blocks * BLOCK, blocks * 16)
    }

    /// Rounds rows at `x` into that room.
    pub fn of(
        device: &dyn Device,
        x: Address,
        (rows, columns): (usize, usize),
        (bytes, scales): (Address, Address),
    ) -> Result<Self, DeviceError> {
        let blocks = columns.div_ceil(BLOCK) as u32;
        let arguments = Quantize { x, bytes, scales, columns: columns as u32, blocks, tokens: rows as u32, unused: 0 };
        linear::quantize(device, &arguments)?;
        Ok(Rounded { bytes, scales, rows, columns })
    }
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
        let packed = |row: &[u8]| -> Result<Vec<u8>, ModelRefused> {
            let groups = columns.div_ceil(format.group());
            let (mut codes, mut scales, mut mins) = (vec![0; columns], vec![0.0; groups], vec![0.0; groups]);
            open_codes(ty, row, &mut codes, &mut scales, &mut mins).map_err(ModelRefused::Weights)?;
            let mut bytes = vec![0; one.bytes()];
            pack(one, &mut bytes, 0, Row { codes: &codes, scales: &scales, mins: &mins });
            Ok(bytes)
        };
        let ends = [0, one.high(), one.scales(), one.units(), one.bytes()];
        let starts = [0, matrix.high(), matrix.scales(), matrix.units()];
        for (chunk, data) in data.chunks(ROWS_AT_ONCE * row_bytes).enumerate() {
            let some: Vec<Vec<u8>> = data.par_chunks_exact(row_bytes).map(packed).collect::<Result<_, _>>()?;
            for (plane, start) in starts.into_iter().enumerate() {
                let of_row = ends[plane]..ends[plane + 1];
                let bytes: Vec<u8> = some.iter().flat_map(|row| &row[of_row.clone()]).copied().collect();
                let first = start + chunk * ROWS_AT_ONCE * of_row.len();
                device.write(planes.at() + first as Address, &bytes)?;
            }
        }
        Ok(Weight { matrix, planes })
    }

    /// A matrix whose planes lie in `planes`.
    pub fn of(matrix: Matrix, planes: Buffer) -> Self {
        Weight { matrix, planes }
    }

    /// Outputs of a row.
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.planes.bytes()
    }

    /// `out = x W^T`, `[rows of x][rows of W]`.
    pub fn multiply(&self, device: &dyn Device, x: Rounded, out: Address) -> Result<(), DeviceError> {
        debug_assert_eq!(x.columns, self.matrix.columns);
        let arguments = Product {
            weights: self.planes.at(),
            bytes: x.bytes,
            scales: x.scales,
            out,
            rows: self.matrix.rows as u32,
            blocks: self.matrix.blocks() as u32,
            tokens: x.rows as u32,
            unused: 0,
        };
        linear::product(device, self.matrix.format, &arguments)
    }
}

impl Biased {
    /// Copies a matrix and its bias to the device.
    pub fn upload(device: &Arc<dyn Device>, product: &device::Product<'_>) -> Result<Self, ModelRefused> {
        let bias = product.bias.map(|bias| Buffer::with(device, bias)).transpose()?;
        Ok(Biased { weight: Weight::upload(device, product.weight)?, bias })
    }

    /// `out = x W^T + bias`.
    pub fn multiply(&self, device: &dyn Device, x: Rounded, out: Address) -> Result<(), DeviceError> {
        self.weight.multiply(device, x, out)?;
        let Some(bias) = &self.bias else { return Ok(()) };
        let period = self.weight.rows() as u32;
        crate::kernels::rows::add(
            device,
            &crate::kernels::rows::Add { x: out, y: bias.at(), count: x.rows as u32 * period, period },
        )
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Buffer::bytes)
    }
}
