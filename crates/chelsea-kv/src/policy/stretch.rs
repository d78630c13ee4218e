//! Stretches: a head's candidates, or a run of them, clustered on their own as far as they may be.
//!
//! A stretch does not know how far it has to go, since that depends on all others. So it goes as far as it may and keeps
//! a list of its merges, in order, each with a price that never falls. What is paid for later is a beginning of that
//! list.

use super::HeadView;
use crate::matching::rounded::{self, Word};
use crate::matching::{Cut, Edge, Measure, Scratch, match_chunks};
use crate::query::key_scales;
use crate::rotary::Steps;
use chelsea_simd::vectorized;
use std::ops::Range;

/// What the rows of a head are: keys before RoPE less `centre`, each dimension times `scale`; then the value times
/// `value_factor`, unless that is 0. Their squared distance is the cost of a merge.
#[derive(Debug)]
pub(super) struct Features<'s> {
    steps: &'s Steps,
    /// Mean of the keys before RoPE. They carry large constant offsets; distances do not depend on them, but their
    /// rounding does.
    centre: Vec<f32>,
    /// Square root of the query power.
    scale: Vec<f32>,
    value_factor: f32,
    /// The largest number of any row, without its sign.
    reach: f32,
    dim: usize,
}

impl<'s> Features<'s> {
    pub(super) fn of(head: &HeadView<'_>, steps: &'s Steps, value_weight: f64) -> Self {
        let dims = head.dims();
        let scale = key_scales(head.query_power(), dims.key);
        let mut sums = vec![0.0f64; dims.key];
        let (mut least, mut most) = (vec![f32::INFINITY; dims.key], vec![f32::NEG_INFINITY; dims.key]);
        let count = |_, key: &[f32]| {
            vectorized(
                #[inline(always)]
                || {
                    let extremes = least.iter_mut().zip(&mut most);
                    for ((&x, sum), (least, most)) in key.iter().zip(&mut sums).zip(extremes) {
                        *sum += f64::from(x);
                        *least = least.min(x);
                        *most = most.max(x);
                    }
                },
            );
        };
        head.for_each_scaled(steps, &[], &[], |_| true, count);
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / head.len().max(1) as f64) as f32).collect();
        let reach = |i: usize| scale[i] * (most[i] - centre[i]).max(centre[i] - least[i]);
        let mut reach = (0..dims.key).map(reach).fold(0.0, f32::max);
        let value_factor = (value_weight / f64::from(head.value_scale())).sqrt() as f32;
        if value_factor != 0.0 {
            reach = reach.max(value_factor * largest_value(head));
        }
        let dim = dims.key + if value_factor == 0.0 { 0 } else { dims.value };
        Features { steps, centre, scale, value_factor, reach, dim }
    }

    /// Numbers of a row.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Calls `f(i, row)` in order for every candidate of `range`.
    fn for_each(&self, head: &HeadView<'_>, range: Range<usize>, mut f: impl FnMut(usize, &[f32])) {
        let key_dim = head.key_dim();
        let mut row = vec![0.0; self.dim];
        let overlaps = |tile: Range<usize>| tile.start < range.end && range.start < tile.end;
        head.for_each_scaled(self.steps, &self.centre, &self.scale, overlaps, |i, key| {
            if range.contains(&i) {
                row[..key_dim].copy_from_slice(key);
                let value = &mut row[key_dim..];
                if !value.is_empty() {
                    head.read_value(i, value);
                    value.iter_mut().for_each(|x| *x *= self.value_factor);
                }
                f(i, &row);
            }
        });
    }
}

/// The largest number of all values, without its sign.
fn largest_value(head: &HeadView<'_>) -> f32 {
    let mut value = vec![0.0; head.dims().value];
    let largest = |i| {
        head.read_value(i, &mut value);
        value.iter().fold(0.0f32, |most, x| most.max(x.abs()))
    };
    (0..head.len()).map(largest).fold(0.0, f32::max)
}

/// A part of a row as it is compared: a number, or a few that are rounded.
pub(super) trait Part: Copy + Default + Send + Sync {
    /// Working memory of a match.
    type Scratch: Default + Send;

    /// Parts of a row of `dim` numbers.
    fn parts(dim: usize) -> usize;

    /// What numbers of rows of `dim` are multiples of, if none is beyond `reach` from 0: costs are in units of its square.
    fn unit(reach: f32, dim: usize) -> f32;

    /// Takes a row in.
    fn round(row: &[f32], unit: f32, out: &mut [Self]);

    /// Takes `row` into `mean`, whose weight it is `share` of from then on.
    fn take_in(mean: &mut [Self], row: &[Self], share: f32);

    /// Matches those of `rows`, of so many parts each, that `which` names, in chunks: appends an edge for every a, by place in
    /// `which`.
    fn matched(
        rows: &[Self],
        which: &[u32],
        parts: usize,
        chunk: usize,
        scratch: &mut Self::Scratch,
        edges: &mut Vec<Edge>,
    );

    /// Bytes that matching rows of `dim` numbers takes.
    fn scratch_bytes(dim: usize, chunk: usize) -> usize;
}

/// Numbers as they are.
impl Part for f32 {
    /// With room for the rows of a chunk.
    type Scratch = (Scratch, Vec<f32>);

    fn parts(dim: usize) -> usize {
        dim
    }

    fn unit(_: f32, _: usize) -> f32 {
        1.0
    }

    fn round(row: &[f32], _: f32, out: &mut [f32]) {
        out.copy_from_slice(row);
    }

    fn take_in(mean: &mut [f32], row: &[f32], share: f32) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += share * (*x - *mean));
    }

    fn matched(
        rows: &[f32],
        which: &[u32],
        parts: usize,
        chunk: usize,
        (scratch, here): &mut (Scratch, Vec<f32>),
        edges: &mut Vec<Edge>,
    ) {
        for (i, which) in which.chunks(chunk).enumerate() {
            here.clear();
            here.reserve_exact(which.len() * parts);
            which.iter().for_each(|&row| here.extend_from_slice(&rows[row as usize * parts..][..parts]));
            let (before, first) = (edges.len(), (i * chunk) as u32);
            match_chunks(here, parts, chunk, Measure::SquaredDistance, scratch, edges);
            for edge in &mut edges[before..] {
                *edge = Edge { a: edge.a + first, b: edge.b + first, ..*edge };
            }
        }
    }

    fn scratch_bytes(dim: usize, chunk: usize) -> usize {
        Scratch::bytes(dim, chunk) + chunk * dim * size_of::<f32>()
    }
}

/// Whole numbers.
impl Part for Word {
    type Scratch = rounded::Scratch;

    fn parts(dim: usize) -> usize {
        rounded::words(dim)
    }

    fn unit(reach: f32, dim: usize) -> f32 {
        let unit = reach / rounded::largest(dim);
        // Where all rows are alike, or hold what is no number, nothing is told apart.
        if unit.is_normal() { unit } else { 1.0 }
    }

    fn round(row: &[f32], unit: f32, out: &mut [Word]) {
        rounded::round(row, 1.0 / unit, out);
    }

    fn take_in(mean: &mut [Word], row: &[Word], share: f32) {
        rounded::take_in(mean, row, share);
    }

    fn matched(
        rows: &[Word],
        which: &[u32],
        parts: usize,
        chunk: usize,
        scratch: &mut rounded::Scratch,
        edges: &mut Vec<Edge>,
    ) {
        rounded::match_some(rows, which, parts, chunk, scratch, edges);
    }

    fn scratch_bytes(dim: usize, chunk: usize) -> usize {
        rounded::Scratch::bytes(dim, chunk)
    }
}

/// How a stretch is clustered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    /// Entries of a chunk.
    pub chunk: usize,
    /// Share of what is left that a round merges at most.
    pub share: f64,
    /// Clusters that are left at least.
    pub least: usize,
    /// Price beyond which there is no need to go on.
    pub ceiling: f32,
}

/// What a stretch merges, in order.
#[derive(Debug, Default)]
pub(super) struct Merges {
    /// Who joins whom, by candidate.
    pairs: Vec<(u32, u32)>,
    /// What each of them costs, or the one before it, if that was more.
    prices: Vec<f32>,
}

impl Merges {
    /// Bytes of all that `len` candidates can merge.
    pub(super) fn bytes(len: usize) -> usize {
        len * size_of::<((u32, u32), f32)>()
    }

    /// Their prices, which never fall.
    pub(super) fn prices(&self) -> impl Iterator<Item = f32> {
        self.prices.iter().copied()
    }

    /// Whether the last of them is dearer than that.
    pub(super) fn goes_beyond(&self, price: f32) -> bool {
        self.prices.last().is_some_and(|&last| last > price)
    }

    /// Carries out those that `cut` takes, a beginning of them, on the `roots` of all `len` candidates of the head, which
    /// are empty where nothing was merged.
    pub(super) fn apply(&self, cut: &mut Cut, len: usize, roots: &mut Vec<u32>) {
        let taken = self.prices.iter().take_while(|price| cut.takes(**price)).count();
        if taken > 0 && roots.is_empty() {
            roots.extend(0..len as u32);
        }
        // Whoever was joined may join another later: the last come first.
        for &(a, b) in self.pairs[..taken].iter().rev() {
            roots[a as usize] = roots[b as usize];
        }
    }
}

/// What a thread works with, to be used again for the next stretch.
#[derive(Default)]
pub(super) struct Working<P: Part> {
    /// `[candidates][parts]`: of a cluster, that of the candidate it sits at.
    rows: Vec<P>,
    /// Candidate that each row is of.
    ids: Vec<u32>,
    /// Tokens that each row stands for.
    weights: Vec<u32>,
    /// Rows of the clusters that are left, in order.
    left: Vec<u32>,
    edges: Vec<Edge>,
    /// Edges that a round takes, the cheapest first.
    order: Vec<Edge>,
    scratch: P::Scratch,
}

impl<P: Part> Working<P> {
    /// Bytes for a stretch of `len` candidates with rows of `dim` numbers.
    pub(super) fn bytes(len: usize, dim: usize, rounds: Rounds) -> usize {
        let taken = ((len as f64 * rounds.share) as usize + 1).min(len.div_ceil(2));
        let edges = (len.div_ceil(2) + taken) * size_of::<Edge>() + len.div_ceil(2) * 4;
        len * (P::parts(dim) * size_of::<P>() + 12) + edges + P::scratch_bytes(dim, rounds.chunk)
    }

    /// Clusters the candidates `range` of `head`, but those that stay `apart`.
    pub(super) fn cluster(
        &mut self,
        head: &HeadView<'_>,
        features: &Features<'_>,
        range: Range<usize>,
        apart: &[bool],
        rounds: Rounds,
    ) -> Merges {
        let unit = P::unit(features.reach, features.dim);
        let parts = P::parts(features.dim);
        let Working { rows, ids, weights, left, .. } = self;
        rows.clear();
        ids.clear();
        weights.clear();
        left.clear();
        // As much as is counted: what grows by doubling would take more.
        rows.reserve_exact(range.len() * parts);
        ids.reserve_exact(range.len());
        weights.reserve_exact(range.len());
        left.reserve_exact(range.len());
        self.edges.clear();
        self.edges.reserve_exact(range.len().div_ceil(2));
        let mut merges = Merges { pairs: Vec::with_capacity(range.len()), prices: Vec::with_capacity(range.len()) };
        features.for_each(head, range, |i, row| {
            if !apart.get(i).is_some_and(|&apart| apart) {
                let start = rows.len();
                rows.resize(start + parts, P::default());
                P::round(row, unit, &mut rows[start..]);
                left.push(ids.len() as u32);
                ids.push(i as u32);
                weights.push(head.count(i));
            }
        });
        let mut price = f32::NEG_INFINITY;
        while self.left.len() > rounds.least {
            let len = self.left.len();
            let most = ((len as f64 * rounds.share) as usize).max(1).min(len - rounds.least);
            self.edges.clear();
            P::matched(&self.rows, &self.left, parts, rounds.chunk, &mut self.scratch, &mut self.edges);
            let mut cut = Cut::cheapest(self.edges.iter().map(|edge| edge.cost), most);
            self.edges.retain(|edge| cut.takes(edge.cost));
            if self.edges.is_empty() {
                break;
            }
            self.order.clear();
            self.order.extend(&self.edges);
            self.order.sort_by(|x, y| x.cost.total_cmp(&y.cost));
            for edge in &self.order {
                let cost = edge.cost * unit * unit;
                price = price.max(if cost.is_nan() { f32::INFINITY } else { cost });
                let id = |place: u32| self.ids[self.left[place as usize] as usize];
                merges.pairs.push((id(edge.a), id(edge.b)));
                merges.prices.push(price);
            }
            if price > rounds.ceiling {
                break;
            }
            self.join(parts);
        }
        merges
    }

    /// Takes the a of every edge into the mean of its b. Rows stay where they are, but those that went are left no more.
    fn join(&mut self, parts: usize) {
        let Working { rows, weights, left, edges, .. } = self;
        for edge in &*edges {
            let (a, b) = (left[edge.a as usize] as usize, left[edge.b as usize] as usize);
            weights[b] += weights[a];
            let share = weights[a] as f32 / weights[b] as f32;
            let (low, high) = rows.split_at_mut(a.max(b) * parts);
            let (low, high) = (&mut low[a.min(b) * parts..][..parts], &mut high[..parts]);
            let (mean, row) = if b < a { (low, high) } else { (high, low) };
            P::take_in(mean, row, share);
        }
        // Runs between those that went, in order, move down as wholes.
        let mut at = edges[0].a as usize;
        for (i, edge) in edges.iter().enumerate() {
            let start = edge.a as usize + 1;
            let end = edges.get(i + 1).map_or(left.len(), |next| next.a as usize);
            left.copy_within(start..end, at);
            at += end - start;
        }
        left.truncate(at);
    }
}
