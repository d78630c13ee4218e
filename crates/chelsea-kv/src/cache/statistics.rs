//! What a cache finds out for policies that ask for it, beside the power of queries: the last queries, their
//! moments, how much attention each entry draws, and what a second pass finds.
//!
//! Numbers that belong to entries (`mass`, `importance`) go with them through compactions: survivors keep
//! theirs, a centroid has the sum, or the greatest, of its members'.

use super::{CacheConfig, CacheError, SequenceCache};
use crate::merge::EVICT;
use crate::policy::Needs;
use crate::query::{QueryMoments, QueryPower, RecentQueries, Row, Seen, Weights};
use crate::{CacheShape, Head, LayerSpec, PAGE};
use rayon::prelude::*;
use std::ops::Range;

/// One number for each entry of each head that the cache held when it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Importance {
    heads: Vec<Vec<f32>>,
}

impl Importance {
    /// The numbers of head `layer * kv_heads + head`.
    pub fn head(&self, g: usize) -> &[f32] {
        &self.heads[g]
    }

    /// The numbers of each head.
    pub(crate) fn heads(&self) -> &[Vec<f32>] {
        &self.heads
    }

    /// Takes over what is greater in `other`, made of the same cache.
    pub fn take_greater(&mut self, other: &Importance) {
        for (mine, theirs) in self.heads.iter_mut().zip(&other.heads) {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.max(*theirs));
        }
    }
}

/// A second pass in progress: who is watched, and what was found.
#[derive(Debug, Clone)]
struct Watch {
    /// Entries of each head whose attention is noted: those of one chunk.
    chunk: Vec<Range<usize>>,
    /// The greatest weight of every entry that was there when the pass began.
    found: Importance,
}

/// Everything that is found out on demand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statistics {
    /// The last queries.
    pub recent: Option<RecentQueries>,
    /// Mean and covariance of queries.
    pub moments: Option<QueryMoments>,
    /// Attention that each entry of each head has drawn. The last entries of a head may be missing: they drew none yet.
    pub mass: Option<Vec<Vec<f32>>>,
    /// What a second pass found.
    pub importance: Option<Importance>,
    watch: Option<Watch>,
}

impl Statistics {
    /// What was found out before, and no second pass in progress.
    pub(crate) fn found(
        recent: Option<RecentQueries>,
        moments: Option<QueryMoments>,
        mass: Option<Vec<Vec<f32>>>,
        importance: Option<Vec<Vec<f32>>>,
    ) -> Self {
        let importance = importance.map(|heads| Importance { heads });
        Statistics { recent, moments, mass, importance, watch: None }
    }

    /// What `needs` asks for: kept where it is there, and else begun, over heads that hold entries already.
    pub(super) fn adapted(self, shape: &CacheShape, needs: Needs, heads: &[Head]) -> Self {
        let Statistics { recent, moments, mass, importance, watch } = self;
        let wide = |recent: &RecentQueries| recent.window() >= needs.recent_queries;
        let recent = || recent.filter(wide).unwrap_or_else(|| RecentQueries::new(shape.clone(), needs.recent_queries));
        let full = |moments: &QueryMoments| moments.covariance() || !needs.query_covariance;
        let moments =
            || moments.filter(full).unwrap_or_else(|| QueryMoments::new(shape.clone(), needs.query_covariance));
        let grown = |((_, layer), head): ((usize, &LayerSpec), &Head)| if layer.grows() { head.len() } else { 0 };
        let none = || shape.layer_of_heads().zip(heads).map(|of| vec![0.0; grown(of)]).collect();
        let mass = || mass.unwrap_or_else(none);
        Statistics {
            recent: (needs.recent_queries > 0).then(recent),
            moments: (needs.query_mean || needs.query_covariance).then(moments),
            mass: needs.attention_mass.then(mass),
            importance: importance.filter(|_| needs.repetition.is_some()),
            watch,
        }
    }

    /// Whether any of it is made of queries as they pass by.
    pub(super) fn note_queries(&self) -> bool {
        self.recent.is_some() || self.moments.is_some() || self.mass.is_some() || self.watch.is_some()
    }

    /// Whether any of it belongs to entries, so that it has to follow them.
    pub(super) fn follow_entries(&self) -> bool {
        self.mass.is_some() || self.importance.is_some()
    }

    /// What is known that matters to head `g`.
    pub(super) fn seen(&self, config: &CacheConfig, g: usize) -> Seen<'_> {
        let layer = config.shape.layer_of(g);
        let spec = config.shape.layer(layer);
        Seen {
            layer,
            scale: spec.scale,
            q_heads: ((g - config.shape.heads_of(layer).start) * spec.group(), spec.group()),
            sinks: config.sinks,
            recent: self.recent.as_ref(),
            moments: self.moments.as_ref(),
            mass: self.mass.as_ref().map(|mass| &mass[g][..]),
            importance: self.importance.as_ref().map(|importance| importance.head(g)),
        }
    }

    /// Has the numbers of entries follow a compaction: of the entries `range` of head `g`, `roots` survive.
    pub(super) fn follow(&mut self, g: usize, range: &Range<usize>, roots: &[u32]) {
        if let Some(mass) = &mut self.mass {
            follow(&mut mass[g], range, roots, |x, y| x + y);
        }
        if let Some(importance) = &mut self.importance {
            follow(&mut importance.heads[g], range, roots, f32::max);
        }
    }

    /// Forgets what belongs to tokens from `tokens` on, and to entries that heads of `lens` entries no longer have.
    pub(super) fn rewind(&mut self, tokens: usize, lens: &[usize]) {
        if let Some(recent) = &mut self.recent {
            recent.rewind(tokens);
        }
        if let Some(moments) = &mut self.moments {
            moments.rewind(tokens);
        }
        let cut = |numbers: &mut [Vec<f32>]| numbers.iter_mut().zip(lens).for_each(|(n, &len)| n.truncate(len));
        self.mass.as_deref_mut().into_iter().for_each(cut);
        self.importance.iter_mut().for_each(|importance| cut(&mut importance.heads));
    }

    /// Bytes that the numbers of entries take for each page of a head.
    pub(super) fn page_bytes(needs: Needs) -> usize {
        PAGE * 4 * (usize::from(needs.attention_mass) + usize::from(needs.repetition.is_some()))
    }

    /// Bytes of everything else.
    pub(crate) fn fixed_bytes(shape: &CacheShape, needs: Needs) -> usize {
        let recent = match needs.recent_queries {
            0 => 0,
            window => RecentQueries::bytes_for(shape, window),
        };
        let moments = match needs.query_mean || needs.query_covariance {
            false => 0,
            true => QueryMoments::bytes_for(shape, needs.query_covariance),
        };
        recent + moments
    }
}

/// Closes the gaps that a compaction leaves in the numbers of a head's entries. They may end early: what came
/// after the second pass has no importance.
fn follow(numbers: &mut Vec<f32>, range: &Range<usize>, roots: &[u32], join: impl Fn(f32, f32) -> f32) {
    let end = range.end.min(numbers.len());
    if roots.is_empty() || range.start >= end {
        return;
    }
    for (i, &root) in roots.iter().enumerate().take(end - range.start) {
        if root != EVICT && root as usize != i && range.start + (root as usize) < end {
            let (from, to) = (range.start + i, range.start + root as usize);
            numbers[to] = join(numbers[to], numbers[from]);
        }
    }
    let mut i = 0;
    numbers.retain(|_| {
        let keep = !range.contains(&i) || roots[i - range.start] as usize == i - range.start;
        i += 1;
        keep
    });
    numbers.shrink_to(numbers.len().next_multiple_of(PAGE));
}

impl SequenceCache {
    /// Finds out from here on what `needs` asks for, beside what the policy needs: so that a fork of this
    /// cache can go on with another policy ([`SequenceCache::reconfigure`]). Anything found out that neither
    /// asks for is dropped.
    ///
    /// # Errors
    /// If the pool has no room for them; the cache is as it was then.
    pub fn gather(&mut self, needs: Needs) -> Result<(), CacheError> {
        let needs = needs.and(self.config.policy.needs());
        self.beside.resize(self.bytes_beside_for(needs))?;
        let shape = &self.config.shape;
        let begun = || QueryPower::new(shape.clone());
        self.query_power = needs.query_power.then(|| self.query_power.take().unwrap_or_else(begun));
        self.statistics = std::mem::take(&mut self.statistics).adapted(shape, needs, &self.store.export());
        self.needs = needs;
        self.peak = self.peak.max(self.bytes_held());
        Ok(())
    }

    /// Takes note of `n` queries of `layer`, whose tokens were appended last.
    pub(super) fn observe_queries(&mut self, layer: usize, q: &[f32], n: usize) {
        if let Some(power) = &mut self.query_power {
            power.observe(layer, q, n);
        }
        let CacheConfig { shape, sinks, .. } = &self.config;
        let spec = shape.layer(layer);
        if !spec.grows() {
            return;
        }
        let first = self.layer_tokens[layer].saturating_sub(n);
        let Statistics { recent, moments, mass, watch, .. } = &mut self.statistics;
        if let Some(recent) = recent {
            recent.observe(layer, q, n, first);
        }
        if let Some(moments) = moments {
            moments.observe(layer, q, n, first, *sinks);
        }
        let of_layer = shape.heads_of(layer);
        if mass.is_none() && watch.is_none() {
            return;
        }
        let heads = self.store.export();
        let heads = &heads[of_layer.clone()];
        if let Some(mass) = mass {
            let masses = mass[of_layer.clone()].par_iter_mut().zip(heads).enumerate();
            masses.for_each(|(h, (mass, head))| {
                mass.reserve_exact(head.pages().len() * PAGE - mass.len());
                mass.resize(head.len(), 0.0);
                let mut weights = Weights::default();
                for_each_block(spec, h, q, n, head.len(), |rows, seen| {
                    weights.each(head, std::slice::from_ref(&(0..seen)), rows, spec.scale, |_, weights| {
                        mass.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w);
                    });
                });
            });
        }
        if let Some(Watch { chunk, found }) = watch {
            let found = found.heads[of_layer.clone()].par_iter_mut();
            found.zip(&chunk[of_layer]).zip(heads).enumerate().for_each(|(h, ((found, chunk), head))| {
                let first = (*sinks).min(chunk.start);
                let mut weights = Weights::default();
                for_each_block(spec, h, q, n, head.len(), |rows, seen| {
                    let spans = [0..first, chunk.clone(), found.len()..seen];
                    weights.each(head, &spans, rows, spec.scale, |_, weights| {
                        let found = &mut found[chunk.clone()];
                        found.iter_mut().zip(&weights[first..]).for_each(|(x, &w)| *x = x.max(w));
                    });
                });
            });
        }
    }

    /// From here on, notes the greatest weight that any query gives to the entries of the tokens `tokens`,
    /// among the sinks, those entries, and what is appended after this call. For a fork of a cache, while the
    /// model repeats those tokens.
    pub fn watch(&mut self, tokens: Range<usize>) {
        let chunk = |((_, layer), head): ((usize, &LayerSpec), &Head)| {
            let upto = |token: usize| (0..head.len()).take_while(|&i| head.position(i) < token as f32).count();
            if layer.grows() { upto(tokens.start)..upto(tokens.end) } else { 0..0 }
        };
        let none =
            |((_, layer), head): ((usize, &LayerSpec), &Head)| vec![0.0; if layer.grows() { head.len() } else { 0 }];
        let heads = self.heads();
        let heads = || self.config.shape.layer_of_heads().zip(heads.iter());
        let found = Importance { heads: heads().map(none).collect() };
        let watch = Watch { chunk: heads().map(chunk).collect(), found };
        self.statistics.watch = Some(watch);
    }

    /// What was found since [`SequenceCache::watch`], which ends with this.
    pub fn watched(&mut self) -> Option<Importance> {
        self.statistics.watch.take().map(|watch| watch.found)
    }

    /// Hands over what a second pass found of the entries of this cache.
    ///
    /// # Errors
    /// If it was made of a cache with other entries.
    pub fn set_importance(&mut self, importance: Importance) -> Result<(), CacheError> {
        let fits = |(g, found): (usize, &Vec<f32>)| found.len() <= self.store.len(g);
        if importance.heads.len() != self.store.heads() || !importance.heads.iter().enumerate().all(fits) {
            return Err(CacheError::OtherEntries);
        }
        self.statistics.importance = Some(importance);
        Ok(())
    }

    /// Whether a second pass has found out how much the entries matter, all but those of the recent window.
    pub fn has_importance(&self) -> bool {
        let window = self.config.window;
        let known = |heads: &[Vec<f32>]| self.growing().all(|g| heads[g].len() + window >= self.store.len(g));
        self.statistics.importance.as_ref().is_some_and(|importance| known(&importance.heads))
    }
}

/// Calls `f` with blocks of the queries that read KV head `h`, with the number of entries that the block's
/// last query sees; a head has `len` entries, of which the last `n` are the queries' own.
fn for_each_block(spec: &LayerSpec, h: usize, q: &[f32], n: usize, len: usize, mut f: impl FnMut(&[Row<'_>], usize)) {
    let (group, width, key_dim) = (spec.group(), spec.query_width(), spec.key_dim);
    let tokens = (crate::query::ROWS / group).max(1);
    let mut rows = Vec::with_capacity(tokens * group);
    for start in (0..n).step_by(tokens) {
        let end = (start + tokens).min(n);
        rows.clear();
        for t in start..end {
            let query = |j: usize| &q[t * width + (h * group + j) * key_dim..][..key_dim];
            rows.extend((0..group).map(|j| Row { query: query(j), visible: len - n + t + 1 }));
        }
        f(&rows, len - n + end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_entries() {
        let mut numbers = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        follow(&mut numbers, &(1..5), &[0, EVICT, 0, 3], |x, y| x + y);
        assert_eq!(numbers, [1.0, 6.0, 5.0, 6.0]);
        let mut early = vec![1.0, 2.0, 3.0];
        follow(&mut early, &(1..5), &[0, 1, 1, EVICT], f32::max);
        assert_eq!(early, [1.0, 2.0, 3.0]);
        let mut none = vec![1.0];
        follow(&mut none, &(1..3), &[0, EVICT], f32::max);
        assert_eq!(none, [1.0]);
    }
}
