//! Products in bf16, for the rows of long chunks on machines with matrix instructions.

use crate::activations::Activations;
use crate::blocks::with_quant;
use crate::buffer::Buffer;
use crate::kernel::bf16::{BLOCK_BYTES, Matrices, SIDE, Sums};
use crate::rows::Place;
use crate::tile::TILE;
use crate::types::GgmlType;
use std::cell::Cell;
use std::ops::Range;

/// Blocks of columns that are opened at once: two tiles of them fill two thirds of a first-level cache.
const OPENED: usize = 16;

/// A packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub ty: GgmlType,
    pub tile_bytes: usize,
    pub tiles: &'a [u8],
}

/// Room of a thread.
#[derive(Default)]
struct Scratch {
    /// Opened weights of two tiles.
    opened: Buffer,
    /// Sums, `[tile][run of rows]`, both counts rounded up to whole pairs of operands.
    sums: Vec<Sums>,
}

/// Calls `write(place, tile, sums)` with the products of some tiles with some runs of rows.
pub(crate) fn products(
    matrices: Matrices,
    matrix: Matrix<'_>,
    tiles: Range<usize>,
    acts: &Activations,
    runs: Range<usize>,
    mut write: impl FnMut(Place, usize, &[f32; TILE]),
) {
    thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());
    let mut scratch = SCRATCH.take();
    let blocks = acts.blocks();
    // Operands go in pairs; one that has no partner is its own, and the sums of the second are not read.
    let width = runs.len().next_multiple_of(2);
    scratch.opened.reserve(2 * OPENED * BLOCK_BYTES);
    let len = tiles.len().next_multiple_of(2) * width;
    if scratch.sums.len() < len {
        scratch.sums.resize(len, Sums([[0.0; TILE]; SIDE]));
    }
    let all = &mut scratch.sums[..len];
    matrices.configure();
    for first in (0..blocks).step_by(OPENED) {
        let bytes = OPENED.min(blocks - first) * BLOCK_BYTES;
        for (pair, sums) in tiles.clone().step_by(2).zip(all.chunks_exact_mut(2 * width)) {
            let (one, other) = scratch.opened.bytes_mut()[..2 * bytes].split_at_mut(bytes);
            matrix.open(matrices, pair, blocks, first, one);
            let alone = pair + 1 == tiles.end;
            if !alone {
                matrix.open(matrices, pair + 1, blocks, first, other);
            }
            let tiles = [&*one, if alone { &*one } else { &*other }];
            let (left, right) = sums.split_at_mut(width);
            let sums = left.as_chunks_mut::<2>().0.iter_mut().zip(right.as_chunks_mut::<2>().0);
            for (run, ([a, c], [b, d])) in runs.clone().step_by(2).zip(sums) {
                let operand = |run: usize| &acts.run(run.min(runs.end - 1)).1[first * BLOCK_BYTES..][..bytes];
                // SAFETY: the registers are configured.
                #[allow(unsafe_code)]
                unsafe {
                    matrices.multiply([operand(run), operand(run + 1)], tiles, [a, b, c, d], first == 0);
                }
            }
        }
    }
    matrices.release();
    for (tile, sums) in tiles.zip(all.chunks_exact(width)) {
        for (run, sums) in runs.clone().zip(sums) {
            for (&place, sums) in acts.run(run).0.iter().zip(&sums.0) {
                write(place, tile, sums);
            }
        }
    }
    SCRATCH.set(scratch);
}

impl Matrix<'_> {
    fn open(self, matrices: Matrices, tile: usize, blocks: usize, first: usize, out: &mut [u8]) {
        let tile = &self.tiles[tile * self.tile_bytes..][..self.tile_bytes];
        with_quant!(self.ty, Q => matrices.open::<Q>(tile, blocks, first, out), _ => unreachable!("float tiles"));
    }
}
