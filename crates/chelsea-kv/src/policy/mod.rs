//! Policies: what to do with entries that left the recent window.
//!
//! A policy sees the candidates of every head at once (a [`View`]) and a total that they must come down
//! to, and answers with a [`Plan`]: which candidates join which, and which are dropped. It never sees
//! sinks, window or anything else that must not be touched, and it changes nothing itself.
//!
//! [`registry()`] lists every policy by name; [`policy()`] makes one. Here are those of Chelsea and the few that are needed
//! beside them; [`register`] adds others, which see no more and no less than these: a [`View`]. A policy that only drops
//! entries is a [`Scorer`]; `examples/policy.rs` is one of one's own.

mod chelsea;
mod chelsea_best;
mod chelsea_plain;
mod clusters;
mod evict;
mod full;
mod kvzip;
mod observed;
mod registry;
mod streaming;
mod stretch;
mod view;

pub use chelsea::{Chelsea, RoundShare};
pub use chelsea_best::ChelseaBest;
pub use chelsea_plain::ChelseaPlain;
pub use evict::{Evict, FLOOR, HEADS_EVEN, Heads, Scorer, by_age, keeping};
pub use full::Full;
pub use kvzip::KvZip;
pub use registry::{PolicyError, PolicyInfo, Setting, Settings, current_spec, policy, register, registry};
pub use streaming::Streaming;
pub use view::{HeadView, View};

pub use crate::budget::even_shares;
pub use crate::merge::EVICT;

use crate::{PoolFull, merge};
use std::fmt::Debug;

/// What a policy asks the cache to find out for it.
///
/// To be written as what is needed and `..Needs::default()`: more may be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The power of queries per dimension ([`HeadView::query_power`]), sampled as queries pass by.
    pub query_power: bool,
    /// The mean of `|value|^2` at a head's first compaction ([`HeadView::value_scale`]).
    pub value_scale: bool,
    /// So many of the last queries of each layer ([`HeadView::recent_attention`]).
    pub recent_queries: usize,
    /// The mean of queries before RoPE ([`HeadView::query_moments`]).
    pub query_mean: bool,
    /// Their covariance too, which takes `head_dim^2` numbers a query head.
    pub query_covariance: bool,
    /// The attention that every entry draws, summed up exactly over all queries
    /// ([`HeadView::attention_mass`]): every block's scores are computed a second time for it.
    pub attention_mass: bool,
    /// A second pass, in which the model repeats the text in chunks of so many tokens, to find out how much
    /// each entry matters ([`HeadView::importance`]). The text must lie in the cache in full for that: such
    /// a policy compresses when [`crate::SequenceCache::compact_now`] says so, and never on its own.
    pub repetition: Option<usize>,
}

impl Needs {
    /// What either of the two needs.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            query_power: self.query_power || other.query_power,
            value_scale: self.value_scale || other.value_scale,
            recent_queries: self.recent_queries.max(other.recent_queries),
            query_mean: self.query_mean || other.query_mean,
            query_covariance: self.query_covariance || other.query_covariance,
            attention_mass: self.attention_mass || other.attention_mass,
            repetition: self.repetition.or(other.repetition),
        }
    }
}

/// Decides which entries are merged or dropped.
pub trait Policy: Debug + Send + Sync {
    /// The name in the registry.
    fn name(&self) -> &'static str;

    /// The name with all settings, as [`policy`] reads it: what a snapshot notes down.
    fn spec(&self) -> String {
        self.name().to_owned()
    }

    /// The statistics that [`Policy::plan`] reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether the policy never gives up an entry, and so can hold no budget below the full cache.
    fn keeps_everything(&self) -> bool {
        false
    }

    /// Whether every plan must be made over everything between sinks and window, also what was clustered before:
    /// what is kept of old entries depends on the new ones.
    fn looks_back(&self) -> bool {
        false
    }

    /// Of what a budget keeps of each head beyond a fifth of the text, the share that is to be its latest entries, which are
    /// left as they are: where that is more than the recent window that was asked for, the window is as much wider, up to 512.
    fn recent_share(&self) -> f64 {
        0.0
    }

    /// The settings of [`Chelsea`], where the plan is all that it does: a device may then carry it out by itself, over
    /// entries that stay in its memory ([`Store::cluster`](crate::backend::Store::cluster)).
    fn recipe(&self) -> Option<&Chelsea> {
        None
    }

    /// Brings the candidates of all heads together down to `target` entries: never more, and exactly
    /// that many wherever entries can be merged so.
    ///
    /// # Errors
    /// If there is no room for what planning takes for a while ([`View::scratch`]).
    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull>;
}

/// A policy's answer: for each head the roots of its candidates, one number each: `roots[i] == i` survives, `roots[i] == j`
/// joins j (which must survive), [`EVICT`] is dropped. A cluster sits at its root's place. A head
/// without roots is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    roots: Vec<Vec<u32>>,
}

impl Plan {
    /// Leaves every head as it is.
    pub fn identity(heads: usize) -> Self {
        Plan { roots: vec![Vec::new(); heads] }
    }

    /// One list of roots a head; an empty list leaves the head as it is.
    pub fn new(roots: Vec<Vec<u32>>) -> Self {
        Plan { roots }
    }

    /// The roots of head `g`, empty when it is left as it is.
    pub fn roots(&self, g: usize) -> &[u32] {
        &self.roots[g]
    }

    /// Bytes of all roots.
    pub(crate) fn bytes(&self) -> usize {
        self.roots.iter().map(|roots| roots.capacity() * size_of::<u32>()).sum()
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.roots.len()
    }

    /// Candidates of head `g` that survive, of `len`.
    pub fn survivors(&self, g: usize, len: usize) -> usize {
        if self.roots[g].is_empty() { len } else { merge::survivors(&self.roots[g]) }
    }
}
