//! What happens when memory runs short, in this order: a checkpoint is given up; what was made elsewhere of the prompt of a
//! request that waits is given up, and its prompt is read here; a cache whose request allows it is
//! clustered further; a request is parked, its cache in a file; and where there is no folder, it steps aside and takes in
//! once more what it had generated.
//!
//! All but the third change no answer. That one is up to the request, and its answer says so.

use super::job::Stage;
use super::request::RequestError;
use super::{Active, Scheduler};
use crate::{EngineError, Runner};
use chelsea_kv::CacheError;
use chelsea_model::ModelError;
use std::time::Duration;

/// How long the last request waits, before it tries again, for memory that was handed to others.
const HANDED_PAUSE: Duration = Duration::from_millis(2);

impl Scheduler {
    /// Frees memory for what a step had no room for.
    pub(super) fn make_room(&mut self) {
        if self.shelf.give_up_one() || self.queue.give_up_given() || self.squeeze_one() {
            return;
        }
        if self.aside.is_some() {
            // What its compaction gives back may be enough, and it holds what nobody else can be given.
            let _had_room = self.take_back(true);
            return;
        }
        // Those that read first: nothing of theirs was heard yet.
        let least = |i: &usize| (!self.active[*i].is_reading(), self.active[*i].work(), std::cmp::Reverse(*i));
        let Some(i) = (0..self.active.len()).min_by_key(least) else { return };
        if self.is_last() && self.handed.bytes() > 0 {
            // What was handed to others is written into a file right now, and then its memory is free.
            std::thread::sleep(HANDED_PAUSE);
            return;
        }
        let active = self.active.remove(i);
        self.stats.count(&active.sequence);
        if self.active.is_empty() {
            // It was the only one left, so there is nothing that could make room for it.
            self.stats.failed += 1;
            let (prompt, limit) = (active.job.prompt_tokens, self.room());
            let needed = active.promised();
            active.job.fail(RequestError::Memory { prompt, needed, limit });
            return;
        }
        let job = match self.shelf.park(&active.sequence) {
            Some(file) => {
                self.stats.parks += 1;
                active.park(file)
            }
            None => {
                self.stats.stepped_aside += 1;
                active.step_aside()
            }
        };
        self.queue.push_front(job);
    }

    fn is_last(&self) -> bool {
        self.active.len() == 1 && self.aside.is_none()
    }

    /// Squeezes a cache, or gives up a checkpoint before that, once what is left for compactions is being used up: a squeeze is
    /// one itself, and finds no room any more when there is none.
    pub(super) fn relieve(&mut self) {
        let may_squeeze = self.active.iter().any(|active| active.to_squeeze_out() > 0);
        if may_squeeze && self.options.pool.live() > self.room() + self.mounted {
            let _relieved = self.shelf.give_up_one() || self.queue.give_up_given() || self.squeeze_one();
        }
    }

    /// Clusters the cache further that gives back the most, of those whose requests allow it. Returns whether that freed
    /// anything.
    fn squeeze_one(&mut self) -> bool {
        let most = |&i: &usize| self.active[i].to_squeeze_out();
        let Some(i) = (0..self.active.len()).filter(|i| most(i) > 0).max_by_key(most) else { return false };
        let before = self.options.pool.live();
        match squeeze(&self.runner, &mut self.active[i]) {
            Ok(()) => {
                self.stats.squeezed += 1;
                self.options.pool.live() < before
            }
            Err(error) => {
                tracing::debug!("a cache was not squeezed: {error}");
                false
            }
        }
    }

    /// Squeezes the caches again that were at this token when they were served before. Returns whether there was memory
    /// for all of them.
    pub(super) fn squeeze_again(&mut self) -> bool {
        let due = self.active.iter_mut().filter(|active| active.stage != Stage::Reading && active.squeeze_is_due());
        due.map(|active| squeeze(&self.runner, active)).all(|squeezed| squeezed.is_ok())
    }
}

/// Clusters a cache down to the budget that its request allows, from here on.
fn squeeze(runner: &Runner, active: &mut Active) -> Result<(), EngineError> {
    let Some(budget) = active.job.squeeze else { return Ok(()) };
    // What waits is of the budget so far: whether it was made yet may depend on others.
    Runner::settle_on(runner.pool(), &mut active.sequence)?;
    let own = active.sequence.cache().config().budget;
    active.sequence.cache_mut().set_budget(budget)?;
    if let Err(error) = runner.compress(&mut active.sequence) {
        active.sequence.cache_mut().set_budget(own)?;
        return Err(error);
    }
    active.job.squeezed_at = Some(active.sequence.history().len());
    Ok(())
}

/// Whether the pool had no room.
pub(super) fn is_out_of_memory(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Cache(CacheError::Pool(_)) | EngineError::Model(ModelError::Cache(CacheError::Pool(_)))
    )
}
