//! How products are cut into items of work and where their results go.

use crate::activations::{Activations, Form, GROUP};
use crate::bf16::{self, Matrix};
use crate::float::{self, Strip};
use crate::kernel::{self, Isa, TileKernel};
use crate::linear::{Linear, Products, Weights};
use crate::tile::TILE;
use crate::{GgmlType, parallel};

/// Name of a packed type, for reports: bits of a code and what its scales are.
pub(crate) fn format_name(ty: GgmlType) -> &'static str {
    match ty {
        GgmlType::Q4_0 => "tiles of 4 bits, d per 32",
        GgmlType::Q4_1 => "tiles of 4 bits, d and min per 32",
        GgmlType::Q5_0 => "tiles of 4+1 bits, d per 32",
        GgmlType::Q5_1 => "tiles of 4+1 bits, d and min per 32",
        GgmlType::Q8_0 => "tiles of 8 bits, d per 32",
        GgmlType::Q2K => "tiles of 2 bits, scale and min per 16",
        GgmlType::Q3K => "tiles of 2+1 bits, scale per 16",
        GgmlType::Q4K => "tiles of 4 bits, scale and min per 32",
        GgmlType::Q5K => "tiles of 4+1 bits, scale and min per 32",
        GgmlType::Q6K => "tiles of 4+2 bits, scale per 16",
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => "float",
    }
}

/// Weight bytes of an item: small beside a core's L2 cache, long beside a page.
const ITEM_BYTES: usize = 128 << 10;
/// Token groups of an item: its activations should stay in the L2 cache too.
const ITEM_GROUPS: usize = 16;

/// How one matrix is cut.
#[derive(Clone, Copy)]
struct Cut {
    tiles: usize,
    tiles_per_item: usize,
    /// Runs of tokens.
    groups: usize,
}

impl Cut {
    fn of(linear: &Linear, m: usize, form: Form) -> Cut {
        let tiles = linear.rows().div_ceil(TILE);
        let by_cache = ITEM_BYTES / (linear.bytes() / tiles).max(1);
        let by_balance = tiles / (rayon::current_num_threads() * 4);
        let (tiles_per_item, groups) = match (linear.products(), form) {
            (Products::Fast, Form::Bytes) => (by_cache.min(by_balance), m.div_ceil(GROUP).div_ceil(ITEM_GROUPS)),
            // Tiles are multiplied in pairs.
            (Products::Fast, Form::Bf16(_)) => {
                (bf16::ITEM_TILES.min(by_balance.next_multiple_of(2)).max(2), m.div_ceil(bf16::ITEM_TOKENS))
            }
            (Products::F32, _) => (by_cache.min(by_balance), 1),
        };
        Cut { tiles, tiles_per_item: tiles_per_item.max(1), groups }
    }

    fn items(self) -> usize {
        self.tiles.div_ceil(self.tiles_per_item) * self.groups
    }
}

/// The outputs of one matrix, written by several threads at once.
struct Output {
    y: *mut f32,
    len: usize,
    rows: usize,
}

// SAFETY: threads write through `Output::write` only, and no two items write the same (token, row).
#[allow(unsafe_code)]
unsafe impl Sync for Output {}

impl Output {
    /// Writes the sums of rows `row..row + 16`, as far as they exist, of token `t`.
    ///
    /// # Safety
    /// No other thread may write the same rows of the same token meanwhile.
    #[allow(unsafe_code)]
    unsafe fn write(&self, t: usize, row: usize, sums: &[f32; TILE]) {
        let n = TILE.min(self.rows - row);
        let at = t * self.rows + row;
        assert!(at + n <= self.len);
        // SAFETY: in bounds by the assertion; exclusive by the contract of this function, and `y` is
        // borrowed mutably for as long as `products` runs.
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

/// Forms all products of `parts`; lengths were checked by the caller, `m > 0`.
pub(crate) fn products(parts: &mut [(&Linear, &mut [f32])], x: &[f32], m: usize, acts: &Activations, isa: Isa) {
    // Few matrices share an input; more than this take several regions.
    const PARTS: usize = 8;
    for parts in parts.chunks_mut(PARTS) {
        let mut jobs: [Option<(&Linear, Output, Cut)>; PARTS] = [const { None }; PARTS];
        let mut items = 0;
        for (job, (linear, y)) in jobs.iter_mut().zip(parts.iter_mut()) {
            let cut = Cut::of(linear, m, acts.form());
            items += cut.items();
            *job = Some((linear, Output { y: y.as_mut_ptr(), len: y.len(), rows: linear.rows() }, cut));
        }
        parallel::for_each(items, |mut i| {
            for (linear, output, cut) in jobs.iter().flatten() {
                if i < cut.items() {
                    return item(linear, output, *cut, i, x, acts, isa);
                }
                i -= cut.items();
            }
        });
    }
}

/// Item `i` of one matrix: a run of tiles times a run of token groups. Items of the same tiles follow
/// one another, so that their weights are still in the cache.
fn item(linear: &Linear, output: &Output, cut: Cut, i: usize, x: &[f32], acts: &Activations, isa: Isa) {
    let first_tile = i / cut.groups * cut.tiles_per_item;
    let tile_range = first_tile..(first_tile + cut.tiles_per_item).min(cut.tiles);
    match (linear.products(), acts.form(), linear.weights()) {
        (Products::Fast, Form::Bf16(amx), Weights::Packed { ty, tile_bytes, tiles }) => {
            let matrix = Matrix { ty: *ty, tile_bytes: *tile_bytes, tiles: tiles.bytes() };
            let first = i % cut.groups * bf16::ITEM_TOKENS;
            let tokens = first..(first + bf16::ITEM_TOKENS).min(acts.shape().m);
            bf16::products(amx, matrix, tile_range, acts, tokens, |t, tile, sums| {
                // SAFETY: this item alone holds these tiles for these tokens.
                #[allow(unsafe_code)]
                unsafe {
                    output.write(t, tile * TILE, sums);
                }
            });
        }
        (Products::Fast, Form::Bytes, Weights::Packed { ty, tile_bytes, tiles }) => {
            let shape = acts.shape();
            let tiles = &tiles.bytes()[..tile_range.end * tile_bytes];
            let first_group = i % cut.groups * ITEM_GROUPS;
            for g in first_group..(first_group + ITEM_GROUPS).min(shape.groups()) {
                let (first, tokens, width) = shape.group(g);
                let run: TileKernel = kernel::tile_kernel(isa, *ty, width);
                let group = acts.group(g);
                let mut sums = [[0.0; TILE]; GROUP];
                for tile in tile_range.clone() {
                    run(&tiles[tile * tile_bytes..], group, &mut sums[..width]);
                    for (t, sums) in sums[..tokens].iter().enumerate() {
                        // SAFETY: this item alone holds these tiles for these tokens.
                        #[allow(unsafe_code)]
                        unsafe {
                            output.write(first + t, tile * TILE, sums);
                        }
                    }
                }
            }
        }
        (_, _, weights) => {
            for tile in tile_range {
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
                float::products(isa, strip, x, linear.cols(), |t, sums| {
                    // SAFETY: this item alone holds these tiles, for all tokens.
                    #[allow(unsafe_code)]
                    unsafe {
                        output.write(t, tile * TILE, sums);
                    }
                });
            }
        }
    }
}
