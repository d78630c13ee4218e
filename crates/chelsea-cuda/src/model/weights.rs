//! Weights in a device's memory.

use super::ModelRefused;
use crate::device::{Address, Buffer, Device, DeviceError, Launcher};
use crate::kernels::linear::{self, BLOCK, FEW_TOKENS, Format, Matrix, Product, Quantize};
use crate::kernels::rows::Activation;
use crate::twins::linear::{Row, pack};
use chelsea_linear::{Linear, open_codes};
use chelsea_model::device;
use rayon::prelude::*;
use std::ops::Range;
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

/// How the rows of a batch are multiplied: ranges of rows that go together.
///
/// A few rows are multiplied by dot products, many by matrix instructions, whose sums have another order. Which of the two a
/// row gets follows from the length of its own chunk, so that it has the same bits beside any others.
#[derive(Debug)]
pub(super) struct Spans(Vec<Range<usize>>);

impl Spans {
    /// For chunks of so many rows each, in order.
    pub fn of(chunks: impl IntoIterator<Item = usize>) -> Self {
        let mut spans: Vec<Range<usize>> = Vec::new();
        let (mut row, mut before_are_few) = (0, None);
        for rows in chunks.into_iter().filter(|&rows| rows > 0) {
            let few = rows <= FEW_TOKENS as usize;
            for _ in 0..rows {
                match spans.last_mut() {
                    Some(last) if before_are_few == Some(few) && !(few && last.len() == FEW_TOKENS as usize) => {
                        last.end += 1;
                    }
                    _ => spans.push(row..row + 1),
                }
                before_are_few = Some(few);
                row += 1;
            }
        }
        Spans(spans)
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.0.last().map_or(0, |last| last.end)
    }
}

/// Rows in bytes, for products: where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounded<'a> {
    bytes: Address,
    scales: Address,
    spans: &'a Spans,
    columns: usize,
}

impl<'a> Rounded<'a> {
    /// Bytes that the numbers of `rows` rows take, and their scales.
    pub fn room(rows: usize, columns: usize) -> (usize, usize) {
        let blocks = rows * columns.div_ceil(BLOCK);
        (blocks * BLOCK, blocks * 16)
    }

    /// Rows that were rounded into that room.
    pub fn at(bytes: Address, scales: Address, spans: &'a Spans, columns: usize) -> Self {
        Rounded { bytes, scales, spans, columns }
    }

    /// Rounds rows at `x` into that room.
    pub fn of(
        launcher: &dyn Launcher,
        x: Address,
        (spans, columns): (&'a Spans, usize),
        (bytes, scales): (Address, Address),
    ) -> Result<Self, DeviceError> {
        let rounded = Rounded::at(bytes, scales, spans, columns);
        linear::quantize(launcher, &rounded.arguments(x))?;
        Ok(rounded)
    }

    /// Rounds `activation(gate) * up` into that room.
    pub fn of_gate(
        launcher: &dyn Launcher,
        (activation, gate, up): (Activation, Address, Address),
        (spans, columns): (&'a Spans, usize),
        (bytes, scales): (Address, Address),
    ) -> Result<Self, DeviceError> {
        let rounded = Rounded::at(bytes, scales, spans, columns);
        linear::gate_round(launcher, activation, up, &rounded.arguments(gate))?;
        Ok(rounded)
    }

    fn arguments(&self, x: Address) -> Quantize {
        let &Rounded { bytes, scales, spans, columns } = self;
        let (columns, blocks) = (columns as u32, self.blocks() as u32);
        Quantize { x, bytes, scales, columns, blocks, tokens: spans.rows() as u32, unused: 0 }
    }

    /// Blocks of a row.
    pub fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }
}

/// A matrix, what is added to its outputs, and where those go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Onto<'a> {
    weight: &'a Weight,
    bias: Option<&'a Buffer>,
    out: Address,
}

/// `out = x W^T + bias` for matrices that the same rows are multiplied by, `[rows of x][rows of W]` each.
pub(super) fn multiply(launcher: &dyn Launcher, products: &[Onto<'_>], x: Rounded<'_>) -> Result<(), DeviceError> {
    let blocks = x.blocks();
    x.spans.0.iter().try_for_each(|span| {
        let of_span = |&Onto { weight, bias, out }: &Onto<'_>| {
            debug_assert_eq!(x.columns, weight.matrix.columns);
            let rows = weight.matrix.rows;
            let product = Product {
                weights: weight.planes.at(),
                bytes: x.bytes + (span.start * blocks * BLOCK) as Address,
                scales: x.scales + (span.start * blocks * 16) as Address,
                out: out + (span.start * rows * 4) as Address,
                bias: bias.map_or(0, Buffer::at),
                rows: rows as u32,
                blocks: blocks as u32,
                tokens: span.len() as u32,
                unused: 0,
            };
            (weight.matrix.format, product)
        };
        linear::products(launcher, &products.iter().map(of_span).collect::<Vec<_>>())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_with_others_of_chunks_like_their_own() {
        let few = FEW_TOKENS as usize;
        let spans = |chunks: &[usize]| Spans::of(chunks.iter().copied()).0;
        assert_eq!(spans(&[1, 1, few + 1, 20, 0, 1]), [0..2, 2..few + 23, few + 23..few + 24]);
        assert_eq!(spans(&[1, few, 1]), [0..few, few..few + 2]);
        assert_eq!(spans(&vec![1; few + 2]), [0..few, few..few + 2]);
        assert!(spans(&[]).is_empty());
    }
}
