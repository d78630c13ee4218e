//! Storage of entries: fixed-size pages, so that a head grows without ever being copied and shrinks
//! by giving pages back.
//!
//! Inside a page, keys lie in tiles of [`TILE`] entries, transposed (`[tile][dim][TILE]`): one vector
//! load holds the same dimension of 16 entries, so scores need no horizontal sums. Values lie row by
//! row (`[entry][dim]`, or `[entry / 2][dim]` where two values share their bytes): a weighted sum of values walks along
//! rows. Numbers that need a scale ([`Dtype::scaled`]) are followed by one `f32` for each key and then one for each value:
//! a number is what is stored times the scale of its row.
//!
//! Keys and values may lie in a mapped file, in the very same layout; they are copied out of it when a
//! page is written to.

use crate::convert::with_format;
pub use crate::convert::{Format, K8V4, Nibbles, Number, Rows};
use crate::simd::prefetch;
use crate::{Dims, Dtype, Mapped};
use bytemuck::Zeroable;
use std::ops::Range;
use std::sync::Arc;

/// Entries of a page.
pub const PAGE: usize = 64;
/// Entries of a key tile.
pub const TILE: usize = 16;

/// One cache line; pages are made of these so that vector loads never straddle two lines.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Where the keys and values of a page lie.
#[derive(Debug, Clone)]
pub(crate) enum Lines {
    /// In memory of their own.
    Owned(Box<[Line]>),
    /// In a mapped file, at `bytes`, whose start is a multiple of 64; copied before anything is written.
    Mapped { file: Arc<Mapped>, bytes: Range<usize> },
}

impl Lines {
    /// A copy of `bytes`.
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        let mut lines = zeroed_lines(bytes.len());
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Lines::Owned(lines)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Lines::Owned(lines) => bytemuck::cast_slice(lines),
            Lines::Mapped { file, bytes } => &file[bytes.clone()],
        }
    }

    fn to_mut(&mut self) -> &mut [Line] {
        if let Lines::Mapped { file, bytes } = self {
            *self = Lines::copied(&file[bytes.clone()]);
        }
        match self {
            Lines::Owned(lines) => lines,
            Lines::Mapped { .. } => unreachable!("mapped lines were just copied"),
        }
    }
}

/// One number for each key and one for each value of a page; 0 where no entry was ever written.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'a> {
    /// By slot.
    pub keys: &'a [f32; PAGE],
    /// By slot.
    pub values: &'a [f32; PAGE],
}

/// What a page holds, to be written.
struct Parts<'a, F: Format> {
    keys: &'a mut [F::Key],
    values: &'a mut [F::Value],
    /// `[2 * PAGE]`, keys' first; empty for numbers without scales.
    scales: &'a mut [f32],
}

/// [`PAGE`] entries of one head.
#[derive(Debug, Clone)]
pub struct Page {
    lines: Lines,
    dims: Dims,
    /// `ln count` of every entry; entries past the head's length hold `-inf`, so that kernels may
    /// run over whole tiles.
    ln_count: Box<[f32; PAGE]>,
    /// Tokens that each entry stands for; 0 past the head's length.
    count: Box<[u32; PAGE]>,
    /// Mean position of the tokens an entry stands for.
    position: Box<[f32; PAGE]>,
}

fn zeroed_lines(bytes: usize) -> Box<[Line]> {
    vec![Line([0; 64]); bytes.div_ceil(64)].into_boxed_slice()
}

impl Page {
    /// An empty page for keys and values of these sizes.
    pub fn new(dims: Dims, dtype: Dtype) -> Self {
        Page {
            lines: Lines::Owned(zeroed_lines(Page::line_bytes(dims, dtype))),
            dims,
            ln_count: Box::new([f32::NEG_INFINITY; PAGE]),
            count: Box::new([0; PAGE]),
            position: Box::new([0.0; PAGE]),
        }
    }

    /// A page of the entries that `lines`, `counts` and `positions` hold; the slots past them are empty.
    pub(crate) fn restored(lines: Lines, dims: Dims, entries: impl Iterator<Item = (u32, f32)>) -> Self {
        let mut page = Page {
            lines,
            dims,
            ln_count: Box::new([f32::NEG_INFINITY; PAGE]),
            count: Box::new([0; PAGE]),
            position: Box::new([0.0; PAGE]),
        };
        entries.enumerate().for_each(|(slot, (count, position))| page.set_meta(slot, count, position));
        page
    }

    /// Keys, values and scales as they lie in memory.
    pub(crate) fn kv(&self) -> &[u8] {
        self.lines.bytes()
    }

    /// Bytes of keys, values and scales together: a multiple of 64 for even sizes.
    pub const fn line_bytes(dims: Dims, dtype: Dtype) -> usize {
        dtype.bytes(PAGE, dims)
    }

    /// Bytes of counts, `ln count` and positions.
    pub const META_BYTES: usize = PAGE * 12;

    /// Bytes of the bookkeeping that a page costs beside its entries: the page itself, its reference
    /// counts and the pointer to it.
    pub const OVERHEAD_BYTES: usize = 80;

    /// Bytes that a page of keys and values of these sizes takes, everything counted.
    pub const fn bytes(dims: Dims, dtype: Dtype) -> usize {
        Page::line_bytes(dims, dtype) + Page::META_BYTES + Page::OVERHEAD_BYTES
    }

    /// Where values begin in the lines, and where scales begin.
    fn split<F: Format>(&self) -> (usize, usize) {
        let keys = PAGE * self.dims.key * size_of::<F::Key>();
        (keys, keys + PAGE * self.dims.value * size_of::<F::Value>() / F::Value::SHARED)
    }

    /// Sizes of keys and values.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// The keys, `[PAGE / TILE][key_dim][TILE]`, as stored numbers.
    pub fn keys<F: Format>(&self) -> &[F::Key] {
        bytemuck::cast_slice(&self.lines.bytes()[..self.split::<F>().0])
    }

    /// The values, `[PAGE / SHARED][value_dim]`, as stored numbers.
    pub fn values<F: Format>(&self) -> &[F::Value] {
        let (values, scales) = self.split::<F>();
        bytemuck::cast_slice(&self.lines.bytes()[values..scales])
    }

    /// The scales that stored numbers have, if any.
    pub fn scales<F: Format>(&self) -> Option<Scales<'_>> {
        if !F::Key::SCALED {
            return None;
        }
        let scales: &[f32] = bytemuck::cast_slice(&self.lines.bytes()[self.split::<F>().1..]);
        let (keys, rest) = scales.split_first_chunk()?;
        Some(Scales { keys, values: rest.first_chunk()? })
    }

    fn parts_mut<F: Format>(&mut self) -> Parts<'_, F> {
        let (values, scales) = self.split::<F>();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self.lines.to_mut());
        let (numbers, scales) = bytes.split_at_mut(scales);
        let (keys, values) = numbers.split_at_mut(values);
        Parts {
            keys: bytemuck::cast_slice_mut(keys),
            values: bytemuck::cast_slice_mut(values),
            scales: bytemuck::cast_slice_mut(scales),
        }
    }

    /// `ln count` of every slot, `-inf` where no entry is.
    pub fn ln_counts(&self) -> &[f32; PAGE] {
        &self.ln_count
    }

    /// Tokens that each slot stands for, 0 where no entry is.
    pub fn counts(&self) -> &[u32; PAGE] {
        &self.count
    }

    /// Mean position of every slot.
    pub fn positions(&self) -> &[f32; PAGE] {
        &self.position
    }

    /// Writes entry `slot`, with a key of `key_dim` numbers and a value of `value_dim`.
    pub fn set(&mut self, slot: usize, dtype: Dtype, key: &[f32], value: &[f32], count: u32, position: f32) {
        fn put<F: Format>(page: &mut Page, slot: usize, key: &[f32], value: &[f32]) {
            let dim = key.len();
            let Parts { keys, values, scales } = page.parts_mut::<F>();
            let (key_scale, value_scale) = (F::Key::scale(key), F::Value::row_scale(value));
            let tile = &mut keys[slot / TILE * TILE * dim..][..TILE * dim];
            let mut narrow = [F::Key::zeroed(); TILE];
            for (columns, part) in tile.chunks_mut(TILE * TILE).zip(key.chunks(TILE)) {
                F::Key::narrow(part, key_scale, &mut narrow[..part.len()]);
                for (column, &x) in columns.chunks_exact_mut(TILE).zip(&narrow) {
                    column[slot % TILE] = x;
                }
            }
            let (row, part) = row::<F>(slot, value.len());
            F::Value::write(value, value_scale, &mut values[row], part);
            if F::Key::SCALED {
                (scales[slot], scales[PAGE + slot]) = (key_scale, value_scale);
            }
        }
        debug_assert!(count > 0, "an entry stands for at least one token");
        with_format!(dtype, F => put::<F>(self, slot, key, value));
        self.set_meta(slot, count, position);
    }

    fn set_meta(&mut self, slot: usize, count: u32, position: f32) {
        self.count[slot] = count;
        self.ln_count[slot] = if count == 1 { 0.0 } else { (count as f32).ln() };
        self.position[slot] = position;
    }

    /// Copies entry `from` of `source` to `slot`, bit for bit.
    pub fn copy_entry(&mut self, slot: usize, source: &Page, from: usize, dtype: Dtype) {
        fn put<F: Format>(page: &mut Page, slot: usize, source: &Page, from: usize) {
            let Dims { key: dim, value: value_dim } = page.dims;
            let Parts { keys, values, scales } = page.parts_mut::<F>();
            let (source_keys, source_values) = (source.keys::<F>(), source.values::<F>());
            let (to, at) = (slot / TILE * TILE * dim + slot % TILE, from / TILE * TILE * dim + from % TILE);
            for i in 0..dim {
                keys[to + i * TILE] = source_keys[at + i * TILE];
            }
            let ((to, part), (at, of)) = (row::<F>(slot, value_dim), row::<F>(from, value_dim));
            values[to].iter_mut().zip(&source_values[at]).for_each(|(to, &x)| *to = to.with(part, x, of));
            if let Some(source) = source.scales::<F>() {
                (scales[slot], scales[PAGE + slot]) = (source.keys[from], source.values[from]);
            }
        }
        with_format!(dtype, F => put::<F>(self, slot, source, from));
        self.set_meta(slot, source.count[from], source.position[from]);
    }

    /// Moves entry `from` of this page to the earlier slot `slot`, bit for bit.
    pub fn move_entry(&mut self, slot: usize, from: usize, dtype: Dtype) {
        fn put<F: Format>(page: &mut Page, slot: usize, from: usize) {
            let Dims { key: dim, value: value_dim } = page.dims;
            let Parts { keys, values, scales } = page.parts_mut::<F>();
            let (to, at) = (slot / TILE * TILE * dim + slot % TILE, from / TILE * TILE * dim + from % TILE);
            for i in 0..dim {
                keys[to + i * TILE] = keys[at + i * TILE];
            }
            let ((to, part), (at, of)) = (row::<F>(slot, value_dim), row::<F>(from, value_dim));
            for (to, at) in to.zip(at) {
                values[to] = values[to].with(part, values[at], of);
            }
            if F::Key::SCALED {
                (scales[slot], scales[PAGE + slot]) = (scales[from], scales[PAGE + from]);
            }
        }
        with_format!(dtype, F => put::<F>(self, slot, from));
        self.set_meta(slot, self.count[from], self.position[from]);
    }

    /// Marks slots `from..` as holding no entry.
    pub fn clear_from(&mut self, from: usize) {
        self.ln_count[from..].fill(f32::NEG_INFINITY);
        self.count[from..].fill(0);
    }

    /// Makes the page as new, where its memory is its own; says whether it is.
    pub(crate) fn clear(&mut self) -> bool {
        let Lines::Owned(lines) = &mut self.lines else { return false };
        lines.fill(Line([0; 64]));
        self.clear_from(0);
        self.position.fill(0.0);
        true
    }

    /// Reads the key of entry `slot` into `out` (`key_dim` numbers).
    pub fn read_key(&self, slot: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<F: Format>(page: &Page, slot: usize, out: &mut [f32]) {
            let dim = out.len();
            let scale = page.scales::<F>().map_or(1.0, |scales| scales.keys[slot]);
            let tile = &page.keys::<F>()[slot / TILE * TILE * dim..][..TILE * dim];
            let mut stored = [F::Key::zeroed(); TILE];
            for (part, columns) in out.chunks_mut(TILE).zip(tile.chunks(TILE * TILE)) {
                for (x, column) in stored.iter_mut().zip(columns.chunks_exact(TILE)) {
                    *x = column[slot % TILE];
                }
                F::Key::widen(&stored[..part.len()], scale, part);
            }
        }
        with_format!(dtype, F => get::<F>(self, slot, out));
    }

    /// Reads key tile `tile` into `out`, `[key_dim][TILE]`. Lanes past the head's length hold
    /// whatever the page holds there: finite numbers that mean nothing.
    pub fn read_key_tile(&self, tile: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<F: Format>(page: &Page, tile: usize, out: &mut [f32]) {
            let len = out.len();
            F::Key::widen(&page.keys::<F>()[tile * len..][..len], 1.0, out);
            if let Some(scales) = page.scales::<F>() {
                let lanes = &scales.keys[tile * TILE..][..TILE];
                for row in out.chunks_exact_mut(TILE) {
                    row.iter_mut().zip(lanes).for_each(|(x, scale)| *x *= scale);
                }
            }
        }
        with_format!(dtype, F => get::<F>(self, tile, out));
    }

    /// Asks for key tile `tile`, which will be read soon.
    pub(crate) fn prefetch_key_tile(&self, tile: usize, dtype: Dtype) {
        let len = dtype.key_bytes(TILE, self.dims.key);
        prefetch(&self.lines.bytes()[tile * len..][..len]);
    }

    /// Reads the value of entry `slot` into `out` (`value_dim` numbers).
    pub fn read_value(&self, slot: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<F: Format>(page: &Page, slot: usize, out: &mut [f32]) {
            let scale = page.scales::<F>().map_or(1.0, |scales| scales.values[slot]);
            let (row, part) = row::<F>(slot, out.len());
            F::Value::read(&page.values::<F>()[row], part, scale, out);
        }
        with_format!(dtype, F => get::<F>(self, slot, out));
    }
}

/// Where the value of entry `slot` lies in a page of values of `dim` numbers: the elements of its row, and which part
/// of them.
fn row<F: Format>(slot: usize, dim: usize) -> (Range<usize>, usize) {
    let first = slot / F::Value::SHARED * dim;
    (first..first + dim, slot % F::Value::SHARED)
}
