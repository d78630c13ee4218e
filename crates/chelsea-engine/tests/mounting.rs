//! Saved caches on the shelf: gone on from as if they had been read here, mapped and never given up.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::{DiskOptions, Event, Handed, Listener, Request, settings_of};
use chelsea_engine::{Scheduler, SchedulerOptions, Sequence, Session, SessionOptions};
use chelsea_kv::snapshot::{self, SnapshotError, SnapshotInfo};
use chelsea_kv::{Budget, Dtype, Pool};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use support::serving::{Ear, alone, request, run, scheduler, with_pool};

/// How requests of these tests keep their caches.
fn session() -> SessionOptions {
    request(&[], 1, 1, &Ear::default()).session
}

/// Reads a text and saves its cache.
fn save(folder: &Path, text: &[u32], session: &SessionOptions, fingerprint: Option<[u8; 16]>) -> PathBuf {
    let model = scheduler(with_pool(1 << 20)).model().clone();
    let fingerprint = fingerprint.unwrap_or(model.fingerprint());
    let cancel = Arc::new(AtomicBool::new(false));
    let mut session = Session::new(model, support::pool(2), cancel, session).unwrap();
    session.read(text, |_| ()).unwrap();
    let info = SnapshotInfo { fingerprint, tokens: text.to_vec(), note: "a note".into() };
    let path = folder.join("text.kv");
    snapshot::save(&path, session.cache(), &info).unwrap();
    path
}

#[test]
fn a_mounted_text_is_not_read_and_answered_as_one_that_was() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    let path = save(folder.path(), &text, &session(), None);
    let mut scheduler = scheduler(with_pool(64 << 20));
    let mounted = scheduler.mount(&path, "label").unwrap();
    assert_eq!((&*mounted.tokens, mounted.note.as_str()), (&*text, "a note"));
    let before = scheduler.stats();
    assert!(mounted.mapped > 0 && before.kv_bytes_mapped == mounted.mapped, "{before:?}");
    assert!(before.kv_bytes < mounted.mapped, "keys and values are not copied: {before:?}");
    // Of every key, and again after everything else was given up.
    for key in [0, 7] {
        let pieces = [text.clone(), support::tokens(70, 2 + key as u32)];
        let ear = Ear::default();
        scheduler.submit(Request { key, ..request(&pieces, 40, 9, &ear) });
        run(&mut scheduler);
        assert_eq!(ear.cached(), 500);
        assert_eq!(ear.tokens(), alone(&pieces, 40, 9));
        scheduler.flush();
    }
    assert_eq!(scheduler.stats().kv_bytes, before.kv_bytes);
    assert_eq!(scheduler.stats().prompt_tokens, 140);
}

#[test]
fn other_number_types_do_not_go_on_from_it_and_other_budgets_do() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    let path = save(folder.path(), &text, &session(), None);
    let mut scheduler = scheduler(with_pool(64 << 20));
    scheduler.mount(&path, "label").unwrap();
    let mut cached = |change: &dyn Fn(&mut SessionOptions)| {
        let ear = Ear::default();
        let mut request = request(&[text.clone(), support::tokens(70, 2)], 100, 9, &ear);
        change(&mut request.session);
        scheduler.submit(request);
        run(&mut scheduler);
        assert!(ear.is_done(), "{:?}", ear.error());
        (ear.cached(), ear.told.lock().unwrap().outcome.as_ref().unwrap().kv_bytes)
    };
    let (_, own) = cached(&|_| ());
    assert_eq!(cached(&|session| session.dtype = Some(Dtype::F32)).0, 0);
    let (smaller, held) = cached(&|session| {
        session.budget = Budget::ByteFraction(0.2);
        session.dtype = Some(Dtype::Q8);
    });
    assert!(smaller == 500 && held < own, "{smaller} {held} {own}");
}

#[test]
fn what_went_on_from_a_mounted_text_is_not_found_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    // Compressed otherwise than a request would.
    let path = save(folder.path(), &text, &SessionOptions { block: 256, ..session() }, None);
    let disk = DiskOptions { folder: folder.path().join("shelf"), bytes: 1 << 30 };
    std::fs::create_dir(&disk.folder).unwrap();
    let pieces = [text.clone(), support::tokens(300, 2), support::tokens(70, 3)];
    let ask = |mount: bool| {
        let options = SchedulerOptions { disk: Some(disk.clone()), ..with_pool(64 << 20) };
        let mut scheduler = scheduler(options);
        if mount {
            scheduler.mount(&path, "label").unwrap();
        }
        let ear = Ear::default();
        scheduler.submit(request(&pieces, 40, 9, &ear));
        run(&mut scheduler);
        (ear.cached(), ear.tokens())
    };
    let first = ask(true);
    assert_eq!(first.0, 500);
    assert_eq!(ask(false), (0, alone(&pieces, 40, 9)), "it was read here, and not from what the mounted one left");
    assert_eq!(ask(true), (800, first.1));
}

/// Listens, and takes the cache once the prompt was read.
#[derive(Clone, Default)]
struct Taker(Ear, Arc<Mutex<Option<Handed>>>);

impl Listener for Taker {
    fn hear(&mut self, event: Event) {
        self.0.hear(event);
    }

    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    fn takes_cache(&self) -> bool {
        true
    }

    fn take_cache(&mut self, handed: Handed) {
        *self.1.lock().unwrap() = Some(handed);
    }
}

/// The same cache in memory of another scheduler, by way of a file.
fn carried(handed: &Sequence, folder: &Path, to: &Scheduler) -> Sequence {
    let path = folder.join("carried.kv");
    let info =
        SnapshotInfo { fingerprint: to.model().fingerprint(), tokens: handed.history().to_vec(), note: String::new() };
    snapshot::save(&path, handed.cache(), &info).unwrap();
    let session = SessionOptions { pool: to.pool().clone(), ..session() };
    let (cache, info) = snapshot::read_in(to.pool().clone(), &path, None, Some(session.policy.clone())).unwrap();
    let sequence = Sequence::with_cache(to.model().clone(), &session, cache, info.tokens).unwrap();
    sequence.with_logits(handed.logits().to_vec()).unwrap()
}

#[test]
fn what_goes_on_from_a_mounted_text_is_kept_under_one_name_whether_it_was_read_here_or_came() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    let path = save(folder.path(), &text, &SessionOptions { block: 256, ..session() }, None);
    let shelf = |name: &str| {
        let disk = DiskOptions { folder: folder.path().join(name), bytes: 1 << 30 };
        std::fs::create_dir(&disk.folder).unwrap();
        disk
    };
    let on = |disk: &DiskOptions, label: &str| {
        let mut scheduler = scheduler(SchedulerOptions { disk: Some(disk.clone()), ..with_pool(64 << 20) });
        scheduler.mount(&path, label).unwrap();
        scheduler
    };
    let pieces = [text.clone(), support::tokens(300, 2)];
    let (here, there) = (shelf("here"), shelf("there"));
    // Read on one, and gone on from on another that has the same text mounted.
    let taker = Taker::default();
    let mut reads = on(&here, "label");
    reads.submit(Request { listener: Box::new(taker.clone()), ..request(&pieces, 40, 9, &Ear::default()) });
    run(&mut reads);
    let mut goes_on = on(&there, "label");
    let given = carried(taker.1.lock().unwrap().take().unwrap().sequence().unwrap(), folder.path(), &goes_on);
    let ear = Ear::default();
    goes_on.submit_with(request(&pieces, 40, 9, &ear), given);
    run(&mut goes_on);
    assert_eq!((taker.0.cached(), ear.cached()), (500, 800));
    assert_eq!(taker.0.tokens(), ear.tokens());
    drop((reads, goes_on));
    let names = |disk: &DiskOptions| {
        let files = std::fs::read_dir(&disk.folder).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = files.filter(|name| name.to_string_lossy().ends_with(".checkpoint")).collect();
        names.sort();
        names
    };
    assert!(!names(&here).is_empty());
    assert_eq!(names(&here), names(&there));
    // So a server finds what another one was given, and one with another file of the same text does not.
    let again = |disk: &DiskOptions, label: &str| {
        let (mut scheduler, ear) = (on(disk, label), Ear::default());
        let more = [pieces.as_slice(), &[support::tokens(70, 3)]].concat();
        scheduler.submit(request(&more, 40, 9, &ear));
        run(&mut scheduler);
        ear.cached()
    };
    assert_eq!((again(&there, "label"), again(&there, "another label")), (800, 500));
}

#[test]
fn a_cache_is_handed_over_under_the_label_of_the_mounted_text_that_it_went_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    let path = save(folder.path(), &text, &session(), None);
    let mut scheduler = scheduler(with_pool(64 << 20));
    let mounted = scheduler.mount(&path, "label").unwrap();
    let model = scheduler.model().clone();
    let words = |pieces: &[Vec<u32>], session: &SessionOptions, label: Option<&str>| {
        let pieces: Vec<Arc<[u32]>> = pieces.iter().map(|piece| piece.as_slice().into()).collect();
        settings_of(&model, session, &pieces, label.map(|label| (&mounted, label)).into_iter()).unwrap()
    };
    let (own, pieces) = (session(), [text.clone(), support::tokens(70, 2)]);
    let alone = words(&pieces, &own, None);
    assert_ne!(words(&pieces, &own, Some("label")), alone);
    assert_ne!(words(&pieces, &own, Some("label")), words(&pieces, &own, Some("another")));
    // Pieces of no tokens are none. What does not go on from the mounted text has nothing to do with it.
    let spread = [vec![], text.clone(), vec![], support::tokens(70, 2)];
    assert_eq!(words(&spread, &own, Some("label")), words(&pieces, &own, Some("label")));
    assert_eq!(words(std::slice::from_ref(&text), &own, Some("label")), alone);
    assert_eq!(words(&[support::tokens(500, 4), support::tokens(70, 2)], &own, Some("label")), alone);
    let other = SessionOptions { dtype: Some(Dtype::F32), ..session() };
    assert_eq!(words(&pieces, &other, Some("label")), words(&pieces, &other, None));
}

#[test]
fn a_cache_of_another_model_and_one_without_room_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = support::tokens(500, 1);
    let other = save(folder.path(), &text, &session(), Some([7; 16]));
    let mut roomy = scheduler(with_pool(64 << 20));
    assert!(matches!(roomy.mount(&other, "label"), Err(SnapshotError::OtherModel { .. })));
    let path = save(folder.path(), &text, &session(), None);
    let mut small = scheduler(SchedulerOptions { pool: Pool::with_limit(1000), ..Default::default() });
    assert!(matches!(small.mount(&path, "label"), Err(SnapshotError::Cache(_))));
    assert_eq!((small.stats().kv_bytes, small.stats().kv_bytes_mapped), (0, 0));
}
