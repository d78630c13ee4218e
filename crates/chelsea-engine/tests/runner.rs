//! Steps over many sequences: who is served, who is held, who is refused.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::{EngineError, Outcome, Pace, Runner, Sequence, Session, SessionOptions, State, Work};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use chelsea_model::{Model, ModelError};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use support::{likeliest, model, options, pool, sequence, tokens};

fn runner(model: &Arc<Model>) -> Runner {
    Runner::new(model.clone(), pool(2))
}

/// Reads a text to its end.
fn read(runner: &mut Runner, sequence: &mut Sequence, text: &[u32]) {
    sequence.start_reading(text).unwrap();
    while sequence.reading().is_some() {
        assert!(matches!(runner.step(&mut [Work::Read(sequence)])[..], [Ok(Outcome::Took(1..))]));
    }
}

#[test]
fn a_reading_goes_through_its_states_chunk_by_chunk() {
    let model = model(Products::F32);
    let (mut runner, mut sequence) = (runner(&model), sequence(&model, 1.0, "full"));
    let text = tokens(70, 0);
    assert_eq!(sequence.state(), State::Silent);
    sequence.start_reading(text.as_slice()).unwrap();
    assert_eq!(sequence.state(), State::Reading);
    let mut chunks = Vec::new();
    while sequence.state() == State::Reading {
        let [Ok(Outcome::Took(n))] = runner.step(&mut [Work::Read(&mut sequence)])[..] else { panic!("it reads") };
        chunks.push(n);
        assert_eq!(sequence.history(), &text[..chunks.iter().sum()]);
        assert_eq!(runner.logits(0).len(), sequence.logits().len());
    }
    assert_eq!(chunks, [32, 32, 6]);
    assert_eq!((sequence.state(), sequence.logits().len()), (State::Ready, 320));
}

#[test]
fn a_reading_that_is_stopped_leaves_what_was_read_and_another_may_begin() {
    let model = model(Products::F32);
    let (mut runner, mut sequence) = (runner(&model), sequence(&model, 1.0, "full"));
    let text = tokens(70, 0);
    sequence.start_reading(text.as_slice()).unwrap();
    assert!(matches!(runner.step(&mut [Work::Read(&mut sequence)])[..], [Ok(Outcome::Took(32))]));
    assert!(sequence.stop_reading() && !sequence.stop_reading());
    assert_eq!((sequence.state(), sequence.history()), (State::Silent, &text[..32]));
    assert_eq!(sequence.cache().tokens(), 32);
    read(&mut runner, &mut sequence, &text[32..]);
    let mut whole = support::sequence(&model, 1.0, "full");
    read(&mut runner, &mut whole, &text);
    let off = sequence.logits().iter().zip(whole.logits()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{off}");
}

#[test]
fn a_sequence_that_is_dropped_gives_its_shared_pages_back_at_once() {
    let model = model(Products::F32);
    let (mut runner, mut sequence) = (runner(&model), sequence(&model, 1.0, "full"));
    read(&mut runner, &mut sequence, &tokens(200, 0));
    assert_eq!(sequence.memory().shared, 0);
    let mut fork = sequence.fork().unwrap();
    fork.start_reading(tokens(100, 1)).unwrap();
    assert!(matches!(runner.step(&mut [Work::Read(&mut fork)])[..], [Ok(Outcome::Took(32))]));
    assert!(sequence.memory().shared > 0);
    drop(fork);
    assert_eq!(sequence.memory().shared, 0);
}

#[test]
fn what_is_wrong_with_one_work_is_told_of_it_alone() {
    let (model, other) = (model(Products::F32), model(Products::F32));
    let mut runner = runner(&model);
    let mut fine = sequence(&model, 1.0, "full");
    read(&mut runner, &mut fine, &tokens(10, 0));
    let mut alone = fine.fork().unwrap();
    let ready = || {
        let mut sequence = sequence(&model, 1.0, "full");
        read(&mut Runner::new(model.clone(), pool(1)), &mut sequence, &tokens(10, 1));
        sequence
    };
    let (mut unknown, mut nothing, mut unread) = (ready(), ready(), ready());
    let mut reading = ready();
    reading.start_reading(tokens(5, 2)).unwrap();
    let narrow = SessionOptions { context: Some(10), ..options(Budget::EntryFraction(1.0), "full") };
    let mut full = Sequence::new(model.clone(), &narrow).unwrap();
    read(&mut runner, &mut full, &tokens(10, 1));
    let mut foreign = Sequence::new(other, &narrow).unwrap();

    let outcomes = runner.step(&mut [
        Work::Decode(&mut unknown, 320),
        Work::Score(&mut nothing, &[]),
        Work::Read(&mut unread),
        Work::Decode(&mut reading, 1),
        Work::Decode(&mut full, 1),
        Work::Decode(&mut foreign, 1),
        Work::Decode(&mut fine, 7),
    ]);
    let [
        Err(EngineError::Model(ModelError::Token { token: 320, .. })),
        Err(EngineError::Model(ModelError::EmptyChunk)),
        Err(EngineError::NothingToRead),
        Err(EngineError::StillReading),
        Err(EngineError::ContextFull { needed: 11, limit: 10 }),
        Err(EngineError::BatchModels),
        Ok(Outcome::Took(1)),
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    for refused in [&unknown, &nothing, &unread, &reading, &full] {
        assert_eq!((refused.history().len(), refused.cache().tokens()), (10, 10));
        assert!(!refused.logits().is_empty());
    }
    assert!(matches!(runner.step(&mut [Work::Decode(&mut alone, 7)])[..], [Ok(Outcome::Took(1))]));
    assert_eq!((alone.logits(), alone.history()), (fine.logits(), fine.history()));
    assert!(runner.step(&mut []).is_empty());
}

#[test]
fn a_text_that_does_not_fit_is_refused_before_anything_is_changed() {
    let model = model(Products::F32);
    let options = SessionOptions { context: Some(20), ..SessionOptions::default() };
    let mut sequence = Sequence::new(model, &options).unwrap();
    let refused = sequence.start_reading(tokens(21, 0));
    assert!(matches!(refused, Err(EngineError::ContextFull { needed: 21, limit: 20 })));
    assert_eq!(sequence.state(), State::Silent);
    assert!(sequence.start_reading(tokens(20, 0)).is_ok());
}

#[test]
fn a_cache_of_another_text_is_refused() {
    let model = model(Products::F32);
    let (mut runner, mut sequence) = (runner(&model), sequence(&model, 1.0, "full"));
    read(&mut runner, &mut sequence, &tokens(10, 0));
    let cache = sequence.cache().fork().unwrap();
    let refused = Sequence::with_cache(model, &SessionOptions::default(), cache, tokens(9, 0));
    assert!(matches!(refused, Err(EngineError::History { tokens: 9, cached: 10 })));
}

/// Eight sequences that have read the same number of tokens, so that compactions of all fall due in the same step.
fn in_step(model: &Arc<Model>, runner: &mut Runner, budget: Budget) -> Vec<Sequence> {
    let one = |i: u32| {
        let mut sequence = Sequence::new(model.clone(), &options(budget, "chelsea")).unwrap();
        read(runner, &mut sequence, &tokens(300, i));
        sequence
    };
    (0..8).map(one).collect()
}

#[test]
fn while_decoding_at_most_one_compaction_is_made_in_a_step_and_every_budget_holds() {
    let model = model(Products::Fast);
    for budget in [Budget::EntryFraction(0.4), Budget::Entries(100)] {
        let mut runner = runner(&model);
        let mut sequences = in_step(&model, &mut runner, budget);
        let heads = sequences[0].cache().heads().len();
        let (mut compactions, mut held) = (vec![0; 8], vec![0; 8]);
        let mut longest = [0; 8];
        for _ in 0..200 {
            let before: Vec<usize> = sequences.iter().map(|s| s.cache().entries()).collect();
            let mut works: Vec<Work<'_>> = sequences
                .iter_mut()
                .map(|sequence| {
                    let token = likeliest(sequence);
                    Work::Decode(sequence, token)
                })
                .collect();
            let outcomes = runner.step(&mut works);
            let mut compacted = 0;
            for (i, outcome) in outcomes.into_iter().enumerate() {
                let cache = sequences[i].cache();
                if cache.entries() < before[i] {
                    compactions[i] += 1;
                    compacted += 1;
                }
                longest[i] = if outcome.unwrap() == Outcome::Held { longest[i] + 1 } else { 0 };
                held[i] = held[i].max(longest[i]);
                // What decoding may let pile up, and the token after which a compaction is due.
                let allowed = match budget {
                    Budget::Entries(entries) => entries,
                    _ => (0.4 * cache.tokens() as f32).ceil() as usize,
                };
                let most = (allowed + cache.config().decode_block + 1) * heads;
                assert!(cache.entries() <= most, "{} > {most}", cache.entries());
            }
            assert!(compacted <= 1, "{compacted} in one step");
        }
        assert!(compactions.iter().all(|&n| n >= 2), "{compactions:?}");
        assert!(held.iter().max() == Some(&7) && held.contains(&0), "each waits for those before it: {held:?}");
    }
}

#[test]
fn at_full_pace_all_compactions_are_made_where_they_fall_due() {
    let model = model(Products::Fast);
    let mut runner = runner(&model).with_pace(Pace::AllAtOnce);
    let mut sequences = in_step(&model, &mut runner, Budget::EntryFraction(0.4));
    for _ in 0..130 {
        let mut works: Vec<Work<'_>> = sequences.iter_mut().map(|sequence| Work::Decode(sequence, 5)).collect();
        assert!(runner.step(&mut works).into_iter().all(|outcome| matches!(outcome, Ok(Outcome::Took(1)))));
        assert!(!sequences.iter().any(Sequence::compaction_waits));
    }
    assert!(sequences.iter().all(|sequence| !sequence.clustering().is_zero()));
}

#[test]
fn a_compaction_that_waits_can_be_settled_and_comes_before_a_text_is_read_on() {
    let model = model(Products::Fast);
    let mut runner = runner(&model);
    let mut sequences = in_step(&model, &mut runner, Budget::EntryFraction(0.4));
    while !sequences.iter().any(Sequence::compaction_waits) {
        let mut works: Vec<Work<'_>> = sequences.iter_mut().map(|sequence| Work::Decode(sequence, 5)).collect();
        runner.step(&mut works).into_iter().for_each(|outcome| assert_eq!(outcome.unwrap(), Outcome::Took(1)));
    }
    let waiting: Vec<usize> = (0..8).filter(|&i| sequences[i].compaction_waits()).collect();
    assert_eq!(waiting.len(), 7);
    let (settled, reading) = (waiting[0], waiting[1]);
    let before = sequences[settled].cache().entries();
    assert!(runner.settle(&mut [&mut sequences[settled]]).iter().all(Result::is_ok));
    assert!(sequences[settled].cache().entries() < before && !sequences[settled].compaction_waits());
    sequences[reading].start_reading(tokens(10, 3)).unwrap();
    assert!(matches!(runner.step(&mut [Work::Read(&mut sequences[reading])])[..], [Ok(Outcome::Took(10))]));
    assert!(sequences[reading].cache().entries() <= before);
}

#[test]
fn a_session_reads_as_a_sequence_does_whose_chunks_others_come_between() {
    let model = model(Products::F32);
    let settings = options(Budget::EntryFraction(0.3), "chelsea");
    let text = tokens(500, 3);
    let mut session = Session::new(model.clone(), pool(2), Arc::new(AtomicBool::new(false)), &settings).unwrap();
    session.read(&text, |_| ()).unwrap();

    let mut runner = runner(&model);
    let (mut one, mut two) = (Sequence::new(model.clone(), &settings).unwrap(), sequence(&model, 0.5, "streaming"));
    one.start_reading(text.as_slice()).unwrap();
    let mut turn = 0;
    while one.reading().is_some() {
        if turn % 3 == 2 {
            two.start_reading(tokens(40, turn)).unwrap();
            assert!(matches!(runner.step(&mut [Work::Read(&mut two)])[..], [Ok(_)]));
        } else {
            assert!(matches!(runner.step(&mut [Work::Read(&mut one)])[..], [Ok(_)]));
        }
        turn += 1;
    }
    assert_eq!((one.history(), one.logits()), (session.history(), session.logits()));
    assert_eq!(one.cache().entries(), session.cache().entries());
}
