//! `chelsea`, the default: chunked soft matching over one pool of edges for the whole sequence.

use super::clusters::{Clusters, Rows, Source};
use super::{HeadView, Needs, Plan, Policy, PolicyError, PolicyInfo, Setting, Settings, View};
use crate::PoolFull;
use crate::budget::head_floor;
use crate::matching::{Cut, Edge, Measure, Scratch, match_chunks};
use crate::rotary::Steps;
use crate::{Dims, Rotary};
use rayon::prelude::*;
use std::sync::Arc;

/// The global recipe.
///
/// The cost of a merge is the expected squared change of an attention logit ([`HeadView::query_power`]),
/// taken between keys before RoPE, and `value_weight` times the squared distance of the values in units of the
/// head's mean `|value|^2`: what a merge does to weights, and what it does to what is weighted. It is absolute, so the
/// edges of all layers and heads compete in one pool: that is also how the budget is shared among heads. Merging goes in
/// gentle rounds, with fresh matching after each.
#[derive(Debug, Clone, PartialEq)]
pub struct Chelsea {
    /// Entries of a chunk.
    pub chunk: usize,
    /// Share of all candidates that one round merges at most.
    pub round_share: f64,
    /// Share of the average that every head keeps at least.
    pub floor: f64,
    /// Weight of the squared distance of values in the cost.
    pub value_weight: f64,
}

impl Default for Chelsea {
    fn default() -> Self {
        Chelsea { chunk: 256, round_share: 0.0625, floor: 0.05, value_weight: 1.0 }
    }
}

pub(super) const CHUNK: Setting =
    Setting::new("chunk", "256", "entries of a chunk, which are matched among themselves");
pub(super) const ROUND_SHARE: Setting =
    Setting::new("round_share", "0.0625", "most that one round merges, as a share of the entries").formerly("frac");
pub(super) const FLOOR: Setting =
    Setting::new("floor", "0.05", "least that every head keeps, as a share of the average");
pub(super) const VALUE_WEIGHT: Setting =
    Setting::new("value_weight", "1", "weight of the distance of values in the cost").formerly("lam");

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "chelsea",
    about: "cluster similar neighbours, one pool of merges over all layers and heads (default)",
    source: "after arXiv:2506.11418, with a query-weighted cost and a global budget",
    one_shot_only: false,
    settings: &[CHUNK, ROUND_SHARE, FLOOR, VALUE_WEIGHT],
    make: |s| Ok(Arc::new(Chelsea::from_settings(s)?)),
};

/// Threads that are counted on when room is shared out: which heads keep their rows, and so the last bits of what is
/// compared, must not depend on how many there are.
const THREADS: usize = 2;

/// One head while the plan is being made.
struct State<'s> {
    /// What speeds up turning keys back.
    steps: &'s Steps,
    clusters: Clusters,
    /// Square root of the query power, one factor a dimension.
    scale: Vec<f32>,
    /// Mean of the keys before RoPE.
    centre: Vec<f32>,
    /// The edges this head offers, in ascending order of a; `a` and `b` are candidates.
    edges: Vec<Edge>,
    /// Whether the clusters changed since they were matched.
    stale: bool,
    /// Whether there is room to keep the rows from round to round.
    keep: bool,
    /// The rows that were matched last, if they are kept.
    kept: Option<Rows>,
}

impl<'s> State<'s> {
    fn new(head: &HeadView<'_>, clusters: Clusters, steps: &'s Steps) -> Self {
        let dim = head.key_dim();
        let scale = match head.query_power() {
            [] => vec![(1.0 / dim as f32).sqrt(); dim],
            power => power.iter().map(|w| w.sqrt()).collect(),
        };
        State {
            steps,
            clusters,
            scale,
            centre: mean_feature(head, steps),
            edges: Vec::new(),
            stale: true,
            keep: false,
            kept: None,
        }
    }
}

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

/// Keys carry large constant offsets; distances do not depend on them, but their rounding does.
fn mean_feature(head: &HeadView<'_>, steps: &Steps) -> Vec<f32> {
    let mut sums = vec![0.0f64; head.key_dim()];
    head.for_each_scaled(
        steps,
        &[],
        &[],
        |_| true,
        |_, key| sums.iter_mut().zip(key).for_each(|(sum, &x)| *sum += f64::from(x)),
    );
    sums.iter().map(|sum| (sum / head.len().max(1) as f64) as f32).collect()
}

impl Chelsea {
    pub(super) fn from_settings(s: &Settings) -> Result<Self, PolicyError> {
        let default = Chelsea::default();
        let share = |x: &f64| *x > 0.0 && *x <= 1.0;
        Ok(Chelsea {
            chunk: s.chunk(default.chunk)?,
            round_share: s.get("round_share", default.round_share, "above 0 and at most 1", share)?,
            floor: s.get("floor", default.floor, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
            value_weight: s.get("value_weight", default.value_weight, "0 or more", |&x| x >= 0.0 && x.is_finite())?,
        })
    }

    /// All settings as `key=value,key=value`.
    pub(super) fn settings(&self) -> String {
        let Chelsea { chunk, round_share, floor, value_weight } = self;
        format!("chunk={chunk},round_share={round_share},floor={floor},value_weight={value_weight}")
    }

    /// Numbers of a row of `head`.
    fn dim(&self, head: &HeadView<'_>) -> usize {
        let Dims { key, value } = head.dims();
        if self.value_weight == 0.0 { key } else { key + value }
    }

    /// Clusters whose rows are made at once, in whole chunks: what that takes does not grow with the text.
    fn part(&self) -> usize {
        (512 / self.chunk).max(1) * self.chunk
    }

    /// Lets heads keep their rows where there is room: the more its keys were merged, the less room a head needs and the
    /// more it saves. Returns the bytes of all rows kept.
    fn choose_kept(&self, states: &mut [State<'_>], view: &View<'_>) -> usize {
        let widest = view.heads.iter().map(|head| self.dim(head)).max().unwrap_or(0);
        let longest = view.heads.iter().map(HeadView::len).max().unwrap_or(0);
        let working = Rows::bytes(self.part(), longest, longest, widest) + Scratch::bytes(widest, self.chunk);
        let room = view.scratch.spare().saturating_sub(working * THREADS);
        let mut order: Vec<usize> = (0..states.len()).collect();
        order.sort_by_key(|&g| (!states[g].keep, states[g].clusters.len()));
        let mut bytes = 0;
        for g in order {
            let more = Rows::kept_bytes(states[g].clusters.len(), self.dim(&view.heads[g]));
            states[g].keep |= bytes + more <= room;
            bytes += if states[g].keep { more } else { 0 };
        }
        bytes
    }

    /// Matches the clusters of one head and leaves the edges it offers in `state`: the cheapest ones,
    /// as many as the floor allows.
    fn offer(
        &self,
        head: &HeadView<'_>,
        state: &mut State<'_>,
        least: usize,
        (rows, scratch): (&mut Rows, &mut Scratch),
    ) {
        let value_factor = (self.value_weight / f64::from(head.value_scale())).sqrt() as f32;
        let source = Source::Features { steps: state.steps, centre: &state.centre, scale: &state.scale, value_factor };
        let dim = source.dim(head.dims());
        let State { clusters, edges, .. } = state;
        edges.clear();
        let mut offered = |rows: &[f32], first: usize| {
            let before = edges.len();
            match_chunks(rows, dim, self.chunk, Measure::SquaredDistance, scratch, edges);
            for edge in &mut edges[before..] {
                (edge.a, edge.b) = (edge.a + first as u32, edge.b + first as u32);
            }
        };
        if state.keep {
            let kept = state.kept.get_or_insert_with(|| {
                let mut rows = Rows::default();
                clusters.rows(head, source, &mut rows);
                rows.settle();
                rows
            });
            kept.follow(clusters, dim);
            offered(&kept.rows, 0);
        } else {
            clusters.number(head, rows);
            for first in (0..clusters.len()).step_by(self.part()) {
                clusters.fill(head, source, first..clusters.len().min(first + self.part()), rows);
                offered(&rows.rows, first);
            }
        }
        let ids = state.kept.as_ref().map_or(&rows.ids, |kept| &kept.ids);
        let most = state.clusters.len().saturating_sub(least);
        if most < state.edges.len() {
            let mut cut = Cut::cheapest(state.edges.iter(), most);
            state.edges.retain(|edge| cut.takes(edge));
        }
        for edge in &mut state.edges {
            (edge.a, edge.b) = (ids[edge.a as usize], ids[edge.b as usize]);
        }
        state.stale = false;
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

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        if view.len() <= target {
            return Ok(Plan::identity(view.heads.len()));
        }
        self.cluster(view, target, view.lens().into_iter().map(Clusters::new).collect())
    }
}

impl Chelsea {
    /// Merges until `clusters`, those of each head, are `target` in all.
    pub(super) fn cluster(&self, view: &View<'_>, target: usize, clusters: Vec<Clusters>) -> Result<Plan, PoolFull> {
        let least = head_floor(self.floor, target, view.heads.len());
        let steps = AllSteps::of(view);
        let state = |(head, clusters)| State::new(head, clusters, steps.of_head(head));
        let mut states: Vec<State<'_>> = view.heads.par_iter().zip(clusters).map(state).collect();
        // Roots, and half as many edges of 12 bytes with their sort keys: no more than this.
        let _held = view.scratch.reserve(states.iter().map(|s| 3 * s.clusters.bytes()).sum())?;
        loop {
            let total: usize = states.iter().map(|s| s.clusters.len()).sum();
            let merges = total.saturating_sub(target).min(((total as f64 * self.round_share).floor() as usize).max(1));
            if merges == 0 {
                break;
            }
            let _kept = view.scratch.reserve(self.choose_kept(&mut states, view))?;
            states.par_iter_mut().zip(&view.heads).filter(|(state, _)| state.stale).try_for_each_init(
                || (Rows::default(), Scratch::default()),
                |(rows, scratch), (state, head)| {
                    let dim = self.dim(head);
                    let clusters = state.clusters.len();
                    // The rows of a head that keeps them are counted already.
                    let part = if state.keep { 0 } else { clusters.min(self.part()) };
                    let made = Rows::bytes(part, clusters, head.len(), dim);
                    let _held = view.scratch.reserve(made + Scratch::bytes(dim, self.chunk))?;
                    self.offer(head, state, least, (rows, scratch));
                    Ok(())
                },
            )?;
            let mut cut = Cut::cheapest(states.iter().flat_map(|s| &s.edges), merges);
            let mut merged = false;
            for State { clusters, edges, stale, .. } in &mut states {
                let before = clusters.len();
                clusters.merge(edges.iter().filter(|edge| cut.takes(edge)));
                *stale = clusters.len() < before;
                merged |= *stale;
            }
            if !merged {
                break;
            }
        }
        Ok(Plan::new(states.into_iter().map(|s| s.clusters.into_roots()).collect()))
    }
}
