//! Balanced keys. Some dimensions of a model's keys are many times larger than the rest, the same ones at every token
//! (KIVI, arXiv:2402.02750, section 3). Where one scale has to do for a whole key, in 8 bits, they leave the others few.
//! So such keys are stored divided by how large each dimension gets, and queries are multiplied by it, which changes no
//! score.

use crate::Rotary;

/// How large the dimensions of a head's keys get.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balance {
    /// `[head_dim]`, all finite and above 0.
    sizes: Box<[f32]>,
    /// Room for a key.
    row: Box<[f32]>,
}

impl Balance {
    /// Fewest tokens that tell how large keys are.
    const LEAST: usize = 16;
    /// Tokens of a text after which it is settled how large keys are.
    pub const SETTLED: usize = 64;
    /// Tokens at the start of a text that do not count.
    const FIRST: usize = 4;

    /// The sizes of `n` keys of `head_dim` numbers, `stride` numbers from one to the next; none if they are too few, or
    /// all zero. Both dimensions of a rotary pair have one size, which suits every position.
    pub fn of(keys: &[f32], stride: usize, head_dim: usize, n: usize, rotary: &Rotary) -> Option<Self> {
        if n < Self::LEAST {
            return None;
        }
        // The largest magnitudes: a dimension that hardly changes then has no more range than it needs. The first tokens
        // of a text are left out: in many heads they are far larger than all others.
        let pairs = rotary.inv_freq.len();
        let mut sizes = vec![0.0f32; head_dim].into_boxed_slice();
        for t in Self::FIRST..n {
            let key = &keys[t * stride..][..head_dim];
            let radii = key.iter().zip(&key[pairs..]).take(pairs).map(|(x, y)| x.hypot(*y));
            sizes.iter_mut().zip(radii).for_each(|(size, radius)| *size = size.max(radius));
            sizes.iter_mut().zip(key).skip(2 * pairs).for_each(|(size, x)| *size = size.max(x.abs()));
        }
        sizes.copy_within(..pairs, pairs);
        let largest = sizes.iter().copied().fold(0.0, f32::max);
        // Dimensions that were all but zero so far may be less so later.
        sizes.iter_mut().for_each(|size| *size = size.max(1e-3 * largest));
        Self::from_sizes(sizes)
    }

    /// These sizes, if they are all of numbers that can be divided and multiplied by.
    pub fn from_sizes(sizes: Box<[f32]>) -> Option<Self> {
        let row = vec![0.0; sizes.len()].into_boxed_slice();
        sizes.iter().all(|size| (1e-18..1e18).contains(size)).then_some(Balance { sizes, row })
    }

    /// Bytes of a balance of `head_dim` dimensions.
    pub const fn bytes(head_dim: usize) -> usize {
        2 * head_dim * size_of::<f32>()
    }

    /// What keys are divided by and queries are multiplied by.
    pub fn sizes(&self) -> &[f32] {
        &self.sizes
    }

    /// The key `key` as it is stored.
    pub fn divide(&mut self, key: &[f32]) -> &[f32] {
        let row = self.row.iter_mut().zip(key).zip(&self.sizes);
        row.for_each(|((out, x), size)| *out = x / size);
        &self.row
    }
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
        let balance = Balance::of(&keys, 6, 6, 100, &rotary).expect("keys that tell");
        let sizes = balance.sizes();
        assert!(sizes[0] == sizes[2] && sizes[1] == sizes[3]);
        assert!(sizes[1] == 80.0 && sizes[4..] == [9.0, 9.0], "{sizes:?}");
        assert!((0.99..1.0).contains(&sizes[0]), "{sizes:?}");
    }

    #[test]
    fn few_keys_or_none_of_any_size_tell_nothing() {
        let rotary = Rotary { inv_freq: vec![1.0], scale: 1.0 };
        assert!(Balance::of(&keys(15), 6, 6, 15, &rotary).is_none());
        for x in [0.0, 1e-30, f32::INFINITY, f32::NAN] {
            assert!(Balance::of(&[x; 64], 2, 2, 32, &rotary).is_none(), "{x}");
        }
    }

    #[test]
    fn dimensions_that_were_zero_can_be_divided_by() {
        let rotary = Rotary { inv_freq: Vec::new(), scale: 1.0 };
        let mut balance = Balance::of(&keys(20), 6, 6, 20, &rotary).expect("keys that tell");
        assert_eq!(balance.sizes()[3], 80.0 * 1e-3);
        assert!((balance.divide(&[0.0, 160.0, 0.0, 0.8, 0.0, 0.0])[3] - 10.0).abs() < 1e-3);
    }
}
