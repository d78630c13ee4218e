//! The element-wise parts of a transformer, over rows of f32: norms, rotary embedding, gate, residual.
//!
//! Rows are shared out among threads only where there is enough work to pay for it.

use rayon::prelude::*;

/// Numbers below which a loop stays on one thread: about 20 microseconds of work.
const PARALLEL: usize = 1 << 15;

/// Lanes of partial sums: wide enough for any vector unit, and a fixed order of summation.
const LANES: usize = 16;

/// Calls `row` with each row of `out`, and the row of `input` beside it.
fn zip_rows(out: &mut [f32], out_width: usize, input: &[f32], width: usize, row: impl Fn(&mut [f32], &[f32]) + Sync) {
    if input.len() < PARALLEL {
        out.chunks_exact_mut(out_width).zip(input.chunks_exact(width)).for_each(|(out, input)| row(out, input));
    } else {
        let rows_each = rows_each(input.len() / width);
        out.par_chunks_mut(out_width * rows_each).zip(input.par_chunks(width * rows_each)).for_each(|(out, input)| {
            out.chunks_exact_mut(out_width).zip(input.chunks_exact(width)).for_each(|(out, input)| row(out, input));
        });
    }
}

/// Rows for one task, so that each thread gets a few.
fn rows_each(rows: usize) -> usize {
    rows.div_ceil(4 * rayon::current_num_threads()).max(1)
}

/// Sum of squares.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = x.split_at(x.len() - x.len() % LANES);
    for chunk in whole.chunks_exact(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>()
}

/// One over the root mean square of a row.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Root-mean-square norm of every row of `x` (rows of `weight.len()`), into `out`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    zip_rows(out, width, x, width, |out, x| {
        let scale = inverse_rms(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    });
}

/// Root-mean-square norm of every row of `x`, in place: queries and keys, a row a head.
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    let norm = |x: &mut [f32]| {
        for row in x.chunks_exact_mut(width) {
            let scale = inverse_rms(row, eps);
            for (x, weight) in row.iter_mut().zip(weight) {
                *x = *x * scale * weight;
            }
        }
    };
    if x.len() < PARALLEL {
        norm(x);
    } else {
        let rows = x.len() / width;
        x.par_chunks_mut(width * rows_each(rows)).for_each(norm);
    }
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    let add = |x: &mut [f32], y: &[f32]| {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    };
    if x.len() < PARALLEL {
        add(x, y);
    } else {
        x.par_chunks_mut(PARALLEL / 4).zip(y.par_chunks(PARALLEL / 4)).for_each(|(x, y)| add(x, y));
    }
}

/// Adds `bias` to every row of `x`.
pub(crate) fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in row.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}

/// The gate of the feed-forward: `gate = silu(gate) * up`.
pub(crate) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    // Compiled once for every width of vectors.
    let silu_mul = |gate: &mut [f32], up: &[f32]| {
        chelsea_simd::vectorized(
            #[inline(always)]
            || gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + exp(-*gate)) * up),
        );
    };
    // An exponential costs far more than the other loops' numbers.
    const CHUNK: usize = PARALLEL / 8;
    if gate.len() < CHUNK {
        silu_mul(gate, up);
    } else {
        gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| silu_mul(gate, up));
    }
}

/// `e^x` within three units in the last place, without branches, so that the compiler makes vectors of it.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`: a Taylor polynomial of degree 7 for `e^r` (its error is below
/// 1e-8), and `n` added to the exponent. Clamped to where the result is a normal number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking off 1.5 * 2^23 rounds to the nearest integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let polynomial = 1.0 / 5040.0;
    let polynomial = polynomial * r + 1.0 / 720.0;
    let polynomial = polynomial * r + 1.0 / 120.0;
    let polynomial = polynomial * r + 1.0 / 24.0;
    let polynomial = polynomial * r + 1.0 / 6.0;
    let polynomial = polynomial * r + 0.5;
    let polynomial = polynomial * r + 1.0;
    let polynomial = polynomial * r + 1.0;
    f32::from_bits(polynomial.to_bits().wrapping_add(shifted.to_bits() << 23))
}

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

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.cos.capacity() + self.sin.capacity())
    }

    /// Turns every head of every row of `x` (`[tokens, heads, head_dim]`), in place.
    pub(crate) fn turn(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        let pairs = self.pairs;
        let turn = |(x, (cos, sin)): (&mut [f32], (&[f32], &[f32]))| {
            for head in x.chunks_exact_mut(head_dim) {
                let (left, right) = head.split_at_mut(pairs);
                for (((x, y), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                }
            }
        };
        let width = heads * head_dim;
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
    fn exponential_is_exact_to_single_precision() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}: {} {exact}", exp(x));
        }
    }

    #[test]
    fn gate_saturates_without_overflow() {
        let mut gate = [-1e30, -100.0, 0.0, 100.0, 1e30];
        silu_mul(&mut gate, &[2.0; 5]);
        assert!(gate[0].abs() < 1e-5 && gate[1].abs() < 1e-30);
        assert_eq!(&gate[2..], &[0.0, 200.0, 2e30]);
    }

    #[test]
    fn loops_on_one_thread_and_on_many_agree() {
        let width = 96;
        let rows = 2 * PARALLEL / width;
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 100.0).collect();
        let mut many = vec![0.0; x.len()];
        rms_norm(&x, &weight, 1e-5, &mut many);
        let mut in_place = x.clone();
        rms_norm_in_place(&mut in_place, &weight, 1e-5);
        let mut table = RotaryTable::default();
        let rotary = chelsea_kv::Rotary { inv_freq: vec![1.0, 0.3, 0.01], scale: 1.5 };
        table.fill(&rotary, 500..500 + rows);
        let mut turned = x.clone();
        table.turn(&mut turned, 12, 8);
        let mut gate = x.clone();
        silu_mul(&mut gate, &many);
        let mut sum = x.clone();
        add(&mut sum, &many);
        for row in 0..rows {
            let at = row * width..(row + 1) * width;
            let mut one = vec![0.0; width];
            rms_norm(&x[at.clone()], &weight, 1e-5, &mut one);
            assert_eq!(one, many[at.clone()]);
            assert_eq!(one, in_place[at.clone()]);
            table.fill(&rotary, 500 + row..501 + row);
            let mut one_turned = x[at.clone()].to_vec();
            table.turn(&mut one_turned, 12, 8);
            assert_eq!(one_turned, turned[at.clone()]);
            let mut one_gate = x[at.clone()].to_vec();
            silu_mul(&mut one_gate, &one);
            assert_eq!(one_gate, gate[at.clone()]);
            let mut one_sum = x[at.clone()].to_vec();
            add(&mut one_sum, &one);
            assert_eq!(one_sum, sum[at]);
        }
    }

    #[test]
    fn dimensions_beyond_the_rotary_pairs_are_left_alone() {
        let mut table = RotaryTable::default();
        table.fill(&chelsea_kv::Rotary { inv_freq: vec![0.5], scale: 1.0 }, 3..4);
        let mut x = [1.0, 0.0, 7.0, 8.0];
        table.turn(&mut x, 1, 4);
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
