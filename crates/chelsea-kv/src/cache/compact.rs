//! When a cache is compacted, which entries are candidates, and how a plan is carried out.

use super::{CacheConfig, CacheError, SequenceCache};
use crate::Head;
use crate::backend::{Candidates, Change, Clustering};
use crate::budget::{Budget, Length};
use crate::policy::{HeadView, Plan, View};
use crate::pool::{Reservation, ScratchLease};
use crate::scratch::{Reserved, ScratchMeter};
use rayon::prelude::*;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What a call to compact did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Whether a compaction was due.
    pub compacted: bool,
    /// Entries over all heads before.
    pub before: usize,
    /// Entries over all heads after.
    pub after: usize,
    /// Bytes given back.
    pub freed: usize,
    /// Most bytes taken for a while.
    pub scratch: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// A plan that can be carried out without asking the pool again.
struct Ready<'a> {
    plan: Plan,
    /// For copies of pages that others own, too.
    reserved: Reservation,
    /// For the plan itself, and for sums of clusters.
    _held: (Reserved<'a>, ScratchLease),
}

impl SequenceCache {
    /// Clusters what left the recent window, so that the total meets the budget. To be called after all
    /// layers got a block; does nothing while some layers are behind, while the budget is met, or before
    /// `decode_block` tokens, or as many entries per head beyond the budget, have piled up.
    ///
    /// # Errors
    /// If the pool has no room for what a compaction takes for a while; the cache is as it was then.
    pub fn compact(&mut self) -> Result<CompactReport, CacheError> {
        if self.compaction_is_due() { self.compact_what_is_new() } else { Ok(self.nothing_done()) }
    }

    /// As [`SequenceCache::compact`], however few tokens have piled up: at the end of a text, what is left is to meet
    /// the budget.
    ///
    /// # Errors
    /// As [`SequenceCache::compact`].
    pub fn compact_at_end(&mut self) -> Result<CompactReport, CacheError> {
        if self.must_give_up() { self.compact_what_is_new() } else { Ok(self.nothing_done()) }
    }

    fn compact_what_is_new(&mut self) -> Result<CompactReport, CacheError> {
        let budget = self.config.budget;
        let anew = budget.is_absolute(self.length().end()) || self.config.policy.looks_back();
        let mut from = self.sinks();
        if !anew {
            from.iter_mut().zip(&self.frozen).for_each(|(from, &frozen)| *from = frozen.max(*from));
        }
        self.run(from, budget)
    }

    /// Whether [`SequenceCache::compact`] would do anything now.
    pub fn compaction_is_due(&self) -> bool {
        let piled_up = self.tokens() - self.compacted_at;
        let block = self.config.decode_block;
        self.must_give_up() && (piled_up >= block || self.entries() > self.ceiling() + block * self.growing_heads())
    }

    /// Whether there are more entries than may stay as they are now.
    fn must_give_up(&self) -> bool {
        // Whoever must read the text twice compresses when told to, and never on its own.
        self.config.policy.needs().repetition.is_none() && self.block() == 0 && self.entries() > self.ceiling()
    }

    /// How many tokens may be appended before a compaction can be due. The compaction after the last token of a text that
    /// [`SequenceCache::expect_tokens`] announced is not counted: it may come sooner.
    pub fn tokens_until_due(&self) -> usize {
        self.ceiling().saturating_sub(self.entries()).checked_div(self.growing_heads()).unwrap_or(usize::MAX)
    }

    /// Whether there are no more entries than the budget allows for the text so far.
    pub fn is_within_budget(&self) -> bool {
        self.entries() <= self.allowed(self.config.budget)
    }

    /// Compresses everything between sinks and window right now, also what was before: to `budget`, or
    /// to the cache's own when none is given.
    ///
    /// # Errors
    /// If the budget cannot be held, the policy needs a second pass over the text that was not made, or as
    /// [`SequenceCache::compact`].
    pub fn compact_now(&mut self, budget: Option<Budget>) -> Result<CompactReport, CacheError> {
        let budget = budget.unwrap_or(self.config.budget);
        CacheConfig { budget, ..self.config.clone() }.validate()?;
        if self.block() != 0 || self.entries() <= self.allowed(budget) {
            return Ok(self.nothing_done());
        }
        if self.config.policy.needs().repetition.is_some() && !self.has_importance() {
            return Err(CacheError::NoImportance(self.config.policy.name()));
        }
        self.run(self.sinks(), budget)
    }

    /// Entries over all heads that `budget` allows for the text so far.
    fn allowed(&self, budget: Budget) -> usize {
        budget.allowed(&self.config.limits(), self.length())
    }

    /// Entries over all heads up to which nothing has to be given up.
    fn ceiling(&self) -> usize {
        self.config.budget.ceiling(&self.config.limits(), self.length())
    }

    /// KV heads of the layers that grow with the text: those that can give up entries.
    fn growing_heads(&self) -> usize {
        self.config.shape.growing_heads()
    }

    fn length(&self) -> Length {
        Length { tokens: self.tokens(), expected: self.expected_tokens, recent: self.recent }
    }

    /// Last entries of each head that are not to be touched now, where `budget` says what is kept.
    fn window(&self, budget: Budget) -> usize {
        budget.recent_window(&self.config.limits(), self.length()) + self.length().beyond()
    }

    fn nothing_done(&self) -> CompactReport {
        CompactReport { before: self.entries(), after: self.entries(), ..CompactReport::default() }
    }

    /// First entry of each head that is no sink.
    fn sinks(&self) -> Vec<usize> {
        (0..self.store.heads()).map(|g| self.config.sinks.min(self.store.len(g))).collect()
    }

    /// The entries of each head from `from` up to the recent window; none of heads that do not grow.
    fn candidates(&self, from: &[usize], budget: Budget) -> Vec<Range<usize>> {
        let window = self.window(budget);
        let mut ranges = vec![0..0; self.store.heads()];
        for g in self.growing() {
            ranges[g] = from[g]..self.store.len(g).saturating_sub(window).max(from[g]);
        }
        ranges
    }

    /// Has the policy bring all heads together to what `budget` allows, with candidates that start at `from`.
    fn run(&mut self, from: Vec<usize>, budget: Budget) -> Result<CompactReport, CacheError> {
        let start = Instant::now();
        let (before, bytes_before) = (self.entries(), self.bytes_held());
        let allowed = self.allowed(budget);
        let mut ranges = self.candidates(&from, budget);
        let candidates = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
        // What was clustered before may leave no room for what is new: then it is clustered again.
        let least = ranges.iter().filter(|range| !range.is_empty()).count();
        if allowed + candidates(&ranges) < before + least {
            ranges = self.candidates(&self.sinks(), budget);
        }
        let target = (allowed + candidates(&ranges)).saturating_sub(before);
        let scratch = ScratchMeter::default().charged_to(self.config.pool.clone());
        if !self.cluster_in_store(&ranges, target, &scratch)? {
            // What lies in host memory for planning alone is counted as long as it is there; the pool is of the store's memory.
            let _copied = scratch.count(self.store.bytes_to_export());
            let scales = self.value_scale.clone();
            self.take_value_scales(&ranges);
            let ready = self.make_ready(&ranges, target, &scratch);
            if ready.is_err() {
                // They are taken at the first compaction that is carried out.
                self.value_scale = scales;
            }
            let Ready { plan, reserved, .. } = &ready?;
            self.carry_out(&ranges, plan, self.entries_to_come(allowed), &scratch, reserved);
        }
        self.compacted_at = self.tokens();
        let window = self.window(budget);
        let frozen: Vec<(usize, usize)> =
            self.growing().map(|g| (g, self.store.len(g).saturating_sub(window).max(ranges[g].start))).collect();
        frozen.into_iter().for_each(|(g, frozen)| self.frozen[g] = frozen);
        self.scratch_peak = self.scratch_peak.max(scratch.peak());
        self.peak = self.peak.max(bytes_before + scratch.peak());
        self.settle()?;
        let freed = bytes_before.saturating_sub(self.bytes_held());
        let (after, scratch) = (self.entries(), scratch.peak());
        Ok(CompactReport { compacted: true, before, after, freed, scratch, elapsed: start.elapsed() })
    }

    /// Has the store plan and merge by itself; false if it does not do that by this policy, or statistics of entries, which
    /// have to follow them, are kept here.
    fn cluster_in_store(
        &mut self,
        ranges: &[Range<usize>],
        target: usize,
        scratch: &ScratchMeter,
    ) -> Result<bool, CacheError> {
        let policy = self.config.policy.clone();
        let Some(recipe) = policy.recipe() else { return Ok(false) };
        if self.statistics.follow_entries() || ranges.iter().map(Range::len).sum::<usize>() <= target {
            return Ok(false);
        }
        let shape = self.config.shape.clone();
        let candidates = |g: usize| Candidates {
            head: g,
            range: ranges[g].clone(),
            rotary: &shape.layer(shape.layer_of(g)).rotary,
            query_power: self.query_power.as_ref().map_or(Vec::new(), |power| power.weights(g)),
            value_scale: self.value_scale[g],
        };
        let clustering = Clustering { recipe, heads: self.growing().map(candidates).collect(), target };
        let (reserved, _merging) = self.reserve_to_merge(ranges)?;
        let Some(scales) = self.store.cluster(&clustering, scratch, &reserved)? else { return Ok(false) };
        for (candidates, scale) in clustering.heads.iter().zip(scales) {
            self.value_scale[candidates.head] = scale;
        }
        *self.ahead_tokens.get_mut() = 0;
        Ok(true)
    }

    /// A plan for the candidates `ranges`, and everything that carrying it out takes.
    fn make_ready<'a>(
        &self,
        ranges: &[Range<usize>],
        target: usize,
        scratch: &'a ScratchMeter,
    ) -> Result<Ready<'a>, CacheError> {
        let heads = self.store.export();
        let plan = self.config.policy.plan(&self.view(&heads, ranges, scratch), target)?;
        let roots = scratch.reserve(plan.bytes())?;
        let (reserved, merging) = self.reserve_to_merge(ranges)?;
        Ok(Ready { plan, reserved, _held: (roots, merging) })
    }

    /// Charges what carrying a plan out may take, so that nothing can fail once it has begun: copies of pages that others
    /// own, too, and what as many heads as there are threads sum clusters up in.
    fn reserve_to_merge(&self, ranges: &[Range<usize>]) -> Result<(Reservation, ScratchLease), CacheError> {
        let changes = self.growing().filter(|&g| !ranges[g].is_empty());
        let bytes: Vec<(usize, usize)> =
            changes.map(|g| self.store.bytes_to_change(g, ranges[g].start, ranges[g].len())).collect();
        let copies: usize = bytes.iter().map(|(copies, _)| copies).sum();
        let merging = bytes.iter().map(|&(_, merging)| merging).max().unwrap_or(0);
        let pool = &self.config.pool;
        Ok((pool.reserve(copies)?, pool.lease_scratch(merging * rayon::current_num_threads())?))
    }

    /// Entries that each head is going to take in, once `allowed` are left, before the next compaction can be due: no head
    /// needs more room of what it gives up, and what is held then is entries alone.
    fn entries_to_come(&self, allowed: usize) -> usize {
        let room = self.ceiling().saturating_sub(allowed).checked_div(self.growing_heads()).unwrap_or(0);
        room.max(self.config.decode_block).min(self.length().to_come())
    }

    fn view<'a>(&'a self, heads: &'a [Head], ranges: &[Range<usize>], scratch: &'a ScratchMeter) -> View<'a> {
        let needs = self.config.policy.needs();
        let heads = self.growing().map(|g| {
            let power = match &self.query_power {
                Some(power) if needs.query_power => power.weights(g),
                _ => Vec::new(),
            };
            let seen = self.statistics.seen(&self.config, g);
            let rotary = &self.config.shape.layer(seen.layer).rotary;
            let scale = self.value_scale[g].unwrap_or(1.0);
            HeadView::new(&heads[g], ranges[g].clone(), rotary, power, scale).with_seen(seen)
        });
        View { heads: heads.collect(), tokens: self.tokens(), scratch }
    }

    fn take_value_scales(&mut self, ranges: &[Range<usize>]) {
        if !self.config.policy.needs().value_scale {
            return;
        }
        let heads = self.store.export();
        self.value_scale.par_iter_mut().zip(&*heads).zip(ranges).for_each(|((scale, head), range)| {
            if scale.is_none() && !range.is_empty() {
                *scale = Some(mean_value_power(head, range.clone()));
            }
        });
    }

    fn carry_out(
        &mut self,
        ranges: &[Range<usize>],
        plan: &Plan,
        idle: usize,
        scratch: &ScratchMeter,
        reserved: &Reservation,
    ) {
        assert_eq!(plan.heads(), self.growing_heads(), "policy `{}` plans for every head", self.config.policy.name());
        let planned: Vec<(usize, usize)> =
            self.growing().enumerate().filter(|&(i, _)| !plan.roots(i).is_empty()).collect();
        let change = |&(i, g): &(usize, usize)| Change { head: g, range: ranges[g].clone(), roots: plan.roots(i) };
        let changes: Vec<Change<'_>> = planned.iter().map(change).collect();
        *self.ahead_tokens.get_mut() = 0;
        self.store.apply(&changes, idle, scratch, reserved);
        for Change { head, range, roots } in changes {
            self.statistics.follow(head, &range, roots);
        }
    }
}

/// Mean of `|value|^2` over entries; 1 when all values are zero, so that it can be divided by.
fn mean_value_power(head: &Head, range: Range<usize>) -> f32 {
    let mut value = vec![0.0; head.value_dim()];
    let len = range.len() as f64;
    let mut sum = 0.0;
    for i in range {
        head.read_value(i, &mut value);
        sum += value.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    }
    if sum > 0.0 { (sum / len) as f32 } else { 1.0 }
}
