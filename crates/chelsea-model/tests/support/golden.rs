//! Reference logits as `scripts/reference/logits.py` writes them.

use std::path::Path;

/// One position.
pub struct Row {
    /// Log of the sum of all exponentials.
    pub lse: f32,
    /// The largest logits, largest first: `(id, logit)`.
    pub top: Vec<(u32, f32)>,
    /// Logits of [`Golden::probes`].
    pub probes: Vec<f32>,
}

/// A file of reference logits.
pub struct Golden {
    pub vocab: usize,
    pub ids: Vec<u32>,
    /// Position of the first row.
    pub first: usize,
    pub probes: Vec<u32>,
    pub rows: Vec<Row>,
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("logits-{name}.bin"));
        let bytes = std::fs::read(&path).expect("the reference file is committed");
        assert!(bytes.starts_with(b"CHLOGITS"), "{} is not a reference file", path.display());
        let mut words = bytes[8..].chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let mut u32s = |n: usize| -> Vec<u32> { words.by_ref().take(n).map(u32::from_le_bytes).collect() };
        let header = u32s(7);
        let [version, vocab, ids, first, kept, top, probes] = header[..] else { panic!("a short header") };
        assert_eq!(version, 1);
        let ids = u32s(ids as usize);
        let probes = u32s(probes as usize);
        let rows = (0..kept)
            .map(|_| {
                let lse = f32::from_bits(u32s(1)[0]);
                let top_ids = u32s(top as usize);
                let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits);
                let top = top_ids.into_iter().zip(floats(u32s(top as usize))).collect();
                Row { lse, top, probes: floats(u32s(probes.len())).collect() }
            })
            .collect();
        assert!(words.next().is_none(), "{} is too long", path.display());
        Golden { vocab: vocab as usize, ids, first: first as usize, probes, rows }
    }
}

impl Row {
    /// Largest difference between the reference and `logits` over all ids the reference keeps, and over the
    /// logs of the sums.
    pub fn max_difference(&self, logits: &[f32], probes: &[u32]) -> f32 {
        let kept = self.top.iter().copied().chain(probes.iter().copied().zip(self.probes.iter().copied()));
        let largest = kept.map(|(id, reference)| (reference - logits[id as usize]).abs()).fold(0.0, f32::max);
        largest.max((self.lse - log_sum_exp(logits) as f32).abs())
    }

    /// KL divergence of `logits` from the reference, in nats, over the ids kept and one bucket for all others.
    /// Putting outcomes together never raises a divergence, so the true one is at least this.
    pub fn kl(&self, logits: &[f32]) -> f64 {
        let lse = log_sum_exp(logits);
        let (mut kl, mut p_rest, mut q_rest) = (0.0, 1.0, 1.0);
        for &(id, reference) in &self.top {
            let (log_p, log_q) = (f64::from(reference) - f64::from(self.lse), f64::from(logits[id as usize]) - lse);
            kl += log_p.exp() * (log_p - log_q);
            p_rest -= log_p.exp();
            q_rest -= log_q.exp();
        }
        // Both are differences of nearly equal numbers where the kept ids hold almost everything.
        if p_rest > 1e-6 && q_rest > 1e-6 { kl + p_rest * (p_rest / q_rest).ln() } else { kl }
    }
}

/// Log of the sum of all exponentials. Every measure here takes it: maxima and sums of differences would pass over a NaN
/// without a word.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let odd = logits.iter().position(|logit| !logit.is_finite());
    assert_eq!(odd, None, "the logit of this id is not finite");
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// The id of the largest logit.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a vocabulary").0 as u32
}
