//! One ledger for many caches: whatever they do, no byte is taken that it does not have, and none is forgotten.

mod common;

use chelsea_kv::policy::Needs;
use chelsea_kv::snapshot::{self, SnapshotInfo};
use chelsea_kv::{Budget, CacheConfig, CacheError, Dtype, Page, Pool, SequenceCache};
use common::mixed::{Random, entries, feed, mixed, state};
use common::{policy, registry};
use proptest::prelude::*;
use std::collections::HashSet;
use std::path::PathBuf;

/// Tokens after which a sequence ends.
const LONGEST: usize = 900;

/// Settings that a sequence may have, drawn at random; a few of them make no cache.
fn config(random: &mut Random, pool: &Pool) -> CacheConfig {
    let (policy, budget) = policy_and_budget(random);
    CacheConfig {
        dtype: Dtype::ALL[random.below(Dtype::ALL.len())],
        sinks: 3,
        window: 10,
        policy,
        budget,
        decode_block: 16,
        pool: pool.clone(),
        ..CacheConfig::new(mixed())
    }
}

fn policy_and_budget(random: &mut Random) -> (std::sync::Arc<dyn chelsea_kv::Policy>, Budget) {
    // Those that keep statistics of queries or entries come up more often.
    let names = ["chelsea", "h2o", "kvzip", "snapkv", "expected-attention"];
    let all: Vec<&str> = registry().into_iter().map(|info| info.name).collect();
    let name = if random.below(2) == 0 { names[random.below(names.len())] } else { all[random.below(all.len())] };
    let budgets = [
        Budget::EntryFraction(1.0),
        Budget::EntryFraction(0.2),
        Budget::EntryFraction(0.5),
        Budget::Entries(90),
        Budget::Bytes(200_000),
        Budget::ByteFraction(0.4),
    ];
    let budget = if name == "full" { Budget::EntryFraction(1.0) } else { budgets[random.below(budgets.len())] };
    (policy(name).or_else(|_| policy("chelsea")).expect("registered"), budget)
}

/// Several sequences that share a pool.
struct Fleet {
    pool: Pool,
    limit: usize,
    random: Random,
    caches: Vec<(SequenceCache, u64)>,
    most: usize,
    /// Operations that were refused for want of room, and those that were done.
    refused: usize,
    done: usize,
    folder: PathBuf,
    files: usize,
}

impl Fleet {
    fn new(seed: u64, limit: usize, most: usize, folder: PathBuf) -> Self {
        let pool = Pool::with_limit(limit);
        let (caches, random) = (Vec::new(), Random(seed));
        Fleet { pool, limit, random, caches, most, refused: 0, done: 0, folder, files: 0 }
    }

    /// Bytes that the caches say they hold, pages that several hold once.
    fn held(&self) -> usize {
        let mut seen = HashSet::new();
        let mut twice = 0;
        for (cache, _) in &self.caches {
            for page in cache.heads().iter().flat_map(|head| head.pages()) {
                if !seen.insert(page.counts().as_ptr()) {
                    twice += Page::bytes(page.dims(), cache.config().dtype);
                }
            }
        }
        self.caches.iter().map(|(cache, _)| cache.memory().total()).sum::<usize>() - twice
    }

    fn check(&self, what: &str) {
        let (live, mapped, held) = (self.pool.live(), self.pool.mapped(), self.held());
        assert!(live <= self.limit, "{what}: {live} of {}", self.limit);
        assert_eq!(live + mapped, held, "{what}: the ledger and what caches hold");
        assert_eq!(self.pool.scratch(), 0, "{what}: nothing is compacted now");
    }

    /// Has one cache do something that the pool may refuse; it must be as it was then.
    fn try_on(&mut self, i: usize, act: impl FnOnce(&mut SequenceCache, u64, &mut Random) -> Result<(), CacheError>) {
        let near = self.pool.free() < self.limit / 2;
        let before = near.then(|| state(&self.caches[i].0));
        let (cache, text) = &mut self.caches[i];
        match act(cache, *text, &mut self.random) {
            Ok(()) => self.done += 1,
            Err(CacheError::Pool(full)) => {
                self.refused += 1;
                assert!(full.live.saturating_add(full.needed) > full.limit, "{full}");
                if let Some(before) = before {
                    assert!(state(cache) == before, "what is refused changes nothing");
                }
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn drop_one(&mut self) {
        if !self.caches.is_empty() {
            let i = self.random.below(self.caches.len());
            self.caches.swap_remove(i);
        }
    }

    fn read(&mut self, i: usize) {
        let n = [1, 1, 3, 17, 64, 130][self.random.below(6)];
        if self.caches[i].0.tokens() + n > LONGEST {
            self.caches.swap_remove(i);
            return;
        }
        // Without a reservation the pool may refuse a layer half-way, which only dropping the sequence ends.
        if self.random.below(4) == 0 {
            let (cache, text) = &mut self.caches[i];
            match feed(cache, n, *text) {
                Ok(_) => self.done += 1,
                Err(CacheError::Pool(_)) => {
                    self.refused += 1;
                    self.caches.swap_remove(i);
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        } else {
            let ahead = n + self.random.below(2) * 70;
            let limit = self.limit;
            self.try_on(i, |cache, text, _| {
                cache.reserve(ahead)?;
                assert!(cache.config().pool.live() <= limit);
                feed(cache, n, text).expect("room was reserved");
                Ok(())
            });
        }
        if self.random.below(4) > 0 {
            self.check("read");
            self.try_on(i, |cache, _, random| match random.below(3) {
                0 => cache.compact_at_end().map(|_| ()),
                _ => cache.compact().map(|_| ()),
            });
        }
    }

    /// Compresses now, after a second pass where the policy needs one.
    fn compress(&mut self, i: usize) {
        let (cache, text) = &self.caches[i];
        if cache.config().policy.needs().repetition.is_some() {
            let found = cache.fork().and_then(|mut fork| {
                fork.watch(0..fork.tokens());
                feed(&mut fork, 20, text ^ 5)?;
                Ok(fork.watched().expect("it was watched"))
            });
            match found {
                Ok(found) => self.caches[i].0.set_importance(found).expect("made of this cache"),
                Err(CacheError::Pool(_)) => return self.refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        self.try_on(i, |cache, _, _| cache.compact_now(None).map(|_| ()));
    }

    fn rewind(&mut self, i: usize) {
        let cache = &self.caches[i].0;
        let (exact, tokens) = (cache.exact_from(), cache.tokens());
        let back = self.random.below(tokens + 1);
        let back = if self.random.below(3) == 0 { back } else { back.min(tokens - exact) };
        self.try_on(i, |cache, _, _| match cache.rewind(back) {
            Err(CacheError::Rewind { .. }) => {
                assert!(back > tokens - exact, "{back} of {tokens}, exact from {exact}");
                assert_eq!(cache.tokens(), tokens);
                Ok(())
            }
            Ok(()) => {
                assert!(back <= tokens - exact && cache.tokens() == tokens - back);
                Ok(())
            }
            refused => refused,
        });
    }

    /// Saves a cache and loads it again, as a second one.
    fn load(&mut self, i: usize) {
        let (cache, text) = &self.caches[i];
        let (bytes, text) = (state(cache), *text);
        let loaded = if self.random.below(2) == 0 {
            snapshot::parse(&bytes).expect("a snapshot").cache_in(self.pool.clone(), None)
        } else {
            self.files += 1;
            let path = self.folder.join(format!("{}", self.files));
            let info = SnapshotInfo { tokens: vec![7; cache.tokens()], ..SnapshotInfo::default() };
            snapshot::save(&path, cache, &info).expect("a file");
            let loaded = snapshot::load_in(self.pool.clone(), &path, None, None);
            std::fs::remove_file(&path).expect("it was there");
            loaded
        };
        match loaded {
            Ok((cache, _)) => {
                // Statistics that only `gather` asked for end with the cache that gathered them.
                for (head, saved) in cache.heads().iter().zip(self.caches[i].0.heads().iter()) {
                    assert!(entries(head) == entries(saved));
                }
                self.done += 1;
                self.caches.push((cache, text));
            }
            Err(snapshot::SnapshotError::Cache(CacheError::Pool(_))) => self.refused += 1,
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self) {
        let what = self.random.below(16);
        if self.caches.len() < 2 || (what == 0 && self.caches.len() < self.most) {
            let text = self.random.bits();
            let config = config(&mut self.random, &self.pool);
            match SequenceCache::new(config) {
                Ok(cache) => self.caches.push((cache, text)),
                Err(CacheError::Pool(_)) => {
                    self.refused += 1;
                    self.drop_one();
                }
                Err(CacheError::Budget(_) | CacheError::NothingToGive(_)) => {}
                Err(error) => panic!("{error}"),
            }
            return self.check("a new cache");
        }
        let i = self.random.below(self.caches.len());
        match what {
            1 | 2 if self.caches.len() < self.most => {
                let (cache, text) = &self.caches[i];
                match cache.fork() {
                    Ok(fork) => self.caches.push((fork, *text ^ 1)),
                    Err(CacheError::Pool(_)) => self.refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            3 => self.drop_one(),
            4 | 5 => self.rewind(i),
            6 => {
                let before = self.caches[i].0.config().clone();
                let (policy, budget) = policy_and_budget(&mut self.random);
                self.try_on(i, |cache, _, _| match cache.reconfigure(policy, budget) {
                    Err(CacheError::Budget(_) | CacheError::NothingToGive(_)) => {
                        assert_eq!(cache.config().budget, before.budget);
                        Ok(())
                    }
                    other => other,
                });
            }
            7 => self.try_on(i, |cache, _, random| {
                let recent_queries = random.below(2) * 8;
                let attention_mass = random.below(2) == 0;
                let needs = Needs { recent_queries, attention_mass, ..Needs::default() };
                cache.gather(needs)
            }),
            8 if self.caches.len() < self.most => self.load(i),
            9 => self.compress(i),
            10 => self.try_on(i, |cache, _, random| cache.reserve(random.below(200))),
            _ => self.read(i),
        }
        if what == 10 {
            // What is reserved and not yet used is held by no cache: it is returned with the next tokens.
            assert!(self.pool.live() <= self.limit && self.pool.live() + self.pool.mapped() >= self.held());
            self.try_on(i, |cache, _, _| cache.rewind(0));
        }
        self.check(&format!("operation {what}"));
    }

    fn end(mut self) {
        while !self.caches.is_empty() {
            self.drop_one();
            self.check("dropped");
        }
        assert_eq!((self.pool.live(), self.pool.scratch(), self.pool.mapped()), (0, 0, 0));
        assert!(self.pool.peak() <= self.limit);
        assert!(self.done > 0, "{} refused", self.refused);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn ten_sequences_in_one_pool_never_exceed_it_and_leave_nothing(seed: u64, kib in 150usize..900) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fleet = Fleet::new(seed, kib << 10, 10, folder.path().to_owned());
        for _ in 0..250 {
            fleet.step();
        }
        fleet.end();
    }
}

/// Minutes: run by hand, or at night.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_operations_in_one_pool() {
    for (seed, limit) in [(1, 400 << 10), (2, 700 << 10), (3, 64 << 20)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fleet = Fleet::new(seed, limit, 10, folder.path().to_owned());
        for _ in 0..10_000 {
            fleet.step();
        }
        println!("limit {limit}: peak {}, {} done, {} refused", fleet.pool.peak(), fleet.done, fleet.refused);
        fleet.end();
    }
}

#[test]
fn threads_that_compact_at_once_share_the_room() {
    let pool = Pool::with_limit(500 << 10);
    let base =
        CacheConfig { pool: pool.clone(), window: 10, budget: Budget::EntryFraction(0.3), ..CacheConfig::new(mixed()) };
    let mut origin = SequenceCache::new(base).expect("room");
    feed(&mut origin, 200, 3).expect("room");
    let refused: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let (mut fork, pool) = (origin.fork().expect("room"), &pool);
                scope.spawn(move || {
                    let mut refused = 0;
                    for round in 0..60 {
                        let n = 1 + (round * 7 + t * 13) % 90;
                        match fork.reserve(n) {
                            Ok(()) => {
                                feed(&mut fork, n, 3).expect("room was reserved");
                            }
                            Err(CacheError::Pool(_)) => refused += 1,
                            Err(error) => panic!("{error}"),
                        }
                        match fork.compact() {
                            Ok(_) => {}
                            Err(CacheError::Pool(_)) => refused += 1,
                            Err(error) => panic!("{error}"),
                        }
                        assert!(pool.live() <= 500 << 10);
                    }
                    refused
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert!(refused > 0, "the pool was never full");
    assert_eq!(pool.live(), origin.memory().total());
    assert_eq!(pool.scratch(), 0);
    drop(origin);
    assert_eq!(pool.live(), 0);
    assert!(pool.peak() <= 500 << 10);
}

/// A cache that was refused room goes on as one that never was.
#[test]
fn what_was_refused_and_is_done_later_comes_out_the_same() {
    for info in registry().into_iter().filter(|info| !info.one_shot_only && info.name != "full") {
        let of = |pool: &Pool| CacheConfig {
            pool: pool.clone(),
            window: 10,
            decode_block: 8,
            budget: Budget::EntryFraction(0.3),
            policy: policy(info.name).expect("registered"),
            ..CacheConfig::new(mixed())
        };
        let (pool, limit) = (Pool::unlimited(), Pool::with_limit(900 << 10));
        let mut twin = SequenceCache::new(of(&pool)).expect("room");
        let mut cache = SequenceCache::new(of(&limit)).expect("room");
        let mut refused = 0;
        for round in 0..8 {
            let n = 30 + round;
            feed(&mut twin, n, 9).expect("room");
            cache.reserve(n).expect("room");
            feed(&mut cache, n, 9).expect("room");
            // Others take everything but a few bytes, and end again.
            let mut others = Vec::new();
            for tokens in (0..14).rev().map(|bit| 1 << bit) {
                let Ok(mut other) = SequenceCache::new(of(&limit)) else { break };
                if other.reserve(tokens).is_ok() {
                    others.push(other);
                }
            }
            let before = state(&cache);
            match cache.compact() {
                Ok(_) => {}
                Err(CacheError::Pool(_)) => {
                    refused += 1;
                    assert!(state(&cache) == before, "{}", info.name);
                }
                Err(error) => panic!("{error}"),
            }
            drop(others);
            cache.compact().expect("room");
            twin.compact().expect("room");
            assert!(state(&cache) == state(&twin), "{}, round {round}", info.name);
        }
        println!("{}: refused {refused}", info.name);
        drop(cache);
        assert_eq!(limit.live(), 0);
    }
}
