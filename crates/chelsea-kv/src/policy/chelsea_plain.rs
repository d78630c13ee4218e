//! `chelsea-plain`: chunked soft matching as it was published.

use super::chelsea::CHUNK;
use super::clusters::{Clusters, Rows};
use super::{HeadView, Plan, Policy, PolicyInfo, View};
use crate::PoolFull;
use crate::budget::even_shares;
use crate::matching::{Cut, Measure, Scratch, match_chunks, normalise};
use rayon::prelude::*;
use std::sync::Arc;

/// The published recipe: cosine of cached keys, every head on its own and to the same length, half of
/// the candidates merged in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChelseaPlain {
    /// Entries of a chunk.
    pub chunk: usize,
}

impl Default for ChelseaPlain {
    fn default() -> Self {
        ChelseaPlain { chunk: 256 }
    }
}

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "chelsea-plain",
    about: "cluster by cosine of cached keys, every head to the same length",
    source: "Chelsea / CentroidKV, arXiv:2506.11418",
    one_shot_only: false,
    settings: &[CHUNK],
    make: |s| Ok(Arc::new(ChelseaPlain { chunk: s.chunk(ChelseaPlain::default().chunk)? })),
};

impl ChelseaPlain {
    fn plan_head(&self, head: &HeadView<'_>, target: usize, rows: &mut Rows, scratch: &mut Scratch) -> Vec<u32> {
        let mut clusters = Clusters::new(head.len());
        let mut edges = Vec::new();
        while clusters.len() > target {
            let merges = (clusters.len() - target).min(clusters.len() / 2);
            clusters.rows(head, rows);
            normalise(&mut rows.rows, head.key_dim());
            edges.clear();
            match_chunks(&rows.rows, head.key_dim(), self.chunk, Measure::Cosine, scratch, &mut edges);
            let mut cut = Cut::cheapest(edges.iter().map(|edge| edge.cost), merges);
            edges.retain(|edge| cut.takes(edge.cost));
            if edges.is_empty() {
                break;
            }
            for edge in &mut edges {
                (edge.a, edge.b) = (rows.ids[edge.a as usize], rows.ids[edge.b as usize]);
            }
            clusters.merge(edges.iter());
        }
        clusters.into_roots()
    }
}

impl Policy for ChelseaPlain {
    fn name(&self) -> &'static str {
        "chelsea-plain"
    }

    fn spec(&self) -> String {
        format!("chelsea-plain:chunk={}", self.chunk)
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        let shares = even_shares(&view.lens(), target);
        let _held = view.scratch.reserve(view.len() * 4)?;
        let plan = |(rows, scratch): &mut (Rows, Scratch), (head, &share): (&HeadView<'_>, &usize)| {
            let edges = head.len() * 6;
            let bytes = Rows::bytes(head.len(), head.key_dim()) + Scratch::bytes(head.key_dim(), self.chunk);
            let _held = view.scratch.reserve(bytes + edges)?;
            Ok(self.plan_head(head, share, rows, scratch))
        };
        let roots = view.heads.par_iter().zip(&shares).map_init(Default::default, plan);
        Ok(Plan::new(roots.collect::<Result<_, _>>()?))
    }
}
