//! The clusters of one head while a plan is being made.
//!
//! Nothing is merged until the plan is complete: between rounds only roots are kept, and the rows that
//! the next round matches are means over the members of each cluster, made anew for one head at a time.

use super::HeadView;
use crate::Dims;
use crate::matching::Edge;
use crate::rotary::Steps;
use std::ops::Range;

/// Which candidates are one by now.
#[derive(Debug, Clone)]
pub(super) struct Clusters {
    roots: Vec<u32>,
    alive: usize,
    /// Which candidates stay alone.
    apart: Vec<bool>,
}

/// No row: of candidates that stay alone.
const NO_ROW: u32 = u32::MAX;

/// What the rows of a match are made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// Keys as stored, after RoPE.
    Keys,
    /// Keys before RoPE less `centre`, each dimension times `scale`; then the value times
    /// `value_factor`, unless that is 0.
    Features { steps: &'a Steps, centre: &'a [f32], scale: &'a [f32], value_factor: f32 },
}

impl Source<'_> {
    /// Numbers of a row of a head with entries of these sizes.
    pub(super) fn dim(&self, dims: Dims) -> usize {
        match self {
            Source::Features { value_factor, .. } if *value_factor != 0.0 => dims.key + dims.value,
            _ => dims.key,
        }
    }
}

/// Rows to be matched, and the buffers to make them. To be used again for the next head.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// `[clusters][dim]`, of all clusters or of a part of them.
    pub rows: Vec<f32>,
    /// Candidate that each cluster sits at, of all clusters.
    pub ids: Vec<u32>,
    slots: Vec<u32>,
    weights: Vec<u32>,
    singles: Vec<bool>,
}

impl Rows {
    /// Bytes for the rows of `part` of `clusters` of `len` candidates.
    pub(super) fn bytes(part: usize, clusters: usize, len: usize, dim: usize) -> usize {
        part * dim * 4 + clusters * 9 + len * 4
    }

    /// Bytes of the rows of all `clusters` after [`Rows::settle`].
    pub(super) fn kept_bytes(clusters: usize, dim: usize) -> usize {
        clusters * (dim * 4 + 8)
    }

    /// Lets go of the buffers that made the rows: from now on they [follow](Rows::follow).
    pub(super) fn settle(&mut self) {
        (self.slots, self.singles) = (Vec::new(), Vec::new());
    }

    /// Brings the rows up to date with what was merged since: a cluster that joined another is taken into its mean.
    pub(super) fn follow(&mut self, clusters: &Clusters, dim: usize) {
        let Rows { rows, ids, weights, .. } = self;
        for slot in 0..ids.len() {
            let root = clusters.roots[ids[slot] as usize];
            if root != ids[slot] {
                let into = ids.binary_search(&root).expect("a cluster joins one that survives");
                weights[into] += weights[slot];
                let share = weights[slot] as f32 / weights[into] as f32;
                let (low, high) = rows.split_at_mut(slot.max(into) * dim);
                let (low, high) = (&mut low[slot.min(into) * dim..][..dim], &mut high[..dim]);
                let (mean, row) = if into < slot { (low, high) } else { (high, low) };
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += share * (*x - *mean));
            }
        }
        let mut at = 0;
        for slot in 0..ids.len() {
            if clusters.roots[ids[slot] as usize] == ids[slot] {
                rows.copy_within(slot * dim..(slot + 1) * dim, at * dim);
                (ids[at], weights[at]) = (ids[slot], weights[slot]);
                at += 1;
            }
        }
        rows.truncate(at * dim);
        rows.shrink_to_fit();
        ids.truncate(at);
        weights.truncate(at);
    }
}

impl Clusters {
    /// Every candidate on its own.
    pub(super) fn new(len: usize) -> Self {
        Self::around(vec![false; len])
    }

    /// Every candidate on its own, those that are `apart` for good: they are not matched and count nowhere.
    pub(super) fn around(apart: Vec<bool>) -> Self {
        let alive = apart.iter().filter(|&&apart| !apart).count();
        Clusters { roots: (0..apart.len() as u32).collect(), alive, apart }
    }

    /// Number of clusters that may be matched.
    pub(super) fn len(&self) -> usize {
        self.alive
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.roots.len() * (4 + 1)
    }

    /// Merges along `edges`, which name clusters by the candidates they sit at: no candidate may be
    /// both an a and a b.
    pub(super) fn merge<'e>(&mut self, edges: impl Iterator<Item = &'e Edge>) {
        let before = self.alive;
        for edge in edges {
            self.roots[edge.a as usize] = edge.b;
            self.alive -= 1;
        }
        if self.alive < before {
            for i in 0..self.roots.len() {
                self.roots[i] = self.roots[self.roots[i] as usize];
            }
        }
    }

    /// The roots, empty when nothing was merged.
    pub(super) fn into_roots(self) -> Vec<u32> {
        let merged = self.roots.iter().enumerate().any(|(i, &root)| root as usize != i);
        if merged { self.roots } else { Vec::new() }
    }

    /// Fills `out` with one row a cluster: the count-weighted mean of its members' rows.
    pub(super) fn rows(&self, head: &HeadView<'_>, source: Source<'_>, out: &mut Rows) {
        self.number(head, out);
        self.fill(head, source, 0..self.alive, out);
    }

    /// Numbers the clusters in `out`, in the order of their candidates.
    pub(super) fn number(&self, head: &HeadView<'_>, out: &mut Rows) {
        out.ids.clear();
        out.slots.clear();
        for (i, &root) in self.roots.iter().enumerate() {
            out.slots.push(if self.apart[i] { NO_ROW } else { out.ids.len() as u32 });
            if root as usize == i && !self.apart[i] {
                out.ids.push(i as u32);
            }
        }
        out.weights.clear();
        out.weights.resize(self.alive, 0);
        out.singles.clear();
        out.singles.resize(self.alive, true);
        for (i, &root) in self.roots.iter().enumerate().filter(|(i, _)| !self.apart[*i]) {
            let slot = out.slots[root as usize] as usize;
            out.weights[slot] += head.count(i);
            out.singles[slot] &= root as usize == i;
        }
    }

    /// Makes the rows of the clusters `part`, which were [numbered](Clusters::number).
    pub(super) fn fill(&self, head: &HeadView<'_>, source: Source<'_>, part: Range<usize>, out: &mut Rows) {
        let Dims { key: key_dim, value: value_dim } = head.dims();
        let dim = source.dim(head.dims());
        out.rows.resize(part.len() * dim, 0.0);
        let Rows { rows, singles, slots, weights, .. } = out;
        let (singles, weights) = (&singles[part.clone()], &weights[part.clone()]);
        for (row, _) in rows.chunks_exact_mut(dim).zip(singles).filter(|(_, single)| !**single) {
            row.fill(0.0);
        }
        // Of those that are apart and of other parts there is none.
        let row_of = |i: usize| (slots[self.roots[i] as usize] as usize).checked_sub(part.start);
        let row_of = |i: usize| row_of(i).filter(|&row| row < part.len());
        let wanted = |tile: Range<usize>| tile.into_iter().any(|i| row_of(i).is_some());
        // A cluster of one keeps its row bit for bit, so that equal entries stay equal.
        let mut add = |i: usize, key: &[f32], at: usize, factor: f32| {
            let Some(slot) = row_of(i) else { return };
            let row = &mut rows[slot * dim + at..][..key.len()];
            if singles[slot] {
                row.iter_mut().zip(key).for_each(|(out, &x)| *out = factor * x);
            } else {
                let weight = factor * head.count(i) as f32;
                row.iter_mut().zip(key).for_each(|(sum, &x)| *sum += weight * x);
            }
        };
        match source {
            Source::Keys => head.for_each_key(|i, key| add(i, key, 0, 1.0)),
            Source::Features { steps, centre, scale, value_factor } => {
                let mut value = vec![0.0; value_dim];
                head.for_each_scaled(steps, centre, scale, wanted, |i, key| {
                    add(i, key, 0, 1.0);
                    if dim > key_dim {
                        head.read_value(i, &mut value);
                        add(i, &value, key_dim, value_factor);
                    }
                });
            }
        }
        for ((row, &single), &weight) in rows.chunks_exact_mut(dim).zip(singles).zip(weights) {
            if !single {
                let total = weight as f32;
                row.iter_mut().for_each(|x| *x /= total);
            }
        }
    }
}
