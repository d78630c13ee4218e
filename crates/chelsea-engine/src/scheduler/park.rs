//! Requests whose caches lie in files while others have the memory.
//!
//! A parked request loses no work: its cache is written as a snapshot, which goes on exactly as the cache would have, and
//! everything else stays in memory. It enters again before anyone new begins. Should its file be lost meanwhile, what it
//! had generated is taken in once more, as by one for which there was no folder.

use super::Scheduler;
use super::disk::ParkedFile;
use super::job::{Active, Job, Stage};
use super::pressure::is_out_of_memory;
use super::request::Logprobs;
use crate::sequence::Beside;
use crate::{EngineError, Sequence};
use chelsea_kv::snapshot::SnapshotError;

/// What is kept of a request whose cache lies in a file.
pub(super) struct Parked {
    file: ParkedFile,
    beside: Beside,
    piece: usize,
    stage: Stage,
    repeated: usize,
    /// How likely the tokens of the prompt were so far.
    scores: Vec<Logprobs>,
}

impl Parked {
    pub(super) fn is_reading(&self) -> bool {
        self.stage == Stage::Reading
    }

    /// Tokens of the prompt that are still to be read.
    pub(super) fn left_to_read(&self, job: &Job) -> usize {
        self.beside.left_to_read() + job.pieces[self.piece..].iter().map(|piece| piece.len()).sum::<usize>()
    }
}

impl Active {
    /// Gives the cache up, which lies in `file`.
    pub(super) fn park(self, file: ParkedFile) -> Job {
        let Active { mut job, sequence, piece, stage, repeated, scores, .. } = self;
        let is_repeating = repeated < job.again.len();
        job.promise_again();
        let repeated = if is_repeating { repeated } else { job.again.len() };
        let beside = sequence.into_beside(stage == Stage::Reading);
        job.parked = Some(Box::new(Parked { file, beside, piece, stage, repeated, scores }));
        job
    }
}

impl Scheduler {
    /// Goes on with a request that was parked. Gives it back if there is no room.
    pub(super) fn resume(&mut self, mut job: Job, parked: Box<Parked>) -> Option<Job> {
        let sequence = loop {
            match take_back(&job, &parked, self.runner.model()) {
                Ok(sequence) => break sequence,
                Err(error) if is_out_of_memory(&error) && self.shelf.give_up_one() => {}
                Err(error) => {
                    // What it generated is taken in once more, unless there is only no room for the file.
                    let waits = is_out_of_memory(&error) && !self.is_alone();
                    if waits {
                        job.parked = Some(parked);
                    } else {
                        tracing::warn!("a parked request begins anew: {error}");
                        self.stats.stepped_aside += 1;
                    }
                    return Some(job);
                }
            }
        };
        let Parked { beside, piece, stage, repeated, scores, file } = *parked;
        drop(file);
        let sequence = sequence.with_beside(beside);
        self.active.push(Active { job, sequence, piece, stage, scores, took: false, repeated, passed_over: 0 });
        None
    }
}

fn take_back(
    job: &Job,
    parked: &Parked,
    model: &std::sync::Arc<chelsea_model::Model>,
) -> Result<Sequence, EngineError> {
    let (cache, tokens) = parked.file.take_back(&job.session).map_err(|error| match error {
        SnapshotError::Cache(error) => EngineError::Cache(error),
        error => EngineError::Parked(error.to_string()),
    })?;
    Sequence::with_cache(model.clone(), &job.session, cache, tokens)
}
