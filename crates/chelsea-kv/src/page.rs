//! Storage of entries: fixed-size pages, so that a head grows without ever being copied and shrinks
//! by giving pages back.
//!
//! Inside a page, keys lie in tiles of [`TILE`] entries, transposed (`[tile][dim][TILE]`): one vector
//! load holds the same dimension of 16 entries, so scores need no horizontal sums. Values lie row by
//! row (`[entry][dim]`): a weighted sum of values walks along rows.

use crate::Dtype;
use half::{bf16, f16};

/// Entries of a page.
pub const PAGE: usize = 64;
/// Entries of a key tile.
pub const TILE: usize = 16;

/// One cache line; pages are made of these so that vector loads never straddle two lines.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// [`PAGE`] entries of one head.
#[derive(Debug, Clone)]
pub struct Page {
    lines: Box<[Line]>,
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
    /// An empty page for keys and values of `head_dim` numbers.
    pub fn new(head_dim: usize, dtype: Dtype) -> Self {
        Page {
            lines: zeroed_lines(2 * PAGE * head_dim * dtype.size()),
            ln_count: Box::new([f32::NEG_INFINITY; PAGE]),
            count: Box::new([0; PAGE]),
            position: Box::new([0.0; PAGE]),
        }
    }

    /// Bytes of keys and values together.
    pub fn kv_bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// Bytes of counts, `ln count` and positions.
    pub const META_BYTES: usize = PAGE * 12;

    /// The keys, `[PAGE / TILE][head_dim][TILE]`, as stored numbers of type `T`.
    pub fn keys<T: bytemuck::Pod>(&self) -> &[T] {
        let all: &[T] = bytemuck::cast_slice(&self.lines);
        &all[..all.len() / 2]
    }

    /// The values, `[PAGE][head_dim]`, as stored numbers of type `T`.
    pub fn values<T: bytemuck::Pod>(&self) -> &[T] {
        let all: &[T] = bytemuck::cast_slice(&self.lines);
        &all[all.len() / 2..]
    }

    fn halves_mut<T: bytemuck::Pod>(&mut self) -> (&mut [T], &mut [T]) {
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.lines);
        let half = all.len() / 2;
        all.split_at_mut(half)
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

    /// Writes entry `slot`. `key` and `value` have `head_dim` numbers.
    pub fn set(&mut self, slot: usize, dtype: Dtype, key: &[f32], value: &[f32], count: u32, position: f32) {
        fn put<T: bytemuck::Pod>(page: &mut Page, slot: usize, key: &[f32], value: &[f32], to: impl Fn(f32) -> T) {
            let dim = key.len();
            let (keys, values) = page.halves_mut::<T>();
            let tile = &mut keys[slot / TILE * TILE * dim..][..TILE * dim];
            for (column, &x) in tile.chunks_exact_mut(TILE).zip(key) {
                column[slot % TILE] = to(x);
            }
            for (y, &x) in values[slot * dim..][..dim].iter_mut().zip(value) {
                *y = to(x);
            }
        }
        debug_assert!(count > 0, "an entry stands for at least one token");
        match dtype {
            Dtype::F32 => put(self, slot, key, value, |x| x),
            Dtype::F16 => put(self, slot, key, value, f16::from_f32),
            Dtype::Bf16 => put(self, slot, key, value, bf16::from_f32),
        }
        self.count[slot] = count;
        self.ln_count[slot] = if count == 1 { 0.0 } else { (count as f32).ln() };
        self.position[slot] = position;
    }

    /// Marks slots `from..` as holding no entry.
    pub fn clear_from(&mut self, from: usize) {
        self.ln_count[from..].fill(f32::NEG_INFINITY);
        self.count[from..].fill(0);
    }

    /// Reads the key of entry `slot` into `out` (`head_dim` numbers).
    pub fn read_key(&self, slot: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<T: bytemuck::Pod>(page: &Page, slot: usize, out: &mut [f32], from: impl Fn(T) -> f32) {
            let dim = out.len();
            let tile = &page.keys::<T>()[slot / TILE * TILE * dim..][..TILE * dim];
            for (y, column) in out.iter_mut().zip(tile.chunks_exact(TILE)) {
                *y = from(column[slot % TILE]);
            }
        }
        match dtype {
            Dtype::F32 => get(self, slot, out, |x: f32| x),
            Dtype::F16 => get(self, slot, out, f16::to_f32),
            Dtype::Bf16 => get(self, slot, out, bf16::to_f32),
        }
    }

    /// Reads the value of entry `slot` into `out` (`head_dim` numbers).
    pub fn read_value(&self, slot: usize, dtype: Dtype, out: &mut [f32]) {
        fn get<T: bytemuck::Pod>(page: &Page, slot: usize, out: &mut [f32], from: impl Fn(T) -> f32) {
            let dim = out.len();
            for (y, &x) in out.iter_mut().zip(&page.values::<T>()[slot * dim..]) {
                *y = from(x);
            }
        }
        match dtype {
            Dtype::F32 => get(self, slot, out, |x: f32| x),
            Dtype::F16 => get(self, slot, out, f16::to_f32),
            Dtype::Bf16 => get(self, slot, out, bf16::to_f32),
        }
    }
}
