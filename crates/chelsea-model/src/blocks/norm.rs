//! Norms and the residual stream, over rows of f32.
//!
//! Rows are shared out among threads only where there is enough work to pay for it.

use rayon::prelude::*;

/// Numbers below which a loop stays on one thread: about 20 microseconds of work.
pub(super) const PARALLEL: usize = 1 << 15;

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

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut sum = x.clone();
        add(&mut sum, &many);
        for row in 0..rows {
            let at = row * width..(row + 1) * width;
            let mut one = vec![0.0; width];
            rms_norm(&x[at.clone()], &weight, 1e-5, &mut one);
            assert_eq!(one, many[at.clone()]);
            assert_eq!(one, in_place[at.clone()]);
            let mut one_sum = x[at.clone()].to_vec();
            add(&mut one_sum, &one);
            assert_eq!(one_sum, sum[at]);
        }
    }
}
