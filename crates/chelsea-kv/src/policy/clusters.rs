//! The clusters of one head while a plan is made by rounds over all of it.
//!
//! Nothing is merged until the plan is complete: between rounds only roots are kept, and the rows that the next round
//! matches are means over the members of each cluster.

use super::HeadView;
use crate::matching::Edge;

/// Which candidates are one by now.
#[derive(Debug, Clone)]
pub(super) struct Clusters {
    roots: Vec<u32>,
    alive: usize,
}

/// Rows to be matched, and the buffers to make them. To be used again for the next head.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// `[clusters][dim]`: keys as stored, after RoPE.
    pub rows: Vec<f32>,
    /// Candidate that each cluster sits at.
    pub ids: Vec<u32>,
    slots: Vec<u32>,
    weights: Vec<u32>,
    singles: Vec<bool>,
}

impl Rows {
    /// Bytes for the rows of `len` candidates.
    pub(super) fn bytes(len: usize, dim: usize) -> usize {
        len * (dim * 4 + 9 + 4)
    }
}

impl Clusters {
    /// Every candidate on its own.
    pub(super) fn new(len: usize) -> Self {
        Clusters { roots: (0..len as u32).collect(), alive: len }
    }

    /// Number of clusters.
    pub(super) fn len(&self) -> usize {
        self.alive
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

    /// Fills `out` with one row a cluster: the count-weighted mean of its members' keys.
    pub(super) fn rows(&self, head: &HeadView<'_>, out: &mut Rows) {
        let dim = head.key_dim();
        self.number(head, out);
        let Rows { rows, slots, weights, singles, .. } = out;
        rows.clear();
        rows.resize(self.alive * dim, 0.0);
        // A cluster of one keeps its row bit for bit, so that equal entries stay equal.
        head.for_each_key(|i, key| {
            let slot = slots[self.roots[i] as usize] as usize;
            let row = &mut rows[slot * dim..][..dim];
            if singles[slot] {
                row.copy_from_slice(key);
            } else {
                let weight = head.count(i) as f32;
                row.iter_mut().zip(key).for_each(|(sum, &x)| *sum += weight * x);
            }
        });
        for ((row, &single), &weight) in rows.chunks_exact_mut(dim).zip(&*singles).zip(&*weights) {
            if !single {
                let total = weight as f32;
                row.iter_mut().for_each(|x| *x /= total);
            }
        }
    }

    /// Numbers the clusters in `out`, in the order of their candidates.
    fn number(&self, head: &HeadView<'_>, out: &mut Rows) {
        out.ids.clear();
        out.slots.clear();
        for (i, &root) in self.roots.iter().enumerate() {
            out.slots.push(out.ids.len() as u32);
            if root as usize == i {
                out.ids.push(i as u32);
            }
        }
        out.weights.clear();
        out.weights.resize(self.alive, 0);
        out.singles.clear();
        out.singles.resize(self.alive, true);
        for (i, &root) in self.roots.iter().enumerate() {
            let slot = out.slots[root as usize] as usize;
            out.weights[slot] += head.count(i);
            out.singles[slot] &= root as usize == i;
        }
    }
}
