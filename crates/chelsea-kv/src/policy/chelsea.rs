//! `chelsea`, the default: chunked soft matching, and one pool of merges for the whole sequence.

use super::stretch::{Features, Merges, Part, Rounds, Working};
use super::{EVICT, HeadView, Needs, Plan, Policy, PolicyError, PolicyInfo, Setting, Settings, View};
use crate::budget::head_floor;
use crate::matching::Cut;
use crate::matching::rounded::Word;
use crate::rotary::Steps;
use crate::{PoolFull, Rotary};
use rayon::prelude::*;
use std::fmt;
use std::num::ParseFloatError;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

/// The global recipe.
///
/// The cost of a merge is the expected squared change of an attention logit ([`HeadView::query_power`]),
/// taken between keys before RoPE, and `value_weight` times the squared distance of the values in units of the
/// head's mean `|value|^2`: what a merge does to weights, and what it does to what is weighted. It is absolute, so the
/// merges of all layers and heads compete in one pool: that is also how the budget is shared among heads. Every head is
/// clustered in gentle rounds, with fresh matching after each, further than it will be; then the cheapest merges of all
/// heads are carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Chelsea {
    /// Entries of a chunk.
    pub chunk: usize,
    /// Share of a head's clusters that one round merges at most.
    pub round_share: RoundShare,
    /// Share of the average that every head keeps at least.
    pub floor: f64,
    /// Weight of the squared distance of values in the cost.
    pub value_weight: f64,
    /// Of what is kept of each head beyond a fifth of the text, the share that is its latest entries, which are left as they
    /// are ([`Policy::recent_share`]): what comes next looks back at them most.
    pub recent: f64,
    /// Whether what is compared is rounded to whole numbers of about 12 bits, which is faster, or taken as it is.
    pub rounded: bool,
    /// Whether what would join another entry is dropped instead: what is kept then stands for itself alone. For measuring
    /// what merging adds.
    pub drop: bool,
}

/// How large rounds are: large ones take less time, and merge pairs that looked good only because better partners were not to
/// be had in that round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RoundShare {
    /// An eighth where a third or more of the candidates are kept, and no difference was ever seen between such rounds
    /// and smaller ones; a sixteenth where less is.
    ByWhatIsKept,
    /// Always so much.
    Fixed(f64),
}

impl RoundShare {
    /// The share, where `target` of so many candidates are kept.
    pub fn of(self, target: usize, candidates: usize) -> f64 {
        match self {
            RoundShare::Fixed(share) => share,
            RoundShare::ByWhatIsKept if target * 3 >= candidates => 0.125,
            RoundShare::ByWhatIsKept => 0.0625,
        }
    }
}

impl FromStr for RoundShare {
    type Err = ParseFloatError;

    fn from_str(text: &str) -> Result<Self, ParseFloatError> {
        if text == "auto" { Ok(RoundShare::ByWhatIsKept) } else { text.parse().map(RoundShare::Fixed) }
    }
}

impl fmt::Display for RoundShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoundShare::ByWhatIsKept => f.write_str("auto"),
            RoundShare::Fixed(share) => share.fmt(f),
        }
    }
}

impl Default for Chelsea {
    fn default() -> Self {
        Chelsea {
            chunk: 256,
            round_share: RoundShare::ByWhatIsKept,
            floor: 0.05,
            value_weight: 1.0,
            recent: 0.4,
            rounded: true,
            drop: false,
        }
    }
}

pub(super) const CHUNK: Setting =
    Setting::new("chunk", "256", "entries of a chunk, which are matched among themselves");
pub(super) const ROUND_SHARE: Setting = Setting::new(
    "round_share",
    "auto",
    "most that one round merges, as a share; auto: 0.125 where a third is kept, else 0.0625",
)
.formerly("frac");
pub(super) const FLOOR: Setting =
    Setting::new("floor", "0.05", "least that every head keeps, as a share of the average");
pub(super) const VALUE_WEIGHT: Setting =
    Setting::new("value_weight", "1", "weight of the distance of values in the cost").formerly("lam");

pub(super) const RECENT: Setting = Setting::new(
    "recent",
    "0.4",
    "share of what is kept beyond a fifth of the text that is its latest entries, up to 512, which are not merged",
);

pub(super) const ROUNDED: Setting = Setting::new(
    "rounded",
    "true",
    "compare entries as whole numbers of 12 bits; false: as floats, which takes longer",
);

pub(super) const DROP: Setting = Setting::new("drop", "false", "drop what would be merged, to tell what merging adds");

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "chelsea",
    about: "cluster similar neighbours, one pool of merges over all layers and heads (default)",
    source: "after arXiv:2506.11418, with a query-weighted cost and a global budget",
    one_shot_only: false,
    settings: &[CHUNK, ROUND_SHARE, FLOOR, VALUE_WEIGHT, RECENT, ROUNDED, DROP],
    make: |s| Ok(Arc::new(Chelsea::from_settings(s)?)),
};

/// The steps of every rotary embedding that layers have: in most models there is one.
struct AllSteps<'a>(Vec<(&'a Rotary, Steps)>);

impl<'a> AllSteps<'a> {
    fn of(view: &View<'a>) -> Self {
        let mut all: Vec<(&Rotary, Steps)> = Vec::new();
        for head in &view.heads {
            if all.iter().all(|(rotary, _)| *rotary != head.rotary()) {
                all.push((head.rotary(), head.rotary().steps()));
            }
        }
        AllSteps(all)
    }

    fn of_head(&self, head: &HeadView<'_>) -> &Steps {
        let found = self.0.iter().find(|(rotary, _)| *rotary == head.rotary());
        &found.expect("every head's rotary embedding was listed").1
    }
}

impl Chelsea {
    pub(super) fn from_settings(s: &Settings) -> Result<Self, PolicyError> {
        let default = Chelsea::default();
        let share = |x: &RoundShare| match *x {
            RoundShare::Fixed(share) => share > 0.0 && share <= 1.0,
            RoundShare::ByWhatIsKept => true,
        };
        Ok(Chelsea {
            chunk: s.chunk(default.chunk)?,
            round_share: s.get("round_share", default.round_share, "auto, or above 0 and at most 1", share)?,
            floor: s.get("floor", default.floor, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
            value_weight: s.get("value_weight", default.value_weight, "0 or more", |&x| x >= 0.0 && x.is_finite())?,
            recent: s.get("recent", default.recent, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
            rounded: s.get("rounded", default.rounded, "true or false", |_| true)?,
            drop: s.get("drop", default.drop, "true or false", |_| true)?,
        })
    }

    /// All settings as `key=value,key=value`; `rounded` and `drop` only where they are not as ever.
    pub(super) fn settings(&self) -> String {
        let Chelsea { chunk, round_share, floor, value_weight, recent, rounded, drop } = self;
        let exact = if *rounded { "" } else { ",rounded=false" };
        let drop = if *drop { ",drop=true" } else { "" };
        format!(
            "chunk={chunk},round_share={round_share},floor={floor},value_weight={value_weight},recent={recent}{exact}{drop}"
        )
    }
}

impl Policy for Chelsea {
    fn name(&self) -> &'static str {
        "chelsea"
    }

    fn spec(&self) -> String {
        format!("chelsea:{}", self.settings())
    }

    fn needs(&self) -> Needs {
        Needs { query_power: true, value_scale: self.value_weight != 0.0, ..Needs::default() }
    }

    fn recent_share(&self) -> f64 {
        self.recent
    }

    fn recipe(&self) -> Option<&Chelsea> {
        (self.rounded && !self.drop).then_some(self)
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        if view.len() <= target {
            return Ok(Plan::identity(view.heads.len()));
        }
        self.cluster(view, target, &vec![Vec::new(); view.heads.len()])
    }
}

/// Candidates that are clustered on their own, of a head that has more: what a thread takes for that does not grow with
/// the text, and chunks are still many times smaller.
const STRETCH: usize = 4096;

/// One stretch of so many is a pilot. No number of heads that models have: pilots are to be of all kinds.
const PILOTS: usize = 7;

/// A price above which, it seems, nothing will be carried out: twice that of merge number `wanted` of these lists.
fn guessed(lists: &[Merges], wanted: usize) -> f32 {
    let mut prices: Vec<f32> = lists.iter().flat_map(Merges::prices).collect();
    if wanted >= prices.len() {
        return f32::INFINITY;
    }
    2.0 * *prices.select_nth_unstable_by(wanted, f32::total_cmp).1
}

/// Of the `least` clusters that are left of a head of `len` candidates, those of a stretch: each part keeps its part.
fn least_of(least: usize, range: &Range<usize>, len: usize) -> usize {
    (least * range.len() / len).max(1)
}

impl Chelsea {
    /// The stretches that candidates are clustered in, head by head, where heads have so many of them and `target` are to be
    /// left in all: the head, which of its candidates, and how many clusters are left of them at least.
    pub fn stretches_of(&self, lens: &[usize], target: usize) -> Vec<(usize, Range<usize>, usize)> {
        let least = head_floor(self.floor, target, lens.len());
        let of_head = |(g, &len): (usize, &usize)| {
            self.stretches(len).map(move |range| (g, range.clone(), least_of(least, &range, len)))
        };
        lens.iter().enumerate().flat_map(of_head).collect()
    }

    /// Merges until `target` clusters are left in all, not counting those that stay `apart` (`[head][candidate]`; a list
    /// may be empty).
    pub(super) fn cluster(&self, view: &View<'_>, target: usize, apart: &[Vec<bool>]) -> Result<Plan, PoolFull> {
        let plan = if self.rounded { Self::plan_of::<Word> } else { Self::plan_of::<f32> };
        plan(self, view, target, apart, PILOTS)
    }

    /// Every so many stretches one is a pilot, which guesses for the others how far they have to go. The plan does not
    /// depend on it.
    fn plan_of<P: Part>(
        &self,
        view: &View<'_>,
        target: usize,
        apart: &[Vec<bool>],
        pilots: usize,
    ) -> Result<Plan, PoolFull> {
        let steps = AllSteps::of(view);
        let features = |head| Features::of(head, steps.of_head(head), self.value_weight);
        let features: Vec<Features<'_>> = view.heads.par_iter().map(features).collect();
        let left = |g: usize| view.heads[g].len() - apart[g].iter().filter(|&&apart| apart).count();
        let total: usize = (0..view.heads.len()).map(left).sum();
        let _held = view.scratch.reserve(Merges::bytes(total))?;
        let stretches: Vec<(usize, Range<usize>)> = view
            .heads
            .iter()
            .enumerate()
            .flat_map(|(g, head)| self.stretches(head.len()).map(move |r| (g, r)))
            .collect();
        let least = head_floor(self.floor, target, view.heads.len());
        let wanted = total.saturating_sub(target);
        let share = self.round_share.of(target, total);
        let mut lists: Vec<Merges> = stretches.iter().map(|_| Merges::default()).collect();
        let cluster = |lists: &mut [Merges], which: &(dyn Fn(usize, &Merges) -> bool + Sync), ceiling: f32| {
            let chosen = lists.par_iter_mut().enumerate().filter(|(i, list)| which(*i, list));
            chosen.try_for_each_init(Working::<P>::default, |working, (i, list)| {
                let (g, range) = &stretches[i];
                let head = &view.heads[*g];
                let least = least_of(least, range, head.len());
                let rounds = Rounds { chunk: self.chunk, share, least, ceiling };
                let _held = view.scratch.reserve(Working::<P>::bytes(range.len(), features[*g].dim(), rounds))?;
                *list = working.cluster(head, &features[*g], range.clone(), &apart[*g], rounds);
                Ok(())
            })
        };
        let is_pilot = |i: usize| i.is_multiple_of(pilots);
        cluster(&mut lists, &|i, _| is_pilot(i), f32::INFINITY)?;
        let known: usize = stretches.iter().step_by(pilots).map(|(_, range)| range.len()).sum();
        let ceiling = {
            let _prices = view.scratch.reserve(known * size_of::<f32>())?;
            guessed(&lists, wanted * known / total.max(1))
        };
        cluster(&mut lists, &|i, _| !is_pilot(i), ceiling)?;
        let within = lists.iter().flat_map(Merges::prices).filter(|&price| price <= ceiling).count();
        if within < wanted {
            // The guess was too low: those who stopped there go all the way.
            cluster(&mut lists, &|_, list| list.goes_beyond(ceiling), f32::INFINITY)?;
        }
        // Their prices alone.
        let _prices = view.scratch.reserve(total * size_of::<f32>())?;
        let mut cut = Cut::cheapest(lists.iter().flat_map(Merges::prices), wanted);
        let mut roots: Vec<Vec<u32>> = vec![Vec::new(); view.heads.len()];
        for ((g, _), list) in stretches.iter().zip(lists) {
            list.apply(&mut cut, view.heads[*g].len(), &mut roots[*g]);
        }
        if self.drop {
            for roots in &mut roots {
                let joins = |(i, root): (usize, &mut u32)| {
                    if *root as usize != i {
                        *root = EVICT
                    }
                };
                roots.iter_mut().enumerate().for_each(joins);
            }
        }
        Ok(Plan::new(roots))
    }

    /// Runs of `len` candidates of about one length, none longer than a stretch, or two chunks where those are longer.
    fn stretches(&self, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let count = len.div_ceil(STRETCH.max(2 * self.chunk));
        (0..count).map(move |i| i * len / count..(i + 1) * len / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchMeter;
    use crate::{Dtype, Head};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Heads whose keys differ the more the later they are, or the earlier.
    fn heads(count: usize, len: usize, rising: bool) -> Vec<Head> {
        const DIM: usize = 8;
        let mut rng = StdRng::seed_from_u64(7);
        let head = |g: usize| {
            let spread = 1.5f32.powi(if rising { g as i32 } else { -(g as i32) });
            let mut head = Head::new(DIM, Dtype::F32);
            for i in 0..len {
                let mut row = || -> Vec<f32> { (0..DIM).map(|_| spread * (rng.random::<f32>() - 0.5)).collect() };
                let (key, value) = (row(), row());
                head.push(&key, &value, 1, i as f32);
            }
            head
        };
        (0..count).map(head).collect()
    }

    fn view<'a>(heads: &'a [Head], rotary: &'a Rotary, scratch: &'a ScratchMeter) -> View<'a> {
        let view = |head: &'a Head| HeadView::new(head, 0..head.len(), rotary, Vec::new(), 1.0);
        View { heads: heads.iter().map(view).collect(), tokens: heads[0].len(), scratch }
    }

    #[test]
    fn what_would_join_another_can_be_dropped_instead() {
        let rotary = Rotary::plain(8, 10_000.0);
        let scratch = ScratchMeter::default();
        let heads = heads(3, 100, true);
        let view = view(&heads, &rotary, &scratch);
        let plan = |spec: &str| crate::policy::policy(spec).unwrap().plan(&view, 120).unwrap();
        let (merged, dropped) = (plan("chelsea"), plan("chelsea:drop=true"));
        for g in 0..heads.len() {
            assert_eq!(merged.survivors(g, 100), dropped.survivors(g, 100));
            for (i, (&root, &kept)) in merged.roots(g).iter().zip(dropped.roots(g)).enumerate() {
                assert_eq!(kept, if root as usize == i { root } else { EVICT });
            }
        }
    }

    #[test]
    fn rounds_are_larger_where_much_is_kept_unless_their_size_is_given() {
        let rotary = Rotary::plain(8, 10_000.0);
        let scratch = ScratchMeter::default();
        let heads = heads(3, 200, true);
        let view = view(&heads, &rotary, &scratch);
        let plan = |spec: &str, target| crate::policy::policy(spec).unwrap().plan(&view, target).unwrap();
        for (target, like, unlike) in [(200, "0.125", "0.0625"), (199, "0.0625", "0.125"), (60, "0.0625", "0.125")] {
            let auto = plan("chelsea", target);
            assert_eq!(auto, plan(&format!("chelsea:round_share={like}"), target), "{target} of 600");
            assert_ne!(auto, plan(&format!("chelsea:round_share={unlike}"), target), "{target} of 600");
        }
    }

    #[test]
    fn pilots_change_no_plan() {
        let rotary = Rotary::plain(8, 10_000.0);
        let scratch = ScratchMeter::default();
        for rising in [true, false] {
            let heads = heads(20, 150, rising);
            let view = view(&heads, &rotary, &scratch);
            let apart = vec![Vec::new(); heads.len()];
            for target in [150, 700, 1500, 2900] {
                for policy in [Chelsea::default(), Chelsea { chunk: 32, floor: 0.5, ..Chelsea::default() }] {
                    let plan = |pilots| policy.plan_of::<Word>(&view, target, &apart, pilots).unwrap();
                    let all = plan(1);
                    let kept: usize = (0..heads.len()).map(|g| all.survivors(g, 150)).sum();
                    assert_eq!(kept, target);
                    assert_eq!(plan(PILOTS), all, "{target}");
                    assert_eq!(plan(64), all, "{target}");
                }
            }
        }
    }
}
