//! Products of many tokens on machines with matrix instructions: how they are cut. Operands are made by
//! [`crate::kernel::bf16`].

use crate::GgmlType;
use crate::activations::Activations;
use crate::blocks::with_quant;
use crate::buffer::Buffer;
use crate::kernel::bf16::open_tile;
use crate::tile::TILE;
use chelsea_amx::{Amx, BLOCK_BYTES, SIDE as TOKENS};
use std::cell::Cell;
use std::ops::Range;

/// Fewer tokens than this are multiplied in bytes: opening weights to bf16 would cost more than it saves.
pub(crate) const MIN_TOKENS: usize = 32;
/// Blocks of columns that are opened at once: two tiles of them fill two thirds of a first-level cache.
const OPENED: usize = 16;
/// Tokens of an item, a multiple of 16: as many columns of them as are opened at once should stay in a
/// second-level cache.
pub(crate) const ITEM_TOKENS: usize = 512;
/// Tiles of an item at most: so many share each pass over the activations.
pub(crate) const ITEM_TILES: usize = 8;

/// A packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub ty: GgmlType,
    pub tile_bytes: usize,
    pub tiles: &'a [u8],
}

/// Products of a run of 16 tokens with a tile.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Sums([[f32; TILE]; TOKENS]);

/// Room of a thread.
#[derive(Default)]
struct Scratch {
    /// Opened weights of two tiles.
    opened: Buffer,
    /// Sums, `[tile][run of tokens]`, both counts rounded up to whole pairs of operands.
    sums: Vec<Sums>,
}

/// Calls `write(token, tile, sums)` with the products of some tiles with tokens `tokens` of `acts`; the first is a
/// multiple of 16.
pub(crate) fn products(
    amx: Amx,
    matrix: Matrix<'_>,
    tiles: Range<usize>,
    acts: &Activations,
    tokens: Range<usize>,
    mut write: impl FnMut(usize, usize, &[f32; TILE]),
) {
    thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());
    let mut scratch = SCRATCH.take();
    let blocks = acts.shape().blocks();
    let runs = tokens.start / TOKENS..tokens.end.div_ceil(TOKENS);
    // Operands go in pairs; one that has no partner is its own, and the sums of the second are not read.
    let width = runs.len().next_multiple_of(2);
    scratch.opened.reserve(2 * OPENED * BLOCK_BYTES);
    let len = tiles.len().next_multiple_of(2) * width;
    if scratch.sums.len() < len {
        scratch.sums.resize(len, Sums([[0.0; TILE]; TOKENS]));
    }
    let all = &mut scratch.sums[..len];
    amx.configure();
    for first in (0..blocks).step_by(OPENED) {
        let bytes = OPENED.min(blocks - first) * BLOCK_BYTES;
        for (pair, sums) in tiles.clone().step_by(2).zip(all.chunks_exact_mut(2 * width)) {
            let (one, other) = scratch.opened.bytes_mut()[..2 * bytes].split_at_mut(bytes);
            matrix.open(amx, pair, blocks, first, one);
            let alone = pair + 1 == tiles.end;
            if !alone {
                matrix.open(amx, pair + 1, blocks, first, other);
            }
            let rows = [&*one, if alone { &*one } else { &*other }];
            let (left, right) = sums.split_at_mut(width);
            let sums = left.as_chunks_mut::<2>().0.iter_mut().zip(right.as_chunks_mut::<2>().0);
            for (run, ([a, c], [b, d])) in runs.clone().step_by(2).zip(sums) {
                let operand = |run: usize| &acts.run(run.min(runs.end - 1))[first * BLOCK_BYTES..][..bytes];
                let sums = [a, b, c, d].map(|sums| sums.0.as_flattened_mut().as_mut_ptr());
                // SAFETY: the registers are configured; sums are rows of 16 numbers that are this thread's.
                #[allow(unsafe_code)]
                unsafe {
                    amx.multiply([operand(run), operand(run + 1)], rows, sums, 4 * TILE, first == 0);
                }
            }
        }
    }
    amx.release();
    for (tile, sums) in tiles.zip(all.chunks_exact(width)) {
        for (token, sums) in tokens.clone().zip(sums.iter().flat_map(|sums| &sums.0)) {
            write(token, tile, sums);
        }
    }
    SCRATCH.set(scratch);
}

impl Matrix<'_> {
    fn open(self, amx: Amx, tile: usize, blocks: usize, first: usize, out: &mut [u8]) {
        let tile = &self.tiles[tile * self.tile_bytes..][..self.tile_bytes];
        with_quant!(self.ty, Q => open_tile::<Q>(amx, tile, blocks, first, out), _ => unreachable!("float tiles"));
    }
}
