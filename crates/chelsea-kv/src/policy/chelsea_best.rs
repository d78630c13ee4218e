//! `chelsea-best`: what repeating the text needs stays as it is, everything else is clustered.

use super::chelsea::{CHUNK, FLOOR, RECENT, ROUND_SHARE, ROUNDED, VALUE_WEIGHT};
use super::evict::{Evict, Heads};
use super::kvzip::KvZip;
use super::{Chelsea, Needs, Plan, Policy, PolicyInfo, Setting, View};
use crate::PoolFull;
use std::sync::Arc;

/// Two ways to keep a text within one budget. A part of it holds the entries that score best when the model repeats
/// the text ([`KvZip`], one total for all heads), untouched; the rest is clustered by [`Chelsea`] into what is left of
/// the budget, so that nothing is lost altogether. Costs a second pass over the text, as [`KvZip`] does.
#[derive(Debug, Clone, PartialEq)]
pub struct ChelseaBest {
    /// Share of the budget for entries that stay as they are.
    pub exact: f64,
    /// How the rest is clustered.
    pub rest: Chelsea,
    /// How entries are scored.
    pub score: KvZip,
}

impl Default for ChelseaBest {
    fn default() -> Self {
        ChelseaBest { exact: 0.6, rest: Chelsea::default(), score: KvZip::default() }
    }
}

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "chelsea-best",
    about: "keep what repeating the text needs, cluster the rest (a second pass, one-shot only)",
    source: "chelsea around the entries that KVzip (arXiv:2505.23416) scores best",
    one_shot_only: true,
    settings: &[
        Setting::new("exact", "0.6", "share of the budget for entries that stay as they are"),
        Setting::new("repeat", "2048", "tokens that are repeated at once"),
        CHUNK,
        ROUND_SHARE,
        FLOOR,
        VALUE_WEIGHT,
        RECENT,
        ROUNDED,
    ],
    make: |s| {
        let exact = ChelseaBest::default().exact;
        Ok(Arc::new(ChelseaBest {
            exact: s.get("exact", exact, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
            score: KvZip::repeating(s, "repeat")?,
            rest: Chelsea::from_settings(s)?,
        }))
    },
};

impl Policy for ChelseaBest {
    fn name(&self) -> &'static str {
        "chelsea-best"
    }

    fn spec(&self) -> String {
        format!("chelsea-best:exact={},repeat={},{}", self.exact, self.score.chunk, self.rest.settings())
    }

    fn needs(&self) -> Needs {
        self.rest.needs().and(Needs { repetition: Some(self.score.chunk), ..Needs::default() })
    }

    fn recent_share(&self) -> f64 {
        self.rest.recent
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        if view.len() <= target {
            return Ok(Plan::identity(view.heads.len()));
        }
        // Every head needs room for at least one cluster.
        let exact = ((target as f64 * self.exact) as usize).min(target.saturating_sub(view.heads.len()));
        let kept = Evict { scorer: self.score, heads: Heads::Pooled, floor: 0.0 }.keep(view, exact)?;
        self.rest.cluster(view, target - exact, &kept)
    }
}
