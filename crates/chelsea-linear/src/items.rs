//! How products are cut into items of work, which threads take in order.
//!
//! An item is a run of tiles of one matrix times a span of the rows it meets: the bytes way for some groups of rows
//! and the bf16 way for some runs of them, one after the other, so that the tiles are brought in once for both.

use crate::activations::{Activations, Batch};
use crate::bf16::{self, Matrix};
use crate::byte_block::GROUP;
use crate::exact::{self, Strip};
use crate::kernel::bf16::SIDE;
use crate::kernel::{self, Machine};
use crate::linear::{Linear, Products, Weights};
use crate::parallel;
use crate::rows::Picked;
use crate::tile::TILE;
use std::marker::PhantomData;
use std::ops::Range;

/// Weight bytes of an item: small beside a core's second-level cache, long beside a page.
const ITEM_BYTES: usize = 128 << 10;
/// Groups of rows of an item at most: its activations should stay in the second-level cache too.
const ITEM_GROUPS: usize = 16;
/// Runs of rows of an item at most: as many columns of them as are opened at once should stay in that cache.
const ITEM_RUNS: usize = 512 / SIDE;
/// Tiles of an item in bf16 at most: so many share each pass over the activations.
const ITEM_TILES: usize = 8;

/// The outputs of a matrix, `[rows of y][rows of the matrix]`, written by several threads at once.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    y: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads write through `Output::write` only, and no two items write the same numbers.
#[allow(unsafe_code)]
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub fn new(y: &'a mut [f32]) -> Output<'a> {
        Output { y: y.as_mut_ptr(), len: y.len(), borrow: PhantomData }
    }

    /// Writes `sums` from number `at` of row `t` on, as far as a row of `width` reaches.
    ///
    /// # Safety
    /// No other thread may write the same numbers meanwhile.
    #[allow(unsafe_code)]
    unsafe fn write(self, t: usize, width: usize, at: usize, sums: &[f32; TILE]) {
        let n = TILE.min(width - at);
        let at = t * width + at;
        assert!(at + n <= self.len);
        // SAFETY: in bounds by the assertion; exclusive by the contract of this function and by the borrow.
        unsafe {
            let y = self.y.add(at);
            match <&[f32; TILE]>::try_from(&sums[..n]) {
                // A constant length needs no call.
                Ok(sums) => y.cast::<[f32; TILE]>().write_unaligned(*sums),
                Err(_) => sums[..n].iter().enumerate().for_each(|(i, &sum)| y.add(i).write(sum)),
            }
        }
    }
}

/// A matrix, the batch of rows that it meets, and where their products go. Parts with the same output write
/// different rows of it.
pub(crate) struct Part<'a> {
    pub linear: &'a Linear,
    pub batch: usize,
    pub output: Output<'a>,
}

/// How one part is cut.
#[derive(Clone, Copy)]
struct Cut {
    tiles: usize,
    tiles_per_item: usize,
    /// Spans of rows.
    spans: usize,
    /// Items of the parts before.
    first: usize,
}

impl Cut {
    /// `share` is the number of tiles that leaves every thread some items.
    fn of(linear: &Linear, batch: &Batch, share: usize, first: usize) -> Cut {
        let tiles = linear.rows().div_ceil(TILE);
        let by_cache = ITEM_BYTES / (linear.bytes() / tiles).max(1);
        let spans = batch.groups.len().div_ceil(ITEM_GROUPS).max(batch.runs.len().div_ceil(ITEM_RUNS));
        let (tiles_per_item, spans) = match linear.products() {
            // Tiles are multiplied in pairs.
            Products::Fast if !batch.runs.is_empty() => (ITEM_TILES.min(share.next_multiple_of(2)).max(2), spans),
            Products::Fast => (by_cache.min(share), spans),
            Products::F32 | Products::Source => (by_cache.min(share), usize::from(!batch.places.is_empty())),
        };
        Cut { tiles, tiles_per_item: tiles_per_item.max(1), spans, first }
    }

    fn items(self) -> usize {
        self.tiles.div_ceil(self.tiles_per_item) * self.spans
    }

    /// Tiles and span of item `i`. Items of the same tiles follow one another, so that their weights are still in
    /// the cache.
    fn item(self, i: usize) -> (Range<usize>, usize) {
        let tile = i / self.spans * self.tiles_per_item;
        (tile..(tile + self.tiles_per_item).min(self.tiles), i % self.spans)
    }

    /// The share of a span in `all`, a multiple of `unit` but for the last.
    fn share(self, span: usize, all: &Range<usize>, unit: usize) -> Range<usize> {
        let edge = |span: usize| all.end.min(all.start + span * all.len().div_ceil(unit) / self.spans * unit);
        edge(span)..if span + 1 == self.spans { all.end } else { edge(span + 1) }
    }
}

/// Forms all products of `parts` with the rows that were arranged in `acts`; lengths were checked by the caller.
pub(crate) fn products<'a>(
    parts: impl ExactSizeIterator<Item = Part<'a>>,
    x: &[f32],
    acts: &Activations,
    machine: Machine,
) {
    let share = |linear: &Linear| linear.rows().div_ceil(TILE) / (rayon::current_num_threads() * 4);
    let mut jobs: Vec<(Part<'_>, Cut)> = Vec::with_capacity(parts.len());
    let mut items = 0;
    for part in parts {
        let cut = Cut::of(part.linear, &acts.batches()[part.batch], share(part.linear), items);
        if cut.items() > 0 {
            items += cut.items();
            jobs.push((part, cut));
        }
    }
    parallel::for_each(items, |i| {
        let job = jobs.partition_point(|(_, cut)| cut.first <= i) - 1;
        let (part, cut) = &jobs[job];
        let (tiles, span) = cut.item(i - cut.first);
        item(part, *cut, tiles, span, x, acts, machine);
    });
}

fn item(part: &Part<'_>, cut: Cut, tiles: Range<usize>, span: usize, x: &[f32], acts: &Activations, machine: Machine) {
    let Part { linear, batch, output } = *part;
    let (batch, width) = (&acts.batches()[batch], linear.rows());
    match (linear.products(), linear.weights()) {
        (Products::Fast, Weights::Packed { ty, tile_bytes, tiles: bytes }) => {
            let bytes = &bytes.bytes()[..tiles.end * tile_bytes];
            for g in cut.share(span, &batch.groups, 1) {
                let (rows, columns, group) = acts.group(g);
                let run = kernel::tile_kernel(machine.isa, *ty, columns);
                let mut sums = [[0.0; TILE]; GROUP];
                for tile in tiles.clone() {
                    run(&bytes[tile * tile_bytes..], group, &mut sums[..columns]);
                    for (place, sums) in rows.iter().zip(&sums) {
                        // SAFETY: this item alone holds these tiles for these rows.
                        #[allow(unsafe_code)]
                        unsafe {
                            output.write(place.to, width, tile * TILE, sums);
                        }
                    }
                }
            }
            let runs = cut.share(span, &batch.runs, 2);
            if let Some(matrices) = machine.matrices.filter(|_| !runs.is_empty()) {
                let matrix = Matrix { ty: *ty, tile_bytes: *tile_bytes, tiles: bytes };
                bf16::products(matrices, matrix, tiles, acts, runs, |place, tile, sums| {
                    // SAFETY: this item alone holds these tiles for these rows.
                    #[allow(unsafe_code)]
                    unsafe {
                        output.write(place.to, width, tile * TILE, sums);
                    }
                });
            }
        }
        (_, weights) => {
            let rows = Picked { x, cols: linear.cols(), places: acts.places(batch.places.clone()) };
            for tile in tiles {
                let strip = match weights {
                    Weights::Packed { ty, tile_bytes, tiles } => {
                        Strip::Tile { ty: *ty, tile: &tiles.bytes()[tile * tile_bytes..][..*tile_bytes] }
                    }
                    Weights::Source { row_bytes, data } => {
                        let rows = TILE.min(linear.rows() - tile * TILE);
                        let bytes = &data[tile * TILE * row_bytes..][..rows * row_bytes];
                        Strip::Rows { ty: linear.source_type(), bytes, row_bytes: *row_bytes }
                    }
                };
                exact::products(machine.isa, strip, rows, |place, sums| {
                    // SAFETY: this item alone holds these tiles, for all rows.
                    #[allow(unsafe_code)]
                    unsafe {
                        output.write(place.to, width, tile * TILE, sums);
                    }
                });
            }
        }
    }
}
