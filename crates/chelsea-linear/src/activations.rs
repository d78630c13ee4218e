//! Activations in the form that products multiply, and how the rows of a batch are grouped.
//!
//! Rows come in chunks, one chunk per sequence. A row's form depends on the length of its own chunk alone: rows of a
//! long chunk are rounded to bf16 where the machine has matrix instructions, in runs of 16 rows (see
//! [`crate::kernel::bf16`]); all others are rounded to bytes, in groups of up to 8 (see [`crate::byte_block`]). Groups
//! and runs take rows of several chunks: kernels give a row the same numbers in any group, at any place, so what a
//! sequence gets does not depend on who is in the batch beside it.
//!
//! Products of experts take several *batches* of rows at once, each with groups and runs of its own.

use crate::buffer::Buffer;
use crate::byte_block::{self, Block, GROUP, ROW_BYTES};
use crate::kernel::bf16::{BLOCK_BYTES, SIDE};
use crate::kernel::{self, Form, Machine};
use crate::parallel;
use crate::rows::{Picked, Place};
use crate::tile::BLOCK;
use std::ops::Range;

/// A reusable workspace: activations, rounded once and shared by several products.
#[derive(Debug, Default)]
pub struct Activations {
    /// Columns of a row.
    cols: usize,
    batches: Vec<Batch>,
    /// Rows of all batches; within one those in bytes come first.
    places: Vec<Place>,
    groups: Vec<Range<usize>>,
    runs: Vec<Range<usize>>,
    /// Groups, each in the room of a full one.
    bytes: Buffer,
    /// Runs of 16 rows.
    halves: Buffer,
}

/// Rows that meet the same matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// All rows.
    pub places: Range<usize>,
    /// Groups of rows in bytes.
    pub groups: Range<usize>,
    /// Runs of rows in bf16.
    pub runs: Range<usize>,
}

impl Activations {
    /// An empty workspace.
    pub fn new() -> Activations {
        Activations::default()
    }

    /// Rounds the rows of `x`, `[rows][cols]`, in parallel where that pays. `chunks` holds the number of rows of
    /// each chunk.
    ///
    /// # Panics
    /// When `x` does not hold as many rows as the chunks have.
    pub fn set(&mut self, x: &[f32], chunks: &[usize], cols: usize) {
        let machine = Machine::detect();
        self.arrange(machine, chunks, cols);
        self.fill(machine, x);
    }

    /// Arranges one batch whose results lie in the order of its rows. What was there before is forgotten.
    pub(crate) fn arrange(&mut self, machine: Machine, chunks: &[usize], cols: usize) {
        self.clear(cols);
        self.push(machine, chunks.iter().copied(), |row| Place { from: row, to: row });
    }

    /// Forgets all rows; those to come have `cols` columns.
    pub(crate) fn clear(&mut self, cols: usize) {
        self.cols = cols;
        self.batches.clear();
        self.places.clear();
        self.groups.clear();
        self.runs.clear();
    }

    /// Arranges one more batch, of chunks of these lengths; `place` says where its row `i` is.
    pub(crate) fn push(
        &mut self,
        machine: Machine,
        chunks: impl Iterator<Item = usize> + Clone,
        place: impl Fn(usize) -> Place,
    ) {
        let (places, groups, runs) = (self.places.len(), self.groups.len(), self.runs.len());
        for form in [Form::Bytes, Form::Bf16] {
            let first = self.places.len();
            let mut row = 0;
            for length in chunks.clone() {
                if machine.form(length) == form {
                    self.places.extend((row..row + length).map(&place));
                }
                row += length;
            }
            let (parts, most) = match form {
                Form::Bytes => (&mut self.groups, GROUP),
                Form::Bf16 => (&mut self.runs, SIDE),
            };
            let end = self.places.len();
            parts.extend((first..end).step_by(most).map(|at| at..end.min(at + most)));
        }
        self.batches.push(Batch {
            places: places..self.places.len(),
            groups: groups..self.groups.len(),
            runs: runs..self.runs.len(),
        });
    }

    /// Rounds the rows that were arranged, in parallel where that pays.
    ///
    /// # Panics
    /// When `x` does not hold them.
    pub(crate) fn fill(&mut self, machine: Machine, x: &[f32]) {
        let Activations { cols, ref places, ref groups, ref runs, .. } = *self;
        let few = places.len() <= GROUP;
        let picked = |part: &Range<usize>| Picked { x, cols, places: &places[part.clone()] };
        let stride = GROUP * self.blocks() * ROW_BYTES;
        self.bytes.reserve(groups.len() * stride);
        parallel::for_each_chunk(self.bytes.bytes_mut(), stride, groups.len(), few, |g, out| {
            let (rows, width) = (picked(&groups[g]), byte_block::width_of(groups[g].len()));
            kernel::quantize_group(machine.isa, rows, width, &mut out[..stride / GROUP * width]);
        });
        let Some(matrices) = machine.matrices else { return };
        let stride = cols.div_ceil(BLOCK) * BLOCK_BYTES;
        self.halves.reserve(runs.len() * stride);
        parallel::for_each_chunk(self.halves.bytes_mut(), stride, runs.len(), few, |run, out| {
            matrices.pack(picked(&runs[run]), &mut out[..stride]);
        });
    }

    /// Blocks of a row; the last one may be padded with zeros.
    pub(crate) fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    pub(crate) fn batches(&self) -> &[Batch] {
        &self.batches
    }

    pub(crate) fn places(&self, part: Range<usize>) -> &[Place] {
        &self.places[part]
    }

    /// Rows of group `g`, the width of its blocks, and the blocks.
    pub(crate) fn group(&self, g: usize) -> (&[Place], usize, &[u8]) {
        let (rows, stride) = (self.groups[g].clone(), self.blocks() * ROW_BYTES);
        let width = byte_block::width_of(rows.len());
        (&self.places[rows], width, &self.bytes.bytes()[g * GROUP * stride..][..width * stride])
    }

    /// Rows of a run, and their operand: bf16, block by block.
    pub(crate) fn run(&self, run: usize) -> (&[Place], &[u8]) {
        let stride = self.blocks() * BLOCK_BYTES;
        (&self.places[self.runs[run].clone()], &self.halves.bytes()[run * stride..][..stride])
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        // Lists keep what they have grown to.
        let lists = self.batches.capacity() * size_of::<Batch>() + self.places.capacity() * size_of::<Place>();
        let parts = (self.groups.capacity() + self.runs.capacity()) * size_of::<Range<usize>>();
        self.bytes.bytes().len() + self.halves.bytes().len() + lists + parts
    }

    /// Row `row` of `x` as the numbers that the products really multiply; left as it is where no product takes it.
    pub fn dequantize(&self, row: usize, out: &mut [f32]) {
        let here = |rows: &[Place]| rows.iter().position(|place| place.from == row);
        for g in 0..self.groups.len() {
            let (rows, width, blocks) = self.group(g);
            let Some(t) = here(rows) else { continue };
            for (out, block) in out.chunks_mut(BLOCK).zip(blocks.chunks_exact(width * ROW_BYTES)) {
                let block = Block::of(block, width);
                for (out, &q) in out.iter_mut().zip(block.q(t)) {
                    *out = block.scale(t) * f32::from(q);
                }
            }
            return;
        }
        for run in 0..self.runs.len() {
            let (rows, operand) = self.run(run);
            let Some(t) = here(rows) else { continue };
            for (out, block) in out.chunks_mut(BLOCK).zip(operand.chunks_exact(BLOCK_BYTES)) {
                for (out, b) in out.iter_mut().zip(block[t * 2 * BLOCK..].chunks_exact(2)) {
                    *out = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            return;
        }
    }
}
