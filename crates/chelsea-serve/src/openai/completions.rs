//! `POST /v1/completions`: prompts as they are, without a chat template.

use super::chat::{MAX_TOP, PING, add_figures, check_model, merged, usage_of};
use super::probabilities::Columns;
use super::{StreamOptions, event};
use crate::answer::{Ask, Heard, Running, Whole, finish_reason, kv_now, usage};
use crate::documents;
use crate::fields::{KvFields, OneOrMany, SamplingFields, refuse_unknown, without_flattened};
use crate::form::{self, FormFields};
use crate::guard::Caller;
use crate::prompt::Thought;
use crate::router::{Body, aside};
use crate::settings::now;
use crate::transfer::{self, Wanted};
use crate::{ApiError, Serving, prompt};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chelsea_engine::scheduler::{Outcome, Sampled};
use futures_util::future::try_join_all;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// Most prompts of a request.
const MAX_PROMPTS: usize = 128;

/// A prompt, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    ManyTokens(Vec<Vec<u32>>),
}

/// One prompt.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// The body of a request.
#[derive(Debug, Deserialize)]
pub struct CompletionRequest {
    model: Option<String>,
    prompt: Prompts,
    #[serde(alias = "n_predict")]
    max_tokens: Option<i64>,
    n: Option<usize>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    kv: Option<KvFields>,
    kv_transfer_params: Option<Value>,
    #[serde(flatten)]
    form: FormFields,
    #[serde(flatten)]
    sampling: SamplingFields,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A request that was understood.
struct Completion {
    id: String,
    created: u64,
    asks: Vec<Ask>,
    /// Answers to each prompt.
    n: usize,
    logprobs: bool,
    /// Whether the tokens of prompts are told, with how likely they were.
    scores: bool,
    usage: bool,
    /// What goes before each answer.
    echoes: Vec<String>,
    /// The tokens of each answer's prompt, where they are told.
    prompts: Vec<Arc<[u32]>>,
    /// What is to be done with caches.
    wanted: Wanted,
}

/// Tokens of an answer where nothing is said, as with OpenAI.
const DEFAULT_TOKENS: usize = 16;

impl CompletionRequest {
    fn understand(self, serving: &Serving, caller: Caller) -> Result<Completion, ApiError> {
        refuse_unknown(&without_flattened(self.rest))?;
        let n = self.n.unwrap_or(1);
        if !(1..=16).contains(&n) {
            return Err(ApiError::field("n", format!("n is {n}, but must be from 1 to 16")));
        }
        let echo = self.echo.unwrap_or(false);
        if self.logprobs.is_some_and(|top| top > MAX_TOP) {
            return Err(ApiError::field("logprobs", format!("logprobs must be at most {MAX_TOP}")));
        }
        let prompts: Vec<Prompt> = match self.prompt {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::ManyTokens(prompts) => prompts.into_iter().map(Prompt::Tokens).collect(),
        };
        if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
            return Err(ApiError::field("prompt", format!("give from 1 to {MAX_PROMPTS} prompts")));
        }
        let max_tokens = match self.max_tokens {
            None => Some(DEFAULT_TOKENS),
            Some(-1) => None,
            Some(tokens) => match usize::try_from(tokens) {
                Ok(tokens) => Some(tokens),
                Err(_) => {
                    return Err(ApiError::field(
                        "max_tokens",
                        "max_tokens must be 0 or more, or -1 for as many as fit",
                    ));
                }
            },
        };
        let mut generate = self.sampling.options(self.stop, max_tokens)?;
        generate.grammar = form::grammar(serving, Thought::Over, self.form.form()?.as_ref(), None)?;
        let scores = self.logprobs.filter(|_| echo);
        let kv = self.kv.unwrap_or_default();
        let layout = kv.layout();
        let document = documents::before_prompt(serving, caller, &kv)?;
        if document.is_some() && scores.is_some() {
            let text = "echo with logprobs scores every token of the prompt, which a `kv.document` does not have read";
            return Err(ApiError::field("kv.document", text));
        }
        let (mut asks, mut echoes, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for given in prompts {
            let (tokens, text) = match given {
                Prompt::Text(text) if document.is_some() => (prompt::after_text(&serving.tokenizer, &text)?, text),
                Prompt::Text(text) => (prompt::raw(&serving.tokenizer, &text)?, text),
                Prompt::Tokens(tokens) => {
                    let text = if echo { serving.tokenizer.decode(&tokens, true) } else { String::new() };
                    (tokens, text)
                }
            };
            let vocab = serving.model.config().vocab;
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
                return Err(ApiError::field(
                    "prompt",
                    format!("token {token} is outside the vocabulary of {vocab} tokens"),
                ));
            }
            let tokens: Arc<[u32]> = tokens.into();
            let pieces = document.iter().cloned().chain([tokens.clone()]).collect();
            let (pieces, session) = match scores {
                Some(_) => (pieces, kv.session(serving, None)?),
                None => documents::lay_out(serving, &kv, pieces)?,
            };
            for i in 0..n {
                let mut generate = generate.clone();
                generate.sampling.seed = generate.sampling.seed.wrapping_add(i as u64);
                let (pieces, session) = (pieces.clone(), session.clone());
                let (logprobs, prompt_logprobs) = (self.logprobs, scores);
                asks.push(Ask {
                    pieces,
                    generate,
                    session,
                    key: caller.0,
                    logprobs,
                    prompt_logprobs,
                    apart: false,
                    layout,
                });
                told.push(tokens.clone());
                echoes.push(if echo { text.clone() } else { String::new() });
            }
        }
        let usage = self.stream_options.unwrap_or_default().include_usage;
        let (id, created, logprobs) = (serving.id("cmpl-"), now(), self.logprobs.is_some());
        let scores = scores.is_some();
        let wanted = Wanted::of_field(self.kv_transfer_params.as_ref())?;
        Ok(Completion { id, created, asks, n, logprobs, scores, usage, echoes, prompts: told, wanted })
    }
}

/// Answers a request.
pub async fn create(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    check_model(&serving, request.model.as_deref())?;
    let streams = request.stream.unwrap_or(false);
    let understanding = serving.clone();
    let mut completion = aside(move || request.understand(&understanding, caller)).await?;
    let asks = std::mem::take(&mut completion.asks);
    let wanted = std::mem::take(&mut completion.wanted);
    let (running, handing) = transfer::start_all(&serving, asks, wanted, streams).await?;
    if streams {
        let stream = stream(serving, completion, running);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response());
    }
    let answers = try_join_all(running.into_iter().map(Running::whole)).await?;
    let mut value = whole(&serving, &completion, &answers);
    transfer::add_offer(&mut value, handing).await;
    Ok(Json(value).into_response())
}

fn whole(serving: &Serving, completion: &Completion, answers: &[Whole]) -> Value {
    let choice = |(index, answer): (usize, &Whole)| {
        let mut columns = Columns::default();
        if completion.scores {
            columns.prompt(&serving.tokenizer, &completion.prompts[index], &answer.scores, &completion.echoes[index]);
        }
        let push = |sampled: &Sampled| columns.push(&serving.tokenizer, sampled.token, sampled.logprobs.as_ref());
        answer.tokens.iter().for_each(push);
        json!({
            "index": index,
            "text": format!("{}{}", completion.echoes[index], answer.text),
            "logprobs": completion.logprobs.then(|| columns.take()),
            "finish_reason": finish_reason(answer.outcome.finish),
        })
    };
    let outcomes: Vec<&Outcome> = answers.iter().map(|answer| &answer.outcome).collect();
    let mut value = json!({
        "id": completion.id,
        "object": "text_completion",
        "created": completion.created,
        "model": serving.settings.model_name,
        "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": usage_of_prompts(&outcomes, completion.n),
    });
    add_figures(&mut value, &outcomes);
    value
}

/// The tokens of answers to several prompts, `n` to each.
fn usage_of_prompts(outcomes: &[&Outcome], n: usize) -> Value {
    if outcomes.len() <= n {
        return usage_of(outcomes);
    }
    let of_prompts = || outcomes.iter().step_by(n);
    usage(
        of_prompts().map(|outcome| outcome.prompt_tokens).sum(),
        of_prompts().map(|outcome| outcome.cached_tokens).sum(),
        outcomes.iter().map(|outcome| outcome.generated_tokens).sum(),
    )
}

fn stream(
    serving: Arc<Serving>,
    mut completion: Completion,
    running: Vec<Running>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut outcomes: Vec<Option<Box<Outcome>>> = running.iter().map(|_| None).collect();
    let mut columns: Vec<Columns> = running.iter().map(|_| Columns::default()).collect();
    let events = merged(running).map(Some).chain(futures_util::stream::iter([None]));
    events.flat_map(move |told| {
        let chunk = |choices: Value| {
            json!({
                "id": completion.id, "object": "text_completion", "created": completion.created,
                "model": serving.settings.model_name, "choices": choices,
            })
        };
        let mut out = Vec::new();
        match told {
            Some(Err(error)) => out.push(Ok(event(&error.body()))),
            Some(Ok((_, Heard::Reading(..)))) => {}
            Some(Ok((i, Heard::Held(held)))) => {
                let mut value = chunk(json!([{"index": i, "text": "", "logprobs": null, "finish_reason": null}]));
                value["kv"] = kv_now(&held);
                out.push(Ok(event(&value)));
            }
            Some(Ok((i, told))) => {
                let reason = match &told {
                    Heard::Done(outcome) => Some(finish_reason(outcome.finish)),
                    _ => None,
                };
                let echo = std::mem::take(&mut completion.echoes[i]);
                let text = match told {
                    Heard::Reading(..) | Heard::Held(_) => String::new(),
                    Heard::Scored(scores) => {
                        columns[i].prompt(&serving.tokenizer, &completion.prompts[i], &scores, &echo);
                        String::new()
                    }
                    Heard::Token(Sampled { token, text, logprobs }) => {
                        columns[i].push(&serving.tokenizer, token, logprobs.as_ref());
                        text
                    }
                    Heard::Done(outcome) => {
                        outcomes[i] = Some(outcome);
                        String::new()
                    }
                };
                if !text.is_empty() || !echo.is_empty() || reason.is_some() {
                    let logprobs = completion.logprobs.then(|| columns[i].take());
                    let text = format!("{echo}{text}");
                    let choice = json!([{"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}]);
                    let mut value = chunk(choice);
                    if let Some(outcome) = &outcomes[i] {
                        add_figures(&mut value, &[outcome]);
                    }
                    out.push(Ok(event(&value)));
                }
            }
            None => {
                let done: Vec<&Outcome> = outcomes.iter().filter_map(|outcome| outcome.as_deref()).collect();
                if completion.usage && done.len() == outcomes.len() {
                    let mut value = chunk(json!([]));
                    value["usage"] = usage_of_prompts(&done, completion.n);
                    out.push(Ok(event(&value)));
                }
                out.push(Ok(Event::default().data("[DONE]")));
            }
        }
        futures_util::stream::iter(out)
    })
}
