//! What comes of a request: the events of one or several answers, gathered for those who want them whole.

use crate::engine::{self, Events};
use crate::live::Live;
use crate::transfer::Arrived;
use crate::{ApiError, Serving};
use axum::http::StatusCode;
use chelsea_engine::scheduler::{Event, Handed, Held, Logprobs, Outcome, Request, Sampled};
use chelsea_engine::{Finish, GenerateOptions, Sequence, SessionOptions};
use chelsea_kv::{HeadLayout, LAYOUT_CLASSES};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A request of any interface, as far as the engine is concerned.
pub struct Ask {
    /// The prompt's pieces.
    pub pieces: Vec<Arc<[u32]>>,
    /// What is to be generated.
    pub generate: GenerateOptions,
    /// How the cache is kept.
    pub session: SessionOptions,
    /// Whose it is.
    pub key: u64,
    /// How many of the likeliest tokens are told for each.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Whether it goes on from no checkpoint and leaves none.
    pub apart: bool,
    /// Whether it is told how the cache's entries lie.
    pub layout: bool,
}

/// An answer on its way.
pub struct Running {
    events: Events,
    asked: Instant,
    first: Option<Instant>,
    /// Tokens of the prompt, and how many of them need not be read.
    tokens: usize,
    cached: usize,
    /// Who is told whether what was made of the prompt elsewhere was gone on from.
    arrived: Option<Arrived>,
    serving: Arc<Serving>,
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "it counts for as long as it is held"))]
    live: Live,
}

/// What is heard of an answer.
pub enum Heard {
    /// The prompt is being read.
    Reading(Progress),
    /// How likely the tokens of the prompt were, from the second on.
    Scored(Vec<Logprobs>),
    /// What the cache holds now.
    Held(Box<Held>),
    /// A token.
    Token(Sampled),
    /// All of it.
    Done(Box<Outcome>),
}

/// How far a prompt was read.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Its tokens.
    pub total: usize,
    /// Those that lie in a checkpoint.
    pub cached: usize,
    /// Those that need not be read any more, with those of the checkpoint.
    pub processed: usize,
}

/// A whole answer.
pub struct Whole {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Sampled>,
    /// How likely the tokens of the prompt were, from the second on, if that was asked for.
    pub scores: Vec<Logprobs>,
    /// Its figures.
    pub outcome: Outcome,
}

impl Ask {
    /// What the engine is asked, and how it is heard. The cache of the prompt goes to `cache`, if that is given.
    pub(crate) fn into_request(self, cache: Option<oneshot::Sender<Handed>>) -> (Request, Events) {
        let Ask { pieces, generate, session, key, logprobs, prompt_logprobs, apart, layout } = self;
        let (listener, events) = engine::listener(layout, cache);
        (Request { pieces, generate, session, key, logprobs, prompt_logprobs, apart, listener }, events)
    }
}

impl Running {
    /// Hands a request to the engine and waits until it was taken in.
    ///
    /// # Errors
    /// If it was refused.
    pub async fn start(serving: &Arc<Serving>, ask: Ask) -> Result<Running, ApiError> {
        let (request, events) = ask.into_request(None);
        Running::submit(serving, request, events, None).await
    }

    /// Hands a request over whose prompt may have been read elsewhere, and waits until it was taken in.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub(crate) async fn submit(
        serving: &Arc<Serving>,
        request: Request,
        mut events: Events,
        given: Option<(Sequence, Arrived)>,
    ) -> Result<Running, ApiError> {
        let tokens = request.prompt_tokens();
        let (given, arrived) = given.unzip();
        serving.engine.submit_with(request, given)?;
        match events.recv().await {
            Some(Event::Failed(error)) => Err(serving.metrics.refused(error)),
            Some(_) => Ok(Running {
                events,
                asked: Instant::now(),
                first: None,
                tokens,
                cached: 0,
                arrived,
                live: serving.answers.begin(),
                serving: serving.clone(),
            }),
            None => Err(gone()),
        }
    }

    /// What the end of the server waits for, for those who hold on to it longer than to the answer.
    #[cfg(feature = "grpc")]
    pub(crate) fn live(&self) -> Live {
        self.live.clone()
    }

    /// The next thing that happened.
    ///
    /// # Errors
    /// If there will be no answer.
    pub async fn next(&mut self) -> Result<Heard, ApiError> {
        loop {
            return match self.events.recv().await {
                Some(Event::Waiting) => continue,
                Some(Event::Started { cached }) => {
                    self.cached = cached;
                    if let Some(arrived) = self.arrived.take() {
                        self.serving.transfer.went_on(arrived, cached == self.tokens);
                    }
                    Ok(self.progress(cached))
                }
                Some(Event::Read { done, .. }) => Ok(self.progress(done)),
                Some(Event::Scored(scores)) => Ok(Heard::Scored(scores)),
                Some(Event::Held(held)) => Ok(Heard::Held(held)),
                Some(Event::Token(sampled)) => {
                    let now = Instant::now();
                    match self.first.replace(now) {
                        None => self.serving.metrics.first_token(now - self.asked),
                        Some(before) => self.serving.metrics.next_token(now - before),
                    }
                    Ok(Heard::Token(sampled))
                }
                Some(Event::Finished(outcome)) => {
                    self.serving.metrics.finished(&outcome, self.asked.elapsed());
                    Ok(Heard::Done(outcome))
                }
                Some(Event::Failed(error)) => Err(self.serving.metrics.refused(error)),
                None => Err(gone()),
            };
        }
    }

    fn progress(&self, processed: usize) -> Heard {
        Heard::Reading(Progress { total: self.tokens, cached: self.cached, processed })
    }

    /// The whole answer.
    ///
    /// # Errors
    /// If there is none.
    pub async fn whole(mut self) -> Result<Whole, ApiError> {
        let (mut text, mut tokens, mut scores) = (String::new(), Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Heard::Reading(..) | Heard::Held(_) => {}
                Heard::Scored(told) => scores = told,
                Heard::Token(sampled) => {
                    text.push_str(&sampled.text);
                    tokens.push(sampled);
                }
                Heard::Done(outcome) => return Ok(Whole { text, tokens, scores, outcome: *outcome }),
            }
        }
    }
}

fn gone() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server ended before the answer was complete: ask again")
}

/// OpenAI's name of why an answer ended.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn | Finish::StopString | Finish::Complete | Finish::Cancelled => "stop",
        Finish::MaxTokens | Finish::Context => "length",
    }
}

/// The tokens of a request, as OpenAI counts them.
pub fn usage(prompt: usize, cached: usize, generated: usize) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

/// Where time went.
pub fn timings(outcome: &Outcome) -> Value {
    let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let read = outcome.prompt_tokens - outcome.cached_tokens.min(outcome.prompt_tokens);
    let (prefill, decode) = (outcome.prefill.as_secs_f64(), outcome.decode.as_secs_f64());
    json!({
        "queue_ms": outcome.waited.as_secs_f64() * 1e3,
        "cache_n": outcome.cached_tokens,
        "prompt_n": read,
        "prompt_ms": prefill * 1e3,
        "prompt_per_second": rate(read, prefill),
        "predicted_n": outcome.generated_tokens,
        "predicted_ms": decode * 1e3,
        "predicted_per_second": rate(outcome.generated_tokens.saturating_sub(1), decode),
    })
}

/// What the cache holds.
pub fn kv(outcome: &Outcome) -> Value {
    let mut value = json!({
        "tokens": outcome.kv_tokens,
        "entries": outcome.kv_entries,
        "bytes": outcome.kv_bytes,
        "bytes_full": outcome.kv_bytes_full,
    });
    if let Some(budget) = outcome.kv_squeezed_to {
        value["squeezed_to"] = budget.to_string().into();
    }
    if let Some(heads) = &outcome.layout {
        value["layout"] = layout(heads);
    }
    value
}

/// What the cache holds while it is read or answered.
pub fn kv_now(held: &Held) -> Value {
    json!({
        "tokens": held.tokens,
        "entries": held.entries,
        "bytes": held.bytes,
        "bytes_full": held.bytes_full,
        "layout": layout(&held.layout),
    })
}

/// What each head holds: no number of it says what the text was.
fn layout(heads: &[HeadLayout]) -> Value {
    let classes = LAYOUT_CLASSES.map(|most| (most < u32::MAX).then_some(most));
    let of_head = |head: &HeadLayout| {
        json!({
            "layer": head.layer, "head": head.head,
            "sinks": head.sinks, "clustered": head.clustered, "recent": head.recent,
        })
    };
    json!({"classes": classes, "heads": heads.iter().map(of_head).collect::<Vec<_>>()})
}
