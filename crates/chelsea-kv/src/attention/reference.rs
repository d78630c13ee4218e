//! Attention written as its definition, in f64: what every other path is held against.

use crate::Head;

/// The same contract as [`attend`](super::attend()), one score at a time. Slow, and independent of
/// the kernels on purpose: it shares no code with them.
///
/// # Panics
/// As [`attend`](super::attend()).
pub fn attend(heads: &[Head], q: &[f32], n: usize, group: usize, scale: f32, out: &mut [f32]) {
    super::check(heads, q, n, group, out);
    let Some(d) = heads.first().map(Head::head_dim) else { return };
    let mut numbers = vec![0.0f32; d];
    for (at, (query, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
        let (token, q_head) = (at / (heads.len() * group), at % (heads.len() * group));
        let head = &heads[q_head / group];
        let visible = head.len() - n + token + 1;
        let scores: Vec<f64> = (0..visible)
            .map(|i| {
                head.read_key(i, &mut numbers);
                let dot: f64 = query.iter().zip(&numbers).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                dot * f64::from(scale) + f64::from(head.count(i)).ln()
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut sum = vec![0.0f64; d];
        for (i, score) in scores.iter().enumerate() {
            head.read_value(i, &mut numbers);
            let weight = (score - max).exp() / total;
            for (s, &v) in sum.iter_mut().zip(&numbers) {
                *s += weight * f64::from(v);
            }
        }
        for (o, s) in out.iter_mut().zip(&sum) {
            *o = *s as f32;
        }
    }
}
