//! The clusters of one head while a plan is being made.
//!
//! Nothing is merged until the plan is complete: between rounds only roots are kept, and the rows that
//! the next round matches are means over the members of each cluster, made anew for one head at a time.

use super::HeadView;
use crate::matching::Edge;

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
    Features { centre: &'a [f32], scale: &'a [f32], value_factor: f32 },
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
        clusters * (dim * 4 + 9) + len * 4
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
        out.rows.clear();
        out.rows.resize(self.alive * dim, 0.0);
        let (rows, singles, slots) = (&mut out.rows, &out.singles, &out.slots);
        let slot_of = |i: usize| slots[self.roots[i] as usize] as usize;
        // A cluster of one keeps its row bit for bit, so that equal entries stay equal.
        let weight_of = |i: usize, slot: usize| if singles[slot] { 1.0 } else { head.count(i) as f32 };
        match source {
            Source::Keys => head.for_each_key(|i, key| {
                let slot = slot_of(i);
                if slot == NO_ROW as usize {
                    return;
                }
                let weight = weight_of(i, slot);
                rows[slot * dim..][..dim].iter_mut().zip(key).for_each(|(sum, x)| *sum += weight * x);
            }),
            Source::Features { centre, scale, value_factor } => {
                let mut value = vec![0.0; head_dim];
                head.for_each_feature(|i, key| {
                    let slot = slot_of(i);
                    if slot == NO_ROW as usize {
                        return;
                    }
                    let weight = weight_of(i, slot);
                    let row = &mut rows[slot * dim..][..dim];
                    for (((sum, &x), &c), &s) in row.iter_mut().zip(key).zip(centre).zip(scale) {
                        *sum += weight * ((x - c) * s);
                    }
                    if dim > head_dim {
                        head.read_value(i, &mut value);
                        let weight = weight * value_factor;
                        row[head_dim..].iter_mut().zip(&value).for_each(|(sum, x)| *sum += weight * x);
                    }
                });
            }
        }
        for ((row, &single), &weight) in out.rows.chunks_exact_mut(dim).zip(&out.singles).zip(&out.weights) {
            if !single {
                let total = weight as f32;
                row.iter_mut().for_each(|x| *x /= total);
            }
        }
    }
}
