//! Attention over entries, by its definition.

use super::page::Entry;

/// A KV head, and what its query heads see of it.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its entries, in order.
    pub entries: &'a [Entry],
    /// The first of them that is seen.
    pub first: usize,
    /// The end of those that are seen.
    pub end: usize,
}

/// What a query is answered: `softmax(scale q . k + ln count) . v`, with a sink's logit in the denominator where there is
/// one. In f64; zeros where nothing is seen.
pub fn attend(query: &[f32], head: Head<'_>, scale: f32, sink: Option<f32>) -> Vec<f64> {
    let seen = &head.entries[head.first..head.end];
    let score = |entry: &Entry| {
        let dot: f64 = query.iter().zip(&entry.key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        dot * f64::from(scale) + f64::from(entry.count).ln()
    };
    let scores: Vec<f64> = seen.iter().map(score).collect();
    let sink = sink.map_or(f64::NEG_INFINITY, f64::from);
    let most = scores.iter().copied().fold(sink, f64::max);
    let mut out = vec![0.0; query.len()];
    let total =
        scores.iter().map(|s| (s - most).exp()).sum::<f64>() + if sink.is_finite() { (sink - most).exp() } else { 0.0 };
    for (entry, score) in seen.iter().zip(&scores) {
        let weight = (score - most).exp() / total;
        out.iter_mut().zip(&entry.value).for_each(|(out, &v)| *out += weight * f64::from(v));
    }
    out
}
