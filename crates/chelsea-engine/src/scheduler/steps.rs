//! What a step does: one token of each running answer and one chunk of a prompt, and what follows from them.

use super::job::{Active, Stage};
use super::pressure::is_out_of_memory;
use super::{PATIENCE, Scheduler};
use crate::runner::{Outcome as StepOutcome, Runner, Work};
use crate::{EngineError, State};

impl Scheduler {
    /// Which of those that read has its turn: the one that is done first, unless another was passed over too often.
    fn reader(&mut self) -> Option<usize> {
        let mut readers: Vec<usize> =
            (0..self.active.len()).filter(|&i| self.active[i].is_reading() && !self.active[i].must_compact()).collect();
        readers.sort_by_key(|&i| self.active[i].left_to_read());
        let patient = readers.iter().copied().find(|&i| self.active[i].passed_over >= PATIENCE);
        let chosen = patient.or(readers.first().copied())?;
        for i in readers {
            self.active[i].passed_over = if i == chosen { 0 } else { self.active[i].passed_over + 1 };
        }
        Some(chosen)
    }

    /// One token of each running answer and one chunk of a prompt.
    pub(super) fn advance(&mut self) {
        let mut is_short = !self.compact_readers();
        is_short |= !self.squeeze_again();
        let reader = self.reader();
        let (mut failed, mut batch, mut members, mut unprepared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, active) in self.active.iter_mut().enumerate() {
            // Whoever waits for a compaction leaves a checkpoint when that was made.
            active.took &= active.must_compact();
            let has_turn = match active.stage {
                Stage::Generating(_) => !active.squeeze_is_due(),
                Stage::Reading if Some(i) != reader => false,
                // Nothing is left where a checkpoint covers all of the prompt: there are logits to go on from.
                Stage::Reading => active.next_piece().unwrap_or_else(|error| {
                    failed.push((i, error));
                    false
                }),
            };
            unprepared.extend(active.job.unprepared());
            if has_turn {
                batch.push(match active.stage {
                    Stage::Generating(token) => Work::Decode(&mut active.sequence, token),
                    Stage::Reading => Work::Read(&mut active.sequence),
                });
                members.push(i);
            }
        }
        if batch.is_empty() && self.aside.is_some() {
            // There is nothing else to do.
            drop(batch);
            self.end(Vec::new(), failed);
            is_short |= !self.take_back(true);
            if is_short {
                self.make_room();
            }
            return;
        }
        // What grammars allow next is found out while the model computes.
        let threads = self.runner.pool().clone();
        let outcomes = threads.in_place_scope(|scope| {
            unprepared.into_iter().for_each(|answer| scope.spawn(|_| answer.prepare()));
            if batch.is_empty() { Vec::new() } else { self.runner.step(&mut batch) }
        });
        drop(batch);
        for (at, (i, outcome)) in members.into_iter().zip(outcomes).enumerate() {
            match outcome {
                Ok(StepOutcome::Held) => {}
                Ok(StepOutcome::Took(tokens)) => self.took(i, tokens, at),
                Err(error) if is_out_of_memory(&error) => is_short = true,
                Err(error) => failed.push((i, error)),
            }
        }
        let mut complete = Vec::new();
        for i in 0..self.active.len() {
            match self.follow(i) {
                Ok(true) => {}
                Ok(false) => complete.push(i),
                Err(error) if is_out_of_memory(&error) => is_short = true,
                Err(error) => failed.push((i, error)),
            }
        }
        self.active.iter_mut().for_each(Active::tell_held);
        self.end(complete, failed);
        if is_short {
            self.make_room();
        }
    }

    /// Takes note of what a step took in for a request, which was work `at` of its batch.
    fn took(&mut self, i: usize, tokens: usize, at: usize) {
        let active = &mut self.active[i];
        active.took = true;
        self.queue.count(active.job.key, tokens as u64);
        if active.is_reading() {
            self.stats.prompt_tokens += tokens as u64;
            active.tell_progress();
            if active.job.scoring().is_some() {
                let logits = self.runner.logits(at);
                self.runner.pool().install(|| active.score(logits, tokens));
            }
        }
    }

    /// What follows the step for a request: a checkpoint at the end of a piece, a token that is sampled. Returns whether
    /// it goes on.
    pub(super) fn follow(&mut self, i: usize) -> Result<bool, EngineError> {
        let active = &mut self.active[i];
        if !active.is_reading() {
            if !active.took {
                return Ok(true);
            }
        } else if active.sequence.state() == State::Ready {
            if active.must_compact() {
                return Ok(true);
            }
            Runner::settle_on(self.runner.pool(), &mut active.sequence)?;
            if active.took && !active.job.is_apart() {
                self.shelf.put(active.job.checkpoint(active.piece), &active.sequence);
            }
        }
        if active.is_reading() && !active.has_read() {
            return Ok(true);
        }
        let before = active.job.generated();
        let goes_on = active.advance(&self.tokenizer, &self.handed)?;
        self.stats.generated_tokens += (active.job.generated() - before) as u64;
        Ok(goes_on)
    }

    /// Ends requests that are complete or failed.
    pub(super) fn end(&mut self, complete: Vec<usize>, failed: Vec<(usize, EngineError)>) {
        let mut ended: Vec<(usize, Option<EngineError>)> = complete.into_iter().map(|i| (i, None)).collect();
        ended.extend(failed.into_iter().map(|(i, error)| (i, Some(error))));
        ended.sort_by_key(|ended| std::cmp::Reverse(ended.0));
        ended.dedup_by_key(|ended| ended.0);
        for (i, error) in ended {
            let active = self.active.remove(i);
            self.stats.count(&active.sequence);
            match error {
                None => {
                    self.stats.finished += 1;
                    active.finish();
                }
                Some(error) => {
                    self.stats.failed += 1;
                    active.job.fail(error.into());
                }
            }
        }
    }
}
