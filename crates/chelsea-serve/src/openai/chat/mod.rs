//! `POST /v1/chat/completions`.

mod message;
mod request;
mod stream;

pub(super) use message::text_of_parts;
pub use request::ChatRequest;
pub(super) use request::MAX_TOP;

use super::probabilities;
use crate::answer::{self, Heard, Running, Whole, finish_reason, usage};
use crate::guard::Caller;
use crate::reply::{Parser, Said};
use crate::router::{Body, aside};
use crate::{ApiError, Serving, transfer};
use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chelsea_engine::scheduler::Outcome;
use futures_util::future::try_join_all;
use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt as _};
use request::Chat;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How often a stream that has nothing to tell shows that it is alive: within the second, as some clients give up early.
pub(crate) const PING: Duration = Duration::from_millis(900);

/// Refuses another model than the one that is here.
pub(crate) fn check_model(serving: &Serving, model: Option<&str>) -> Result<(), ApiError> {
    // Clients that know no name send an empty one or `default`.
    match model {
        None | Some("" | "default") => Ok(()),
        Some(name) if name == serving.settings.model_name => Ok(()),
        Some(name) => {
            let here = &serving.settings.model_name;
            let text = format!("the model `{name}` does not exist here: this server has `{here}`");
            let status = axum::http::StatusCode::NOT_FOUND;
            Err(ApiError { param: Some("model".into()), code: Some("model_not_found"), ..ApiError::new(status, text) })
        }
    }
}

/// Answers a request.
pub async fn create(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ChatRequest>,
) -> Result<Response, ApiError> {
    check_model(&serving, request.model.as_deref())?;
    let streams = request.stream.unwrap_or(false);
    let understanding = serving.clone();
    let mut chat = aside(move || request.understand(&understanding, caller)).await?;
    let asks = std::mem::take(&mut chat.asks);
    let wanted = std::mem::take(&mut chat.wanted);
    let (running, handing) = transfer::start_all(&serving, asks, wanted, streams).await?;
    if streams {
        let stream = stream::events(serving, chat, running);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response());
    }
    let answers = try_join_all(running.into_iter().map(Running::whole)).await?;
    let mut value = whole(&serving, &chat, &answers);
    transfer::add_offer(&mut value, handing).await;
    Ok(Json(value).into_response())
}

/// A tool call as a message holds it.
fn call(id: String, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// Why an answer ended: one that was cut is never told as complete.
fn reason(outcome: &Outcome, calls: usize) -> &'static str {
    match finish_reason(outcome.finish) {
        "stop" if calls > 0 => "tool_calls",
        reason => reason,
    }
}

fn whole(serving: &Serving, chat: &Chat, answers: &[Whole]) -> Value {
    let choice = |(index, answer): (usize, &Whole)| {
        let mut parser = Parser::new(chat.with_tools, chat.thinks);
        let mut said = parser.push(&answer.text);
        said.extend(parser.finish());
        let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for said in said {
            match said {
                Said::Text(more) => text.push_str(&more),
                Said::Reasoning(more) => reasoning.push_str(&more),
                Said::Call { name, arguments } => calls.push(call(serving.id("call_"), &name, &arguments)),
            }
        }
        let reason = reason(&answer.outcome, calls.len());
        let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let logprobs = chat.logprobs.then(|| probabilities::of_chat(&serving.tokenizer, &answer.tokens));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    };
    let outcomes: Vec<&Outcome> = answers.iter().map(|answer| &answer.outcome).collect();
    let mut value = json!({
        "id": chat.id,
        "object": "chat.completion",
        "created": chat.created,
        "model": serving.settings.model_name,
        "choices": answers.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": usage_of(&outcomes),
    });
    add_figures(&mut value, &outcomes);
    value
}

/// The tokens of several answers to one prompt, which counts once.
pub(super) fn usage_of(outcomes: &[&Outcome]) -> Value {
    let first = outcomes.first();
    let generated = outcomes.iter().map(|outcome| outcome.generated_tokens).sum();
    usage(first.map_or(0, |o| o.prompt_tokens), first.map_or(0, |o| o.cached_tokens), generated)
}

/// What no other server tells: where time and memory went.
pub(crate) fn add_figures(value: &mut Value, outcomes: &[&Outcome]) {
    if let Some(first) = outcomes.first() {
        value["timings"] = answer::timings(first);
        value["kv"] = answer::kv(first);
    }
}

/// The events of all answers as they come, each with the number of its answer.
pub(super) fn merged(running: Vec<Running>) -> impl Stream<Item = Result<(usize, Heard), ApiError>> {
    let mut all = SelectAll::new();
    for (i, running) in running.into_iter().enumerate() {
        let events = futures_util::stream::unfold(Some(running), move |running| async move {
            let mut running = running?;
            match running.next().await {
                Ok(Heard::Done(outcome)) => Some((Ok((i, Heard::Done(outcome))), None)),
                Ok(heard) => Some((Ok((i, heard)), Some(running))),
                Err(error) => Some((Err(error), None)),
            }
        });
        all.push(events.boxed());
    }
    all
}
