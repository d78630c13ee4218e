//! Storage of entries: fixed-size pages, so that a head grows without ever being copied and shrinks
//! by giving pages back.
//!
//! Inside a page, keys lie in tiles of [`TILE`] entries, transposed (`[tile][dim][TILE]`): one vector
//! load holds the same dimension of 16 entries, so scores need no horizontal sums. Values lie row by
//! row (`[entry][dim]`): a weighted sum of values walks along rows.
//!
//! Integers lie in words of four bytes, which the dot products of processors add up: four dimensions of a key
//! (`[tile][dim / 4][TILE][4]`), one dimension of the values of four entries (`[entry / 4][dim][4]`), or of eight where two
//! values of 4 bits share a byte (`[entry / 8][dim][4]`, entries 0 to 3 in the low halves and 4 to 7 in the high ones).
//! Keys whose size is no multiple of four end in numbers that nobody reads. How keys in 5 bits lie is told in [`Fives`]'s
//! module. Numbers that need a scale ([`Dtype::scaled`]) are followed by one `f32` for each key and then one for each value:
//! a number is what is stored times the scale of its row.
//!
//! Keys and values may lie in a mapped file, in the very same layout; they are copied out of it when a
//! page is written to.

mod runs;

pub(crate) use runs::pieces;

use crate::convert::with_format;
pub use crate::convert::{Byte, Columns, Fives, Format, K5V4, K8V4, Nibbles, Number, Rows};
use crate::pool::{Lease, Reservation};
use crate::simd::prefetch;
use crate::{Dims, Dtype, Mapped};
use std::ops::Range;
use std::sync::Arc;
use triomphe::HeaderSlice;

/// Entries of a page.
pub const PAGE: usize = 64;
/// Entries of a key tile.
pub const TILE: usize = 16;

/// One cache line; pages are made of these so that vector loads never straddle two lines.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

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

/// What a page is beside its lines.
#[derive(Debug)]
struct Header {
    dims: Dims,
    /// Where keys, values and scales lie, if that is in a file.
    mapped: Option<Box<MappedLines>>,
    /// What the page is charged with; returned when the last owner drops it.
    _lease: Lease,
}

/// Keys, values and scales in a mapped file.
#[derive(Debug, Clone)]
pub(crate) struct MappedLines {
    /// The file.
    pub file: Arc<Mapped>,
    /// Where in it; the start is a multiple of 64.
    pub bytes: Range<usize>,
}

/// Where the keys and values of a page come from.
#[derive(Debug, Clone)]
pub(crate) enum Source<'a> {
    /// These bytes, copied.
    Bytes(&'a [u8]),
    /// A file, read in place until the page is written to.
    Mapped(MappedLines),
}

/// [`PAGE`] entries of one head, in one allocation. Cloning shares it.
///
/// The lines hold keys, values and scales (unless those lie in a mapped file), then `ln count` of every slot, then the
/// counts, then the positions. `ln count` is `-inf` past the head's length, so that kernels may run over whole tiles; the
/// count is 0 there.
#[derive(Debug, Clone)]
pub struct Page(triomphe::Arc<HeaderSlice<Header, [Line]>>);

// An allocation begins with the number of its owners, the header and the number of lines, and its lines begin at the next
// line's start.
const _: () = {
    let before_lines = (size_of::<usize>() + size_of::<Header>() + size_of::<usize>()).next_multiple_of(64);
    assert!(before_lines + size_of::<Page>() <= Page::OVERHEAD_BYTES, "a page costs more than is counted for it");
};

/// Lines of one number of four bytes for each slot.
const WORD_LINES: usize = PAGE * 4 / 64;
/// Lines behind keys, values and scales.
const META_LINES: usize = 3 * WORD_LINES;

impl Page {
    /// An empty page for keys and values of these sizes.
    pub fn new(dims: impl Into<Dims>, dtype: Dtype) -> Self {
        Page::reserved(dims.into(), dtype, &Reservation::unbound())
    }

    /// An empty page that is charged to `reserved`.
    pub(crate) fn reserved(dims: Dims, dtype: Dtype, reserved: &Reservation) -> Self {
        let mut page = Page::of_lines(
            Page::line_bytes(dims, dtype) / 64,
            Header { dims, mapped: None, _lease: reserved.take(Page::bytes(dims, dtype)) },
            |_| Line([0; 64]),
        );
        page.unique().clear_from(0);
        page
    }

    /// A page with the keys and values of `source`, of the entries `entries`; the slots past them are empty.
    pub(crate) fn restored(
        source: Source<'_>,
        dims: Dims,
        entries: impl Iterator<Item = (u32, f32)>,
        reserved: &Reservation,
    ) -> Self {
        let beside = Page::META_BYTES + Page::OVERHEAD_BYTES;
        let mut page = match source {
            Source::Bytes(bytes) => {
                let header = Header { dims, mapped: None, _lease: reserved.take(bytes.len() + beside) };
                Page::of_lines(bytes.len().div_ceil(64), header, |i| line_of(bytes, i))
            }
            Source::Mapped(lines) => {
                let lease = reserved.take_mapped(beside, lines.bytes.len());
                Page::of_lines(0, Header { dims, mapped: Some(Box::new(lines)), _lease: lease }, |_| Line([0; 64]))
            }
        };
        let mut writer = page.unique();
        writer.clear_from(0);
        entries.enumerate().for_each(|(slot, (count, position))| writer.set_meta(slot, count, position));
        page
    }

    /// A page of `kv_lines` lines that `line` makes, and zeros behind them.
    fn of_lines(kv_lines: usize, header: Header, line: impl Fn(usize) -> Line) -> Self {
        let lines = (0..kv_lines + META_LINES).map(|i| if i < kv_lines { line(i) } else { Line([0; 64]) });
        Page(triomphe::Arc::from_header_and_iter(header, lines))
    }

    /// Whether this is the only owner and keys and values are its own, so that it can be written to as it is.
    pub(crate) fn is_own(&self) -> bool {
        self.0.is_unique() && self.0.header.mapped.is_none()
    }

    /// Whether others own the page, too.
    pub fn is_shared(&self) -> bool {
        !self.0.is_unique()
    }

    /// Whether both are one page.
    pub fn is_same(&self, other: &Page) -> bool {
        triomphe::Arc::ptr_eq(&self.0, &other.0)
    }

    /// The page to be written to: a copy of it, charged to `reserved`, unless it is [its own](Page::is_own).
    pub(crate) fn to_mut(&mut self, reserved: &Reservation) -> Writer<'_> {
        if !self.is_own() {
            let (kv, meta) = (self.kv(), self.meta());
            let (dims, kv_lines) = (self.dims(), kv.len().div_ceil(64));
            let lease = reserved.take(kv.len() + Page::META_BYTES + Page::OVERHEAD_BYTES);
            let lines =
                (0..kv_lines + META_LINES).map(|i| if i < kv_lines { line_of(kv, i) } else { meta[i - kv_lines] });
            let header = Header { dims, mapped: None, _lease: lease };
            *self = Page(triomphe::Arc::from_header_and_iter(header, lines));
        }
        self.unique()
    }

    /// # Panics
    /// If there are other owners.
    fn unique(&mut self) -> Writer<'_> {
        let page = triomphe::Arc::get_mut(&mut self.0).expect("a page that was just made has one owner");
        let at = page.slice.len() - META_LINES;
        let (kv, meta) = page.slice.split_at_mut(at);
        Writer { dims: page.header.dims, kv, meta: bytemuck::cast_slice_mut(meta) }
    }

    fn meta(&self) -> &[Line] {
        &self.0.slice[self.0.slice.len() - META_LINES..]
    }

    fn words<T: bytemuck::Pod>(&self, which: usize) -> &[T; PAGE] {
        let lines = &self.meta()[which * WORD_LINES..][..WORD_LINES];
        bytemuck::cast_slice(lines).try_into().expect("a word for every slot")
    }

    /// Keys, values and scales as they lie in memory.
    pub(crate) fn kv(&self) -> &[u8] {
        match &self.0.header.mapped {
            None => bytemuck::cast_slice(&self.0.slice[..self.0.slice.len() - META_LINES]),
            Some(lines) => &lines.file[lines.bytes.clone()],
        }
    }

    /// Where the page begins in memory: to be asked for ahead of time.
    pub(crate) fn start(&self) -> *const u8 {
        (&raw const self.0.header).cast()
    }

    /// Bytes of keys, values and scales together: a multiple of 64 for even sizes.
    pub const fn line_bytes(dims: Dims, dtype: Dtype) -> usize {
        dtype.bytes(PAGE, dims)
    }

    /// Bytes of counts, `ln count` and positions.
    pub const META_BYTES: usize = PAGE * 12;

    /// Bytes of the bookkeeping that a page costs beside its entries: what stands before its lines, and the pointer to it.
    pub const OVERHEAD_BYTES: usize = 144;

    /// Bytes that a page of keys and values of these sizes takes, everything counted.
    pub const fn bytes(dims: Dims, dtype: Dtype) -> usize {
        Page::line_bytes(dims, dtype) + Page::META_BYTES + Page::OVERHEAD_BYTES
    }

    /// Where values begin in the lines, and where scales begin.
    fn split<F: Format>(dims: Dims) -> (usize, usize) {
        let keys = PAGE * F::Key::stored(dims.key) * size_of::<F::Key>();
        (keys, keys + PAGE * dims.value * size_of::<F::Value>() / F::Value::SHARED)
    }

    /// Sizes of keys and values.
    pub fn dims(&self) -> Dims {
        self.0.header.dims
    }

    /// The keys as stored numbers, in tiles of 16 entries.
    #[inline]
    pub fn keys<F: Format>(&self) -> &[F::Key] {
        bytemuck::cast_slice(&self.kv()[..Page::split::<F>(self.dims()).0])
    }

    /// The values as stored numbers: rows of one entry, or of the four or eight that lie together.
    #[inline]
    pub fn values<F: Format>(&self) -> &[F::Value] {
        let (values, scales) = Page::split::<F>(self.dims());
        bytemuck::cast_slice(&self.kv()[values..scales])
    }

    /// The scales that stored numbers have, if any.
    pub fn scales<F: Format>(&self) -> Option<Scales<'_>> {
        if !F::Key::SCALED {
            return None;
        }
        let scales: &[f32] = bytemuck::cast_slice(&self.kv()[Page::split::<F>(self.dims()).1..]);
        let (keys, rest) = scales.split_first_chunk()?;
        Some(Scales { keys, values: rest.first_chunk()? })
    }

    /// `ln count` of every slot, `-inf` where no entry is.
    pub fn ln_counts(&self) -> &[f32; PAGE] {
        self.words(0)
    }

    /// Tokens that each slot stands for, 0 where no entry is.
    pub fn counts(&self) -> &[u32; PAGE] {
        self.words(1)
    }

    /// Mean position of every slot.
    pub fn positions(&self) -> &[f32; PAGE] {
        self.words(2)
    }

    /// Reads the key of entry `slot` into `out` (`key_dim` numbers).
    pub fn read_key(&self, slot: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<F: Format>(page: &Page, slot: usize, out: &mut [f32]) {
            let scale = page.scales::<F>().map_or(1.0, |scales| scales.keys[slot]);
            let keys = &page.keys::<F>()[column::<F::Key>(slot, out.len())..];
            F::Key::read_column(keys, scale, out);
        }
        with_format!(dtype, F => get::<F>(self, slot, out));
    }

    /// Reads key tile `tile` into `out`, `[key_dim][TILE]`. Lanes past the head's length hold
    /// whatever the page holds there: finite numbers that mean nothing.
    pub fn read_key_tile(&self, tile: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<F: Format>(page: &Page, tile: usize, out: &mut [f32]) {
            let len = TILE * F::Key::stored(out.len() / TILE);
            F::Key::read_tile(&page.keys::<F>()[tile * len..][..len], out);
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
        let len = dtype.key_bytes(TILE, self.dims().key);
        prefetch(&self.kv()[tile * len..][..len]);
    }

    /// The scales of the key and the value of entry `slot`: 1 for types that have none.
    pub(crate) fn scales_of(&self, slot: usize, dtype: Dtype) -> (f32, f32) {
        fn get<F: Format>(page: &Page, slot: usize) -> (f32, f32) {
            page.scales::<F>().map_or((1.0, 1.0), |scales| (scales.keys[slot], scales.values[slot]))
        }
        with_format!(dtype, F => get::<F>(self, slot))
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

/// A page that may be written to.
pub(crate) struct Writer<'a> {
    dims: Dims,
    /// Keys, values and scales.
    kv: &'a mut [Line],
    /// Bits of `ln count`, counts, and bits of positions, `[3][PAGE]`.
    meta: &'a mut [u32],
}

impl Writer<'_> {
    fn parts_mut<F: Format>(&mut self) -> Parts<'_, F> {
        let (values, scales) = Page::split::<F>(self.dims);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self.kv);
        let (numbers, scales) = bytes.split_at_mut(scales);
        let (keys, values) = numbers.split_at_mut(values);
        Parts {
            keys: bytemuck::cast_slice_mut(keys),
            values: bytemuck::cast_slice_mut(values),
            scales: bytemuck::cast_slice_mut(scales),
        }
    }

    /// Writes entry `slot`, with a key of `key_dim` numbers and a value of `value_dim`.
    pub fn set(&mut self, slot: usize, dtype: Dtype, key: &[f32], value: &[f32], count: u32, position: f32) {
        self.set_scaled(slot, dtype, (key, value), None, count, position);
    }

    /// The same, with these scales of key and value where they are given: numbers that were read with them are stored as
    /// they were.
    pub fn set_scaled(
        &mut self,
        slot: usize,
        dtype: Dtype,
        (key, value): (&[f32], &[f32]),
        known: Option<(f32, f32)>,
        count: u32,
        position: f32,
    ) {
        fn put<F: Format>(page: &mut Writer<'_>, slot: usize, key: &[f32], value: &[f32], known: Option<(f32, f32)>) {
            let Parts { keys, values, scales } = page.parts_mut::<F>();
            let (key_scale, value_scale) =
                known.unwrap_or_else(|| (F::Key::column_scale(key), F::Value::row_scale(value)));
            F::Key::write_column(key, key_scale, &mut keys[column::<F::Key>(slot, key.len())..]);
            let (row, part) = row::<F>(slot, value.len());
            F::Value::write(value, value_scale, &mut values[row], part);
            if F::Key::SCALED {
                (scales[slot], scales[PAGE + slot]) = (key_scale, value_scale);
            }
        }
        debug_assert!(count > 0, "an entry stands for at least one token");
        with_format!(dtype, F => put::<F>(self, slot, key, value, known));
        self.set_meta(slot, count, position);
    }

    fn set_meta(&mut self, slot: usize, count: u32, position: f32) {
        let ln_count = if count == 1 { 0.0 } else { (count as f32).ln() };
        (self.meta[slot], self.meta[PAGE + slot]) = (ln_count.to_bits(), count);
        self.meta[2 * PAGE + slot] = position.to_bits();
    }

    /// Marks slots `from..` as holding no entry.
    pub fn clear_from(&mut self, from: usize) {
        self.meta[from..PAGE].fill(f32::NEG_INFINITY.to_bits());
        self.meta[PAGE + from..2 * PAGE].fill(0);
    }

    /// Makes the page as new.
    pub fn clear(&mut self) {
        self.kv.fill(Line([0; 64]));
        self.meta.fill(0);
        self.clear_from(0);
    }
}

/// Line `i` of `bytes`, with zeros behind their end.
fn line_of(bytes: &[u8], i: usize) -> Line {
    let part = &bytes[i * 64..bytes.len().min((i + 1) * 64)];
    let mut line = Line([0; 64]);
    line.0[..part.len()].copy_from_slice(part);
    line
}

/// Where the key of entry `slot` begins in a page of keys of `dim` numbers: those that lie together at the start of every
/// [`stride`] numbers from there on.
fn column<K: Columns>(slot: usize, dim: usize) -> usize {
    slot / TILE * TILE * K::stored(dim) + slot % TILE * K::TOGETHER
}

/// Numbers from those of a key that lie together to the next.
const fn stride<K: Columns>() -> usize {
    TILE * K::TOGETHER
}

/// Where the value of entry `slot` lies in a page of values of `dim` numbers: in every [`Rows::TOGETHER`]th of these
/// elements, and in which part of them.
fn row<F: Format>(slot: usize, dim: usize) -> (Range<usize>, usize) {
    let together = F::Value::TOGETHER;
    let first = slot / F::Value::GROUP * dim * together;
    (first + slot % together..first + dim * together, slot / together % F::Value::SHARED)
}
