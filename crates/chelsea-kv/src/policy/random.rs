//! `random`: the floor that every policy must beat.

use super::{Plan, Policy, View};
use crate::PoolFull;
use crate::budget::even_shares;
use crate::merge::EVICT;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::index};

/// Keeps a random choice of candidates, the same number in every head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Random {
    /// The same seed makes the same choices.
    pub seed: u64,
}

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
