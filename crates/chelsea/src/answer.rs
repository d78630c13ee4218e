//! A question and its answer.

use crate::cli::SampleArgs;
use crate::holding::Holding;
use crate::setup::Loaded;
use anyhow::Result;
use chelsea_engine::{Finish, GenerateOptions, Generation, Session, generate};
use std::time::Duration;

/// How answers are drawn, one after the other: each draws on from another state, so that the same question twice is
/// answered twice. The first one draws from the seed itself.
#[derive(Debug)]
pub struct Draws {
    options: GenerateOptions,
    seed: u64,
    answers: u64,
}

impl Draws {
    /// With the seed that was given, or one drawn now.
    pub fn new(args: &SampleArgs) -> Draws {
        // Short enough to be typed again.
        let seed = args.seed().unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let options = GenerateOptions {
            max_tokens: args.max_tokens(),
            sampling: args.sampling(),
            stop: args.stop.clone(),
            ignore_eos: false,
            ..GenerateOptions::default()
        };
        Draws { options, seed, answers: 0 }
    }

    /// What to give as `--seed` for the same answers; nothing where nothing is drawn.
    pub fn seed(&self) -> Option<u64> {
        (self.options.sampling.temperature > 0.0).then_some(self.seed)
    }

    /// The options of the next answer.
    pub fn next_answer(&mut self) -> GenerateOptions {
        let mut options = self.options.clone();
        // Far apart, so that the second answer to one seed is not the first to the next.
        options.sampling.seed = self.seed.wrapping_add(self.answers.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        self.answers += 1;
        options
    }
}

/// An answer, how long the question took to be read, and what the cache held then.
pub struct Answered {
    pub generation: Generation,
    pub prefill: Duration,
    pub holding: Holding,
}

/// Reads a question and generates the answer, streaming it to stdout if `show`.
pub fn answer(
    session: &mut Session,
    tokens: &[u32],
    loaded: &Loaded,
    options: &GenerateOptions,
    show: bool,
) -> Result<Answered> {
    let prefill = session.read(tokens, |_| ())?.time;
    let holding = Holding::of(session);
    let generation = generate(session, &loaded.tokenizer, options, |text| {
        if show {
            print!("{text}");
        }
    })?;
    if show {
        println!("");
    }
    Ok(Answered { generation, prefill, holding })
}

/// Bytes of `origin` and of a fork of it that holds, or held, `of_fork`: pages that both still share lie there once. They
/// never become more, so of an earlier moment this says too much rather than too little.
pub fn held(origin: &Session, fork: &Session, of_fork: usize) -> usize {
    origin.memory().total() + of_fork - fork.memory().shared.min(of_fork)
}

/// Why an answer ended, as `--json` says it.
pub fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn => "end_of_turn",
        Finish::StopString => "stop_string",
        Finish::Complete => "complete",
        Finish::MaxTokens => "max_tokens",
        Finish::Context => "context",
        Finish::Cancelled => "cancelled",
    }
}
