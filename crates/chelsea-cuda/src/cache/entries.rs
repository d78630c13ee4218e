//! Entries of a device's pages, as the host sees them: taken out of bytes that were copied from the device, and put into
//! bytes that are going there.

use crate::kernels::{PageLayout, PageType};
use crate::twins::{Entry, read_entry, write_entry};
use chelsea_kv::{Head, PAGE};

/// Copies entry `from` of page `source` to slot `slot` of `page`, bit for bit.
pub(super) fn copy_entry(layout: PageLayout, page: &mut [u8], slot: usize, source: &[u8], from: usize) {
    let row = layout.key_row();
    page[slot * row..][..row].copy_from_slice(&source[from * row..][..row]);
    for d in 0..layout.dim {
        let column = layout.values() + d * layout.value_row();
        match layout.ty {
            PageType::F16 => {
                let (to, at) = (column + 2 * slot, column + 2 * from);
                page[to..to + 2].copy_from_slice(&source[at..at + 2]);
            }
            PageType::Q8 => page[column + slot] = source[column + from],
            PageType::K8V4 => {
                let ((to, bit), (at, of)) = (nibble_place(slot), nibble_place(from));
                let nibble = source[column + at] >> of & 15;
                page[column + to] = page[column + to] & !(15 << bit) | nibble << bit;
            }
        }
    }
    let mut words = vec![layout.meta(), layout.meta() + 4 * PAGE, layout.meta() + 8 * PAGE];
    if layout.ty != PageType::F16 {
        words.extend([layout.scales(), layout.scales() + 4 * PAGE]);
    }
    for at in words {
        page[at + 4 * slot..][..4].copy_from_slice(&source[at + 4 * from..][..4]);
    }
}

/// Where half byte `slot` of a row of values lies: the byte, and the bit in it (`kernels/page.cuh`).
fn nibble_place(slot: usize) -> (usize, usize) {
    (slot / 16 * 8 + slot % 4 / 2 * 4 + slot % 16 / 8 + slot % 2 * 2, slot % 8 / 4 * 4)
}

/// Has slots from `first` on hold no entry.
pub(super) fn clear_from(layout: PageLayout, page: &mut [u8], first: usize) {
    for slot in first..PAGE {
        let at = layout.meta() + 4 * slot;
        page[at..at + 4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        page[at + 4 * PAGE..][..4].fill(0);
        page[at + 8 * PAGE..][..4].fill(0);
    }
}

/// What a slot holds, with its key as it was before it was divided by `sizes`.
pub(super) fn read(layout: PageLayout, page: &[u8], slot: usize, sizes: Option<&[f32]>) -> Entry {
    let mut entry = read_entry(page, layout, slot);
    if let Some(sizes) = sizes {
        entry.key.iter_mut().zip(sizes).for_each(|(x, size)| *x *= size);
    }
    entry
}

/// Writes an entry, its key divided by `sizes`.
pub(super) fn write(layout: PageLayout, page: &mut [u8], slot: usize, mut entry: Entry, sizes: Option<&[f32]>) {
    if let Some(sizes) = sizes {
        entry.key.iter_mut().zip(sizes).for_each(|(x, size)| *x /= size);
    }
    write_entry(page, layout, slot, &entry);
}

/// Where the scales of a slot's key and value lie, in types that have them.
fn scale_places(layout: PageLayout, slot: usize) -> Option<[usize; 2]> {
    let at = layout.scales() + 4 * slot;
    (layout.ty != PageType::F16).then_some([at, at + 4 * PAGE])
}

fn number(page: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Writes an entry whose numbers were stored with these scales, so that they are what they were.
fn write_stored(layout: PageLayout, page: &mut [u8], slot: usize, entry: &Entry, scales: (f32, f32)) {
    write_entry(page, layout, slot, entry);
    let Some(places) = scale_places(layout, slot) else { return };
    let whole = |x: f32, scale: f32| if scale == 0.0 { 0 } else { (x / scale).round_ties_even() as i8 };
    for (at, scale) in places.into_iter().zip([scales.0, scales.1]) {
        page[at..at + 4].copy_from_slice(&scale.to_le_bytes());
    }
    for (d, (key, value)) in entry.key.iter().zip(&entry.value).enumerate() {
        page[slot * layout.key_row() + d] = whole(*key, scales.0) as u8;
        let column = layout.values() + d * layout.value_row();
        let value = whole(*value, scales.1) as u8;
        if layout.ty == PageType::Q8 {
            page[column + slot] = value;
        } else {
            let (byte, bit) = nibble_place(slot);
            page[column + byte] = page[column + byte] & !(15 << bit) | (value & 15) << bit;
        }
    }
}

/// The entries of some pages, one after the other in `bytes`, as a head in host memory: the same numbers, bit for bit.
pub(super) fn to_head(layout: PageLayout, bytes: &[u8], len: usize, sizes: Option<&[f32]>) -> Head {
    let head = Head::new(layout.dim, layout.ty.dtype());
    let mut head = if let Some(sizes) = sizes { head.with_key_sizes(sizes) } else { head };
    for (page, first) in bytes.chunks_exact(layout.bytes()).zip((0..len).step_by(PAGE)) {
        for slot in 0..PAGE.min(len - first) {
            let Entry { key, value, count, position } = read_entry(page, layout, slot);
            let scales = scale_places(layout, slot).map_or((1.0, 1.0), |[k, v]| (number(page, k), number(page, v)));
            head.push_stored(&key, &value, scales, count.max(1), position);
        }
    }
    head
}

/// Pages of a head in host memory, one after the other: the same numbers, bit for bit.
pub(super) fn from_head(layout: PageLayout, head: &Head) -> Vec<u8> {
    let mut bytes = vec![0; head.len().div_ceil(PAGE) * layout.bytes()];
    let (mut key, mut value) = (vec![0.0; layout.dim], vec![0.0; layout.dim]);
    for (page, first) in bytes.chunks_exact_mut(layout.bytes()).zip((0..head.len()).step_by(PAGE)) {
        let held = PAGE.min(head.len() - first);
        for slot in 0..held {
            let i = first + slot;
            let scales = head.read_stored(i, &mut key, &mut value);
            let (count, position) = (head.count(i), head.position(i));
            let entry = Entry { key: key.clone(), value: value.clone(), count, position };
            write_stored(layout, page, slot, &entry, scales);
        }
        clear_from(layout, page, held);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: usize, dim: usize) -> Entry {
        let row = |seed: usize| (0..dim).map(|d| ((i * 37 + d * 11 + seed) % 23) as f32 / 11.0 - 1.0).collect();
        Entry { key: row(1), value: row(5), count: i as u32 % 3 + 1, position: i as f32 }
    }

    #[test]
    fn a_copied_entry_is_the_same_entry_and_leaves_its_neighbours_alone() {
        for ty in PageType::ALL {
            let layout = PageLayout { dim: 32, ty };
            let mut source = vec![0; layout.bytes()];
            (0..PAGE).for_each(|slot| write_entry(&mut source, layout, slot, &entry(slot, 32)));
            let mut page = source.clone();
            for (slot, from) in [(0, 63), (1, 5), (17, 2), (62, 40)] {
                copy_entry(layout, &mut page, slot, &source, from);
                assert_eq!(read_entry(&page, layout, slot), read_entry(&source, layout, from), "{ty:?} {slot}");
            }
            for slot in [2, 3, 16, 18, 61, 63] {
                assert_eq!(read_entry(&page, layout, slot), read_entry(&source, layout, slot), "{ty:?} {slot}");
            }
        }
    }

    #[test]
    fn a_head_comes_back_from_pages_as_it_went_there() {
        for ty in PageType::ALL {
            let layout = PageLayout { dim: 32, ty };
            let sizes: Vec<f32> = (0..32).map(|d| if d == 3 { 8.0 } else { 1.0 }).collect();
            for sizes in [None, Some(&sizes[..])] {
                let head = Head::new(32, ty.dtype());
                let mut head = if let Some(sizes) = sizes { head.with_key_sizes(sizes) } else { head };
                for i in 0..100 {
                    let Entry { key, value, count, position } = entry(i, 32);
                    head.push(&key, &value, count, position);
                }
                let bytes = from_head(layout, &head);
                let back = to_head(layout, &bytes, 100, sizes);
                assert!(from_head(layout, &back) == bytes, "{ty:?}");
                let (mut x, mut y) = ([vec![0.0; 32], vec![0.0; 32]], [vec![0.0; 32], vec![0.0; 32]]);
                for i in 0..100 {
                    assert_eq!((head.count(i), head.position(i)), (back.count(i), back.position(i)));
                    let [key, value] = &mut x;
                    let scales = head.read_stored(i, key, value);
                    let [key, value] = &mut y;
                    assert_eq!(back.read_stored(i, key, value), scales, "{ty:?} {i}");
                    assert_eq!(x, y, "{ty:?} {i}");
                }
            }
        }
    }
}
