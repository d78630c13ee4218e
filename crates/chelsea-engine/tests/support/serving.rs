//! What tests of the scheduler share: who listens, requests, and steps until nothing is left to do.

use super::{model, options, pool, tokens};
use chelsea_engine::scheduler::{Event, Held, Listener, Logprobs, Outcome, Request, RequestError};
use chelsea_engine::{GenerateOptions, Sampling, Scheduler, SchedulerOptions, SessionOptions};
use chelsea_kv::{Budget, Pool};
use chelsea_linear::Products;
use chelsea_model::tokenizer::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a request was told.
#[derive(Default)]
pub struct Told {
    pub tokens: Vec<u32>,
    pub cached: Option<usize>,
    pub outcome: Option<Outcome>,
    pub held: Vec<Held>,
    pub error: Option<RequestError>,
    /// Tokens of the prompt that were read, and all of them.
    pub read: (usize, usize),
    /// How likely the tokens of the prompt were: told once, if at all.
    pub scores: Vec<Vec<Logprobs>>,
}

#[derive(Clone, Default)]
pub struct Ear {
    pub told: Arc<Mutex<Told>>,
    pub gone: Arc<AtomicBool>,
    pub watches: Option<Duration>,
}

impl Listener for Ear {
    fn hear(&mut self, event: Event) {
        let mut told = self.told.lock().unwrap();
        match event {
            Event::Waiting => {}
            Event::Read { done, total } => told.read = (done, total),
            Event::Scored(scores) => told.scores.push(scores),
            Event::Held(held) => told.held.push(*held),
            Event::Started { cached } => told.cached = Some(cached),
            Event::Token(sampled) => told.tokens.push(sampled.token),
            Event::Finished(outcome) => told.outcome = Some(*outcome),
            Event::Failed(error) => told.error = Some(error),
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn watches(&self) -> Option<Duration> {
        self.watches
    }
}

impl Ear {
    pub fn tokens(&self) -> Vec<u32> {
        self.told.lock().unwrap().tokens.clone()
    }

    pub fn cached(&self) -> usize {
        self.told.lock().unwrap().cached.unwrap()
    }

    pub fn is_done(&self) -> bool {
        self.told.lock().unwrap().outcome.is_some()
    }

    pub fn error(&self) -> Option<String> {
        self.told.lock().unwrap().error.as_ref().map(ToString::to_string)
    }
}

pub fn scheduler(options: SchedulerOptions) -> Scheduler {
    let words = r#"{ "decoder": { "type": "ByteLevel" }, "model": { "vocab": { "a": 0 }, "merges": [] } }"#;
    let tokenizer = Tokenizer::from_json(words, None, None).unwrap();
    Scheduler::new(model(Products::Fast), Arc::new(tokenizer), pool(2), options).unwrap()
}

pub fn with_pool(bytes: usize) -> SchedulerOptions {
    SchedulerOptions { pool: Pool::with_limit(bytes), ..SchedulerOptions::default() }
}

/// A request with a prompt of these pieces, sampled with a seed of its own.
pub fn request(pieces: &[Vec<u32>], answer: usize, seed: u64, ear: &Ear) -> Request {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    let options = options(Budget::ByteFraction(0.25), "chelsea");
    Request {
        pieces: pieces.iter().map(|piece| Arc::from(piece.as_slice())).collect(),
        generate: GenerateOptions {
            max_tokens: Some(answer),
            sampling,
            ignore_eos: true,
            ..GenerateOptions::default()
        },
        session: SessionOptions { step: Some(16), ..options },
        key: 0,
        logprobs: None,
        prompt_logprobs: None,
        apart: false,
        listener: Box::new(ear.clone()),
    }
}

/// Steps until nothing is left to do, with the memory looked at after every step.
pub fn run(scheduler: &mut Scheduler) {
    let mut steps = 0;
    while scheduler.step() {
        let stats = scheduler.stats();
        assert!(stats.kv_bytes <= stats.kv_limit, "{stats:?}");
        steps += 1;
        assert!(steps < 100_000, "it never ends: {stats:?}");
    }
}

pub fn steps(scheduler: &mut Scheduler, n: usize) {
    for _ in 0..n {
        scheduler.step();
    }
}

/// What a request is answered that is served alone.
pub fn alone(pieces: &[Vec<u32>], answer: usize, seed: u64) -> Vec<u32> {
    alone_as(|ear| request(pieces, answer, seed, ear))
}

pub fn alone_as(request: impl Fn(&Ear) -> Request) -> Vec<u32> {
    let ear = Ear::default();
    let mut scheduler = scheduler(SchedulerOptions::default());
    scheduler.submit(request(&ear));
    run(&mut scheduler);
    assert!(ear.is_done(), "{:?}", ear.error());
    ear.tokens()
}

pub fn prompt(i: u32, length: usize) -> Vec<Vec<u32>> {
    vec![tokens(length, i)]
}
