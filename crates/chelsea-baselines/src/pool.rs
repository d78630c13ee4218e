//! `pool`: neighbours become one, whatever they hold.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{EVICT, HeadView, Plan, Policy, PolicyInfo, View, even_shares};
use std::sync::Arc;

/// Uniform pooling: every head's candidates are cut, in order, into as many runs as it may keep, each
/// standing for the same number of tokens as nearly as whole entries allow, and every run becomes its mean
/// (keys as stored, values, counts added up). No method of its own: it is what clustering by position alone
/// would do, so that a clustering policy can be held against it. Needs nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pooling;

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "pool",
    about: "merge runs of neighbours of equal size",
    source: "the floor that every clustering policy must beat",
    one_shot_only: false,
    settings: &[],
    make: |_| Ok(Arc::new(Pooling)),
};

impl Policy for Pooling {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        let shares = even_shares(&view.lens(), target);
        Ok(Plan::new(view.heads.iter().zip(&shares).map(|(head, &share)| runs(head, share)).collect()))
    }
}

/// Roots of `share` runs.
fn runs(head: &HeadView<'_>, share: usize) -> Vec<u32> {
    let len = head.len();
    if share == len {
        return Vec::new();
    }
    if share == 0 {
        return vec![EVICT; len];
    }
    let counts: Vec<f64> = (0..len).map(|i| f64::from(head.count(i))).collect();
    let total: f64 = counts.iter().sum();
    let (mut roots, mut run, mut before) = (Vec::with_capacity(len), 0, 0.0);
    for (i, &count) in counts.iter().enumerate() {
        // Where the middle of this entry falls, with no run left empty and none begun too late.
        let wanted = ((before + count / 2.0) * share as f64 / total) as usize;
        let now = wanted.clamp(run, run + usize::from(i > 0)).max((share + i).saturating_sub(len)).min(share - 1);
        let starts = i == 0 || now > run;
        roots.push(if starts { i as u32 } else { roots[i - 1] });
        run = now;
        before += count;
    }
    roots
}
