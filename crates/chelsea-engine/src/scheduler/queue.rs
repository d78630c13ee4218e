//! Who is next: turns are shared out among keys by what each was served, and within a key by order.

use super::job::Job;
use std::collections::{HashMap, VecDeque};

/// Requests that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Job>,
    /// Tokens that were read and generated for each key that has requests.
    served: HashMap<u64, u64>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Requests whose caches lie in files.
    pub(super) fn parked(&self) -> usize {
        self.waiting.iter().filter(|job| job.parked.is_some()).count()
    }

    /// Bytes of caches that came with requests that wait.
    pub(super) fn given(&self) -> usize {
        self.waiting.iter().map(Job::given_bytes).sum()
    }

    /// Gives up the cache that came with the request that came last. Returns whether there was one.
    pub(super) fn give_up_given(&mut self) -> bool {
        self.waiting.iter_mut().rev().any(|job| job.given.take().is_some())
    }

    /// Takes a new request in. A key that was away begins level with the one that was served least.
    pub(super) fn push(&mut self, job: Job) {
        let least = self.served.values().min().copied().unwrap_or(0);
        self.served.entry(job.key).or_insert(least);
        self.waiting.push_back(job);
    }

    /// Takes a request back whose turn had come: it is the first of its key again.
    pub(super) fn push_front(&mut self, job: Job) {
        self.waiting.push_front(job);
    }

    /// Takes note that tokens were read or generated for a key.
    pub(super) fn count(&mut self, key: u64, tokens: u64) {
        if let Some(served) = self.served.get_mut(&key) {
            *served += tokens;
        }
    }

    /// Forgets keys without any requests.
    pub(super) fn forget(&mut self, is_active: impl Fn(u64) -> bool) {
        let waiting: std::collections::HashSet<u64> = self.waiting.iter().map(|job| job.key).collect();
        self.served.retain(|&key, _| waiting.contains(&key) || is_active(key));
    }

    /// The positions of requests in the order in which they should be served: those whose turn had come before, then by
    /// what their key was served.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        // Stable: within a key the older one stays first.
        order.sort_by_key(|&i| {
            let job = &self.waiting[i];
            (!job.had_turn(), self.served.get(&job.key).copied().unwrap_or(0))
        });
        order
    }

    pub(super) fn get(&self, at: usize) -> &Job {
        &self.waiting[at]
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Job> {
        self.waiting.remove(at)
    }

    /// Drops those to whom nobody listens any more.
    pub(super) fn drop_gone(&mut self) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|job| !job.is_gone());
        before - self.waiting.len()
    }
}
