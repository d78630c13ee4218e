//! Prompts whose caches are compacted while others get their tokens.
//!
//! To compact the cache of a long prompt takes several times as long as a step. Where answers are generated beside it, it is
//! done on threads of its own, one prompt at a time, and the prompt is read on when that is done: no token of another
//! request waits for it. What comes of it does not depend on where and when it is done.

use super::Scheduler;
use super::job::{Active, Job, Stage};
use super::pressure::is_out_of_memory;
use crate::{EngineError, Runner};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// A request whose cache is being compacted elsewhere.
pub(super) struct Aside {
    back: Receiver<(Active, Result<(), EngineError>)>,
    /// Bytes that it is promised.
    pub(super) promised: usize,
    /// What it reads.
    pub(super) reads: Reads,
    /// Tokens, entries and the bytes of a full cache.
    pub(super) holds: [usize; 3],
}

/// What a request reads, for others that may wait for it.
#[derive(Clone)]
pub(super) struct Reads {
    /// Tokens that are left.
    pub(super) left: usize,
    salt: Arc<str>,
    pieces: Vec<Arc<[u32]>>,
    piece: usize,
    leaves: bool,
}

impl Reads {
    pub(super) fn of(active: &Active) -> Reads {
        let Job { pieces, salt, .. } = &active.job;
        Reads {
            left: active.left_to_read(),
            salt: salt.clone(),
            pieces: pieces.clone(),
            piece: active.piece,
            leaves: active.job.scoring().is_none(),
        }
    }

    /// Whether it will leave more of a prompt on the shelf than the `covered` pieces that lie there.
    pub(super) fn shares(&self, job: &Job, covered: usize) -> bool {
        let common = self.pieces.iter().zip(&job.pieces).take_while(|(a, b)| a == b).count();
        self.leaves && self.salt == job.salt && common > covered && common + 1 > self.piece
    }
}

/// Threads for it, beside those that compute everything else.
pub(super) fn threads(others: &ThreadPool) -> Result<ThreadPool, ThreadPoolBuildError> {
    let count = (others.current_num_threads() / 2).max(1);
    ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("compact-{i}")).build()
}

impl Active {
    /// Whether its prompt is read on only after a compaction that can be made.
    pub(super) fn must_compact(&self) -> bool {
        self.is_reading() && self.sequence.compaction_waits() && !self.sequence.is_starved()
    }
}

impl Scheduler {
    /// Prompts that are being read, here and aside.
    pub(super) fn lanes(&self) -> usize {
        self.active.iter().filter(|active| active.is_reading()).count() + usize::from(self.aside.is_some())
    }

    /// What is being read, here and aside.
    pub(super) fn reads(&self) -> Vec<Reads> {
        let here = self.active.iter().filter(|active| active.is_reading()).map(Reads::of);
        here.chain(self.aside.iter().map(|aside| aside.reads.clone())).collect()
    }

    /// Has the caches compacted that wait for it among those that read: aside, where others are answered meanwhile. Returns
    /// whether there was memory for it.
    pub(super) fn compact_readers(&mut self) -> bool {
        let mut had_room = self.take_back(false);
        while self.aside.is_none()
            && let Some(i) = self.active.iter().position(Active::must_compact)
        {
            if self.options.aside && self.active.iter().any(|active| active.stage != Stage::Reading) {
                self.put_aside(i);
                break;
            }
            let result = Runner::settle_on(self.runner.pool(), &mut self.active[i].sequence);
            had_room &= self.compacted(i, result);
        }
        had_room
    }

    fn put_aside(&mut self, i: usize) {
        let mut active = self.active.remove(i);
        let cache = active.sequence.cache();
        let holds = [cache.tokens(), cache.entries(), cache.full_bytes()];
        let (send, back) = channel();
        let (promised, reads) = (active.promised(), Reads::of(&active));
        let threads = self.compacting.clone();
        std::thread::spawn(move || {
            let result = Runner::settle_on(&threads, &mut active.sequence);
            // Without a scheduler there is nobody who waits for it.
            let _sent = send.send((active, result));
        });
        self.stats.compactions_aside += 1;
        self.aside = Some(Aside { back, promised, reads, holds });
    }

    /// Takes the request back whose cache was compacted aside, if that is done or is to be waited for. Returns whether there
    /// was memory for it.
    pub(super) fn take_back(&mut self, waits: bool) -> bool {
        let Some(aside) = &self.aside else { return true };
        let done =
            if waits { aside.back.recv().map_err(|_| TryRecvError::Disconnected) } else { aside.back.try_recv() };
        match done {
            Err(TryRecvError::Empty) => true,
            // Its thread gave up, and the request with it.
            Err(TryRecvError::Disconnected) => {
                self.aside = None;
                self.stats.failed += 1;
                true
            }
            Ok((active, result)) => {
                self.aside = None;
                self.active.push(active);
                self.compacted(self.active.len() - 1, result)
            }
        }
    }

    /// Goes on with a request after its compaction. Returns whether there was memory for that.
    fn compacted(&mut self, i: usize, result: Result<(), EngineError>) -> bool {
        match result.and_then(|()| self.follow(i)) {
            Ok(true) => {}
            Ok(false) => self.end(vec![i], Vec::new()),
            Err(error) if is_out_of_memory(&error) => return false,
            Err(error) => self.end(Vec::new(), vec![(i, error)]),
        }
        true
    }
}
