//! How prompts are cut into steps.

#![allow(clippy::unwrap_used)]

use chelsea_engine::{Compression, Session, SessionOptions};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, RandomModel};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const BLOCK: usize = 128;

fn session(budget: Budget, compression: Compression) -> Session {
    let options = LoadOptions { products: Products::Fast };
    let model: Arc<Model> = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let options = SessionOptions { budget, compression, window: 16, block: BLOCK, ..SessionOptions::default() };
    Session::new(model, pool, Arc::new(AtomicBool::new(false)), &options).unwrap()
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
    for mut session in
        [session(Budget::Keep(1.0), Compression::Online), session(Budget::Keep(0.2), Compression::OneShot)]
    {
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
