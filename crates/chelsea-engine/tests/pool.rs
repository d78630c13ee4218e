//! Sequences that share a pool: who finds no room is told so, and nobody else notices.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::{EngineError, Outcome, Runner, Sequence, SessionOptions, Work};
use chelsea_kv::{Budget, CacheError, Pool};
use chelsea_linear::Products;
use chelsea_model::Model;
use std::sync::Arc;
use support::{model, options, pool, tokens};

fn in_pool(model: &Arc<Model>, ledger: &Pool, keep: f32) -> Sequence {
    let policy = if keep < 1.0 { "chelsea" } else { "full" };
    let options = SessionOptions { pool: ledger.clone(), ..options(Budget::EntryFraction(keep), policy) };
    Sequence::new(model.clone(), &options).unwrap()
}

fn read(runner: &mut Runner, sequence: &mut Sequence, text: &[u32]) {
    sequence.start_reading(text).unwrap();
    while sequence.reading().is_some() {
        assert!(matches!(runner.step(&mut [Work::Read(sequence)])[..], [Ok(Outcome::Took(1..))]));
    }
}

fn is_full(outcome: &Result<Outcome, EngineError>) -> bool {
    matches!(outcome, Err(EngineError::Cache(CacheError::Pool(_))))
}

/// A sequence that takes what is left of a pool, but for less than a page of every head.
fn filler(runner: &mut Runner, ledger: &Pool) -> Sequence {
    let mut filler = in_pool(&runner.model().clone(), ledger, 1.0);
    loop {
        filler.start_reading(tokens(64, 9)).unwrap();
        while filler.reading().is_some() {
            let outcome = runner.step(&mut [Work::Read(&mut filler)]).pop().unwrap();
            if is_full(&outcome) {
                filler.stop_reading();
                return filler;
            }
            outcome.unwrap();
        }
    }
}

#[test]
fn who_finds_no_room_errs_alone_and_goes_on_once_there_is_some() {
    let model = model(Products::F32);
    let mut runner = Runner::new(model.clone(), pool(2));
    // As much as two sequences of 300 tokens take.
    // With a limit that nothing reaches: a device has a pool of its own for those that have none.
    let free = Pool::with_limit(1 << 40);
    let mut twin = in_pool(&model, &free, 1.0);
    read(&mut runner, &mut twin, &tokens(300, 0));
    let ledger = Pool::with_limit(free.live() * 5 / 2);

    let (mut one, mut two) = (in_pool(&model, &ledger, 1.0), in_pool(&model, &ledger, 1.0));
    read(&mut runner, &mut one, &tokens(300, 0));
    two.start_reading(tokens(300, 1)).unwrap();
    let filled = filler(&mut runner, &ledger);
    let mut refused = 0;
    let before = (two.cache().tokens(), two.cache().entries(), two.cache().memory());
    for step in 0..10 {
        let outcomes = runner.step(&mut [Work::Decode(&mut one, step), Work::Read(&mut two)]);
        assert!(matches!(outcomes[0], Ok(Outcome::Took(1))), "{outcomes:?}");
        assert!(is_full(&outcomes[1]), "{outcomes:?}");
        refused += 1;
        assert_eq!((two.cache().tokens(), two.cache().entries(), two.cache().memory()), before);
        assert!(matches!(runner.step(&mut [Work::Decode(&mut twin, step)])[..], [Ok(Outcome::Took(1))]));
        assert_eq!(one.logits(), twin.logits());
    }
    assert_eq!(refused, 10);
    let (live, held) = (ledger.live(), filled.memory().total());
    drop(filled);
    assert_eq!(ledger.live(), live - held);
    while two.reading().is_some() {
        assert!(matches!(runner.step(&mut [Work::Read(&mut two)])[..], [Ok(Outcome::Took(1..))]));
    }
    let mut alone = in_pool(&model, &free, 1.0);
    read(&mut runner, &mut alone, &tokens(300, 1));
    assert_eq!(two.logits(), alone.logits());
    drop((one, two));
    assert_eq!((ledger.live(), ledger.scratch()), (0, 0));
    assert!(ledger.peak() <= ledger.limit().unwrap());
}

#[test]
fn a_compaction_without_room_is_told_of_and_made_when_there_is_room() {
    let model = model(Products::F32);
    // What others leave of a pool is less than a page of every head: in some of these too little for a compaction.
    let told: usize = (0..8).map(|i| compactions_told_of(&model, (1 << 20) - i * 3000)).sum();
    assert!(told > 0, "every compaction found room");
}

/// Decodes in a pool of `limit` bytes that others fill again and again, beside a twin that has all the room it wants.
/// Returns how often a compaction was refused.
fn compactions_told_of(model: &Arc<Model>, limit: usize) -> usize {
    let mut runner = Runner::new(model.clone(), pool(2));
    let (free, ledger) = (Pool::unlimited(), Pool::with_limit(limit));
    let mut twin = in_pool(model, &free, 0.4);
    let mut one = in_pool(model, &ledger, 0.4);
    read(&mut runner, &mut twin, &tokens(300, 0));
    read(&mut runner, &mut one, &tokens(300, 0));
    // Everything that one is going to append before the next compaction has its pages already, or finds room.
    let mut told = 0;
    let mut others: Option<Sequence> = None;
    for step in 0..200 {
        if step % 50 == 30 {
            others = Some(filler(&mut runner, &ledger));
        }
        let mut outcome = runner.step(&mut [Work::Decode(&mut one, step % 320)]).pop().unwrap();
        for _ in 0..3 {
            if matches!(outcome, Ok(Outcome::Held)) {
                outcome = runner.step(&mut [Work::Decode(&mut one, step % 320)]).pop().unwrap();
            }
        }
        assert!(!matches!(outcome, Ok(Outcome::Held)), "nobody is held for ever");
        if is_full(&outcome) {
            told += usize::from(one.compaction_waits());
            others = None;
            outcome = runner.step(&mut [Work::Decode(&mut one, step % 320)]).pop().unwrap();
            assert!(!one.compaction_waits() || one.cache().compaction_is_due());
        }
        assert!(matches!(outcome, Ok(Outcome::Took(1))), "{outcome:?}");
        assert!(matches!(runner.step(&mut [Work::Decode(&mut twin, step % 320)])[..], [Ok(Outcome::Took(1))]));
        assert_eq!(one.logits(), twin.logits(), "step {step}");
    }
    drop((one, others));
    assert_eq!((ledger.live(), ledger.scratch()), (0, 0));
    told
}
