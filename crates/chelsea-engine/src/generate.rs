//! From a sequence to text: sampling in a loop, stop tokens, stop strings, streaming.

use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::{EngineError, Sampling, Session};
use chelsea_model::tokenizer::{TextStream, Tokenizer};
use std::time::{Duration, Instant};

/// What is to be generated.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate; no bound but the context when none is given.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Go on past end-of-turn tokens (for benchmarks of a fixed length).
    pub ignore_eos: bool,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string was reached.
    StopString,
    /// The number of tokens asked for was reached.
    MaxTokens,
    /// The context is full.
    Context,
    /// It was cancelled.
    Cancelled,
}

/// Generated text and what it took.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The text, without stop strings and special tokens.
    pub text: String,
    /// Its tokens, the end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// From the call to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Generation {
    /// Tokens a second after the first token; 0 when there was at most one.
    pub fn decode_tokens_per_s(&self) -> f64 {
        let steps = self.tokens.len().saturating_sub(1);
        if steps == 0 { 0.0 } else { steps as f64 / self.decode.as_secs_f64().max(1e-9) }
    }
}

/// Generates from where `session` stands (something must have been read); `show` gets the text as it
/// comes. The last sampled token is not yet part of the cache when generation ends.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    options: &GenerateOptions,
    mut show: impl FnMut(&str),
) -> Result<Generation, EngineError> {
    let start = Instant::now();
    if session.logits().is_empty() {
        return Err(EngineError::NothingRead);
    }
    let mut sampler = Sampler::new(options.sampling.clone())?;
    let mut stops = StopFilter::new(options.stop.iter().cloned());
    let mut decoder = TextStream::new(true);
    let mut out = Generation {
        text: String::new(),
        tokens: Vec::new(),
        finish: Finish::MaxTokens,
        first_token: Duration::ZERO,
        decode: Duration::ZERO,
    };
    let most = options.max_tokens.unwrap_or(usize::MAX);
    let mut emit = |text: String, out: &mut Generation| {
        if !text.is_empty() {
            show(&text);
            out.text.push_str(&text);
        }
    };
    while out.tokens.len() < most {
        if session.cancelled() {
            out.finish = Finish::Cancelled;
            break;
        }
        let (logits, history) = session.logits_and_history();
        let token = sampler.sample(logits, history);
        out.tokens.push(token);
        if out.tokens.len() == 1 {
            out.first_token = start.elapsed();
        }
        out.decode = start.elapsed() - out.first_token;
        if !options.ignore_eos && tokenizer.ends_turn(token) {
            out.finish = Finish::EndOfTurn;
            break;
        }
        let passed = stops.push(&decoder.push(tokenizer, token));
        emit(passed.text, &mut out);
        if passed.stopped {
            out.finish = Finish::StopString;
            return Ok(out);
        }
        if out.tokens.len() == most {
            break;
        }
        if session.history().len() >= session.limit() {
            out.finish = Finish::Context;
            break;
        }
        session.step(token)?;
    }
    let passed = stops.push(&decoder.finish());
    emit(passed.text, &mut out);
    emit(stops.finish(), &mut out);
    Ok(out)
}
