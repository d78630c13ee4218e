//! Rotary position embedding of queries and keys.

use rayon::prelude::*;

use super::norm::PARALLEL;

/// Cosine and sine of the positions of a batch: one row a token, one column a rotary pair.
#[derive(Debug, Default)]
pub(crate) struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl RotaryTable {
    /// Fills one row for each of `positions`.
    ///
    /// The phase is rounded to f32 as the reference implementations round it; its cosine and sine are then
    /// exact, also at large positions.
    pub(crate) fn fill(&mut self, rotary: &chelsea_kv::Rotary, positions: impl Iterator<Item = usize>) {
        self.pairs = rotary.inv_freq.len();
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for freq in &rotary.inv_freq {
                let (sin, cos) = f64::from(position as f32 * freq).sin_cos();
                self.cos.push(cos as f32 * rotary.scale);
                self.sin.push(sin as f32 * rotary.scale);
            }
        }
    }

    /// Cosines and sines, `[rows][pairs]` each.
    pub(crate) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.cos.capacity() + self.sin.capacity())
    }

    /// Turns every head of every row of `x` (`[tokens][width]`, heads of `head_dim`), in place.
    pub(crate) fn turn(&self, x: &mut [f32], width: usize, head_dim: usize) {
        let pairs = self.pairs;
        let turn = |(x, (cos, sin)): (&mut [f32], (&[f32], &[f32]))| {
            for head in x.chunks_exact_mut(head_dim) {
                let (left, right) = head.split_at_mut(pairs);
                for (((x, y), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                }
            }
        };
        if x.len() < PARALLEL {
            let tables = self.cos.chunks_exact(pairs).zip(self.sin.chunks_exact(pairs));
            x.chunks_exact_mut(width).zip(tables).for_each(turn);
        } else {
            let tables = self.cos.par_chunks_exact(pairs).zip(self.sin.par_chunks_exact(pairs));
            x.par_chunks_exact_mut(width).zip(tables).for_each(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_on_one_thread_and_on_many_agree() {
        let width = 96;
        let rows = 2 * PARALLEL / width;
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let mut table = RotaryTable::default();
        let rotary = chelsea_kv::Rotary { inv_freq: vec![1.0, 0.3, 0.01], scale: 1.5 };
        table.fill(&rotary, 500..500 + rows);
        let mut turned = x.clone();
        table.turn(&mut turned, width, 8);
        for row in 0..rows {
            let at = row * width..(row + 1) * width;
            table.fill(&rotary, 500 + row..501 + row);
            let mut one_turned = x[at.clone()].to_vec();
            table.turn(&mut one_turned, width, 8);
            assert_eq!(one_turned, turned[at.clone()]);
        }
    }

    #[test]
    fn dimensions_beyond_the_rotary_pairs_are_left_alone() {
        let mut table = RotaryTable::default();
        table.fill(&chelsea_kv::Rotary { inv_freq: vec![0.5], scale: 1.0 }, 3..4);
        let mut x = [1.0, 0.0, 7.0, 8.0];
        table.turn(&mut x, 4, 4);
        assert!((x[0] - 1.5f32.cos()).abs() < 1e-7 && (x[1] - 1.5f32.sin()).abs() < 1e-7);
        assert_eq!(&x[2..], &[7.0, 8.0]);
    }

    #[test]
    fn the_last_position_of_16000_is_turned_as_the_reference_turns_it() {
        use crate::config::{Rope, Scaling};

        let mut table = RotaryTable::default();
        let rope = Rope { base: 1e6, dims: 64, scaling: Scaling::None };
        table.fill(&rope.rotary(), 15_999..16_000);
        // Cosine and sine of transformers' `Qwen2RotaryEmbedding` at this position, by rotary pair.
        let reference = [
            (0, -0.425_407_02, 0.905_002_1),
            (1, -0.978_004_7, -0.208_582_97),
            (2, 0.151_843_04, -0.988_404_63),
            (3, -0.244_300_7, 0.969_699_5),
            (5, 0.961_252_45, 0.275_669_66),
            (8, -0.990_710_1, -0.135_990_9),
            (13, -0.300_050_4, 0.953_923_34),
            (21, -0.273_220_45, 0.961_951_43),
            (31, 0.999_696_5, 0.024_634_792),
        ];
        for (pair, cos, sin) in reference {
            let (found_cos, found_sin): (f32, f32) = (table.cos[pair], table.sin[pair]);
            assert!(
                (found_cos - cos).abs() < 1e-6 && (found_sin - sin).abs() < 1e-6,
                "{pair}: {found_cos} {found_sin}"
            );
        }
    }
}
