//! From logits to the next token: penalties, truncation (top-k, top-p, min-p), temperature, draw.
//!
//! The order is the customary one: bias and penalties, top-k, top-p, min-p, temperature. A temperature
//! of zero takes the most likely token and ignores the truncations. Where only some tokens may come next
//! ([`Sampler::sample_among`]), the others are no candidates from the beginning.

use crate::grammar::Allowed;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 is the model's own distribution.
    pub temperature: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits (multiplies negative ones) of recently seen tokens; 1 is off.
    pub repeat_penalty: f32,
    /// How many of the latest tokens the penalty looks at.
    pub repeat_last: usize,
    /// Taken from the logit of every token that was sampled before; 0 is off.
    pub presence_penalty: f32,
    /// Taken from a token's logit once for every time it was sampled before; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub bias: Arc<[(u32, f32)]>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Arc::default(),
            seed: 0,
        }
    }
}

/// A sampling setting out of its range.
#[derive(Debug, Error, PartialEq)]
#[error("{name} is {value}, but must be {range}")]
pub struct SamplingError {
    name: &'static str,
    value: f32,
    range: &'static str,
}

impl Sampling {
    /// Checks every setting.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |name, value: f32, ok: bool, range| {
            if ok && value.is_finite() { Ok(()) } else { Err(SamplingError { name, value, range }) }
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "0 or more")?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        check("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1")?;
        check("repeat penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "above 0")?;
        let customary = -2.0..=2.0;
        check("presence penalty", self.presence_penalty, customary.contains(&self.presence_penalty), "from -2 to 2")?;
        check(
            "frequency penalty",
            self.frequency_penalty,
            customary.contains(&self.frequency_penalty),
            "from -2 to 2",
        )?;
        let wrong = self.bias.iter().map(|bias| bias.1).find(|bias| !(-100.0..=100.0).contains(bias));
        wrong.map_or(Ok(()), |bias| check("logit bias", bias, false, "from -100 to 100"))
    }
}

/// A seeded sampler; the same settings and logits give the same tokens.
#[derive(Debug)]
pub struct Sampler {
    settings: Sampling,
    rng: StdRng,
    candidates: Vec<(u32, f32)>,
    /// Logits that were changed, and what they were.
    changed: Vec<(usize, f32)>,
    /// How often each token was sampled.
    sampled: HashMap<u32, u32>,
}

impl Sampler {
    /// A sampler with checked settings.
    pub fn new(settings: Sampling) -> Result<Self, SamplingError> {
        settings.validate()?;
        let rng = StdRng::seed_from_u64(settings.seed);
        Ok(Sampler { settings, rng, candidates: Vec::new(), changed: Vec::new(), sampled: HashMap::new() })
    }

    /// Chooses the next token. `recent` are the tokens so far; `logits` is left as it was.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        self.sample_among(logits, recent, None)
    }

    /// Chooses the next token among those that are allowed, or among all.
    pub fn sample_among(&mut self, logits: &mut [f32], recent: &[u32], allowed: Option<&Allowed>) -> u32 {
        self.changed.clear();
        self.penalise_repetition(logits, recent);
        self.penalise_sampled(logits);
        self.add_bias(logits);
        let token = match allowed {
            None => self.choose(|| (0u32..).zip(logits.iter().copied())),
            Some(allowed) => {
                let logit = |token: u32| Some((token, *logits.get(token as usize)?));
                self.choose(|| allowed.tokens().filter_map(logit))
            }
        };
        for &(i, was) in self.changed.iter().rev() {
            logits[i] = was;
        }
        if self.settings.presence_penalty != 0.0 || self.settings.frequency_penalty != 0.0 {
            *self.sampled.entry(token).or_default() += 1;
        }
        token
    }

    /// As [`Sampler::sample`], of a vocabulary of `vocab` tokens of which only the likeliest are known
    /// ([`HeldLogits::likeliest`](chelsea_model::device::HeldLogits::likeliest)). None, and nothing is drawn, where others may
    /// matter, too: where logits are changed before, and where no top-k says that the rest is left out.
    pub(crate) fn sample_likeliest(&mut self, likeliest: &[(u32, f32)], vocab: usize) -> Option<u32> {
        let s = &self.settings;
        let changes = s.repeat_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0;
        let is_all = likeliest.len() == vocab;
        let &(first, top) = likeliest.first()?;
        if changes || !s.bias.is_empty() {
            return None;
        }
        if s.temperature == 0.0 {
            // Zeros of both signs are equal here, and are not in the list's order.
            return Some(first).filter(|_| top != 0.0);
        }
        (is_all || (1..=likeliest.len()).contains(&s.top_k)).then(|| self.choose(|| likeliest.iter().copied()))
    }

    fn penalise_repetition(&mut self, logits: &mut [f32], recent: &[u32]) {
        let penalty = self.settings.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let from = recent.len().saturating_sub(self.settings.repeat_last);
        for &token in &recent[from..] {
            let i = token as usize;
            if i < logits.len() && !self.changed.iter().any(|&(j, _)| j == i) {
                self.changed.push((i, logits[i]));
                logits[i] = if logits[i] > 0.0 { logits[i] / penalty } else { logits[i] * penalty };
            }
        }
    }

    fn penalise_sampled(&mut self, logits: &mut [f32]) {
        for (&token, &times) in &self.sampled {
            if let Some(logit) = logits.get_mut(token as usize) {
                self.changed.push((token as usize, *logit));
                *logit -= self.settings.presence_penalty + self.settings.frequency_penalty * times as f32;
            }
        }
    }

    fn add_bias(&mut self, logits: &mut [f32]) {
        for &(token, bias) in self.settings.bias.iter() {
            if let Some(logit) = logits.get_mut(token as usize) {
                self.changed.push((token as usize, *logit));
                *logit += bias;
            }
        }
    }

    /// One of some tokens, which are given with their logits, by ascending ids.
    fn choose<C: Iterator<Item = (u32, f32)>>(&mut self, candidates: impl Fn() -> C) -> u32 {
        if self.settings.temperature == 0.0 {
            return likeliest(candidates());
        }
        let s = &self.settings;
        let c = &mut self.candidates;
        c.clear();
        c.extend(candidates().filter(|(_, x)| x.is_finite()));
        if c.is_empty() {
            return likeliest(candidates());
        }
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if s.top_k > 0 && s.top_k < c.len() {
            c.select_nth_unstable_by(s.top_k - 1, by_logit);
            c.truncate(s.top_k);
        }
        c.sort_unstable_by(by_logit);
        let top = c[0].1;
        if s.top_p < 1.0 {
            let total: f32 = c.iter().map(|x| (x.1 - top).exp()).sum();
            let mut sum = 0.0;
            let keep = c.iter().position(|x| {
                sum += (x.1 - top).exp() / total;
                sum >= s.top_p
            });
            c.truncate(keep.map_or(c.len(), |i| i + 1));
        }
        if s.min_p > 0.0 {
            let least = top + s.min_p.ln();
            let keep = c.iter().position(|x| x.1 < least).unwrap_or(c.len());
            c.truncate(keep.max(1));
        }
        let mut total = 0.0;
        for x in c.iter_mut() {
            x.1 = ((x.1 - top) / s.temperature).exp();
            total += x.1;
        }
        let mut left = self.rng.random::<f32>() * total;
        for &(token, weight) in c.iter() {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        c[c.len() - 1].0
    }
}

/// Index of the largest logit, the lowest one when several are equal.
pub fn argmax(logits: &[f32]) -> u32 {
    likeliest((0u32..).zip(logits.iter().copied()))
}

/// The first of those with the largest logit; the first of all where no logit is a number.
fn likeliest(mut candidates: impl Iterator<Item = (u32, f32)>) -> u32 {
    let Some((first, x)) = candidates.next() else { return 0 };
    let mut best = (first, x.max(f32::NEG_INFINITY));
    for (token, x) in candidates {
        if x > best.1 {
            best = (token, x);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut Sampling)) -> Sampler {
        let mut s = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        change(&mut s);
        Sampler::new(s).unwrap()
    }

    fn drawn(sampler: &mut Sampler, logits: &[f32], n: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        let mut logits = logits.to_vec();
        for _ in 0..n {
            counts[sampler.sample(&mut logits, &[]) as usize] += 1;
        }
        counts
    }

    #[test]
    fn zero_temperature_takes_the_lowest_of_the_most_likely() {
        let mut s = sampler(|s| s.temperature = 0.0);
        assert_eq!(s.sample(&mut [0.0, 3.0, 1.0, 3.0], &[]), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let counts = drawn(&mut sampler(|_| ()), &[0.0, 2f32.ln(), 4f32.ln()], 14_000);
        for (count, share) in counts.iter().zip([2000.0, 4000.0, 8000.0]) {
            assert!((*count as f64 - share).abs() < 300.0, "{counts:?}");
        }
    }

    #[test]
    fn low_temperature_sharpens_and_high_temperature_flattens() {
        let logits = [0.0, 1.0];
        let cold = drawn(&mut sampler(|s| s.temperature = 0.2), &logits, 2000)[1];
        let hot = drawn(&mut sampler(|s| s.temperature = 5.0), &logits, 2000)[1];
        assert!(cold > 1950 && hot < 1250, "{cold} {hot}");
    }

    #[test]
    fn top_k_top_p_and_min_p_leave_out_the_tail() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        assert_eq!(drawn(&mut sampler(|s| s.top_k = 2), &logits, 1000)[2..], [0, 0]);
        assert_eq!(drawn(&mut sampler(|s| s.top_p = 0.7), &logits, 1000)[2..], [0, 0]);
        assert_eq!(drawn(&mut sampler(|s| s.min_p = 0.2), &logits, 1000)[3], 0);
        assert!(drawn(&mut sampler(|s| s.min_p = 0.2), &logits, 1000)[2] > 0);
    }

    #[test]
    fn repeat_penalty_lowers_seen_tokens_and_leaves_the_logits_as_they_were() {
        let mut s = sampler(|s| {
            s.temperature = 0.0;
            s.repeat_penalty = 2.0;
        });
        let mut logits = vec![1.0, 1.5, -1.0];
        assert_eq!(s.sample(&mut logits, &[1, 1, 2, 99]), 0);
        assert_eq!(logits, [1.0, 1.5, -1.0]);
    }

    #[test]
    fn tokens_that_were_sampled_cost_presence_once_and_frequency_each_time() {
        let mut s = sampler(|s| {
            s.temperature = 0.0;
            s.presence_penalty = 0.5;
            s.frequency_penalty = 1.0;
        });
        let mut logits = vec![4.0, 3.0];
        // 4, then 2.5 against 3, then 2.5 against 1.5, then 1.5 against 1.5.
        let tokens: Vec<u32> = (0..4).map(|_| s.sample(&mut logits, &[])).collect();
        assert_eq!(tokens, [0, 1, 0, 0]);
        assert_eq!(logits, [4.0, 3.0]);
    }

    #[test]
    fn a_bias_is_added_to_its_token_alone_and_unknown_tokens_are_left_out() {
        let mut s = sampler(|s| {
            s.temperature = 0.0;
            s.bias = Arc::from([(1, 5.0), (0, -1.0), (99, 100.0)]);
        });
        let mut logits = vec![2.0, -2.0, 1.5];
        assert_eq!(s.sample(&mut logits, &[]), 1);
        assert_eq!(logits, [2.0, -2.0, 1.5]);
        let wrong = Sampling { bias: Arc::from([(1, 101.0)]), ..Sampling::default() };
        assert_eq!(Sampler::new(wrong).unwrap_err().to_string(), "logit bias is 101, but must be from -100 to 100");
    }

    #[cfg(feature = "grammar")]
    #[test]
    fn only_what_is_allowed_is_chosen_and_truncation_counts_nothing_else() {
        let allowed = Allowed::only(&[1, 3, 99]);
        let mut greedy = sampler(|s| s.temperature = 0.0);
        let mut logits = vec![9.0, 1.0, 8.0, 2.0];
        assert_eq!(greedy.sample_among(&mut logits, &[], Some(&allowed)), 3);
        // The two likeliest of all are none of those that are left by top-k.
        let mut top = sampler(|s| s.top_k = 2);
        let drawn: Vec<u32> = (0..200).map(|_| top.sample_among(&mut logits, &[], Some(&allowed))).collect();
        assert!(drawn.contains(&1) && drawn.contains(&3) && drawn.iter().all(|token| [1, 3].contains(token)));
        let mut odd = vec![9.0, f32::NEG_INFINITY, 8.0, f32::NAN];
        assert_eq!(top.sample_among(&mut odd, &[], Some(&allowed)), 1);
        assert_eq!(logits, [9.0, 1.0, 8.0, 2.0]);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits = vec![0.0; 50];
        assert_eq!(
            drawn(&mut sampler(|s| s.seed = 7), &logits, 100),
            drawn(&mut sampler(|s| s.seed = 7), &logits, 100)
        );
        assert_ne!(
            drawn(&mut sampler(|s| s.seed = 7), &logits, 100),
            drawn(&mut sampler(|s| s.seed = 8), &logits, 100)
        );
    }

    #[test]
    fn the_likeliest_alone_give_the_same_tokens_wherever_they_suffice() {
        let mut by_lot = StdRng::seed_from_u64(3);
        let default = Sampling::default();
        let settings = [
            default.clone(),
            Sampling { temperature: 0.7, ..default.clone() },
            Sampling { temperature: 1.3, top_k: 256, top_p: 0.9, min_p: 0.0, ..default.clone() },
            Sampling { temperature: 1.0, top_k: 5, top_p: 1.0, min_p: 0.1, ..default.clone() },
        ];
        for settings in settings {
            for vocab in [100, 5000] {
                let sampler = || Sampler::new(Sampling { seed: 9, ..settings.clone() }).unwrap();
                let (mut of_all, mut of_likeliest) = (sampler(), sampler());
                for round in 0..200 {
                    let number = |_| by_lot.random_range(-8.0f32..8.0);
                    let mut row: Vec<f32> = (0..vocab).map(number).collect();
                    if round % 4 == 0 {
                        // Many equal ones, at the end of the list, too.
                        row.iter_mut().for_each(|x| *x = x.round());
                    }
                    let mut likeliest: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
                    likeliest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    likeliest.truncate(256);
                    let token = of_likeliest.sample_likeliest(&likeliest, vocab);
                    assert_eq!(token, Some(of_all.sample(&mut row, &[])), "{settings:?}");
                }
            }
        }
    }

    #[test]
    fn the_likeliest_do_not_suffice_where_others_may_matter() {
        let likeliest = [(7, 2.0), (3, 1.0), (1, -1.0)];
        let of = |vocab, change: fn(&mut Sampling)| sampler(change).sample_likeliest(&likeliest, vocab);
        assert_eq!(of(9, |s| s.temperature = 0.0), Some(7));
        assert_eq!(of(9, |_| ()), None, "every token may be drawn");
        assert!(of(3, |_| ()).is_some(), "there are no others");
        assert!(of(9, |s| s.top_k = 3).is_some());
        assert_eq!(of(9, |s| s.top_k = 4), None);
        let changes: [fn(&mut Sampling); 4] = [
            |s| s.repeat_penalty = 1.1,
            |s| s.presence_penalty = 0.5,
            |s| s.frequency_penalty = 0.5,
            |s| s.bias = Arc::from([(1, 5.0)]),
        ];
        for change in changes {
            let mut settings = Sampling { top_k: 2, ..Sampling::default() };
            change(&mut settings);
            assert_eq!(Sampler::new(settings).unwrap().sample_likeliest(&likeliest, 9), None);
        }
        // Equal to each other, and in an order of their own.
        let zeros = [(5, 0.0), (2, -0.0)];
        assert_eq!(sampler(|s| s.temperature = 0.0).sample_likeliest(&zeros, 2), None);
        assert_eq!(sampler(|s| s.temperature = 0.0).sample_likeliest(&[], 2), None);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let err = Sampler::new(Sampling { top_p: 1.5, ..Sampling::default() }).unwrap_err();
        assert_eq!(err.to_string(), "top-p is 1.5, but must be above 0 and at most 1");
        assert!(Sampler::new(Sampling { temperature: f32::NAN, ..Sampling::default() }).is_err());
    }

    #[test]
    fn infinite_logits_never_panic() {
        let mut s = sampler(|_| ());
        assert_eq!(s.sample(&mut [f32::NEG_INFINITY; 3], &[]), 0);
        assert_eq!(s.sample(&mut [f32::NEG_INFINITY, 0.0, f32::NAN], &[]), 1);
    }
}
