//! The form in which a head stores its keys where integers hold them.
//!
//! Some dimensions of a model's keys are many times larger than the rest, the same ones at every token (KIVI,
//! arXiv:2402.02750, section 3). Where one scale has to do for a whole key they leave the others few bits. So keys in 8 bits
//! are stored divided by how large each dimension gets, and queries are multiplied by it, which changes no score.
//!
//! Five bits need more. Most of what is large is the same in all keys of a head before RoPE. This [`offset`](crate::offset)
//! is taken out, turned to where the key is, and given back to scores as one number for every query and some dozens of
//! positions. What is left is divided by the root of how far each dimension strays, and rotated by a Hadamard matrix
//! (QuaRot, arXiv:2404.00456), as queries are, so that no dimension stands out. Values beside such keys are rotated as
//! well, and attention's outputs back.

use crate::Rotary;
use crate::offset::{Offset, anchor};
use chelsea_simd::vectorized;

/// How a head's keys are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    /// `[key_dim]`, all finite and above 0.
    sizes: Box<[f32]>,
    /// What keys are stored without; they are rotated if there is one.
    offset: Option<Box<Offset>>,
    /// Room for a key.
    row: Box<[f32]>,
}

impl Form {
    /// Fewest tokens that tell how large keys are.
    const LEAST: usize = 16;
    /// Tokens of a text after which it is settled how large keys are.
    pub const SETTLED: usize = 64;
    /// Tokens at the start of a text that do not count: in many heads they are far larger than all others.
    const FIRST: usize = 4;

    /// The form that divides by the sizes of these keys of `key_dim` numbers; none if they are too few, or all zero. Both
    /// dimensions of a rotary pair have one size, which suits every position.
    pub fn balanced(keys: &[f32], key_dim: usize, rotary: &Rotary) -> Option<Self> {
        if keys.len() < Self::LEAST * key_dim {
            return None;
        }
        // The largest magnitudes: a dimension that hardly changes then has no more range than it needs.
        let pairs = rotary.inv_freq.len();
        let mut sizes = vec![0.0f32; key_dim].into_boxed_slice();
        for key in keys.chunks_exact(key_dim).skip(Self::FIRST) {
            each_radius(key, pairs, |i, radius| sizes[i] = sizes[i].max(radius));
        }
        let sizes = of_pairs(sizes, pairs, 1e-3);
        Self::from_parts(sizes, None)
    }

    /// The form that takes out what these keys at `positions` have in common and rotates what is left; none if there are
    /// no keys, or all are zero.
    pub fn rotated(keys: &[f32], positions: &[f32], key_dim: usize, rotary: &Rotary) -> Option<Self> {
        let first = if positions.len() < Self::LEAST { 0 } else { Self::FIRST };
        let (keys, positions) = (&keys[first * key_dim..], &positions[first..]);
        let mut offset = Offset::of(keys, positions, key_dim, rotary);
        let pairs = rotary.inv_freq.len();
        let mut sums = vec![0.0f64; key_dim];
        let mut rest = vec![0.0f32; key_dim];
        for (key, &position) in keys.chunks_exact(key_dim).zip(positions) {
            let common = offset.at(anchor(position));
            rest.iter_mut().zip(key).zip(common).for_each(|((rest, x), common)| *rest = x - common);
            each_radius(&rest, pairs, |i, radius| sums[i] += f64::from(radius) * f64::from(radius));
        }
        let count = positions.len().max(1) as f64;
        let sizes = sums.iter().map(|sum| (sum / count).sqrt().sqrt() as f32).collect();
        Self::from_parts(of_pairs(sizes, pairs, 0.03), Some(offset)).or_else(|| {
            // One key, or keys that are all alike, leave nothing to measure.
            let mut offset = Offset::of(keys, positions, key_dim, rotary);
            let known = offset.at(0).iter().any(|x| *x != 0.0);
            known.then(|| Self::from_parts(vec![1.0; key_dim].into(), Some(offset))).flatten()
        })
    }

    /// A form of these sizes, if they are all of numbers that can be divided and multiplied by.
    pub fn from_parts(sizes: Box<[f32]>, offset: Option<Offset>) -> Option<Self> {
        let row = vec![0.0; sizes.len()].into_boxed_slice();
        let sane = sizes.iter().all(|size| (1e-18..1e18).contains(size)) && offset.as_ref().is_none_or(Offset::is_sane);
        sane.then_some(Form { sizes, offset: offset.map(Box::new), row })
    }

    /// Bytes of a form of keys of `key_dim` numbers with `pairs` rotary pairs.
    pub const fn bytes(key_dim: usize, pairs: usize, rotated: bool) -> usize {
        let offset = if rotated { size_of::<Offset>() + Offset::bytes(key_dim, pairs) } else { 0 };
        size_of::<Form>() + 2 * key_dim * size_of::<f32>() + offset
    }

    /// What keys are divided by and queries are multiplied by.
    pub fn sizes(&self) -> &[f32] {
        &self.sizes
    }

    /// What keys are stored without, if anything.
    pub fn offset(&self) -> Option<&Offset> {
        self.offset.as_deref()
    }

    /// The key `key` at `position` as it is stored.
    pub fn store(&mut self, key: &[f32], position: f32) -> &[f32] {
        let Form { sizes, offset, row } = self;
        match offset {
            None => row.iter_mut().zip(key).zip(sizes).for_each(|((out, x), size)| *out = x / *size),
            Some(offset) => {
                let common = offset.at(anchor(position));
                let parts = row.iter_mut().zip(key).zip(common).zip(sizes);
                parts.for_each(|(((out, x), common), size)| *out = (x - common) / *size);
                rotate(row);
            }
        }
        &self.row
    }

    /// Makes a stored key at `position` what it was.
    pub fn restore(&self, key: &mut [f32], position: f32) {
        if self.offset.is_some() {
            rotate(key);
        }
        key.iter_mut().zip(&self.sizes).for_each(|(x, size)| *x *= size);
        if let Some(offset) = &self.offset {
            offset.add(key, anchor(position));
        }
    }

    /// The same for the keys of a tile, `[key_dim][LANES]`, at these positions.
    pub fn restore_tile<const LANES: usize>(&self, tile: &mut [f32], positions: &[f32; LANES]) {
        let rows = tile.as_chunks_mut::<LANES>().0;
        if self.offset.is_some() {
            rotate_rows(rows);
        }
        rows.iter_mut().zip(&self.sizes).for_each(|(row, size)| row.iter_mut().for_each(|x| *x *= size));
        if let Some(offset) = &self.offset {
            offset.add_rows(rows, &positions.map(anchor));
        }
    }

    /// Makes a query, times the factor on scores, one for stored keys.
    pub fn query(&self, query: &mut [f32]) {
        query.iter_mut().zip(&self.sizes).for_each(|(x, size)| *x *= size);
        if self.offset.is_some() {
            rotate(&mut query[..self.sizes.len()]);
        }
    }
}

/// Calls `f` with the radius of every rotary pair and the magnitude of every other dimension.
fn each_radius(key: &[f32], pairs: usize, mut f: impl FnMut(usize, f32)) {
    key.iter().zip(&key[pairs..]).take(pairs).enumerate().for_each(|(i, (x, y))| f(i, x.hypot(*y)));
    key.iter().enumerate().skip(2 * pairs).for_each(|(i, x)| f(i, x.abs()));
}

/// Sizes whose second dimensions of pairs are as the first, and of which none is too far below the largest: dimensions that
/// were all but zero so far may be less so later.
fn of_pairs(mut sizes: Box<[f32]>, pairs: usize, least: f32) -> Box<[f32]> {
    sizes.copy_within(..pairs, pairs);
    let largest = sizes.iter().copied().fold(0.0, f32::max);
    sizes.iter_mut().for_each(|size| *size = size.max(least * largest));
    sizes
}

/// Numbers that are rotated together: as many as the largest power of two that divides `dim`.
const fn block_of(dim: usize) -> usize {
    1 << dim.trailing_zeros()
}

/// Multiplies every block of a row by a Hadamard matrix of length-preserving scale, which is its own inverse.
pub(crate) fn rotate(row: &mut [f32]) {
    rotate_rows(row.as_chunks_mut::<1>().0);
}

/// [`rotate`] for every column.
fn rotate_rows<const LANES: usize>(rows: &mut [[f32; LANES]]) {
    let block = block_of(rows.len());
    let scale = (block as f32).sqrt().recip();
    vectorized(
        #[inline(always)]
        || {
            for block in rows.chunks_exact_mut(block) {
                let mut half = 1;
                while half < block.len() {
                    for pair in block.chunks_exact_mut(2 * half) {
                        let (low, high) = pair.split_at_mut(half);
                        for (x, y) in low.iter_mut().zip(high) {
                            for lane in 0..LANES {
                                (x[lane], y[lane]) = (x[lane] + y[lane], x[lane] - y[lane]);
                            }
                        }
                    }
                    half *= 2;
                }
                block.iter_mut().flatten().for_each(|x| *x *= scale);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: usize) -> Vec<f32> {
        // Dimension 1 is large and always the same, 3 is zero.
        (0..n).flat_map(|i| [(i as f32).sin(), 80.0, 0.1 * (i as f32).cos(), 0.0, 9.0, 9.0]).collect()
    }

    #[test]
    fn the_dimensions_of_a_pair_have_one_size() {
        let rotary = Rotary { inv_freq: vec![1.0, 0.1], scale: 1.0 };
        let mut keys = keys(100);
        // The first tokens do not count.
        keys[..4 * 6].iter_mut().for_each(|x| *x *= 1000.0);
        let form = Form::balanced(&keys, 6, &rotary).expect("keys that tell");
        let sizes = form.sizes();
        assert!(sizes[0] == sizes[2] && sizes[1] == sizes[3]);
        assert!(sizes[1] == 80.0 && sizes[4..] == [9.0, 9.0], "{sizes:?}");
        assert!((0.99..1.0).contains(&sizes[0]), "{sizes:?}");
    }

    #[test]
    fn few_keys_or_none_of_any_size_tell_nothing() {
        let rotary = Rotary { inv_freq: vec![1.0], scale: 1.0 };
        assert!(Form::balanced(&keys(15), 6, &rotary).is_none());
        for x in [0.0, 1e-30, f32::INFINITY, f32::NAN] {
            assert!(Form::balanced(&[x; 64], 2, &rotary).is_none(), "{x}");
            let rotated = Form::rotated(&[x; 64], &[0.0; 32], 2, &rotary);
            assert!(rotated.is_none() || x == 1e-30, "{x}: {rotated:?}");
        }
        assert!(Form::rotated(&[], &[], 2, &rotary).is_none());
    }

    #[test]
    fn dimensions_that_were_zero_can_be_divided_by() {
        let mut form = Form::balanced(&keys(20), 6, &Rotary::none()).expect("keys that tell");
        assert_eq!(form.sizes()[3], 80.0 * 1e-3);
        assert!((form.store(&[0.0, 160.0, 0.0, 0.8, 0.0, 0.0], 7.0)[3] - 10.0).abs() < 1e-3);
    }

    #[test]
    fn what_is_stored_can_be_restored_one_by_one_and_by_tiles() {
        for (dim, pairs) in [(6, 2), (16, 8), (64, 32), (96, 24), (20, 0)] {
            let rotary = Rotary { inv_freq: Rotary::plain(2 * pairs, 1e4).inv_freq, scale: 1.0 };
            let number = |i: usize, k: usize| (i * 7 + k * k) as f32 % 5.3 + if k % 5 == 1 { 30.0 } else { 0.0 };
            let keys: Vec<f32> = (0..40).flat_map(|i| (0..dim).map(move |k| number(i, k))).collect();
            let positions: Vec<f32> = (0..40).map(|i| i as f32 * 9.7).collect();
            let mut form = Form::rotated(&keys, &positions, dim, &rotary).expect("keys that tell");
            let mut tile = vec![0.0; dim * 16];
            let places: [f32; 16] = std::array::from_fn(|i| positions[20 + i]);
            for i in 0..40 {
                let key = &keys[i * dim..][..dim];
                let mut back = form.store(key, positions[i]).to_vec();
                if (20..36).contains(&i) {
                    back.iter().enumerate().for_each(|(k, x)| tile[k * 16 + i - 20] = *x);
                }
                form.restore(&mut back, positions[i]);
                assert!(key.iter().zip(&back).all(|(x, y)| (x - y).abs() < 1e-4), "{key:?} {back:?}");
            }
            form.restore_tile(&mut tile, &places);
            for i in 0..16 {
                let key = &keys[(20 + i) * dim..][..dim];
                assert!(key.iter().enumerate().all(|(k, x)| (x - tile[k * 16 + i]).abs() < 1e-4), "{dim}: {i}");
            }
        }
    }

    #[test]
    fn scores_are_those_of_stored_keys_and_queries_and_the_offset() {
        let (dim, rotary) = (64, Rotary::plain(64, 1e4));
        let number = |i: usize, k: usize| ((i * 31 + k * k * 7) % 17) as f32 * 0.1 + if k == 40 { 12.0 } else { 0.0 };
        let keys: Vec<f32> = (0..64).flat_map(|i| (0..dim).map(move |k| number(i, k))).collect();
        let positions: Vec<f32> = (0..64).map(|i| i as f32 * 11.0).collect();
        let mut form = Form::rotated(&keys, &positions, dim, &rotary).expect("keys that tell");
        let query: Vec<f32> = (0..dim).map(|k| (k as f32 * 0.9).cos()).collect();
        let mut turned = query.clone();
        form.query(&mut turned);
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        for i in 0..64 {
            let key = &keys[i * dim..][..dim];
            let of_stored = dot(&turned, form.store(key, positions[i]));
            let mut common = vec![0.0; dim];
            form.offset().expect("an offset").add(&mut common, anchor(positions[i]));
            let score = of_stored + dot(&query, &common);
            assert!((score - dot(&query, key)).abs() < 1e-3, "{score} {}", dot(&query, key));
        }
    }
}
