//! Attention written as its definition, in f64: what every other path is held against.

use super::{Attention, Request};

/// The same contract as [`attend_batch`](super::attend_batch) with one request, one score at a time. Slow, and
/// independent of the kernels on purpose: it shares no code with them.
///
/// # Panics
/// As [`attend_batch`](super::attend_batch).
pub fn attend(request: Request<'_>, layer: &Attention<'_>) {
    super::check(&request, layer);
    let Request { heads, q, n, out } = request;
    let Some((key_dim, value_dim)) = heads.first().map(|head| (head.key_dim(), head.value_dim())) else {
        return;
    };
    let (mut key, mut value) = (vec![0.0f32; key_dim], vec![0.0f32; value_dim]);
    for (at, (query, out)) in q.chunks_exact(key_dim).zip(out.chunks_exact_mut(value_dim)).enumerate() {
        let (token, q_head) = (at / (heads.len() * layer.group), at % (heads.len() * layer.group));
        let head = &heads[q_head / layer.group];
        let own = head.len() - n + token;
        let seen = |i: usize| i <= own && layer.window.is_none_or(|window| own - i < window);
        let visible: Vec<usize> = (0..head.len()).filter(|&i| seen(i)).collect();
        let score = |&i: &usize| {
            head.read_key(i, &mut key);
            let dot: f64 = query.iter().zip(&key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            dot * f64::from(layer.scale) + f64::from(head.count(i)).ln()
        };
        let scores: Vec<f64> = visible.iter().map(score).collect();
        let sink = layer.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[q_head]));
        let max = scores.iter().copied().fold(sink, f64::max);
        let total = scores.iter().map(|s| (s - max).exp()).sum::<f64>() + (sink - max).exp();
        let mut sum = vec![0.0f64; value_dim];
        for (&i, score) in visible.iter().zip(&scores) {
            head.read_value(i, &mut value);
            let weight = (score - max).exp() / total;
            for (s, &v) in sum.iter_mut().zip(&value) {
                *s += weight * f64::from(v);
            }
        }
        for (o, s) in out.iter_mut().zip(&sum) {
            *o = *s as f32;
        }
    }
}
