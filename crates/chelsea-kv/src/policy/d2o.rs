//! `d2o`: heavy hitters, into which the entries dropped are merged.

use super::evict::{Evict, FLOOR, HEADS_EVEN, Heads, Scorer, roots};
use super::h2o::{H2o, RECENT};
use super::knorm::{length, product};
use super::{HeadView, Needs, Plan, Policy, PolicyInfo, View};
use crate::merge::EVICT;
use rayon::prelude::*;
use std::sync::Arc;

/// Keeps what [`H2o`] keeps. Each entry dropped looks for the kept candidate whose key is most alike (by
/// cosine); if they are alike enough it joins it, and otherwise it is gone. After D2O (arXiv:2406.13035).
///
/// Enough is the mean of the best similarities of all entries dropped from the head, as in D2O's prefill.
/// Two things differ from the paper: entries join by means weighted with their counts, as everywhere in this
/// cache, rather than by their similarity; and layers are not told apart by how dense their attention is.
/// Matching takes a product for every pair of a dropped and a kept entry, so the cost grows with the square
/// of the text. Needs what `h2o` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct D2o {
    /// What is kept.
    pub hitters: Evict<H2o>,
}

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "d2o",
    about: "keep what h2o keeps, and merge the rest into it where keys are alike",
    source: "after D2O, arXiv:2406.13035",
    one_shot_only: false,
    settings: &[RECENT, HEADS_EVEN, FLOOR],
    make: |s| {
        let recent = s.get("recent", 0.5, "from 0 to 1", |x| (0.0..=1.0).contains(x))?;
        Ok(Arc::new(D2o { hitters: Evict::make(H2o { recent, average: false }, s, Heads::Even, 0.2)? }))
    },
};

impl Policy for D2o {
    fn name(&self) -> &'static str {
        "d2o"
    }

    fn spec(&self) -> String {
        let Evict { scorer, heads, floor } = &self.hitters;
        format!("d2o:recent={},heads={heads},floor={floor}", scorer.recent)
    }

    fn needs(&self) -> Needs {
        self.hitters.scorer.needs()
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Plan {
        if view.len() <= target {
            return Plan::identity(view.heads.len());
        }
        let kept = self.hitters.keep(view, target);
        let join = |(head, kept): (&HeadView<'_>, &Vec<bool>)| {
            let _held = view.scratch.hold(head.len() * (head.dim() + 3) * 4);
            join(head, kept)
        };
        Plan::new(view.heads.par_iter().zip(&kept).map(join).collect())
    }
}

/// Roots that keep what is marked and merge of the rest what is alike enough.
fn join(head: &HeadView<'_>, kept: &[bool]) -> Vec<u32> {
    let mut roots = roots(kept);
    let survivors: Vec<usize> = (0..kept.len()).filter(|&i| kept[i]).collect();
    if roots.is_empty() || survivors.is_empty() {
        return roots;
    }
    let dim = head.dim();
    let mut keys = vec![0.0; head.len() * dim];
    head.for_each_key(|i, key| {
        let factor = 1.0 / length(key).max(1e-12);
        keys[i * dim..][..dim].iter_mut().zip(key).for_each(|(x, k)| *x = k * factor);
    });
    let key = |i: usize| &keys[i * dim..][..dim];
    // Of equally similar ones the earliest.
    let nearest = |i: usize| {
        survivors
            .iter()
            .map(|&s| (product(key(i), key(s)), s))
            .fold((f32::NEG_INFINITY, 0), |best, x| if x.0 > best.0 { x } else { best })
    };
    let dropped: Vec<(usize, (f32, usize))> = (0..kept.len()).filter(|&i| !kept[i]).map(|i| (i, nearest(i))).collect();
    let mean = dropped.iter().map(|(_, (alike, _))| f64::from(*alike)).sum::<f64>() / dropped.len() as f64;
    for (i, (alike, survivor)) in dropped {
        roots[i] = if f64::from(alike) >= mean { survivor as u32 } else { EVICT };
    }
    roots
}
