//! Runs of entries that move, bit for bit: what survives a merge closes the gaps.

use super::{Page, Writer, column, stride};
use crate::convert::{Columns, Format, Rows, with_format};
use crate::{Dims, Dtype, PAGE, TILE};

/// Entries of which a word holds a number each, where values are bytes or halves of bytes.
const QUAD: usize = 4;

/// Where a run of entries goes, and where it comes from: slots of pages.
#[derive(Clone, Copy)]
struct Run {
    to: usize,
    from: usize,
    len: usize,
}

impl Writer<'_> {
    /// Copies the `len` entries from slot `from` of `source` on to slot `to` and those after it, bit for bit; of this page
    /// itself where no `source` is given, and then to earlier slots.
    pub fn copy_run(&mut self, to: usize, source: Option<&Page>, from: usize, len: usize, dtype: Dtype) {
        fn put<F: Format>(page: &mut Writer<'_>, source: Option<&Page>, run: Run) {
            let Dims { key, value } = page.dims;
            let parts = page.parts_mut::<F>();
            copy_keys(parts.keys, source.map(Page::keys::<F>), key, run);
            copy_values(parts.values, source.map(Page::values::<F>), value, run);
            let Run { to, from, len } = run;
            match source.map(Page::scales::<F>) {
                Some(Some(source)) => {
                    parts.scales[to..][..len].copy_from_slice(&source.keys[from..][..len]);
                    parts.scales[PAGE + to..][..len].copy_from_slice(&source.values[from..][..len]);
                }
                None if F::Key::SCALED => {
                    parts.scales.copy_within(from..from + len, to);
                    parts.scales.copy_within(PAGE + from..PAGE + from + len, PAGE + to);
                }
                Some(None) | None => {}
            }
        }
        debug_assert!(to.max(from) + len <= PAGE && (source.is_some() || to <= from), "a run lies in its pages");
        let run = Run { to, from, len };
        with_format!(dtype, F => put::<F>(self, source, run));
        match source {
            Some(source) => (0..len).for_each(|i| {
                self.set_meta(to + i, source.counts()[from + i], source.positions()[from + i]);
            }),
            None => {
                (0..3).for_each(|word| {
                    self.meta.copy_within(word * PAGE + from..word * PAGE + from + len, word * PAGE + to);
                });
            }
        }
    }
}

/// The parts of a run of `len` entries that lie in one group of `size` entries both where they come from and where they go:
/// to where, from where, and how many.
pub(crate) fn pieces(to: usize, from: usize, len: usize, size: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (to, from) = (to + done, from + done);
        let piece = (len - done).min(size - to % size).min(size - from % size);
        done += piece;
        (piece > 0).then_some((to, from, piece))
    })
}

/// Copies `to[at..at + len]` from `source`, or from `to` itself.
fn copy<T: Copy>(to: &mut [T], at: usize, source: Option<&[T]>, from: usize, len: usize) {
    match source {
        Some(source) => to[at..at + len].copy_from_slice(&source[from..from + len]),
        None => to.copy_within(from..from + len, at),
    }
}

/// Copies keys of `dim` numbers. Those of entries that follow each other in a tile lie side by side in each of its rows.
fn copy_keys<K: Columns>(to: &mut [K], source: Option<&[K]>, dim: usize, run: Run) {
    for (slot, from, len) in pieces(run.to, run.from, run.len, TILE) {
        let (at, of) = (column::<K>(slot, dim), column::<K>(from, dim));
        for row in (0..K::stored(dim) / K::TOGETHER).map(|row| row * stride::<K>()) {
            if len == 1 {
                // Its size is known when this is compiled, unlike that of a run.
                copy(to, at + row, source, of + row, K::TOGETHER);
            } else {
                copy(to, at + row, source, of + row, len * K::TOGETHER);
            }
        }
    }
}

/// Copies values of `dim` numbers.
fn copy_values<V: Rows>(to: &mut [V], source: Option<&[V]>, dim: usize, run: Run) {
    if V::GROUP == 1 {
        return copy(to, run.to * dim, source, run.from * dim, run.len * dim);
    }
    assert!(V::TOGETHER == QUAD && size_of::<V>() == 1, "values that lie together do so in words of bytes");
    let (to, source): (&mut [u32], Option<&[u32]>) =
        (bytemuck::cast_slice_mut(to), source.map(|source| bytemuck::cast_slice(source)));
    for quad in run.to / QUAD..(run.to + run.len).div_ceil(QUAD) {
        copy_quad::<V>(to, source, dim, run, quad);
    }
}

/// Copies what `run` has of the four entries `quad`, which lie in the bytes of one word for each of `dim` columns, or in one
/// half of each byte. They come from one or two such fours that follow each other.
fn copy_quad<V: Rows>(to: &mut [u32], source: Option<&[u32]>, dim: usize, run: Run, quad: usize) {
    // Words of a quad begin there, and its numbers so many bits up in each byte.
    let place = |quad: usize| (quad / V::SHARED * dim, (quad % V::SHARED * 4) as u32);
    let bits = if V::SHARED == 1 { u32::MAX } else { 0x0f0f_0f0f };
    let (first, end) = (run.to.max(quad * QUAD), (run.to + run.len).min((quad + 1) * QUAD));
    let bytes = |lane: usize| if lane == QUAD { u32::MAX } else { (1 << (8 * lane)) - 1 };
    let mask = bits & bytes(end - quad * QUAD) & !bytes(first - quad * QUAD);
    // What comes to the first byte is byte `shift` of quad `a`; of the one after it come those bytes that `a` has not. One of
    // the two may not be needed, and then not be there either: the other stands in for it, behind the mask.
    let shift = (QUAD + run.from % QUAD - run.to % QUAD) % QUAD;
    let of = |slot: usize| (slot - run.to + run.from) / QUAD;
    let (a, b) = if first % QUAD + shift < QUAD { (of(first), of(end - 1)) } else { (of(first), of(first)) };
    let ((at, up), (a, up_a), (b, up_b)) = (place(quad), place(a), place(b));
    let moved = |word: u32, a: u32, b: u32| {
        let (a, b) = ((a >> up_a) & bits, (b >> up_b) & bits);
        let joined = ((u64::from(b) << 32 | u64::from(a)) >> (8 * shift)) as u32;
        word & !(mask << up) | (joined & mask) << up
    };
    match source {
        Some(source) => {
            let words = to[at..][..dim].iter_mut().zip(&source[a..][..dim]).zip(&source[b..][..dim]);
            words.for_each(|((word, &a), &b)| *word = moved(*word, a, b));
        }
        None => (0..dim).for_each(|i| to[at + i] = moved(to[at + i], to[a + i], to[b + i])),
    }
}
