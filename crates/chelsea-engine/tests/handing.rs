//! Caches that come from elsewhere with a request, and those that are handed to others.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::{Event, Handed, Listener, Request};
use chelsea_engine::{Scheduler, SchedulerOptions, Sequence, SessionOptions};
use chelsea_kv::{Pool, snapshot};
use std::sync::{Arc, Mutex};
use support::serving::{Ear, alone, prompt, request, run, scheduler, steps, with_pool};

/// Listens, and takes the cache.
#[derive(Clone, Default)]
struct Taker {
    ear: Ear,
    taken: Arc<Mutex<Option<Handed>>>,
}

impl Listener for Taker {
    fn hear(&mut self, event: Event) {
        self.ear.hear(event);
    }

    fn is_gone(&self) -> bool {
        self.ear.is_gone()
    }

    fn takes_cache(&self) -> bool {
        true
    }

    fn take_cache(&mut self, handed: Handed) {
        *self.taken.lock().unwrap() = Some(handed);
    }
}

fn taking(pieces: &[Vec<u32>], answer: usize, taker: &Taker) -> Request {
    Request { listener: Box::new(taker.clone()), ..request(pieces, answer, 9, &Ear::default()) }
}

/// What another scheduler makes of a prompt, in memory of this one.
fn read_elsewhere(pieces: &[Vec<u32>], here: &Scheduler) -> Sequence {
    let taker = Taker::default();
    let mut elsewhere = scheduler(SchedulerOptions::default());
    elsewhere.submit(taking(pieces, 1, &taker));
    run(&mut elsewhere);
    let handed = taker.taken.lock().unwrap().take().unwrap();
    let theirs = handed.sequence().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.kv");
    let model = here.model().clone();
    let info =
        snapshot::SnapshotInfo { fingerprint: model.fingerprint(), tokens: pieces.concat(), note: String::new() };
    snapshot::save(&path, theirs.cache(), &info).unwrap();
    let session = SessionOptions { pool: here.pool().clone(), ..request(pieces, 1, 9, &Ear::default()).session };
    let (cache, info) = snapshot::read_in(here.pool().clone(), &path, None, Some(session.policy.clone())).unwrap();
    let sequence = Sequence::with_cache(model, &session, cache, info.tokens).unwrap();
    sequence.with_logits(theirs.logits().to_vec()).unwrap()
}

#[test]
fn what_came_with_a_request_is_kept_for_its_turn_even_without_checkpoints() {
    let options = SchedulerOptions { checkpoints: 0, running: 1, ..SchedulerOptions::default() };
    let mut scheduler = scheduler(options);
    let pieces = [support::tokens(300, 1), support::tokens(90, 2)];
    let given = read_elsewhere(&pieces, &scheduler);
    let (first, second) = (Ear::default(), Ear::default());
    scheduler.submit(request(&prompt(7, 400), 200, 1, &first));
    steps(&mut scheduler, 3);
    scheduler.submit_with(request(&pieces, 40, 9, &second), given);
    run(&mut scheduler);
    assert_eq!(second.cached(), 390);
    assert_eq!(second.tokens(), alone(&pieces, 40, 9));
    assert_eq!(first.tokens(), alone(&prompt(7, 400), 200, 1));
    assert_eq!(scheduler.stats().kv_bytes, 0);
}

#[test]
fn nothing_is_kept_of_what_came_with_a_request_that_is_refused_or_that_it_does_not_fit() {
    let mut scheduler = scheduler(SchedulerOptions::default());
    let pieces = [support::tokens(300, 1), support::tokens(90, 2)];
    let ear = Ear::default();
    let other = read_elsewhere(&[support::tokens(390, 3)], &scheduler);
    scheduler.submit_with(request(&pieces, 5, 9, &ear), other);
    run(&mut scheduler);
    assert_eq!((ear.cached(), ear.tokens()), (0, alone(&pieces, 5, 9)));
    scheduler.flush();
    assert_eq!(scheduler.stats().kv_bytes, 0);
    let given = read_elsewhere(&pieces, &scheduler);
    assert!(scheduler.stats().kv_bytes > 0);
    scheduler.drain();
    assert!(scheduler.admits(&request(&pieces, 5, 9, &ear)).is_err());
    let refused = Ear::default();
    scheduler.submit_with(request(&pieces, 5, 9, &refused), given);
    assert!(refused.error().is_some());
    assert_eq!((scheduler.stats().kv_bytes, scheduler.stats().checkpoints), (0, 0));
}

#[test]
fn caches_that_came_make_room_before_anybody_fails_and_change_no_answer() {
    let pieces = |i: u32| vec![support::tokens(500, 20 + i)];
    // What one of them takes.
    let mut roomy = scheduler(SchedulerOptions { checkpoints: 0, ..with_pool(256 << 20) });
    let one = read_elsewhere(&pieces(0), &roomy);
    let bytes = roomy.stats().kv_bytes;
    drop(one);
    run(&mut roomy);
    let mut scheduler = scheduler(SchedulerOptions { running: 2, ..with_pool((8 * bytes).max(6 << 20)) });
    let ears: Vec<Ear> = (0..12).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        let i = i as u32;
        if scheduler.make_room_for(bytes) {
            let given = read_elsewhere(&pieces(i), &scheduler);
            scheduler.submit_with(request(&pieces(i), 150, 9, ear), given);
        } else {
            scheduler.submit(request(&pieces(i), 150, 9, ear));
        }
        steps(&mut scheduler, 2);
    }
    run(&mut scheduler);
    for (i, ear) in ears.iter().enumerate() {
        assert!(ear.is_done(), "request {i}: {:?}", ear.error());
        assert_eq!(ear.tokens(), alone(&pieces(i as u32), 150, 9), "request {i}");
    }
    assert!(ears.iter().any(|ear| ear.cached() == 500), "none was gone on from");
}

#[test]
fn what_was_handed_to_others_is_promised_to_nobody_until_it_is_dropped() {
    let text = prompt(3, 900);
    let taker = Taker::default();
    let mut roomy = scheduler(SchedulerOptions { checkpoints: 0, ..with_pool(256 << 20) });
    roomy.submit(taking(&text, 2, &taker));
    run(&mut roomy);
    let out = roomy.stats().kv_bytes;
    assert!(out > 0, "it is charged while somebody has it");
    let limit = roomy.pool().limit().unwrap();
    // As much as was promised to nobody else fits, and the same once more when it is dropped.
    let most = (0..limit).step_by(64 << 10).rev().find(|&bytes| roomy.make_room_for(bytes)).unwrap();
    taker.taken.lock().unwrap().take();
    assert!(roomy.make_room_for(most + out / 2), "{most} and {out}");
    assert_eq!(roomy.stats().kv_bytes, 0);
}

#[test]
fn the_last_request_waits_for_memory_that_was_handed_out_instead_of_failing() {
    let text = prompt(3, 700);
    // As small a pool as takes the request alone.
    let fits = |bytes: usize| {
        let mut scheduler = scheduler(SchedulerOptions {
            checkpoints: 0,
            pool: Pool::with_limit(bytes),
            ..SchedulerOptions::default()
        });
        let ear = Ear::default();
        scheduler.submit(request(&text, 400, 9, &ear));
        ear.error().is_none()
    };
    let bytes = (1..4096).map(|n| n * (64 << 10)).find(|&bytes| fits(bytes)).unwrap();
    let options = SchedulerOptions { checkpoints: 0, pool: Pool::with_limit(bytes), ..SchedulerOptions::default() };
    let mut scheduler = scheduler(options);
    let taker = Taker::default();
    scheduler.submit(taking(&text, 400, &taker));
    let taken = taker.taken.clone();
    let writer = std::thread::spawn(move || {
        // Whoever writes it takes a while.
        let start = std::time::Instant::now();
        while taken.lock().unwrap().is_none() {
            // On an emulated device it takes minutes until there is something to write.
            assert!(start.elapsed().as_secs() < 1800);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        taken.lock().unwrap().take();
    });
    run(&mut scheduler);
    writer.join().unwrap();
    assert!(taker.ear.is_done(), "{:?}", taker.ear.error());
    assert_eq!(taker.ear.tokens(), alone(&text, 400, 9));
}
