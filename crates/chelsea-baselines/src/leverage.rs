//! `leverage`: entries whose keys no others make up for.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, HeadView, Heads, PolicyInfo, Scorer, View};
use std::sync::Arc;

/// Scores an entry by the leverage of its key before RoPE among all keys of the head: `x^T (X^T X)^-1 x` of keys less
/// their mean. That is near 1 where no others have what this key has, and near 0 where many do. It is what Compactor
/// (arXiv:2507.08143) scores outliers by; that approximates it with a random sketch, and adds a measure of attention
/// among the text's own tokens, which this leaves out. Needs nothing from the cache but keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leverage;

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "leverage",
    about: "keep the entries whose keys, before RoPE, others do not make up for",
    source: "leverage scores of Compactor, arXiv:2507.08143",
    one_shot_only: false,
    settings: &[HEADS_EVEN, FLOOR],
    make: |s| Ok(Arc::new(Evict::make(Leverage, s, Heads::Even, 0.2)?)),
};

/// Added to the squares of every dimension: keys may all lie in fewer dimensions than they have.
const RIDGE: f64 = 1e-2;

impl Scorer for Leverage {
    fn name(&self) -> &'static str {
        "leverage"
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        view.map_heads(|head| {
            let dim = head.key_dim();
            let _held = view.scratch.reserve((dim * dim + 2 * dim) * size_of::<f64>())?;
            let (mean, factor) = spread(&head.whole());
            let mut scores = Vec::with_capacity(head.len());
            let mut solved = vec![0.0; dim];
            head.for_each_feature(|_, key| {
                // `L y = x`, and then the leverage is `|y|^2`.
                for i in 0..dim {
                    let row = &factor[i * dim..][..i];
                    let known: f64 = row.iter().zip(&solved).map(|(l, y)| l * y).sum();
                    solved[i] = (f64::from(key[i]) - mean[i] - known) / factor[i * dim + i];
                }
                scores.push(solved.iter().map(|y| y * y).sum::<f64>() as f32);
            });
            Ok(scores)
        })
    }
}

/// The mean of all keys before RoPE, and the lower triangle `L` of `L L^T = X^T X` (plus a ridge) of keys less that mean.
fn spread(head: &HeadView<'_>) -> (Vec<f64>, Vec<f64>) {
    let dim = head.key_dim();
    let mut mean = vec![0.0f64; dim];
    head.for_each_feature(|_, key| mean.iter_mut().zip(key).for_each(|(sum, &x)| *sum += f64::from(x)));
    mean.iter_mut().for_each(|sum| *sum /= head.len().max(1) as f64);
    let mut squares = vec![0.0f64; dim * dim];
    let mut row = vec![0.0f64; dim];
    head.for_each_feature(|_, key| {
        row.iter_mut().zip(key).zip(&mean).for_each(|((x, &key), mean)| *x = f64::from(key) - mean);
        for i in 0..dim {
            let factor = row[i];
            squares[i * dim..][..=i].iter_mut().zip(&row).for_each(|(sum, x)| *sum += factor * x);
        }
    });
    for i in 0..dim {
        squares[i * dim + i] += RIDGE;
    }
    (mean, cholesky(squares, dim))
}

/// Cholesky's factor in place of the lower triangle of a matrix whose eigenvalues are positive.
fn cholesky(mut matrix: Vec<f64>, dim: usize) -> Vec<f64> {
    for i in 0..dim {
        for j in 0..=i {
            let (above, here) = matrix.split_at(i * dim);
            let (row, other) = (&here[..j], if j == i { &here[..j] } else { &above[j * dim..][..j] });
            let rest = here[j] - row.iter().zip(other).map(|(x, y)| x * y).sum::<f64>();
            // Rounding may leave a little less than nothing of what is a square.
            let diagonal = if j == i { 1.0 } else { above[j * dim + j] };
            matrix[i * dim + j] = if j == i { rest.max(RIDGE * RIDGE).sqrt() } else { rest / diagonal };
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_times_itself_is_the_matrix() {
        let dim = 4;
        let rows = [[3.0, 1.0, -2.0, 0.5], [0.1, 2.0, 1.0, 1.0], [4.0, -1.0, 0.0, 2.0], [1.0, 1.0, 1.0, -3.0]];
        let product = |i: usize, j: usize| rows.iter().map(|row| row[i] * row[j]).sum::<f64>();
        let matrix: Vec<f64> = (0..dim * dim).map(|k| product(k / dim, k % dim)).collect();
        let factor = cholesky(matrix.clone(), dim);
        for i in 0..dim {
            for j in 0..=i {
                let back: f64 = (0..=j).map(|k| factor[i * dim + k] * factor[j * dim + k]).sum();
                assert!((back - matrix[i * dim + j]).abs() < 1e-9, "{i}, {j}: {back}");
            }
        }
    }
}
