//! Many requests at once: answers do not depend on each other, memory stays within its limit and comes back.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::{DiskOptions, Request, RequestError};
use chelsea_engine::{Sampling, Scheduler, SchedulerOptions, SessionOptions};
use chelsea_kv::{Budget, Pool};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::serving::{Ear, alone, alone_as, prompt, request, run, scheduler, steps, with_pool};

#[test]
fn answers_do_not_depend_on_who_else_is_served() {
    let mut scheduler = scheduler(SchedulerOptions::default());
    let ears: Vec<Ear> = (0..12).map(|_| Ear::default()).collect();
    let asked = |i: usize| (prompt(i as u32, 40 + 130 * (i % 5)), 20 + 17 * (i % 4), i as u64);
    for (i, ear) in ears.iter().enumerate() {
        let (pieces, answer, seed) = asked(i);
        scheduler.submit(request(&pieces, answer, seed, ear));
        // Some come while others are being served.
        steps(&mut scheduler, i % 4);
    }
    run(&mut scheduler);
    for (i, ear) in ears.iter().enumerate() {
        let (pieces, answer, seed) = asked(i);
        assert_eq!(ear.tokens(), alone(&pieces, answer, seed), "request {i}");
    }
    assert_eq!(scheduler.stats().finished, 12);
}

#[test]
fn a_checkpoint_gives_the_answer_that_reading_gives() {
    let mut scheduler = scheduler(SchedulerOptions::default());
    let first = [support::tokens(300, 1), support::tokens(90, 2)];
    let second = [first[0].clone(), first[1].clone(), support::tokens(70, 3)];
    let other = [first[0].clone(), support::tokens(120, 4)];
    for (pieces, cached) in [(&first[..], 0), (&second[..], 390), (&other[..], 300), (&first[..], 390)] {
        let ear = Ear::default();
        scheduler.submit(request(pieces, 40, 9, &ear));
        run(&mut scheduler);
        assert_eq!(ear.cached(), cached);
        assert_eq!(ear.tokens(), alone(pieces, 40, 9));
    }
    // The same tokens cut elsewhere were compressed elsewhere, and other settings have a shelf of their own.
    let ear = Ear::default();
    scheduler.submit(request(&[first.concat()], 5, 9, &ear));
    let key = Request { key: 7, ..request(&first, 5, 9, &ear) };
    scheduler.submit(key);
    run(&mut scheduler);
    assert_eq!(ear.cached(), 0);
    assert_eq!(scheduler.stats().cached_tokens, 390 + 300 + 390);
}

#[test]
fn checkpoints_in_files_outlive_the_server_and_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let with_disk = |bytes| {
        let disk = DiskOptions { folder: folder.path().to_owned(), bytes };
        scheduler(SchedulerOptions { disk: Some(disk), ..SchedulerOptions::default() })
    };
    let files = || {
        let all = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|ending| ending == "checkpoint")).collect::<Vec<_>>()
    };
    let document = [support::tokens(500, 1), support::tokens(90, 2)];
    let ask = |scheduler: &mut Scheduler, pieces: &[Vec<u32>]| {
        let ear = Ear::default();
        scheduler.submit(request(pieces, 40, 9, &ear));
        run(scheduler);
        assert_eq!(ear.tokens(), alone(pieces, 40, 9));
        ear.cached()
    };
    let mut first = with_disk(1 << 30);
    assert_eq!(ask(&mut first, &document), 0);
    drop(first);
    assert_eq!(files().len(), 2);
    // The whole prompt lies in a file without logits, so its last piece is read again.
    let mut second = with_disk(1 << 30);
    assert_eq!(ask(&mut second, &document), 500);
    let longer = [document[0].clone(), document[1].clone(), support::tokens(80, 3)];
    assert_eq!(ask(&mut second, &longer), 590);
    drop(second);
    // What is damaged is taken away and read again.
    for file in files() {
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }
    let mut third = with_disk(1 << 30);
    assert_eq!(ask(&mut third, &document), 0);
    drop(third);
    // Beyond the limit the one unused for longest goes.
    let sizes = || files().iter().map(|file| file.metadata().unwrap().len()).collect::<Vec<_>>();
    let limit = sizes().iter().max().unwrap() * 3 / 2;
    let mut fourth = with_disk(limit);
    ask(&mut fourth, &[support::tokens(400, 8)]);
    drop(fourth);
    let left = sizes();
    assert!(left.len() == 1 && left[0] <= limit, "{left:?} of {limit}");
}

#[test]
fn prompts_that_begin_alike_are_read_once() {
    let mut scheduler = scheduler(SchedulerOptions::default());
    let document = support::tokens(400, 1);
    let ears: Vec<Ear> = (0..5).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        scheduler.submit(request(&[document.clone(), support::tokens(30, 2 + i as u32)], 10, 3, ear));
    }
    run(&mut scheduler);
    assert_eq!(ears.iter().map(Ear::cached).collect::<Vec<_>>(), [0, 400, 400, 400, 400]);
    assert_eq!(scheduler.stats().prompt_tokens, 400 + 5 * 30);
}

#[test]
fn memory_stays_within_its_limit_and_comes_back() {
    // Room for about three of them, and for what a compaction takes meanwhile.
    let mut alone_bytes = 0;
    let mut one = scheduler(with_pool(64 << 20));
    one.submit(request(&prompt(1, 500), 60, 1, &Ear::default()));
    while one.step() {
        alone_bytes = alone_bytes.max(one.stats().kv_bytes);
    }
    let mut scheduler = scheduler(with_pool(3 * alone_bytes + (1 << 19)));
    let ears: Vec<Ear> = (0..10).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        scheduler.submit(request(&prompt(i as u32, 500), 60, i as u64, ear));
    }
    run(&mut scheduler);
    for (i, ear) in ears.iter().enumerate() {
        assert!(ear.is_done(), "{:?}", ear.error());
        assert_eq!(ear.tokens(), alone(&prompt(i as u32, 500), 60, i as u64), "request {i}");
    }
    scheduler.flush();
    assert_eq!(scheduler.stats().kv_bytes, 0);
}

#[test]
fn a_request_that_steps_aside_goes_on_with_the_same_answer() {
    // Answers that are much longer than what room is promised for.
    let options = SchedulerOptions { ahead: 1, checkpoints: 0, ..SchedulerOptions::default() };
    const REQUESTS: usize = 6;
    // Full caches grow the most.
    let asked = |i: usize, ear: &Ear| {
        let session = support::options(Budget::EntryFraction(1.0), "full");
        Request { session, ..request(&prompt(i as u32, 100), 900, i as u64, ear) }
    };
    for limit in [800, 1200, 1600, 2400].map(|kib| kib << 10) {
        let mut scheduler = scheduler(SchedulerOptions { pool: Pool::with_limit(limit), ..options.clone() });
        let ears: Vec<Ear> = (0..REQUESTS).map(|_| Ear::default()).collect();
        for (i, ear) in ears.iter().enumerate() {
            scheduler.submit(asked(i, ear));
        }
        run(&mut scheduler);
        // One that could not be served even alone ends with fewer tokens.
        let whole = |ear: &Ear| ear.tokens().len() == 900;
        if scheduler.stats().stepped_aside == 0 || !ears.iter().all(whole) {
            continue;
        }
        for (i, ear) in ears.iter().enumerate() {
            assert_eq!(ear.tokens(), alone_as(|ear| asked(i, ear)), "request {i} at {limit}");
        }
        return;
    }
    panic!("nobody had to step aside");
}

#[test]
fn whoever_leaves_frees_their_memory_before_the_next_step() {
    let mut scheduler = scheduler(SchedulerOptions { checkpoints: 0, ..with_pool(64 << 20) });
    let (stays, leaves) = (Ear::default(), Ear::default());
    scheduler.submit(request(&prompt(1, 300), 50, 1, &stays));
    scheduler.submit(request(&prompt(2, 300), 50, 2, &leaves));
    let waits = Ear::default();
    scheduler.submit(request(&prompt(3, 300), 50, 2, &waits));
    steps(&mut scheduler, 30);
    leaves.gone.store(true, Ordering::Relaxed);
    waits.gone.store(true, Ordering::Relaxed);
    run(&mut scheduler);
    assert_eq!(stays.tokens(), alone(&prompt(1, 300), 50, 1));
    assert!(!leaves.is_done() && !waits.is_done());
    assert_eq!((scheduler.stats().cancelled, scheduler.stats().kv_bytes), (2, 0));
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let mut scheduler = scheduler(SchedulerOptions { waiting: 1, ..with_pool(1 << 20) });
    let told = |scheduler: &mut Scheduler, request: Request, ear: &Ear| {
        scheduler.submit(request);
        ear.error().unwrap_or_default()
    };
    let ear = Ear::default();
    assert!(told(&mut scheduler, request(&[], 5, 0, &ear), &ear).contains("empty"));
    let context = scheduler.model().config().context_length;
    assert!(told(&mut scheduler, request(&prompt(1, context), 5, 0, &ear), &ear).contains(&context.to_string()));
    let full =
        SessionOptions { budget: Budget::EntryFraction(1.0), ..support::options(Budget::EntryFraction(1.0), "full") };
    let large = Request { session: full, ..request(&prompt(1, context - 10), 5, 0, &ear) };
    assert!(told(&mut scheduler, large, &ear).contains("bytes"));
    let bad = Sampling { top_p: 0.0, ..Sampling::default() };
    let mut wrong = request(&prompt(1, 10), 5, 0, &ear);
    wrong.generate.sampling = bad;
    assert!(told(&mut scheduler, wrong, &ear).contains("top-p"));
    let waits = Ear::default();
    scheduler.submit(request(&prompt(1, 10), 5, 0, &waits));
    assert!(told(&mut scheduler, request(&prompt(1, 10), 5, 0, &ear), &ear).contains("try again"));
    // Coming back later would not help this one.
    assert!(told(&mut scheduler, request(&prompt(1, context), 5, 0, &ear), &ear).contains(&context.to_string()));
    scheduler.drain();
    assert!(told(&mut scheduler, request(&prompt(1, 10), 5, 0, &ear), &ear).contains("ending"));
    run(&mut scheduler);
    assert!(waits.is_done());
}

#[test]
fn room_is_kept_for_every_thread_that_compacts() {
    // In a pool this small the threads' own memory is what is kept back, not a share of the pool.
    let limit = 1 << 20;
    let room = |aside| {
        let ear = Ear::default();
        let mut scheduler = scheduler(SchedulerOptions { aside, ..with_pool(limit) });
        let session = support::options(Budget::EntryFraction(1.0), "full");
        let context = scheduler.model().config().context_length;
        scheduler.submit(Request { session, ..request(&prompt(1, context - 10), 5, 0, &ear) });
        match ear.told.lock().unwrap().error {
            Some(RequestError::Memory { limit, .. }) => limit,
            ref error => panic!("it fits: {error:?}"),
        }
    };
    // Two threads compute, and beside them one compacts.
    let (kept, kept_aside) = (limit - room(false), limit - room(true));
    assert!(kept > limit / 16, "{kept}");
    assert_eq!(kept_aside, kept / 2 * 3);
}

#[test]
fn turns_are_shared_out_among_keys() {
    let mut scheduler = scheduler(SchedulerOptions { running: 1, ..SchedulerOptions::default() });
    let many: Vec<Ear> = (0..6).map(|_| Ear::default()).collect();
    for (i, ear) in many.iter().enumerate() {
        scheduler.submit(Request { key: 1, ..request(&prompt(i as u32, 100), 20, 1, ear) });
    }
    steps(&mut scheduler, 20);
    let one = Ear::default();
    scheduler.submit(Request { key: 2, ..request(&prompt(9, 100), 20, 1, &one) });
    while !one.is_done() {
        scheduler.step();
    }
    let before = many.iter().filter(|ear| ear.is_done()).count();
    assert!(before <= 2, "{before} requests of one key came before the only one of another");
    run(&mut scheduler);
}

#[test]
fn keys_are_served_equally_many_tokens_however_they_ask() {
    let mut scheduler = scheduler(SchedulerOptions { running: 1, ..SchedulerOptions::default() });
    // Tokens of each request, prompt and answer together.
    const LONG: usize = 100 + 120;
    const SHORT: usize = 40 + 15;
    let long: Vec<Ear> = (0..6).map(|_| Ear::default()).collect();
    let short: Vec<Ear> = (0..24).map(|_| Ear::default()).collect();
    for (i, ear) in long.iter().enumerate() {
        scheduler.submit(Request { key: 1, ..request(&prompt(i as u32, 100), 120, 1, ear) });
    }
    for (i, ear) in short.iter().enumerate() {
        scheduler.submit(Request { key: 2, ..request(&prompt(50 + i as u32, 40), 15, 1, ear) });
    }
    let done = |ears: &[Ear]| ears.iter().filter(|ear| ear.is_done()).count();
    for requests in 1..=5 {
        while done(&long) < requests {
            scheduler.step();
        }
        let (of_one, of_two) = (requests * LONG, done(&short) * SHORT);
        assert!(of_two + LONG + SHORT >= of_one && of_two <= of_one + SHORT, "{of_one} tokens and {of_two}");
    }
    run(&mut scheduler);
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let mut scheduler = scheduler(SchedulerOptions::default());
    let (long, short) = (Ear::default(), Ear::default());
    scheduler.submit(request(&prompt(1, 1500), 5, 1, &long));
    steps(&mut scheduler, 3);
    scheduler.submit(request(&prompt(2, 48), 5, 1, &short));
    let mut steps = 0;
    while short.tokens().is_empty() {
        scheduler.step();
        steps += 1;
    }
    assert!(steps <= 5, "{steps} steps for three chunks");
    run(&mut scheduler);
    assert_eq!(long.tokens(), alone(&prompt(1, 1500), 5, 1));
}

#[test]
fn those_who_watch_are_told_what_their_cache_holds_and_nobody_else_is() {
    let mut scheduler = scheduler(with_pool(64 << 20));
    let (watching, other) = (Ear { watches: Some(Duration::ZERO), ..Ear::default() }, Ear::default());
    let seldom = Ear { watches: Some(Duration::from_secs(3600)), ..Ear::default() };
    let prompt: Vec<u32> = (0..700).map(|i| i * 7 % 250).collect();
    for (seed, ear) in (0..).zip([&watching, &other, &seldom]) {
        scheduler.submit(request(std::slice::from_ref(&prompt), 20, seed, ear));
    }
    run(&mut scheduler);
    let told = watching.told.lock().unwrap();
    let outcome = told.outcome.as_ref().unwrap();
    assert!(told.held.len() > 20, "{}", told.held.len());
    for held in &told.held {
        let counted = held.layout.iter().map(|head| head.sinks + head.clustered.iter().sum::<usize>() + head.recent);
        assert_eq!(counted.sum::<usize>(), held.entries);
    }
    let last = told.held.last().unwrap();
    assert_eq!((last.tokens, last.entries, last.bytes), (outcome.kv_tokens, outcome.kv_entries, outcome.kv_bytes));
    assert_eq!(Some(&last.layout), outcome.layout.as_ref());
    assert!(last.layout.iter().any(|head| head.clustered[1..].iter().sum::<usize>() > 0), "something was clustered");
    let other = other.told.lock().unwrap();
    assert!(other.held.is_empty() && other.outcome.as_ref().unwrap().layout.is_none());
    assert_eq!(seldom.told.lock().unwrap().held.len(), 1);
}

#[test]
fn answers_go_on_while_the_cache_of_a_prompt_is_compacted() {
    let mut scheduler = scheduler(with_pool(64 << 20));
    let (running, reading, after) = (Ear::default(), Ear::default(), Ear::default());
    scheduler.submit(request(&prompt(1, 40), 600, 1, &running));
    while running.tokens().is_empty() {
        scheduler.step();
    }
    scheduler.submit(request(&prompt(2, 3000), 5, 2, &reading));
    scheduler.submit(request(&prompt(3, 3000), 5, 3, &after));
    run(&mut scheduler);
    let stats = scheduler.stats();
    assert!(stats.compactions_aside >= 2, "{stats:?}");
    assert!(stats.compactions >= stats.compactions_aside, "{stats:?}");
    assert_eq!(running.tokens(), alone(&prompt(1, 40), 600, 1));
    assert_eq!(reading.tokens(), alone(&prompt(2, 3000), 5, 2));
    assert_eq!(after.tokens(), alone(&prompt(3, 3000), 5, 3));
    assert_eq!(stats.running + stats.reading + stats.waiting, 0);
}
