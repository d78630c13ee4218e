//! When memory runs short: caches are parked in files, squeezed where their requests allow it, and no answer changes that
//! was not allowed to.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::{DiskOptions, Request};
use chelsea_engine::{Scheduler, SchedulerOptions, SchedulerStats, SessionOptions};
use chelsea_kv::{Budget, Pool};
use std::path::Path;
use std::sync::atomic::Ordering;
use support::serving::{Ear, alone_as, prompt, request, run, scheduler};

/// Tokens of an answer that is much longer than what room is promised for.
const ANSWER: usize = 900;

/// Full caches grow the most.
fn asked(i: usize, ear: &Ear) -> Request {
    let session = support::options(Budget::EntryFraction(1.0), "full");
    Request { session, ..request(&prompt(i as u32, 100), ANSWER, i as u64, ear) }
}

/// Requests whose caches are clustered, so that what a compaction finds out must survive being parked. Their prompts are too
/// short to be kept in files, which are written when there is time: memory does not hang on that.
fn clustered(i: usize, ear: &Ear) -> Request {
    let mut request = request(&prompt(i as u32, 200), ANSWER, i as u64, ear);
    request.session.budget = Budget::EntryFraction(0.5);
    request
}

fn in_folder(limit: usize, folder: &Path, bytes: u64) -> SchedulerOptions {
    let disk = DiskOptions { folder: folder.to_owned(), bytes };
    let pool = Pool::with_limit(limit);
    SchedulerOptions { pool, ahead: 1, checkpoints: 0, aside: false, disk: Some(disk), ..SchedulerOptions::default() }
}

/// The bytes that one request takes at most when it is served alone.
fn alone_bytes(asked: impl Fn(&Ear) -> Request) -> usize {
    let mut most = 0;
    let pool = Pool::with_limit(1 << 30);
    let mut scheduler = scheduler(SchedulerOptions { pool, checkpoints: 0, ..SchedulerOptions::default() });
    scheduler.submit(asked(&Ear::default()));
    while scheduler.step() {
        most = most.max(scheduler.stats().kv_bytes);
    }
    most
}

/// Room for one and a half requests, and for what a compaction takes meanwhile.
fn tight(asked: impl Fn(usize, &Ear) -> Request) -> usize {
    alone_bytes(|ear| asked(0, ear)) * 3 / 2 + (300 << 10)
}

/// Serves four requests at once, in what one and a half of them take. Returns what was told, and what was done.
fn serve_four(
    asked: impl Fn(usize, &Ear) -> Request,
    options: impl Fn(usize) -> SchedulerOptions,
) -> (Scheduler, Vec<Ear>) {
    let mut scheduler = scheduler(options(tight(&asked)));
    let ears: Vec<Ear> = (0..4).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        scheduler.submit(asked(i, ear));
    }
    run(&mut scheduler);
    (scheduler, ears)
}

fn parked_files(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|ending| ending == "parked")).count()
}

fn assert_answers_as_alone(ears: &[Ear], asked: impl Fn(usize, &Ear) -> Request) {
    for (i, ear) in ears.iter().enumerate() {
        assert!(ear.is_done(), "request {i}: {:?}", ear.error());
        assert_eq!(ear.tokens(), alone_as(|ear| asked(i, ear)), "request {i}");
    }
}

#[test]
fn parked_requests_lose_no_work_and_change_no_answer() {
    for asked in [asked, clustered] {
        let folder = tempfile::tempdir().unwrap();
        let (scheduler, ears) = serve_four(asked, |limit| in_folder(limit, folder.path(), 1 << 30));
        let stats = scheduler.stats();
        assert!(stats.parks > 0 && stats.stepped_aside == 0, "{stats:?}");
        assert_answers_as_alone(&ears, asked);
        // Every token was generated once, and nothing is left in memory or in the folder.
        assert_eq!((stats.generated_tokens, stats.kv_bytes, stats.parked), (4 * ANSWER as u64, 0, 0));
        assert_eq!(parked_files(folder.path()), 0);
    }
}

#[test]
fn where_the_folder_has_no_room_requests_step_aside_with_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (scheduler, ears) = serve_four(asked, |limit| in_folder(limit, folder.path(), 1 << 10));
    let stats = scheduler.stats();
    assert!(stats.parks == 0 && stats.stepped_aside > 0, "{stats:?}");
    assert_answers_as_alone(&ears, asked);
}

/// Steps until a request is parked.
fn until_parked(scheduler: &mut Scheduler) -> SchedulerStats {
    while scheduler.stats().parked == 0 {
        assert!(scheduler.step(), "nobody was parked: {:?}", scheduler.stats());
    }
    scheduler.stats()
}

/// Four requests, until one of them lies in the folder.
fn four_of_which_one_is_parked(folder: &Path) -> (Scheduler, Vec<Ear>) {
    let mut scheduler = scheduler(in_folder(tight(asked), folder, 1 << 30));
    let ears: Vec<Ear> = (0..4).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        scheduler.submit(asked(i, ear));
    }
    until_parked(&mut scheduler);
    (scheduler, ears)
}

#[test]
fn whoever_leaves_while_parked_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (mut scheduler, ears) = four_of_which_one_is_parked(folder.path());
    assert_eq!(parked_files(folder.path()), 1);
    ears.iter().for_each(|ear| ear.gone.store(true, Ordering::Relaxed));
    run(&mut scheduler);
    assert_eq!((parked_files(folder.path()), scheduler.stats().cancelled, scheduler.stats().kv_bytes), (0, 4, 0));
}

#[test]
fn a_parked_file_that_is_lost_costs_time_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut scheduler, ears) = four_of_which_one_is_parked(folder.path());
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "parked") {
            std::fs::write(path, "nothing").unwrap();
        }
    }
    run(&mut scheduler);
    assert!(scheduler.stats().stepped_aside > 0);
    assert_answers_as_alone(&ears, asked);
}

#[test]
fn nobody_new_enters_before_those_that_made_room() {
    let folder = tempfile::tempdir().unwrap();
    let (mut scheduler, _ears) = four_of_which_one_is_parked(folder.path());
    // Small enough to fit beside the one that runs.
    let late = Ear::default();
    scheduler.submit(request(&prompt(9, 70), 2, 9, &late));
    while scheduler.stats().parked > 0 {
        assert!(late.tokens().is_empty() && late.told.lock().unwrap().cached.is_none(), "it entered first");
        scheduler.step();
    }
    run(&mut scheduler);
    assert!(late.is_done());
}

#[test]
fn a_folder_belongs_to_one_server_and_what_a_killed_one_parked_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("00000003.parked"), "left behind").unwrap();
    let first = scheduler(in_folder(1 << 20, folder.path(), 1 << 30));
    assert_eq!(parked_files(folder.path()), 0);
    let words = r#"{ "decoder": { "type": "ByteLevel" }, "model": { "vocab": { "a": 0 }, "merges": [] } }"#;
    let tokenizer = chelsea_model::tokenizer::Tokenizer::from_json(words, None, None).unwrap();
    let second = Scheduler::new(
        first.model().clone(),
        tokenizer.into(),
        support::pool(1),
        in_folder(1 << 20, folder.path(), 1 << 30),
    );
    assert!(second.err().unwrap().to_string().contains("another server"));
    drop(first);
    scheduler(in_folder(1 << 20, folder.path(), 1 << 30));
}

/// Serves a prompt that is scored beside answers that outgrow what was promised for them. Returns the scores, and whether it
/// made room for them in the middle of its prompt.
fn score_beside_growing(scored: impl Fn(&Ear) -> Request, options: SchedulerOptions) -> (Ear, bool, SchedulerStats) {
    let mut scheduler = scheduler(options);
    for i in 0..4 {
        scheduler.submit(asked(i, &Ear::default()));
    }
    while scheduler.stats().generated_tokens == 0 {
        assert!(scheduler.step(), "{:?}", scheduler.stats());
    }
    let (ear, mut made_room) = (Ear::default(), false);
    scheduler.submit(scored(&ear));
    let times = |stats: SchedulerStats| stats.parks + stats.stepped_aside;
    loop {
        let before = times(scheduler.stats());
        let goes_on = scheduler.step();
        let (read, all) = ear.told.lock().unwrap().read;
        // Those that read are the first to make room.
        made_room |= times(scheduler.stats()) > before && 0 < read && read < all;
        if !goes_on {
            return (ear, made_room, scheduler.stats());
        }
    }
}

#[test]
fn a_prompt_that_made_room_in_the_middle_has_the_same_scores() {
    for (share, policy) in [(1.0, "full"), (0.5, "chelsea")] {
        let scored = |ear: &Ear| {
            let session = support::options(Budget::EntryFraction(share), policy);
            // So slowly that the others grow by several blocks meanwhile.
            let session = SessionOptions { step: Some(2), ..session };
            Request { session, prompt_logprobs: Some(2), ..request(&prompt(9, 900), 3, 9, ear) }
        };
        let (alone, mut single) = (Ear::default(), scheduler(SchedulerOptions::default()));
        single.submit(scored(&alone));
        run(&mut single);
        let expected = std::mem::take(&mut alone.told.lock().unwrap().scores);
        assert_eq!((expected.len(), expected[0].len()), (1, 899));
        // In a file, or given up and made again.
        for bytes in [1 << 30, 1 << 10] {
            let (mut in_the_middle, needed) = (0, alone_bytes(scored));
            let others = alone_bytes(|ear| asked(0, ear));
            // Enough to let it in beside answers that begin, and not for all that they grow to.
            for quarters in 3..=6 {
                let folder = tempfile::tempdir().unwrap();
                let limit = needed + others * quarters / 4 + (300 << 10);
                let (ear, made_room, stats) = score_beside_growing(scored, in_folder(limit, folder.path(), bytes));
                assert!(ear.is_done(), "{:?}", ear.error());
                assert!(ear.told.lock().unwrap().scores == expected, "{policy}, {quarters}: {stats:?}");
                assert_eq!((ear.tokens(), parked_files(folder.path())), (alone.tokens(), 0));
                assert!(if bytes > 1 << 20 { stats.stepped_aside == 0 } else { stats.parks == 0 }, "{stats:?}");
                in_the_middle += usize::from(made_room);
            }
            assert!(in_the_middle > 0, "{policy}, {bytes}: it never made room while it was read");
        }
    }
}

fn may_be_squeezed(i: usize, ear: &Ear) -> Request {
    let mut request = clustered(i, ear);
    request.session.squeeze = Some(Budget::EntryFraction(0.1));
    request
}

#[test]
fn a_cache_is_squeezed_only_where_its_request_allows_it_and_its_answer_says_so() {
    let options = |limit| SchedulerOptions {
        pool: Pool::with_limit(limit),
        ahead: 1,
        checkpoints: 0,
        ..SchedulerOptions::default()
    };
    let squeezed = |ear: &Ear| ear.told.lock().unwrap().outcome.as_ref().unwrap().kv_squeezed_to;
    let (scheduler, ears) = serve_four(may_be_squeezed, options);
    assert!(scheduler.stats().squeezed > 0, "{:?}", scheduler.stats());
    let mut all = ears.iter().map(squeezed);
    assert!(all.any(|to| to == Some(Budget::EntryFraction(0.1))));
    for (i, ear) in ears.iter().enumerate() {
        assert!(ear.is_done(), "{:?}", ear.error());
        // When a cache is squeezed depends on what is compacted beside it, and so does where its answer ends.
        if squeezed(ear).is_none() {
            assert_eq!(ear.tokens(), alone_as(|ear| clustered(i, ear)), "request {i} was not squeezed");
        }
    }
    assert_eq!(scheduler.stats().kv_bytes, 0);
    let (scheduler, ears) = serve_four(clustered, options);
    assert_eq!(scheduler.stats().squeezed, 0);
    assert!(ears.iter().all(|ear| squeezed(ear).is_none()));
}

#[test]
fn alone_nothing_is_squeezed() {
    let session = SessionOptions { squeeze: Some(Budget::EntryFraction(0.1)), ..clustered(1, &Ear::default()).session };
    let allowed = alone_as(|ear| Request { session: session.clone(), ..clustered(1, ear) });
    assert_eq!(allowed, alone_as(|ear| clustered(1, ear)));
}

#[test]
fn a_squeezed_cache_is_the_same_again_after_its_request_made_room() {
    // Squeezed by so little that it does not help for long.
    let asked = |i: usize, ear: &Ear| {
        let mut request = clustered(i, ear);
        request.session.budget = Budget::EntryFraction(1.0);
        request.session.squeeze = Some(Budget::EntryFraction(0.8));
        request
    };
    let serve = |disk: Option<DiskOptions>| {
        let pool = Pool::with_limit(tight(asked));
        let options =
            SchedulerOptions { pool, ahead: 1, checkpoints: 0, aside: false, disk, ..SchedulerOptions::default() };
        let mut scheduler = scheduler(options);
        let ears: Vec<Ear> = (0..4).map(|_| Ear::default()).collect();
        for (i, ear) in ears.iter().enumerate() {
            scheduler.submit(asked(i, ear));
        }
        while scheduler.stats().parks + scheduler.stats().stepped_aside == 0 {
            assert!(scheduler.step(), "{:?}", scheduler.stats());
        }
        let squeezed = scheduler.stats().squeezed;
        run(&mut scheduler);
        (squeezed, scheduler.stats(), ears.iter().map(Ear::tokens).collect::<Vec<_>>())
    };
    let folder = tempfile::tempdir().unwrap();
    let (squeezed, parked, kept) = serve(Some(DiskOptions { folder: folder.path().to_owned(), bytes: 1 << 30 }));
    let (_, aside, made_again) = serve(None);
    // Up to there both did the same, and all of them were squeezed by then.
    assert!(squeezed == 4 && parked.parks > 0 && aside.stepped_aside > 0, "{squeezed} {parked:?} {aside:?}");
    assert!(kept == made_again, "answers differ");
}
