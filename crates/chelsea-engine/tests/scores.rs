//! How likely the tokens of a prompt were, as a server tells it: what the library's own loss says, whoever else is served.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::{Logprobs, Request};
use chelsea_engine::{
    Finish, GenerateOptions, Outcome, Reading, Runner, Scheduler, SchedulerOptions, Sequence, Session, SessionOptions,
    Work,
};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use support::bytes::{Ear, tokenizer};

fn scheduler() -> Scheduler {
    let tokenizer = Arc::new(tokenizer(true));
    Scheduler::new(support::model(Products::Fast), tokenizer, support::pool(2), SchedulerOptions::default()).unwrap()
}

fn full() -> SessionOptions {
    support::options(Budget::EntryFraction(1.0), "full")
}

fn quarter() -> SessionOptions {
    SessionOptions { step: Some(16), ..support::options(Budget::ByteFraction(0.25), "chelsea") }
}

fn scored(pieces: &[Vec<u32>], session: SessionOptions, answer: usize, ear: &Ear) -> Request {
    Request {
        pieces: pieces.iter().map(|piece| Arc::from(piece.as_slice())).collect(),
        generate: GenerateOptions { max_tokens: Some(answer), ignore_eos: true, ..GenerateOptions::default() },
        session,
        key: 0,
        logprobs: Some(1),
        prompt_logprobs: Some(3),
        apart: false,
        listener: Box::new(ear.clone()),
    }
}

fn run(scheduler: &mut Scheduler) {
    while scheduler.step() {}
}

fn sum(scores: &[Logprobs]) -> f64 {
    scores.iter().map(|score| f64::from(score.chosen)).sum()
}

#[test]
fn the_sum_is_that_of_the_librarys_own_loss() {
    for tokens in [2, 17, 300] {
        let text = support::tokens(tokens, 7);
        let (ear, mut scheduler) = (Ear::default(), scheduler());
        scheduler.submit(scored(std::slice::from_ref(&text), full(), 1, &ear));
        run(&mut scheduler);
        let scores = ear.scores();
        assert_eq!(scores.len(), tokens - 1);
        let cancel = Arc::new(AtomicBool::new(false));
        let mut session = Session::new(scheduler.model().clone(), support::pool(2), cancel, &full()).unwrap();
        session.read(&text[..1], |_| ()).unwrap();
        let losses = session.score(&text[1..]).unwrap();
        for (score, loss) in scores.iter().zip(&losses) {
            assert!((f64::from(score.chosen) + loss).abs() < 1e-3, "{} and {loss}", score.chosen);
        }
        let loss: f64 = losses.iter().sum();
        assert!((sum(&scores) + loss).abs() < 1e-3 * loss, "{} and {loss}", sum(&scores));
        // The likeliest come first, and what came is among them if it was likely enough.
        for (score, token) in scores.iter().zip(&text[1..]) {
            assert!(score.top.len() == 3 && score.top.is_sorted_by(|a, b| a.1 >= b.1));
            let found = score.top.iter().find(|top| top.0 == *token);
            assert!(found.map_or(score.chosen <= score.top[2].1, |top| top.1 == score.chosen));
        }
    }
}

#[test]
fn a_compressed_prompt_is_scored_as_it_is_read() {
    let pieces = [support::tokens(400, 1), support::tokens(150, 2)];
    let (ear, mut scheduler) = (Ear::default(), scheduler());
    scheduler.submit(scored(&pieces, quarter(), 1, &ear));
    run(&mut scheduler);
    // The same by hand: every row of every chunk, with the chunks and compactions of reading.
    let mut runner = Runner::new(scheduler.model().clone(), support::pool(2));
    let mut sequence = Sequence::new(scheduler.model().clone(), &quarter()).unwrap();
    let (text, vocab, mut foretold) = (pieces.concat(), scheduler.model().config().vocab, Vec::new());
    for piece in &pieces {
        sequence.start(Reading::new(piece.as_slice()).scored()).unwrap();
        while sequence.reading().is_some() {
            assert!(matches!(runner.step(&mut [Work::Read(&mut sequence)])[0], Ok(Outcome::Took(_))));
            foretold.extend(runner.logits(0).chunks(vocab).map(<[f32]>::to_vec));
        }
        runner.settle(&mut [&mut sequence]).remove(0).unwrap();
    }
    assert_eq!(foretold.len(), text.len());
    for (i, (row, score)) in foretold.iter().zip(ear.scores()).enumerate() {
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let expected = f64::from(row[text[i + 1] as usize]) - total.ln();
        assert!((expected - f64::from(score.chosen)).abs() < 1e-4, "token {}: {expected} and {}", i + 1, score.chosen);
    }
}

#[test]
fn neighbours_change_no_score() {
    let asked = |i: usize, ear: &Ear| scored(&[support::tokens(60 + 70 * i, i as u32)], quarter(), 3, ear);
    let mut together = scheduler();
    let ears: Vec<Ear> = (0..6).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        let plain = Request { prompt_logprobs: None, ..asked(i, &Ear::default()) };
        together.submit(plain);
        together.submit(asked(i, ear));
        together.step();
    }
    run(&mut together);
    for (i, ear) in ears.iter().enumerate() {
        let (alone, mut single) = (Ear::default(), scheduler());
        single.submit(asked(i, &alone));
        run(&mut single);
        assert_eq!(ear.scores(), alone.scores(), "request {i}");
    }
}

#[test]
fn a_scored_prompt_is_read_whole_and_leaves_no_checkpoint() {
    let (plain, ear, mut scheduler) = (Ear::default(), Ear::default(), scheduler());
    let text = [support::tokens(200, 1)];
    scheduler.submit(scored(&text, quarter(), 2, &ear));
    run(&mut scheduler);
    assert_eq!(scheduler.stats().checkpoints, 0);
    scheduler.submit(Request { prompt_logprobs: None, ..scored(&text, quarter(), 2, &plain) });
    run(&mut scheduler);
    assert_eq!(scheduler.stats().checkpoints, 1);
    let again = Ear::default();
    scheduler.submit(scored(&text, quarter(), 2, &again));
    run(&mut scheduler);
    assert_eq!(again.0.lock().unwrap().cached, [0]);
    assert_eq!(again.scores(), ear.scores());
    assert_eq!(plain.0.lock().unwrap().scores.len(), 0);
}

#[test]
fn a_prompt_of_the_whole_context_can_be_scored_where_nothing_is_to_follow() {
    let (ear, mut scheduler) = (Ear::default(), scheduler());
    let context = scheduler.model().config().context_length;
    let session = SessionOptions { step: None, ..quarter() };
    scheduler.submit(scored(&[support::tokens(context, 3)], session.clone(), 0, &ear));
    run(&mut scheduler);
    let outcome = ear.outcome();
    assert_eq!((outcome.finish, outcome.generated_tokens, ear.scores().len()), (Finish::MaxTokens, 0, context - 1));
    let refused = Ear::default();
    scheduler.submit(scored(&[support::tokens(context, 3)], session, 1, &refused));
    assert!(refused.0.lock().unwrap().error.as_ref().unwrap().contains(&context.to_string()));
}
