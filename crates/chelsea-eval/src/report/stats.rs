//! Means over tasks, and how far they can be trusted.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Times that samples are drawn anew.
const DRAWS: usize = 2000;
/// A task with fewer samples says too little of how its samples vary.
pub(super) const ENOUGH: usize = 5;
/// The same results give the same intervals.
const SEED: u64 = 0x0c4e_15ea;

/// A mean, and between which values 95% of the means of redrawn samples lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The 2.5% quantile.
    pub low: f64,
    /// The 97.5% quantile.
    pub high: f64,
    /// How likely so uneven a split into values above and below zero would be by chance (sign test, two-sided); 1 where
    /// most values lie on the other side of zero than the mean.
    pub chance: f64,
}

/// What a difference is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every sample scored the same.
    Same,
    /// The interval holds zero.
    Noise,
    /// Above zero throughout.
    Better,
    /// Below zero throughout.
    Worse,
}

impl Verdict {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Same => "the same",
            Verdict::Noise => "within the noise",
            Verdict::Better => "better",
            Verdict::Worse => "worse",
        }
    }
}

impl Interval {
    /// The interval of the mean over tasks of the mean over samples; `tasks` holds the values of each task's samples.
    /// Samples are redrawn within their task; where a task has fewer than five, the tasks are redrawn too, for
    /// how samples vary can then only be seen across tasks. None without any value.
    pub fn of(tasks: &[Vec<f64>]) -> Option<Interval> {
        let tasks: Vec<&Vec<f64>> = tasks.iter().filter(|t| !t.is_empty()).collect();
        if tasks.is_empty() {
            return None;
        }
        let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mean = mean_of(&tasks.iter().map(|t| mean_of(t)).collect::<Vec<_>>());
        let few = tasks.iter().any(|t| t.len() < ENOUGH);
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut draw = || {
            let mut sum = 0.0;
            for i in 0..tasks.len() {
                let task = tasks[if few { rng.random_range(0..tasks.len()) } else { i }];
                let drawn = (0..task.len()).map(|_| task[rng.random_range(0..task.len())]);
                sum += drawn.sum::<f64>() / task.len() as f64;
            }
            sum / tasks.len() as f64
        };
        let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        means.sort_by(f64::total_cmp);
        let quantile = |q: f64| means[((DRAWS - 1) as f64 * q).round() as usize];
        let signs = |wanted: f64| tasks.iter().flat_map(|t| t.iter()).filter(|v| **v * wanted > 0.0).count();
        let (above, below) = (signs(1.0), signs(-1.0));
        // Signs that speak for the other side are no evidence for this one.
        let chance = if (above > below) == (mean > 0.0) { sign_test(above, below) } else { 1.0 };
        Some(Interval { mean, low: quantile(0.025), high: quantile(0.975), chance })
    }

    /// What the difference is worth, of which this is the interval. With few samples the interval is too narrow and
    /// may shrink to a point: so the signs alone must speak for a difference too.
    pub fn verdict(&self) -> Verdict {
        if self.low == 0.0 && self.high == 0.0 && self.mean == 0.0 {
            Verdict::Same
        } else if self.chance > 0.05 || (self.low <= 0.0 && self.high >= 0.0) {
            Verdict::Noise
        } else if self.low > 0.0 {
            Verdict::Better
        } else {
            Verdict::Worse
        }
    }
}

/// How likely a split at least as uneven is when both signs are equally likely.
fn sign_test(positive: usize, negative: usize) -> f64 {
    let (n, few) = (positive + negative, positive.min(negative));
    // Terms of the binomial distribution, through logarithms so that none is lost.
    let (mut term, mut sum) = (-(n as f64) * std::f64::consts::LN_2, 0.0);
    for k in 0..=few {
        sum += f64::exp(term);
        term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_weigh_the_same_however_many_samples_they_have() {
        let i = Interval::of(&[vec![1.0; 100], vec![0.0; 5]]).unwrap();
        assert_eq!((i.mean, i.low, i.high), (0.5, 0.5, 0.5));
        assert_eq!(Interval::of(&[vec![], vec![0.25]]).unwrap().mean, 0.25);
        assert_eq!(Interval::of(&[vec![]]), None);
    }

    #[test]
    fn single_samples_of_tasks_vary_as_the_tasks_do() {
        let tasks: Vec<Vec<f64>> = (0..100).map(|i| vec![f64::from(i % 2)]).collect();
        let i = Interval::of(&tasks).unwrap();
        // 1.96 standard errors of 0.5 / sqrt(100) = 0.05.
        assert!((i.low - 0.402).abs() < 0.015 && (i.high - 0.598).abs() < 0.015, "{i:?}");
    }

    #[test]
    fn the_interval_of_a_coin_is_what_theory_says() {
        let tosses: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let i = Interval::of(&[tosses]).unwrap();
        // 1.96 standard errors of 0.5 / sqrt(400) = 0.025.
        assert!((i.low - 0.451).abs() < 0.006 && (i.high - 0.549).abs() < 0.006, "{i:?}");
    }

    #[test]
    fn a_difference_counts_only_outside_the_noise() {
        let verdict = |values: &[f64]| Interval::of(&[values.to_vec()]).unwrap().verdict();
        assert_eq!(verdict(&[0.0; 9]), Verdict::Same);
        assert_eq!(verdict(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 1.0]), Verdict::Noise);
        assert_eq!(verdict(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), Verdict::Noise, "one of six is no proof");
        assert_eq!(verdict(&[-1.0; 5]), Verdict::Noise, "five alike come by chance once in sixteen");
        assert_eq!(verdict(&[0.2, 0.3, 0.1, 0.25, 0.3, 0.1]), Verdict::Better);
        assert_eq!(verdict(&[-1.0; 6]), Verdict::Worse);
        let mostly_better: Vec<f64> = (0..20).map(|i| if i < 16 { 0.01 } else { -1.0 }).collect();
        assert_eq!(verdict(&mostly_better), Verdict::Noise, "signs and mean contradict each other");
    }

    #[test]
    fn the_sign_test_is_the_binomial_tail() {
        assert_eq!(sign_test(0, 0), 1.0);
        assert!((sign_test(6, 0) - 2.0 / 64.0).abs() < 1e-12);
        assert!((sign_test(1, 5) - 2.0 * 7.0 / 64.0).abs() < 1e-12);
        assert_eq!(sign_test(3, 3), 1.0);
        assert!(sign_test(0, 5000) < 1e-300 && sign_test(2500, 2500) == 1.0);
    }
}
