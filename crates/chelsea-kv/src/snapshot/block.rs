//! The block of a head: its pages as they lie in memory, then counts, then positions, then zeros up to a
//! multiple of 64.
//!
//! Slots of the last page that hold no entry are zero in the file: what a page held before is nobody's
//! business, and kernels that run over whole tiles meet finite numbers there.

use super::header::{Header, ensure};
use super::{ALIGN, SnapshotError, hash_of};
use crate::page::Source;
use crate::pool::Reservation;
use crate::{Dims, Dtype, Head, PAGE, Page, TILE};
use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a page's keys, values and scales that belong to slots `used..`, with the bits of each that do.
fn unused(dims: Dims, dtype: Dtype, used: usize) -> impl Iterator<Item = (Range<usize>, u8)> {
    // Integers lie in words of four: dimensions of a key, values of four entries or of eight.
    let (together, shared) = if dtype.scaled() { (4, 8 / dtype.value_bits()) } else { (1, 1) };
    let size = if dtype.scaled() { together } else { dtype.key_bytes(1, 1) };
    let words = dtype.key_bytes(1, dims.key) / size;
    let keys = (0..PAGE / TILE).flat_map(move |tile| {
        let first = used.saturating_sub(tile * TILE).min(TILE);
        (0..words).map(move |i| {
            let lanes = (tile * words + i) * TILE;
            (lanes + first) * size..(lanes + TILE) * size
        })
    });
    let values = dtype.key_bytes(PAGE, dims.key);
    let scales = values + dtype.value_bytes(PAGE, dims.value);
    let group = together * shared;
    let end = |entries: usize| values + dtype.value_bytes(entries, dims.value);
    let (full, others) = (end(used / group * group), end(used.next_multiple_of(group))..scales);
    let begun = (full..others.start).map(move |byte| {
        let (left, at) = (used % group, (byte - full) % together);
        let bits = |part: usize| {
            if part * together + at >= left { 0xff >> (8 - 8 / shared) << (8 / shared * part) } else { 0 }
        };
        (byte..byte + 1, (0..shared).fold(0u8, |all, part| all | bits(part) as u8))
    });
    let scales = (0..dtype.scale_bytes() / 4).map(move |of| {
        let first = scales + of * PAGE * 4;
        first + used * 4..first + PAGE * 4
    });
    let whole = keys.chain([others]).chain(scales).map(|range| (range, 0xff));
    whole.chain(begun)
}

/// Keys, values and scales of a page of `used` entries, with zeros where no entry is.
fn clean<'a>(head: &Head, page: &'a Page, used: usize) -> Cow<'a, [u8]> {
    let mut bytes = Cow::Borrowed(page.kv());
    if used < PAGE {
        let owned = bytes.to_mut();
        for (range, bits) in unused(head.dims(), head.dtype(), used) {
            owned[range].iter_mut().for_each(|byte| *byte &= !bits);
        }
    }
    bytes
}

/// Hands the block of `head` to `take`, piece by piece.
fn pieces(head: &Head, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = 8 * head.len();
    let used = |i: usize| (head.len() - i * PAGE).min(PAGE);
    for (i, page) in head.pages().iter().enumerate() {
        let page = clean(head, page, used(i));
        bytes += page.len();
        take(&page)?;
    }
    for (i, page) in head.pages().iter().enumerate() {
        take(bytemuck::cast_slice(&page.counts()[..used(i)]))?;
    }
    for (i, page) in head.pages().iter().enumerate() {
        take(bytemuck::cast_slice(&page.positions()[..used(i)]))?;
    }
    take(&[0; ALIGN][..bytes.next_multiple_of(ALIGN) - bytes])
}

/// XXH3 of the block of `head`.
pub(super) fn hash(head: &Head) -> u64 {
    hash_of(|take| pieces(head, take))
}

/// Writes the block of `head`.
pub(super) fn write(head: &Head, out: &mut impl Write) -> io::Result<()> {
    pieces(head, |piece| out.write_all(piece))
}

/// The numbers of four bytes in `bytes`.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// One head of a snapshot: where its block lies, and how many entries it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Bytes of the file.
    pub range: Range<usize>,
    /// The head's number.
    g: usize,
    len: usize,
}

impl Block {
    pub(super) fn new(range: Range<usize>, g: usize, len: usize) -> Self {
        Block { range, g, len }
    }

    /// Where counts and positions begin inside the block.
    fn meta(&self, header: &Header) -> usize {
        self.len.div_ceil(PAGE) * header.page_bytes(self.g) as usize
    }

    /// Count and position of every entry.
    fn entries<'a>(&self, header: &Header, block: &'a [u8]) -> impl Iterator<Item = (u32, f32)> + use<'a> {
        let (counts, positions) = block[self.meta(header)..][..8 * self.len].split_at(4 * self.len);
        words(counts).zip(words(positions).map(f32::from_bits))
    }

    /// Key scales, then value scales of each page.
    fn scales<'a>(&self, header: &Header, block: &'a [u8]) -> impl Iterator<Item = f32> + use<'a> {
        let page_bytes = header.page_bytes(self.g) as usize;
        let scales = PAGE * header.dtype.scale_bytes();
        let pages = block[..self.meta(header)].chunks_exact(page_bytes);
        pages.flat_map(move |page| words(&page[page_bytes - scales..]).map(f32::from_bits))
    }

    /// Checks the block in `bytes`, the whole file.
    pub(super) fn check(&self, header: &Header, bytes: &[u8]) -> Result<(), SnapshotError> {
        let g = self.g;
        let block = &bytes[self.range.clone()];
        if xxh3_64(block) != header.heads[g].hash {
            let layer = header.shape.layer_of(g);
            return Err(SnapshotError::HeadCorrupted { layer, head: g - header.shape.heads_of(layer).start });
        }
        let tokens = header.tokens.len();
        let mut total = 0u64;
        for (i, (count, position)) in self.entries(header, block).enumerate() {
            ensure(count > 0, || format!("entry {i} of head {g} stands for no token"))?;
            ensure(position >= 0.0 && position < tokens as f32, || {
                format!("entry {i} of head {g} is at position {position} of {tokens} tokens")
            })?;
            total += u64::from(count);
        }
        ensure(total <= tokens as u64, || format!("head {g} stands for {total} of {tokens} tokens"))?;
        // Scales of numbers in less than 8 bits have signs.
        let bits = [header.dtype.key_bits(), header.dtype.value_bits()];
        let signs = |i: usize| bits[i / PAGE % 2] < 8;
        let sane = |(i, scale): (usize, f32)| scale.is_finite() && (scale.is_sign_positive() || signs(i));
        let scales = self.scales(header, block).enumerate().all(sane);
        ensure(scales, || format!("head {g} has a scale that is not finite, or negative where none may be"))?;
        let used = self.len % PAGE;
        let empty = |range: Range<usize>| block[range].iter().all(|&byte| byte == 0);
        let meta = self.meta(header);
        let mut clean = empty(meta + 8 * self.len..block.len());
        if used != 0 {
            let last = meta - header.page_bytes(g) as usize;
            let mut slots = unused(header.dims(g), header.dtype, used);
            clean &= slots.all(|(range, bits)| block[last..][range].iter().all(|&byte| byte & bits == 0));
        }
        ensure(clean, || format!("head {g} holds something where nothing belongs"))
    }

    /// The head, with pages that `lines` makes of bytes of the file.
    pub(super) fn head<'a>(
        &self,
        header: &Header,
        bytes: &[u8],
        source: impl Fn(Range<usize>) -> Source<'a>,
        reserved: &Reservation,
    ) -> Head {
        let dims = header.dims(self.g);
        let page_bytes = header.page_bytes(self.g) as usize;
        let mut entries = self.entries(header, &bytes[self.range.clone()]);
        let pages = (0..self.len.div_ceil(PAGE)).map(|i| {
            let start = self.range.start + i * page_bytes;
            Page::restored(source(start..start + page_bytes), dims, entries.by_ref().take(PAGE), reserved)
        });
        let mut head = Head::from_pages(pages.collect(), self.len, dims, header.dtype);
        head.set_form(header.forms.get(self.g).cloned().flatten());
        head
    }
}
