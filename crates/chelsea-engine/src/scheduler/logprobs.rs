//! How likely tokens were.

use super::job::Active;
use super::request::Logprobs;
use crate::session::log_sum;
use rayon::prelude::*;

impl Active {
    /// Scores the tokens of the prompt that were foretold by the last chunk, whose logits are `rows`: one row for each of
    /// its tokens. Only the wanted numbers are kept, so that no more than a chunk of logits is held at a time.
    pub(super) fn score(&mut self, rows: &[f32], tokens: usize) {
        let Some(top) = self.job.scoring() else { return };
        let vocab = rows.len() / tokens.max(1);
        // The token after the chunk is foretold by its last row; after the prompt there is none.
        let next = self.sequence.history().len() - tokens + 1;
        let prompt = self.job.pieces.iter().flat_map(|piece| piece.iter().copied());
        let foretold: Vec<u32> = prompt.skip(next).take(tokens).collect();
        let one = |(row, &token): (&[f32], &u32)| of(row, token, top);
        self.scores.par_extend(rows.par_chunks_exact(vocab.max(1)).zip(&foretold).map(one));
    }
}

/// Of `token` and of the `top` likeliest ones, by these logits.
pub(super) fn of(logits: &[f32], token: u32, top: usize) -> Logprobs {
    let (most, log_sum) = log_sum(logits);
    let log = |x: f32| (f64::from(x - most) - log_sum) as f32;
    let mut likeliest: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
    for (id, &x) in (0u32..).zip(logits) {
        // Of equal ones the lower comes first, as in greedy sampling.
        if likeliest.len() < top || likeliest.last().is_some_and(|last| x > last.1) {
            let at = likeliest.partition_point(|other| other.1 >= x);
            likeliest.insert(at, (id, x));
            likeliest.truncate(top);
        }
    }
    likeliest.iter_mut().for_each(|(_, x)| *x = log(*x));
    Logprobs { chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&x| log(x)), top: likeliest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_all_probabilities_sum_to_one() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
        let all = of(&logits, 4, 5);
        assert_eq!(all.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 3, 4, 0, 2]);
        assert!((all.top.iter().map(|top| f64::from(top.1).exp()).sum::<f64>() - 1.0).abs() < 1e-6);
        assert_eq!(all.chosen, all.top[2].1);
        assert_eq!(of(&logits, 0, 2).top.len(), 2);
        assert!(of(&logits, 0, 0).top.is_empty());
    }
}
