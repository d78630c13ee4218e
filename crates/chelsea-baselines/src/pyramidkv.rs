//! `pyramidkv`: SnapKV's scores, with more room in low layers than in high ones.

use crate::snapkv::{KERNEL, SMOOTH, SnapKv, WINDOW};
use chelsea_kv::PoolFull;
use chelsea_kv::policy::{
    Evict, FLOOR, HEADS_EVEN, Heads, Needs, PolicyError, PolicyInfo, Scorer, Setting, View, even_shares,
};
use std::sync::Arc;

/// Scores as [`SnapKv`]; what layers keep between sinks and window falls in equal steps from the first to
/// the last, which keeps one part in `beta` of the average. Published as PyramidKV (arXiv:2406.02069).
/// Where the first layers have no more entries to keep, the rest is shared by the others.
/// `heads=adaptive` pools inside each layer; pooling over layers would undo the pyramid and is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PyramidKv {
    /// Where scores come from.
    pub snap: SnapKv,
    /// The last layer keeps one part in `beta` of the average.
    pub beta: f64,
}

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "pyramidkv",
    about: "SnapKV's scores, with more room in low layers than in high ones",
    source: "PyramidKV, arXiv:2406.02069",
    one_shot_only: false,
    settings: &[
        WINDOW,
        KERNEL,
        SMOOTH,
        Setting::new("beta", "20", "the last layer keeps the average divided by this"),
        HEADS_EVEN,
        FLOOR,
    ],
    make: |s| {
        let beta = s.get("beta", 20.0, "1 or more", |b: &f64| *b >= 1.0 && b.is_finite())?;
        let made = Evict::make(PyramidKv { snap: SnapKv::make(s)?, beta }, s, Heads::Even, 0.2)?;
        if made.heads == Heads::Pooled {
            let expected = "even or adaptive, because the pyramid says what each layer keeps";
            return Err(PolicyError::BadValue { setting: "heads", value: "pooled".into(), expected });
        }
        Ok(Arc::new(made))
    },
};

impl Scorer for PyramidKv {
    fn name(&self) -> &'static str {
        "pyramidkv"
    }

    fn settings(&self) -> String {
        format!("{},beta={}", self.snap.settings(), self.beta)
    }

    fn needs(&self) -> Needs {
        self.snap.needs()
    }

    fn scores(&self, view: &View<'_>, target: usize, heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        self.snap.scores(view, target, heads)
    }

    fn layer_totals(&self, view: &View<'_>, target: usize) -> Option<Vec<usize>> {
        let lens = view.lens();
        let lens: Vec<usize> = view.layers().into_iter().map(|layer| lens[layer].iter().sum()).collect();
        Some(pyramid(&lens, target, self.beta))
    }
}

/// Shares `target` among layers that have `lens` candidates, falling in equal steps.
fn pyramid(lens: &[usize], target: usize, beta: f64) -> Vec<usize> {
    let mean = target as f64 / lens.len() as f64;
    let room = lens.iter().copied().max().unwrap_or(0) as f64;
    let mut least = mean / beta;
    let mut most = 2.0 * mean - least;
    if most > room {
        (most, least) = (room, 2.0 * mean - room);
    }
    let step = (most - least) / (lens.len().max(2) - 1) as f64;
    let wanted = |l: usize| (most - step * l as f64).max(0.0).round() as usize;
    let mut totals: Vec<usize> = lens.iter().enumerate().map(|(l, &len)| wanted(l).min(len)).collect();
    // Rounding, and layers shorter than their step of the pyramid.
    let sum: usize = totals.iter().sum();
    if sum < target {
        let free: Vec<usize> = lens.iter().zip(&totals).map(|(len, total)| len - total).collect();
        totals.iter_mut().zip(even_shares(&free, target - sum)).for_each(|(total, more)| *total += more);
    } else {
        let less = even_shares(&totals, sum - target);
        totals.iter_mut().zip(less).for_each(|(total, less)| *total -= less);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_less_and_less_and_together_what_they_may() {
        assert_eq!(pyramid(&[1000; 5], 1000, 20.0), [390, 295, 200, 105, 10]);
        assert_eq!(pyramid(&[300; 5], 1000, 20.0), [300, 250, 200, 150, 100]);
        assert_eq!(pyramid(&[1000], 100, 20.0), [100]);
        for (lens, target) in [(vec![10, 0, 7, 300], 150), (vec![3, 3, 3], 9), (vec![50, 40, 30], 1), (vec![0, 5], 3)] {
            let totals = pyramid(&lens, target, 20.0);
            assert_eq!(totals.iter().sum::<usize>(), target, "{totals:?}");
            assert!(totals.iter().zip(&lens).all(|(total, len)| total <= len));
        }
    }
}
