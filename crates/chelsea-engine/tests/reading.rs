//! How prompts are cut into steps, and what they leave.

#![allow(clippy::unwrap_used)]

use chelsea_engine::{Compression, Session, SessionOptions};
use chelsea_kv::{Budget, PAGE, Page};
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, RandomModel};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const BLOCK: usize = 128;

fn session(budget: Budget, compression: Compression) -> Session {
    with(SessionOptions { budget, compression, window: 16, ..SessionOptions::default() })
}

fn with(options: SessionOptions) -> Session {
    let session = SessionOptions { block: BLOCK, ..options };
    let options = LoadOptions { products: Products::Fast };
    let model: Arc<Model> = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    Session::new(model, pool, Arc::new(AtomicBool::new(false)), &session).unwrap()
}

/// Reads `n` tokens; the length of each step.
fn steps(session: &mut Session, n: usize) -> Vec<usize> {
    let tokens: Vec<u32> = (0..n as u32).map(|i| (i * 37 + i * i) % 320).collect();
    let mut done = vec![0];
    session.read(&tokens, |progress| done.push(progress.done)).unwrap();
    assert_eq!(session.history(), tokens);
    assert!(!session.logits().is_empty());
    done.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_quarter_of_a_block_is_read_at_once_where_nothing_is_clustered_meanwhile() {
    for mut session in [
        session(Budget::EntryFraction(1.0), Compression::Online),
        session(Budget::EntryFraction(0.2), Compression::OneShot),
    ] {
        assert_eq!(steps(&mut session, 300), [[32; 9].as_slice(), &[12]].concat());
        assert_eq!(session.cache().entries(), 300 * session.cache().heads().len());
    }
}

#[test]
fn an_eighth_of_a_block_is_read_at_once_from_when_the_budget_is_full() {
    let mut online = session(Budget::Entries(200), Compression::Online);
    // 200 entries and the latest beyond them, all of a block but a small step and a page, in steps of 32.
    let steps = steps(&mut online, 600);
    let large = (200 + BLOCK - 16 - 64) / 32;
    assert!(steps[..large].iter().all(|&step| step == 32), "{steps:?}");
    assert!(steps[large..].iter().all(|&step| step <= 16), "{steps:?}");
    assert!(online.cache().entries() <= 200 * online.cache().heads().len());
}

#[test]
fn a_large_window_holds_the_budget_and_one_block_like_any_other() {
    let (keep, n) = (0.25, 2000);
    for window in [16, 256] {
        let mut session =
            with(SessionOptions { budget: Budget::EntryFraction(keep), window, ..SessionOptions::default() });
        steps(&mut session, n);
        let (cache, memory) = (session.cache(), session.memory());
        let (heads, config) = (cache.heads().len(), cache.config());
        assert_eq!(cache.entries(), n / 4 * heads, "window {window}");
        let entries = n / 4 + BLOCK + PAGE;
        let pages = entries.div_ceil(PAGE) * heads * Page::bytes(config.shape.layer(0).dims(), config.dtype);
        let bound = pages + memory.fixed + memory.scratch_peak;
        assert!(cache.peak() <= bound, "window {window}: {} > {bound}", cache.peak());
    }
}

#[test]
fn without_a_window_decoding_still_compacts_once_in_64_tokens() {
    let mut session =
        with(SessionOptions { budget: Budget::EntryFraction(0.25), window: 0, ..SessionOptions::default() });
    steps(&mut session, 600);
    assert!(session.cache().is_within_budget());
    let mut compactions = 0;
    for token in 0..128 {
        let before = session.cache().entries();
        session.step(token).unwrap();
        compactions += usize::from(session.cache().entries() < before);
    }
    assert_eq!(compactions, 2);
    assert!(session.cache().is_within_budget());
}

#[test]
fn a_text_ends_within_its_budget_and_a_short_question_piles_up_after_it() {
    // Of so large a budget little has to be given up at the end, soon after the last compaction.
    let mut session = session(Budget::EntryFraction(0.95), Compression::Online);
    steps(&mut session, 2000);
    let (read, heads) = (session.cache().entries(), session.cache().heads().len());
    assert!(session.cache().is_within_budget() && read > 1899 * heads, "{read} entries over {heads} heads");
    session.read(&[1; 20], |_| ()).unwrap();
    assert_eq!(session.cache().entries(), read + 20 * heads);
    session.read(&[2; 64], |_| ()).unwrap();
    assert!(session.cache().is_within_budget());
}
