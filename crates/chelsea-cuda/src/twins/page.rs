//! Entries in a device's page.

use crate::kernels::{PageLayout, PageType};
use chelsea_kv::PAGE;
use half::f16;

/// An entry, as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as it is stored: after RoPE, divided by its head's balance where there is one.
    pub key: Vec<f32>,
    /// The value.
    pub value: Vec<f32>,
    /// Tokens that it stands for; 0 where no entry is.
    pub count: u32,
    /// Their mean position.
    pub position: f32,
}

/// Adding 1.5 * 2^23 rounds to a whole number, of two the even one.
const WHOLE: f32 = 12_582_912.0;

fn byte_scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest.min(f32::MAX / 2.0) / 127.0;
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

fn to_byte(x: f32, inverse: f32) -> i8 {
    ((x * inverse).clamp(-127.0, 127.0) + WHOLE).to_bits() as i8
}

fn nibble(x: f32) -> f32 {
    (x.clamp(-8.0, 7.0) + WHOLE) - WHOLE
}

fn nibble_scale(row: &[f32]) -> f32 {
    const STEPS: [f32; 8] = [8.0, 7.0, 7.5, 8.5, 9.0, 10.0, 11.0, 12.5];
    let largest = row.iter().fold(0.0f32, |largest, &x| if x.abs() > largest.abs() { x } else { largest });
    let largest = largest.clamp(-f32::MAX / 2.0, f32::MAX / 2.0);
    if (largest / 16.0).abs() < f32::MIN_POSITIVE {
        return 0.0;
    }
    let unit = -largest.recip();
    let error = |steps: f32| {
        let mut error = 0.0;
        for x in row {
            let x = x * unit * steps;
            let off = x - nibble(x);
            error += off * off;
        }
        error / (steps * steps)
    };
    let mut best = (error(STEPS[0]), STEPS[0]);
    for steps in &STEPS[1..] {
        let found = error(*steps);
        if found < best.0 {
            best = (found, *steps);
        }
    }
    -largest / best.1
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Where half byte `slot` of a row of values lies: the byte, and the bit in it.
fn nibble_place(slot: usize) -> (usize, usize) {
    (slot / 16 * 8 + slot % 4 / 2 * 4 + slot % 16 / 8 + slot % 2 * 2, slot % 8 / 4 * 4)
}

fn word(page: &mut [u8], at: usize) -> &mut [u8] {
    &mut page[at..at + 4]
}

fn get_word(page: &[u8], at: usize) -> [u8; 4] {
    [page[at], page[at + 1], page[at + 2], page[at + 3]]
}

/// Writes an entry into slot `slot` of a page, rounded as the CPU's cache rounds it.
///
/// # Panics
/// If the page or the entry has another size than `layout` says.
pub fn write_entry(page: &mut [u8], layout: PageLayout, slot: usize, entry: &Entry) {
    let PageLayout { dim, ty } = layout;
    assert!(page.len() == layout.bytes() && slot < PAGE && entry.key.len() == dim && entry.value.len() == dim);
    let key_row = slot * layout.key_row();
    if ty == PageType::F16 {
        for (d, x) in entry.key.iter().enumerate() {
            page[key_row + 2 * d..][..2].copy_from_slice(&f16::from_f32(*x).to_le_bytes());
        }
        for (d, x) in entry.value.iter().enumerate() {
            page[layout.values() + d * layout.value_row() + 2 * slot..][..2]
                .copy_from_slice(&f16::from_f32(*x).to_le_bytes());
        }
    } else {
        let scale = byte_scale(&entry.key);
        let value_scale = if ty == PageType::Q8 { byte_scale(&entry.value) } else { nibble_scale(&entry.value) };
        for (d, x) in entry.key.iter().enumerate() {
            page[key_row + d] = to_byte(*x, inverse(scale)) as u8;
        }
        for (d, x) in entry.value.iter().enumerate() {
            let row = layout.values() + d * layout.value_row();
            if ty == PageType::Q8 {
                page[row + slot] = to_byte(*x, inverse(value_scale)) as u8;
            } else {
                let (byte, bit) = nibble_place(slot);
                let stored = (nibble(x * inverse(value_scale)) as i32 as u8 & 15) << bit;
                page[row + byte] = page[row + byte] & !(15 << bit) | stored;
            }
        }
        word(page, layout.scales() + 4 * slot).copy_from_slice(&scale.to_le_bytes());
        word(page, layout.scales() + 4 * (PAGE + slot)).copy_from_slice(&value_scale.to_le_bytes());
    }
    let ln_count = if entry.count == 1 { 0.0 } else { (entry.count as f32).ln() };
    word(page, layout.meta() + 4 * slot).copy_from_slice(&ln_count.to_le_bytes());
    word(page, layout.meta() + 4 * (PAGE + slot)).copy_from_slice(&entry.count.to_le_bytes());
    word(page, layout.meta() + 4 * (2 * PAGE + slot)).copy_from_slice(&entry.position.to_le_bytes());
}

/// Copies an entry to a slot of another page, bit for bit.
///
/// # Panics
/// If a page has another size than `layout` says.
pub fn copy_entry(to: &mut [u8], slot: usize, from: &[u8], from_slot: usize, layout: PageLayout) {
    assert!(to.len() == layout.bytes() && from.len() == layout.bytes() && slot < PAGE && from_slot < PAGE);
    let row = layout.key_row();
    to[slot * row..(slot + 1) * row].copy_from_slice(&from[from_slot * row..(from_slot + 1) * row]);
    for d in 0..layout.dim {
        let at = layout.values() + d * layout.value_row();
        match layout.ty {
            PageType::F16 => {
                to[at + 2 * slot..at + 2 * slot + 2].copy_from_slice(&from[at + 2 * from_slot..at + 2 * from_slot + 2]);
            }
            PageType::Q8 => to[at + slot] = from[at + from_slot],
            PageType::K8V4 => {
                let ((byte, bit), (from_byte, from_bit)) = (nibble_place(slot), nibble_place(from_slot));
                let nibble = from[at + from_byte] >> from_bit & 15;
                to[at + byte] = to[at + byte] & !(15 << bit) | nibble << bit;
            }
        }
    }
    let words = (layout.scales()..layout.bytes()).step_by(4 * PAGE);
    words.for_each(|at| word(to, at + 4 * slot).copy_from_slice(&get_word(from, at + 4 * from_slot)));
}

/// Reads the entry in slot `slot` of a page.
///
/// # Panics
/// If the page has another size than `layout` says.
pub fn read_entry(page: &[u8], layout: PageLayout, slot: usize) -> Entry {
    let PageLayout { dim, ty } = layout;
    assert!(page.len() == layout.bytes() && slot < PAGE);
    let half = |at: usize| f16::from_le_bytes([page[at], page[at + 1]]).to_f32();
    let number = |at: usize| f32::from_le_bytes(get_word(page, at));
    let (key_scale, value_scale) = match ty {
        PageType::F16 => (1.0, 1.0),
        _ => (number(layout.scales() + 4 * slot), number(layout.scales() + 4 * (PAGE + slot))),
    };
    let key = |d: usize| {
        let row = slot * layout.key_row();
        if ty == PageType::F16 { half(row + 2 * d) } else { f32::from(page[row + d] as i8) * key_scale }
    };
    let value = |d: usize| {
        let row = layout.values() + d * layout.value_row();
        match ty {
            PageType::F16 => half(row + 2 * slot),
            PageType::Q8 => f32::from(page[row + slot] as i8) * value_scale,
            PageType::K8V4 => {
                let (byte, bit) = nibble_place(slot);
                f32::from((page[row + byte] << (4 - bit)) as i8 >> 4) * value_scale
            }
        }
    };
    Entry {
        key: (0..dim).map(key).collect(),
        value: (0..dim).map(value).collect(),
        count: u32::from_le_bytes(get_word(page, layout.meta() + 4 * (PAGE + slot))),
        position: number(layout.meta() + 4 * (2 * PAGE + slot)),
    }
}
