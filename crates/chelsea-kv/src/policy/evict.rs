//! What all policies have in common that give each entry a score and drop those with the lowest.
//!
//! Such a policy is a [`Scorer`], which gives every candidate a number; [`Evict`] does the rest and keeps the best. How
//! many entries each head keeps follows from the rule [`Heads`], which is a setting of every such policy.

use super::{Needs, Plan, Policy, PolicyError, Setting, Settings, View};
use crate::PoolFull;
use crate::budget::even_shares;
use crate::merge::EVICT;
use std::fmt::{Debug, Display, Formatter};
use std::ops::Range;
use std::str::FromStr;

/// How the total is shared among heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// Every head keeps the same number.
    Even,
    /// The heads of a layer compete for the layer's share (AdaKV, arXiv:2407.11550).
    Adaptive,
    /// All heads of the sequence compete for one total.
    Pooled,
}

impl FromStr for Heads {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Heads::Even, Heads::Adaptive, Heads::Pooled].into_iter().find(|h| h.to_string() == text).ok_or(())
    }
}

impl Display for Heads {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Heads::Even => "even",
            Heads::Adaptive => "adaptive",
            Heads::Pooled => "pooled",
        })
    }
}

/// Says how much each candidate matters.
pub trait Scorer: Debug + Send + Sync {
    /// The name in the registry.
    fn name(&self) -> &'static str;

    /// Its own settings as `key=value,key=value`; empty when it has none.
    fn settings(&self) -> String {
        String::new()
    }

    /// As [`Policy::needs`].
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// As [`Policy::looks_back`].
    fn looks_back(&self) -> bool {
        false
    }

    /// One number for every candidate of every head: the higher, the sooner it is kept. `target` candidates
    /// are going to be kept over all heads, shared by the rule `heads`.
    ///
    /// # Errors
    /// As [`Policy::plan`].
    fn scores(&self, view: &View<'_>, target: usize, heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull>;

    /// Candidates that each layer keeps, where the method itself says so; they must add up to `target`.
    fn layer_totals(&self, view: &View<'_>, target: usize) -> Option<Vec<usize>> {
        let _ = (view, target);
        None
    }
}

/// Keeps the candidates with the best scores and drops the others. Of equal scores the later entry is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Evict<S> {
    /// The method.
    pub scorer: S,
    /// How the total is shared among heads.
    pub heads: Heads,
    /// Share of its even part that a head keeps whatever the others score, unless all heads keep the same.
    pub floor: f64,
}

/// The rule's setting, for a policy whose default it is to give every head the same.
pub const HEADS_EVEN: Setting = Setting::new("heads", "even", "even, adaptive (in each layer) or pooled (over all)");
/// The rule's setting, for a policy that pools.
pub(super) const HEADS_POOLED: Setting = HEADS_EVEN.with_default("pooled");
/// The floor's setting.
pub const FLOOR: Setting = Setting::new("floor", "0.2", "least that every head keeps, as a share of an even split");
/// The floor's setting, for a policy without one.
pub(super) const FLOOR_ZERO: Setting = FLOOR.with_default("0");

impl<S: Scorer> Evict<S> {
    /// The policy that keeps what `scorer` scores best, with `heads` and `floor` from the settings.
    ///
    /// # Errors
    /// If a setting has a value it cannot have.
    pub fn make(scorer: S, settings: &Settings, heads: Heads, floor: f64) -> Result<Self, PolicyError> {
        Ok(Evict {
            scorer,
            heads: settings.get("heads", heads, "even, adaptive or pooled", |_| true)?,
            floor: settings.get("floor", floor, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
        })
    }

    /// Which candidates of each head are kept.
    ///
    /// # Errors
    /// As [`Policy::plan`].
    pub fn keep(&self, view: &View<'_>, target: usize) -> Result<Vec<Vec<bool>>, PoolFull> {
        // Scores, marks, and the items of one pool.
        let _held = view.scratch.reserve(view.len() * (4 + 1 + size_of::<Item>()))?;
        let scores = self.scorer.scores(view, target, self.heads)?;
        let mut kept: Vec<Vec<bool>> = view.lens().iter().map(|&len| vec![false; len]).collect();
        let shares = even_shares(&view.lens(), target);
        let pools = match self.heads {
            Heads::Even => (0..kept.len()).map(|g| g..g + 1).collect(),
            Heads::Adaptive => view.layers(),
            Heads::Pooled => std::iter::once(0..kept.len()).collect(),
        };
        let layers = self.scorer.layer_totals(view, target);
        let shares = match layers {
            Some(totals) => {
                let lens = view.lens();
                let layer = |(layer, &total): (Range<usize>, &usize)| even_shares(&lens[layer], total);
                view.layers().into_iter().zip(&totals).flat_map(layer).collect()
            }
            None => shares,
        };
        for pool in pools {
            let floor = if pool.len() == 1 { 0.0 } else { self.floor };
            choose(&mut kept[pool.clone()], &scores[pool.clone()], &shares[pool], floor);
        }
        Ok(kept)
    }
}

/// Order of a score, its place in the head, and the head: the greatest are kept.
type Item = (u32, u32, u32);

/// Bits whose order as integers is the order of scores; what is not a number comes first.
fn order(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Marks the best of a pool of heads: as many as their `shares` add up to, in each head at least `floor` of
/// its own.
fn choose(kept: &mut [Vec<bool>], scores: &[Vec<f32>], shares: &[usize], floor: f64) {
    let mut left: usize = shares.iter().sum();
    let mut pool: Vec<Item> = Vec::new();
    for (g, (scores, &share)) in scores.iter().zip(shares).enumerate() {
        let start = pool.len();
        pool.extend(scores.iter().enumerate().map(|(i, &score)| (order(score), i as u32, g as u32)));
        let safe = (floor * share as f64) as usize;
        mark(kept, greatest(&mut pool[start..], safe));
        pool.drain(start..start + safe);
        left -= safe;
    }
    mark(kept, greatest(&mut pool, left));
}

/// The `n` greatest items, which come to the front.
fn greatest(items: &mut [Item], n: usize) -> &[Item] {
    if n > 0 && n < items.len() {
        items.select_nth_unstable_by(n - 1, |x, y| y.cmp(x));
    }
    &items[..n.min(items.len())]
}

fn mark(kept: &mut [Vec<bool>], items: &[Item]) {
    items.iter().for_each(|&(_, i, g)| kept[g as usize][i as usize] = true);
}

/// Roots that keep what is marked and drop the rest; empty when everything is kept.
pub fn keeping(kept: &[bool]) -> Vec<u32> {
    if kept.iter().all(|&k| k) {
        return Vec::new();
    }
    kept.iter().enumerate().map(|(i, &k)| if k { i as u32 } else { EVICT }).collect()
}

/// Scores that leave the choice to age: all alike, so that the latest entries are kept.
pub fn by_age(view: &View<'_>) -> Vec<Vec<f32>> {
    view.lens().iter().map(|&len| vec![0.0; len]).collect()
}

impl<S: Scorer> Policy for Evict<S> {
    fn name(&self) -> &'static str {
        self.scorer.name()
    }

    fn spec(&self) -> String {
        let own = self.scorer.settings();
        let comma = if own.is_empty() { "" } else { "," };
        format!("{}:{own}{comma}heads={},floor={}", self.scorer.name(), self.heads, self.floor)
    }

    fn needs(&self) -> Needs {
        self.scorer.needs()
    }

    fn looks_back(&self) -> bool {
        self.scorer.looks_back()
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        if view.len() <= target {
            return Ok(Plan::identity(view.heads.len()));
        }
        Ok(Plan::new(self.keep(view, target)?.iter().map(|kept| keeping(kept)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(scores: &[&[f32]], shares: &[usize], floor: f64) -> Vec<Vec<usize>> {
        let scores: Vec<Vec<f32>> = scores.iter().map(|s| s.to_vec()).collect();
        let mut kept: Vec<Vec<bool>> = scores.iter().map(|s| vec![false; s.len()]).collect();
        choose(&mut kept, &scores, shares, floor);
        kept.iter().map(|k| (0..k.len()).filter(|&i| k[i]).collect()).collect()
    }

    #[test]
    fn the_best_scores_are_kept_and_of_equal_ones_the_latest() {
        assert_eq!(chosen(&[&[1.0, 3.0, 2.0, 2.0, -1.0]], &[2], 0.0), [[1, 3]]);
        assert_eq!(chosen(&[&[0.0, -0.0, f32::NAN, 0.0]], &[2], 0.0), [[1, 3]]);
        assert_eq!(chosen(&[&[f32::NEG_INFINITY, f32::NAN]], &[1], 0.0), [[0]]);
        assert_eq!(chosen(&[&[1.0, 2.0]], &[0], 0.0), [[] as [usize; 0]]);
    }

    #[test]
    fn heads_of_a_pool_compete_above_their_floor() {
        let scores: [&[f32]; 2] = [&[9.0, 8.0, 7.0, 6.0], &[1.0, 2.0, 3.0, 4.0]];
        assert_eq!(chosen(&scores, &[2, 2], 0.0), [vec![0, 1, 2, 3], vec![]]);
        assert_eq!(chosen(&scores, &[2, 2], 0.5), [vec![0, 1, 2], vec![3]]);
        assert_eq!(chosen(&scores, &[2, 2], 1.0), [vec![0, 1], vec![2, 3]]);
    }
}
