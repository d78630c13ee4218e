//! `d2o`: heavy hitters, into which the entries dropped are merged.

use crate::h2o::{H2o, RECENT};
use crate::vectors::{length, product};
use chelsea_kv::PoolFull;
use chelsea_kv::policy::{
    EVICT, Evict, FLOOR, HEADS_EVEN, HeadView, Heads, Needs, Plan, Policy, PolicyInfo, Scorer, View, keeping,
};
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

pub(crate) const INFO: PolicyInfo = PolicyInfo {
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

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        if view.len() <= target {
            return Ok(Plan::identity(view.heads.len()));
        }
        let kept = self.hitters.keep(view, target)?;
        let join = |(head, kept): (&HeadView<'_>, &Vec<bool>)| {
            let _held = view.scratch.reserve(head.len() * (head.key_dim() + 3) * 4)?;
            Ok(join(head, kept))
        };
        Ok(Plan::new(view.heads.par_iter().zip(&kept).map(join).collect::<Result<_, _>>()?))
    }
}

/// Roots that keep what is marked and merge of the rest what is alike enough.
fn join(head: &HeadView<'_>, kept: &[bool]) -> Vec<u32> {
    let mut roots = keeping(kept);
    let survivors: Vec<usize> = (0..kept.len()).filter(|&i| kept[i]).collect();
    if roots.is_empty() || survivors.is_empty() {
        return roots;
    }
    let dim = head.key_dim();
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
            .fold((f32::NEG_INFINITY, survivors[0]), |best, x| if x.0 > best.0 { x } else { best })
    };
    let dropped: Vec<(usize, (f32, usize))> = (0..kept.len()).filter(|&i| !kept[i]).map(|i| (i, nearest(i))).collect();
    // A key beyond all numbers is like nothing.
    let known: Vec<f64> =
        dropped.iter().map(|(_, (alike, _))| f64::from(*alike)).filter(|alike| alike.is_finite()).collect();
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    for (i, (alike, survivor)) in dropped {
        roots[i] = if f64::from(alike) >= mean { survivor as u32 } else { EVICT };
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_kv::{Dtype, Head, Rotary};

    #[test]
    fn a_key_beyond_all_numbers_is_dropped_and_joins_nothing() {
        let mut head = Head::new(4, Dtype::F16);
        for (i, x) in [0.1, 1.0, 1e6, 1.1].into_iter().enumerate() {
            head.push(&[x, 1.0, 1.0, 1.0], &[0.0; 4], 1, i as f32);
        }
        let rotary = Rotary::plain(4, 10_000.0);
        let view = HeadView::new(&head, 0..4, &rotary, Vec::new(), 1.0);
        // The last one is as much like its survivor as any that is like one at all.
        assert_eq!(join(&view, &[false, true, false, false]), [EVICT, 1, EVICT, 1]);
        assert_eq!(join(&view, &[true, true, false, true]), [0, 1, EVICT, 3]);
    }
}
