//! Who is let in, and when.

use super::Scheduler;
use super::job::{Active, Job, Stage};
use super::pressure::is_out_of_memory;
use crate::{EngineError, Sequence};

/// What is to become of a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Its turn has come.
    Now,
    /// There is no room for what it is promised.
    NoRoom,
    /// Others are reading.
    NoLane,
    /// Another one reads the same beginning: that is waited for.
    SamePrompt,
}

impl Scheduler {
    /// Lets requests in whose turn it is, as far as there is room.
    pub(super) fn let_in(&mut self) {
        'next: while self.active.len() < self.options.running {
            for at in self.queue.order() {
                let job = self.queue.get(at);
                match self.may_enter(job) {
                    Entry::Now => {
                        let Some(job) = self.queue.take(at) else { return };
                        if let Some(job) = self.begin(job) {
                            self.queue.push_front(job);
                            return;
                        }
                        continue 'next;
                    }
                    // Nobody overtakes one that waits for memory: it would never be free.
                    Entry::NoRoom => return,
                    // Those that made room for others go on before anyone new.
                    Entry::NoLane | Entry::SamePrompt if job.had_turn() => return,
                    Entry::NoLane | Entry::SamePrompt => {}
                }
            }
            return;
        }
    }

    fn may_enter(&self, job: &Job) -> Entry {
        if job.will_read()
            && let Some(entry) = self.may_read(job)
        {
            return entry;
        }
        let promised = self.promised();
        // What came with it is a part of what it is promised.
        let beside = self.beside() - job.given_bytes();
        if promised + beside + job.to_enter() > self.room() && promised > 0 {
            return Entry::NoRoom;
        }
        Entry::Now
    }

    /// Why a request may not read now; nothing if it may.
    fn may_read(&self, job: &Job) -> Option<Entry> {
        let lanes = self.lanes();
        // First: what a shelf covers takes longer to find out, and everybody who waits is asked before every step.
        if lanes >= self.options.lanes {
            return Some(Entry::NoLane);
        }
        // What was read of one that made room lies in its file.
        // And where every token is to be scored, or nothing is to be shared, every token is read.
        let anew = job.parked.is_some() || job.is_apart();
        let covered = if anew { 0 } else { self.shelf.covers(job.prompt(), &job.config) };
        let reads = self.reads();
        // What another one is reading right now will be on the shelf.
        if self.options.checkpoints > 0 && !anew && reads.iter().any(|reads| reads.shares(job, covered)) {
            return Some(Entry::SamePrompt);
        }
        let left = match &job.parked {
            Some(parked) => parked.left_to_read(job),
            None => job.pieces[covered..].iter().map(|piece| piece.len()).sum(),
        };
        // A lane beside the first is for those that are done before the others.
        let is_short = || reads.iter().all(|reads| 2 * left <= reads.left);
        (lanes > 0 && !is_short()).then_some(Entry::NoLane)
    }

    /// Begins to serve a request, or goes on with one that made room for others. Gives it back if there is no room.
    fn begin(&mut self, mut job: Job) -> Option<Job> {
        if let Some(parked) = job.parked.take() {
            return self.resume(job, parked);
        }
        let (sequence, piece) = loop {
            match self.begin_sequence(&mut job) {
                Ok(begun) => break begun,
                Err(error) if is_out_of_memory(&error) && (self.shelf.give_up_one() || self.queue.give_up_given()) => {}
                Err(error) if is_out_of_memory(&error) && !self.is_alone() => return Some(job),
                Err(error) => {
                    self.stats.failed += 1;
                    job.fail(error.into());
                    return None;
                }
            }
        };
        let cached = sequence.history().len();
        self.stats.cached_tokens += cached as u64;
        job.begin(cached);
        self.active.push(Active {
            job,
            sequence,
            piece,
            stage: Stage::Reading,
            scores: Vec::new(),
            took: false,
            repeated: 0,
            passed_over: 0,
        });
        None
    }

    /// What a request begins with, and how many pieces of its prompt that covers.
    fn begin_sequence(&mut self, job: &mut Job) -> Result<(Sequence, usize), EngineError> {
        if let Some(given) = job.given.take() {
            let pieces = job.pieces.len();
            if !job.is_apart() {
                self.shelf.put(job.checkpoint(pieces), &given);
            }
            return Ok((*given, pieces));
        }
        let model = self.runner.model();
        let found = match job.is_apart() {
            true => None,
            false => self.shelf.go_on(job.prompt(), &job.config, model, &job.session)?,
        };
        match found {
            Some(found) => Ok(found),
            None => Ok((Sequence::new(model.clone(), &job.session)?, 0)),
        }
    }
}
