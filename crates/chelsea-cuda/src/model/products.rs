//! How the rows of a batch are multiplied by weights.
//!
//! Rows of short chunks are rounded to bytes and multiplied by the codes of weights: a few by dot products, more by matrix
//! instructions. For long chunks weights are opened to halves, a strip of rows at a time, and rows become halves too. A strip is
//! as large as a second-level cache: what is opened is read again at once.

use super::weights::Weight;
use crate::device::{Address, Buffer, Device, DeviceError, HalvesProduct, Launcher};
use crate::kernels::halves::{self, HalveNormed, Halves, Open, Settled};
use crate::kernels::linear::{self, BLOCK, FEW_TOKENS, NormRound, Product, Quantize};
use crate::kernels::rows::Activation;
use std::ops::Range;

/// Tokens of a chunk from which on weights are opened for it: where that is expected to take no longer than to read codes
/// anew for every 64 tokens.
pub(super) const LONG: usize = 256;

/// Bytes of a strip of opened weights, unless [`STRIP_ROWS`] are more.
const STRIP: usize = 64 << 20;

/// Rows that a strip has a multiple of.
const STRIP_ROWS: usize = 128;

/// How rows are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// By dot products of bytes.
    Few,
    /// By matrix instructions on bytes.
    Many,
    /// By opened weights.
    Long,
}

/// How the rows of a batch are multiplied: ranges of rows that go together.
///
/// Sums of each form have another order, and those of a library an order that follows from the number of rows. Which form a row
/// gets follows from the length of its own chunk, and a long chunk goes alone, so that a row has the same bits beside any others.
#[derive(Debug)]
pub(super) struct Spans(Vec<(Range<usize>, Form)>);

impl Spans {
    /// For chunks of so many rows each, in order, which are long from `long` rows on.
    pub fn of(chunks: impl IntoIterator<Item = usize>, long: usize) -> Self {
        let mut spans: Vec<(Range<usize>, Form)> = Vec::new();
        let mut row = 0;
        for rows in chunks.into_iter().filter(|&rows| rows > 0) {
            let few = FEW_TOKENS as usize;
            let form = match rows {
                _ if rows >= long => Form::Long,
                _ if rows <= few => Form::Few,
                _ => Form::Many,
            };
            if form == Form::Long {
                spans.push((row..row + rows, form));
                row += rows;
                continue;
            }
            for _ in 0..rows {
                match spans.last_mut() {
                    Some((last, before)) if *before == form && !(form == Form::Few && last.len() == few) => {
                        last.end += 1;
                    }
                    _ => spans.push((row..row + 1, form)),
                }
                row += 1;
            }
        }
        Spans(spans)
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.0.last().map_or(0, |(last, _)| last.end)
    }

    /// Whether weights are opened for any.
    pub fn has_long(&self) -> bool {
        self.long().next().is_some()
    }

    fn long(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter().filter(|(_, form)| *form == Form::Long).map(|(rows, _)| rows)
    }

    fn short(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter().filter(|(_, form)| *form != Form::Long).map(|(rows, _)| rows)
    }

    /// Rows one after the other that become halves, or bytes.
    fn parts(&self) -> impl Iterator<Item = (Range<usize>, bool)> {
        let alike = |a: &(Range<usize>, Form), b: &(Range<usize>, Form)| (a.1 == Form::Long) == (b.1 == Form::Long);
        let part = |spans: &[(Range<usize>, Form)]| {
            let (first, last) = (&spans[0], &spans[spans.len() - 1]);
            (first.0.start..last.0.end, first.1 == Form::Long)
        };
        self.0.chunk_by(alike).map(part)
    }
}

/// Room for rows on their way into products.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    /// Bytes, `[rows][blocks][32]`.
    pub bytes: Address,
    /// Their scales and sums, `[rows][blocks][4]`.
    pub scales: Address,
    /// Halves, `[rows][32 blocks]`, where any chunk is long; and their units, `[rows]`.
    pub halves: Address,
    pub units: Address,
    /// A strip of opened weights, where any chunk is long.
    pub opened: Address,
}

impl Room {
    /// Bytes that `rows` rows take as bytes, and their scales.
    pub fn of_bytes(rows: usize, columns: usize) -> (usize, usize) {
        let blocks = rows * columns.div_ceil(BLOCK);
        (blocks * BLOCK, blocks * 16)
    }

    /// Bytes that `rows` rows take as halves, and their units.
    pub fn of_halves(rows: usize, columns: usize) -> (usize, usize) {
        (rows * columns.next_multiple_of(BLOCK) * 2, rows * 4)
    }
}

/// Rows as products take them: where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounded<'a> {
    room: Room,
    spans: &'a Spans,
    columns: usize,
}

impl<'a> Rounded<'a> {
    /// Rows that were rounded into that room.
    pub fn at(room: Room, spans: &'a Spans, columns: usize) -> Self {
        Rounded { room, spans, columns }
    }

    /// Rounds rows at `x` into that room.
    pub fn of(
        launcher: &dyn Launcher,
        x: Address,
        (spans, columns): (&'a Spans, usize),
        room: Room,
    ) -> Result<Self, DeviceError> {
        let rounded = Rounded::at(room, spans, columns);
        for (rows, long) in spans.parts() {
            let x = rounded.place(x, &rows);
            match long {
                true => halves::halve(launcher, rows.len(), x, rounded.halves(&rows))?,
                false => linear::quantize(launcher, &rounded.bytes(x, &rows))?,
            }
        }
        Ok(rounded)
    }

    /// Rounds `activation(gate) * up` into that room.
    pub fn of_gate(
        launcher: &dyn Launcher,
        (activation, gate, up): (Activation, Address, Address),
        (spans, columns): (&'a Spans, usize),
        room: Room,
    ) -> Result<Self, DeviceError> {
        let rounded = Rounded::at(room, spans, columns);
        for (rows, long) in spans.parts() {
            let [gate, up] = [gate, up].map(|at| rounded.place(at, &rows));
            match long {
                true => {
                    halves::halve_gated(launcher, rows.len(), (activation, gate, up), rounded.halves(&rows))?;
                }
                false => linear::gate_round(launcher, activation, up, &rounded.bytes(gate, &rows))?,
            }
        }
        Ok(rounded)
    }

    /// `x += y`, where there is a `y`; rounds the norm of `x` times `weight` into that room.
    pub fn normed(
        launcher: &dyn Launcher,
        (x, y, weight): (Address, Address, Address),
        (spans, columns): (&'a Spans, usize),
        room: Room,
        eps: f32,
    ) -> Result<Self, DeviceError> {
        let rounded = Rounded::at(room, spans, columns);
        for (rows, long) in spans.parts() {
            let x = rounded.place(x, &rows);
            let y = if y == 0 { 0 } else { rounded.place(y, &rows) };
            if long {
                let norm = HalveNormed { x, y, weight, to: rounded.halves(&rows), eps, unused: 0 };
                halves::halve_normed(launcher, rows.len(), &norm)?;
            } else {
                let Quantize { bytes, scales, columns: width, blocks, .. } = rounded.bytes(x, &rows);
                let norm = NormRound { x, y, weight, bytes, scales, width, blocks, eps, unused: 0 };
                linear::norm_round(launcher, rows.len(), &norm)?;
            }
        }
        Ok(rounded)
    }

    /// Where `rows` begin in a buffer of f32.
    fn place(&self, at: Address, rows: &Range<usize>) -> Address {
        at + (rows.start * self.columns * 4) as Address
    }

    fn bytes(&self, x: Address, rows: &Range<usize>) -> Quantize {
        let before = rows.start * self.blocks();
        let bytes = self.room.bytes + (before * BLOCK) as Address;
        let scales = self.room.scales + (before * 16) as Address;
        let (columns, blocks) = (self.columns as u32, self.blocks() as u32);
        Quantize { x, bytes, scales, columns, blocks, tokens: rows.len() as u32, unused: 0 }
    }

    fn halves(&self, rows: &Range<usize>) -> Halves {
        let columns = self.blocks() * BLOCK;
        let out = self.room.halves + (rows.start * columns * 2) as Address;
        let units = self.room.units + (rows.start * 4) as Address;
        Halves { out, units, width: self.columns as u32, columns: columns as u32 }
    }

    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }
}

/// A matrix, what is added to its outputs, and where those go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Onto<'a> {
    pub weight: &'a Weight,
    pub bias: Option<&'a Buffer>,
    pub out: Address,
}

/// Who multiplies.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// Takes all launches but those for opened weights.
    pub launcher: &'a dyn Launcher,
    /// Multiplies by opened weights at once.
    pub device: &'a dyn Device,
    /// Whether it is asked for its library.
    pub library: bool,
}

/// `out = x W^T + bias` for matrices that the same rows are multiplied by, `[rows of x][rows of W]` each.
pub(super) fn multiply(way: Way<'_>, products: &[Onto<'_>], x: Rounded<'_>) -> Result<(), DeviceError> {
    for span in x.spans.short() {
        let Quantize { bytes, scales, blocks, tokens, .. } = x.bytes(0, span);
        let of_span = |&Onto { weight, bias, out }: &Onto<'_>| {
            debug_assert_eq!(x.columns, weight.matrix.columns);
            let rows = weight.rows();
            let product = Product {
                weights: weight.at(),
                bytes,
                scales,
                out: out + (span.start * rows * 4) as Address,
                bias: bias.map_or(0, Buffer::at),
                rows: rows as u32,
                blocks,
                tokens,
                unused: 0,
            };
            (weight.matrix.format, product)
        };
        linear::products(way.launcher, &products.iter().map(of_span).collect::<Vec<_>>())?;
    }
    if x.spans.has_long() {
        products.iter().try_for_each(|onto| multiply_opened(way, onto, x))?;
    }
    Ok(())
}

/// The same for the rows of long chunks. A strip is opened once for all of them.
fn multiply_opened(
    Way { device, library, .. }: Way<'_>,
    &Onto { weight, bias, out }: &Onto<'_>,
    x: Rounded<'_>,
) -> Result<(), DeviceError> {
    let (rows, blocks, strip) = (weight.rows(), x.blocks(), strip_rows(weight));
    for first in (0..rows).step_by(strip) {
        let count = strip.min(rows - first) as u32;
        let open = Open {
            weights: weight.at(),
            out: x.room.opened,
            rows: rows as u32,
            blocks: blocks as u32,
            first: first as u32,
            count,
            factor: 1.0 / weight.unit,
            unused: 0,
        };
        halves::open(device, weight.matrix.format, &open)?;
        for span in x.spans.long() {
            let Halves { out: halves, units, columns, .. } = x.halves(span);
            let product = HalvesProduct {
                weights: x.room.opened,
                x: halves,
                out: out + ((span.start * rows + first) * 4) as Address,
                rows: count,
                tokens: span.len() as u32,
                columns,
                stride: rows as u32,
                factor: weight.unit,
            };
            let bias = bias.map_or(0, |bias| bias.at() + (first * 4) as Address);
            let settled = Settled { units, bias };
            match library {
                true => halves::product(device, &product, settled)?,
                false => halves::multiply(device, &product, settled)?,
            }
        }
    }
    Ok(())
}

/// Rows of a matrix that are opened at once.
fn strip_rows(weight: &Weight) -> usize {
    let row = weight.matrix.blocks() * BLOCK * 2;
    (STRIP / row / STRIP_ROWS).max(1) * STRIP_ROWS
}

/// Bytes that strips of such a matrix take.
pub(super) fn strip_bytes(weight: &Weight) -> usize {
    strip_rows(weight).min(weight.rows()) * weight.matrix.blocks() * BLOCK * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_with_others_of_chunks_like_their_own() {
        let few = FEW_TOKENS as usize;
        let rows = |chunks: &[usize]| {
            let spans = Spans::of(chunks.iter().copied(), 100);
            spans.0.into_iter().map(|(rows, _)| rows).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[1, 1, few + 1, 20, 0, 1]), [0..2, 2..few + 23, few + 23..few + 24]);
        assert_eq!(rows(&[1, few, 1]), [0..few, few..few + 2]);
        assert_eq!(rows(&vec![1; few + 2]), [0..few, few..few + 2]);
        assert!(rows(&[]).is_empty());
        assert_eq!(rows(&[99, 99, 100, 120, 20, 1]), [0..198, 198..298, 298..418, 418..438, 438..439]);
    }

    #[test]
    fn rows_become_halves_where_their_chunk_is_long() {
        let spans = Spans::of([1, 20, 100, 300, 5], 100);
        assert_eq!(spans.parts().collect::<Vec<_>>(), [(0..21, false), (21..421, true), (421..426, false)]);
        assert!(spans.has_long() && spans.rows() == 426);
        assert!(!Spans::of([99], 100).has_long());
        assert_eq!(Spans::of([1, 1], 1).parts().collect::<Vec<_>>(), [(0..2, true)]);
    }
}
