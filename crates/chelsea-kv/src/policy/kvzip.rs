//! `kvzip`: entries without which the text could not be repeated.

use super::evict::{Evict, FLOOR_ZERO, HEADS_POOLED, Heads, Scorer, by_age};
use super::{Needs, PolicyError, PolicyInfo, Setting, Settings, View};
use crate::PoolFull;
use std::sync::Arc;

/// Has the model repeat the text, chunk by chunk, and scores an entry by the most attention that any query of
/// any query head pays to it while its chunk is repeated (among the entries of that chunk, the sinks and the
/// repetition itself). All heads share one total. Published as KVzip (arXiv:2505.23416).
///
/// Needs a second pass over the text, which costs more than reading it once, and room for a chunk and a few
/// words beyond the text's end in the model's context; the text must lie in the cache in full. So it
/// compresses once, after reading, and what is read or generated later is kept as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvZip {
    /// Tokens that are repeated at once.
    pub chunk: usize,
}

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "kvzip",
    about: "keep the entries that repeating the text needs (a second pass, one-shot only)",
    source: "KVzip, arXiv:2505.23416",
    one_shot_only: true,
    settings: &[Setting::new("chunk", "2048", "tokens that are repeated at once"), HEADS_POOLED, FLOOR_ZERO],
    make: |s| {
        let scorer = KvZip::repeating(s, "chunk")?;
        Ok(Arc::new(Evict::make(scorer, s, Heads::Pooled, 0.0)?))
    },
};

impl Default for KvZip {
    fn default() -> Self {
        KvZip { chunk: 2048 }
    }
}

impl KvZip {
    /// With the chunk that the setting `name` asks for.
    pub(super) fn repeating(s: &Settings, name: &'static str) -> Result<Self, PolicyError> {
        let default = KvZip::default().chunk;
        let chunk = s.get(name, default, "a number of tokens from 16 to 65536", |n| (16..=65_536).contains(n))?;
        Ok(KvZip { chunk })
    }
}

impl Scorer for KvZip {
    fn name(&self) -> &'static str {
        "kvzip"
    }

    fn settings(&self) -> String {
        format!("chunk={}", self.chunk)
    }

    fn needs(&self) -> Needs {
        Needs { repetition: Some(self.chunk), ..Needs::default() }
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        if view.heads.iter().any(|head| head.importance().len() != head.len()) {
            return Ok(by_age(view));
        }
        view.map_heads(|head| Ok(head.importance().to_vec()))
    }
}
