//! `random`: the floor that every policy must beat.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{EVICT, Plan, Policy, PolicyInfo, Setting, View, even_shares};
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::index};
use std::sync::Arc;

/// Keeps a random choice of candidates, the same number in every head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Random {
    /// The same seed makes the same choices.
    pub seed: u64,
}

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "random",
    about: "keep a random choice of entries",
    source: "the floor that every policy must beat",
    one_shot_only: false,
    settings: &[Setting::new("seed", "0", "the same seed makes the same choices")],
    make: |s| Ok(Arc::new(Random { seed: s.get("seed", 0, "a whole number", |_| true)? })),
};

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn spec(&self) -> String {
        format!("random:seed={}", self.seed)
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        let lens = view.lens();
        let shares = even_shares(&lens, target);
        let mut rng = StdRng::seed_from_u64(self.seed ^ (view.tokens as u64).rotate_left(32));
        let choose = |(&len, &share): (&usize, &usize)| {
            let mut roots = vec![EVICT; len];
            for i in index::sample(&mut rng, len, share) {
                roots[i] = i as u32;
            }
            roots
        };
        Ok(Plan::new(lens.iter().zip(&shares).map(choose).collect()))
    }
}
