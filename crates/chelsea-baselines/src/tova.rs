//! `tova`: entries that the last token attends to.

use chelsea_kv::PoolFull;
use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, HeadView, Heads, Needs, PolicyInfo, Scorer, View, by_age};
use std::sync::Arc;

/// Scores an entry by the attention that the very last query pays to it, averaged over all query heads of
/// the layer. Published as TOVA, "Transformers are Multi-State RNNs" (arXiv:2401.06104), which drops one
/// entry for every token decoded; here as many as a compaction asks for.
///
/// Heads of a layer keep the same entries as long as they hold the same ones; once a pooled or adaptive rule
/// has made them differ, each is scored by its own query heads. Needs the last query of each layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tova;

pub(crate) const INFO: PolicyInfo = PolicyInfo {
    name: "tova",
    about: "keep the entries that the last token attends to",
    source: "TOVA, arXiv:2401.06104",
    one_shot_only: false,
    settings: &[HEADS_EVEN, FLOOR],
    make: |s| Ok(Arc::new(Evict::make(Tova, s, Heads::Even, 0.2)?)),
};

impl Scorer for Tova {
    fn name(&self) -> &'static str {
        "tova"
    }

    fn needs(&self) -> Needs {
        Needs { recent_queries: 1, ..Needs::default() }
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        if !view.heads.iter().any(HeadView::has_recent_queries) {
            return Ok(by_age(view));
        }
        let mut scores = view.map_heads(|head| {
            let _held = view.scratch.reserve(head.recent_attention_bytes())?;
            let mut scores = vec![0.0; head.len()];
            for attention in head.recent_attention(1) {
                scores.iter_mut().zip(&attention[head.first()..]).for_each(|(s, x)| *s += x / head.group() as f32);
            }
            Ok(scores)
        })?;
        for layer in view.layers() {
            let (heads, layer) = (&view.heads[layer.clone()], &mut scores[layer]);
            let alike = |g: usize| {
                heads[g].len() == heads[0].len()
                    && (0..heads[0].len()).all(|i| heads[g].position(i) == heads[0].position(i))
            };
            if (1..heads.len()).all(alike) {
                let mean = |i: usize| layer.iter().map(|head| head[i]).sum::<f32>() / heads.len() as f32;
                let means: Vec<f32> = (0..heads[0].len()).map(mean).collect();
                layer.iter_mut().for_each(|head| head.copy_from_slice(&means));
            }
        }
        Ok(scores)
    }
}
