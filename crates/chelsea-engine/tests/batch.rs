//! Sequences that are stepped together, against the same sequences stepped alone.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::{EngineError, Finish, GenerateOptions, Runner, Session, SessionOptions, generate, generate_many};
use chelsea_kv::Budget;
use chelsea_linear::Products;
use chelsea_model::Model;
use chelsea_model::tokenizer::Tokenizer;
use rayon::ThreadPool;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use support::{model, tokens};

fn pool() -> Arc<ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap())
}

fn session(model: &Arc<Model>, options: &SessionOptions) -> Session {
    Session::new(model.clone(), pool(), Arc::new(AtomicBool::new(false)), options).unwrap()
}

/// Sessions of different lengths, budgets and policies, each having read a text of its own.
fn sessions(model: &Arc<Model>) -> Vec<Session> {
    let settings = [(5, 1.0, "full"), (300, 0.3, "chelsea"), (170, 0.5, "streaming"), (1, 1.0, "chelsea")];
    let read = |(i, (n, keep, policy)): (usize, (usize, f32, &str))| {
        let options = SessionOptions {
            budget: Budget::EntryFraction(keep),
            policy: chelsea_kv::policy(policy).unwrap(),
            window: 16,
            block: 64,
            ..SessionOptions::default()
        };
        let mut session = session(model, &options);
        session.read(&tokens(n, i as u32), |_| ()).unwrap();
        session
    };
    settings.into_iter().enumerate().map(read).collect()
}

/// Enough steps for compactions to fall due.
const STEPS: u32 = 70;

#[test]
fn sessions_stepped_together_have_the_logits_of_sessions_stepped_alone() {
    for (products, tolerance) in [(Products::F32, 1e-5), (Products::Fast, 1e-4)] {
        let model = model(products);
        let mut alone = sessions(&model);
        let mut together = sessions(&model);
        let mut runner = Runner::new(model.clone(), pool());
        for step in 0..STEPS {
            let tokens: Vec<u32> = (0..alone.len() as u32).map(|i| (step * 7 + i * 53) % 320).collect();
            Session::step_many(&mut together.iter_mut().collect::<Vec<_>>(), &tokens, &mut runner).unwrap();
            for (i, (a, b)) in alone.iter_mut().zip(&together).enumerate() {
                a.step(tokens[i]).unwrap();
                assert_eq!(a.history(), b.history());
                assert_eq!(a.cache().entries(), b.cache().entries());
                assert_eq!(a.logits().len(), b.logits().len());
                let off = a.logits().iter().zip(b.logits()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(off <= tolerance, "{products:?}: sequence {i} is off by {off} at step {step}");
            }
        }
        assert!(together[1].cache().entries() < together[1].history().len() * 2, "it was compacted on the way");
    }
}

#[test]
fn a_session_goes_on_alone_after_a_batch() {
    let model = model(Products::F32);
    let mut one = sessions(&model);
    let mut other = sessions(&model);
    let mut runner = Runner::new(model.clone(), pool());
    Session::step_many(&mut one.iter_mut().collect::<Vec<_>>(), &[1, 2, 3, 4], &mut runner).unwrap();
    let fork = one[0].fork().unwrap();
    assert_eq!(fork.logits(), one[0].logits());
    one[0].step(9).unwrap();
    other[0].step(1).unwrap();
    other[0].step(9).unwrap();
    let off = one[0].logits().iter().zip(other[0].logits()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(off <= 1e-5, "{off}");
}

#[test]
fn batches_that_cannot_be_stepped_are_refused_untouched() {
    let model_a = model(Products::F32);
    let model_b = model(Products::F32);
    let mut runner = Runner::new(model_a.clone(), pool());
    let mut batch = sessions(&model_a);
    let before: Vec<usize> = batch.iter().map(|s| s.history().len()).collect();
    let mut step = |batch: &mut Vec<Session>, tokens: &[u32]| {
        Session::step_many(&mut batch.iter_mut().collect::<Vec<_>>(), tokens, &mut runner)
    };
    assert!(matches!(step(&mut batch, &[1, 2, 3]), Err(EngineError::BatchLength { sessions: 4, tokens: 3 })));
    assert!(matches!(step(&mut batch, &[1, 2, 3, 320]), Err(EngineError::Model(_))));
    let options = SessionOptions { context: Some(0), ..SessionOptions::default() };
    batch.push(session(&model_a, &options));
    assert!(matches!(step(&mut batch, &[1, 2, 3, 4, 5]), Err(EngineError::ContextFull { needed: 1, limit: 0 })));
    batch[4] = session(&model_b, &SessionOptions::default());
    assert!(matches!(step(&mut batch, &[1, 2, 3, 4, 5]), Err(EngineError::BatchModels)));
    batch.pop();
    assert_eq!(before, batch.iter().map(|s| s.history().len()).collect::<Vec<_>>());
    assert!(batch.iter().all(|s| s.cache().tokens() == s.history().len()));
    assert!(step(&mut Vec::new(), &[]).is_ok());
}

#[test]
fn time_is_counted_only_while_somebody_wants_to_know() {
    let model = model(Products::Fast);
    let mut sessions = sessions(&model);
    let session = &mut sessions[1];
    session.step(1).unwrap();
    assert_eq!(session.times().forward.total(), std::time::Duration::ZERO);
    session.measure(true);
    for step in 0..STEPS {
        session.step(step).unwrap();
    }
    let times = session.times();
    let parts = [times.forward.products, times.forward.output, times.forward.attention, times.forward.rest];
    assert!(parts.iter().all(|part| !part.is_zero()), "{times:?}");
    assert!(!times.clustering.is_zero(), "a compaction fell due");
    session.measure(false);
    assert_eq!(session.times(), chelsea_engine::SessionTimes::default());
}

/// A tokenizer whose token `i` is the word `w<i>`; the last one ends a turn.
fn words() -> Tokenizer {
    let vocab: Vec<String> = (0..319).map(|i| format!("\"w{i}\":{i}")).collect();
    let added = r#"{"id":319,"content":"<end>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}"#;
    let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}"#;
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{added}],"normalizer":null,
            "pre_tokenizer":{bytes},"post_processor":null,"decoder":{bytes},
            "model":{{"type":"BPE","vocab":{{{},"<end>":319}},"merges":[]}}}}"#,
        vocab.join(",")
    );
    Tokenizer::from_json(&json, None, None).unwrap()
}

#[test]
fn answers_generated_side_by_side_are_those_generated_alone() {
    let model = model(Products::F32);
    let tokenizer = words();
    let (mut alone, mut together) = (sessions(&model), sessions(&model));
    let most = [40, 3, 0, 25];
    let options: Vec<GenerateOptions> =
        most.map(|n| GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() }).into();
    let mut shown = vec![String::new(); most.len()];
    let show = |i: usize, text: &str| {
        shown[i].push_str(text);
        ControlFlow::Continue(())
    };
    let mut many: Vec<&mut Session> = together.iter_mut().collect();
    let found = generate_many(&mut many, &tokenizer, &options, show).unwrap();
    for (i, one) in found.iter().enumerate() {
        let expected = generate(&mut alone[i], &tokenizer, &options[i], |_| ()).unwrap();
        assert_eq!((&one.tokens, &one.text, one.finish), (&expected.tokens, &expected.text, expected.finish));
        assert_eq!((one.tokens.len(), &one.text), (most[i], &shown[i]));
        assert_eq!(together[i].history(), alone[i].history());
    }
}

#[test]
fn an_answer_ends_where_the_one_it_is_shown_to_says_so() {
    let model = model(Products::F32);
    let tokenizer = words();
    let mut all = sessions(&model);
    let options = vec![GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() }; all.len()];
    let mut pieces = vec![0; all.len()];
    let show = |i: usize, _: &str| {
        pieces[i] += 1;
        if i == 2 && pieces[i] == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let found = generate_many(&mut all.iter_mut().collect::<Vec<_>>(), &tokenizer, &options, show).unwrap();
    let ends: Vec<(usize, Finish)> = found.iter().map(|g| (g.tokens.len(), g.finish)).collect();
    let full = (12, Finish::MaxTokens);
    assert_eq!(ends, [full, full, (5, Finish::Cancelled), full]);
    let short = generate_many(&mut [&mut all[0]], &tokenizer, &[], |_, _| ControlFlow::Continue(()));
    assert!(matches!(short, Err(EngineError::BatchLength { sessions: 1, tokens: 0 })));
}
