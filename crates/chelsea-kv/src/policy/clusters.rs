//! The clusters of one head while a plan is being made.
//!
//! Nothing is merged until the plan is complete: between rounds only roots are kept, and the rows that
//! the next round matches are means over the members of each cluster, made anew for one head at a time.

use super::HeadView;
use crate::matching::Edge;
use crate::rotary::Steps;

/// Which candidates are one by now.
#[derive(Debug, Clone)]
pub(super) struct Clusters {
    roots: Vec<u32>,
    alive: usize,
    /// Candidates that stay alone; none are when it is empty.
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
    /// Numbers of a row.
    pub(super) fn dim(&self, head_dim: usize) -> usize {
        match self {
            Source::Features { value_factor, .. } if *value_factor != 0.0 => 2 * head_dim,
            _ => head_dim,
        }
    }
}

/// Rows to be matched, and the buffers to make them. To be used again for the next head.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// `[clusters][dim]`.
    pub rows: Vec<f32>,
    /// Candidate that each row's cluster sits at.
    pub ids: Vec<u32>,
    slots: Vec<u32>,
    weights: Vec<u32>,
    singles: Vec<bool>,
}

impl Rows {
    /// Bytes for the rows of `clusters` of `len` candidates.
    pub(super) fn bytes(clusters: usize, len: usize, dim: usize) -> usize {
        Rows::kept_bytes(clusters, dim) + clusters + len * 4
    }

    /// Bytes of what [`Rows::keep`] returns.
    pub(super) fn kept_bytes(clusters: usize, dim: usize) -> usize {
        clusters * (dim * 4 + 8)
    }

    /// The rows, without the buffers to make them.
    pub(super) fn keep(&self) -> Rows {
        Rows { rows: self.rows.clone(), ids: self.ids.clone(), weights: self.weights.clone(), ..Rows::default() }
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
        let head_dim = head.dim();
        let dim = source.dim(head_dim);
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
        for (i, &root) in self.roots.iter().enumerate() {
            let slot = out.slots[root as usize] as usize;
            if slot == NO_ROW as usize {
                continue;
            }
            out.weights[slot] += head.count(i);
            out.singles[slot] &= root as usize == i;
        }
        out.rows.resize(self.alive * dim, 0.0);
        let Rows { rows, singles, slots, weights, .. } = out;
        for (row, _) in rows.chunks_exact_mut(dim).zip(&*singles).filter(|(_, single)| !**single) {
            row.fill(0.0);
        }
        let row_of = |i: usize| slots[self.roots[i] as usize] as usize;
        // A cluster of one keeps its row bit for bit, so that equal entries stay equal.
        let mut add = |i: usize, key: &[f32], at: usize, factor: f32| {
            let slot = row_of(i);
            if slot == NO_ROW as usize {
                return;
            }
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
                let mut value = vec![0.0; head_dim];
                head.for_each_scaled(steps, centre, scale, |i, key| {
                    add(i, key, 0, 1.0);
                    if dim > head_dim {
                        head.read_value(i, &mut value);
                        add(i, &value, head_dim, value_factor);
                    }
                });
            }
        }
        for ((row, &single), &weight) in rows.chunks_exact_mut(dim).zip(&*singles).zip(&*weights) {
            if !single {
                let total = weight as f32;
                row.iter_mut().for_each(|x| *x /= total);
            }
        }
    }
}
