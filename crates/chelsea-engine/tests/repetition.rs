//! A second pass over what was read.

#![allow(clippy::unwrap_used)]

use chelsea_engine::{Compression, Repetition, Session, SessionOptions};
use chelsea_kv::{Budget, PAGE, Page};
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model, RandomModel};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[test]
fn the_peak_of_a_second_pass_is_the_cache_and_what_the_fork_holds_beside_it() {
    let options = LoadOptions { products: Products::Fast };
    let model: Arc<Model> = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let options = SessionOptions {
        budget: Budget::EntryFraction(0.5),
        policy: chelsea_kv::policy("kvzip:chunk=100").unwrap(),
        compression: Compression::OneShot,
        window: 16,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, pool, Arc::new(AtomicBool::new(false)), &options).unwrap();
    let text: Vec<u32> = (0..300).map(|i| (i * 37 + i * i) % 320).collect();
    session.read(&text, |_| ()).unwrap();
    let (before, heads) = (session.memory(), session.cache().heads().len());
    assert_eq!(session.cache().peak(), before.total());
    let words = Repetition { first: vec![1, 2], next: vec![3], turn: vec![4] };
    session.compress_with(&words).unwrap();
    assert!(session.memory().total() < before.total());
    // Four pages of a head are full and shared. A fork copies the fifth, and goes on for a chunk, its hint and two words;
    // a number for each entry and what is fixed are its own.
    let (dtype, head_dim) = (session.cache().config().dtype, session.cache().config().shape.layer(0).dims());
    let pages = (text.len() + 100 + 8 + 2).div_ceil(PAGE);
    let beside = heads * ((pages - 4) * Page::bytes(head_dim, dtype) + pages * PAGE * 4);
    let fixed = before.fixed - heads * text.len().div_ceil(PAGE) * PAGE * 4;
    let scratch = session.memory().scratch_peak;
    assert!(scratch < beside, "the second pass takes the most");
    assert_eq!(session.cache().peak(), before.total() + beside + fixed);
}
