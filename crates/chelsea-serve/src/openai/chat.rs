//! `POST /v1/chat/completions`.

use super::{StreamOptions, event, probabilities};
use crate::answer::{self, Ask, Heard, Running, Whole, finish_reason, usage};
use crate::fields::{KvFields, OneOrMany, SamplingFields, refuse_unknown};
use crate::guard::Caller;
use crate::prompt::{self, Conversation};
use crate::reply::{Parser, Said};
use crate::router::{Body, aside};
use crate::settings::now;
use crate::{ApiError, Serving};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chelsea_engine::scheduler::{Outcome, Sampled};
use chelsea_model::chat::Message;
use futures_util::future::try_join_all;
use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Most answers to one request.
const MAX_N: usize = 16;
/// Most of the likeliest tokens that are told for each.
pub(super) const MAX_TOP: usize = 20;
/// How often a stream that has nothing to tell shows that it is alive: within the second, as some clients give up early.
pub(crate) const PING: Duration = Duration::from_millis(900);

/// The body of a request.
#[derive(Debug, Deserialize)]
pub struct ChatRequest {
    model: Option<String>,
    messages: Vec<Value>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<usize>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    chat_template_kwargs: Option<Map<String, Value>>,
    return_progress: Option<bool>,
    kv: Option<KvFields>,
    #[serde(flatten)]
    sampling: SamplingFields,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Names of fields that [`SamplingFields`] takes: `flatten` leaves them in the rest, too.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "ignore_eos",
];

pub(super) fn without_sampling(mut rest: Map<String, Value>) -> Map<String, Value> {
    rest.retain(|name, _| !SAMPLING.contains(&name.as_str()));
    rest
}

/// A turn as a template takes it: parts of text are joined, other parts are refused.
pub(crate) fn message(i: usize, value: &Value) -> Result<Message, ApiError> {
    let wrong = |what: &str| ApiError::field(format!("messages[{i}]"), format!("message {i} {what}"));
    let Value::Object(object) = value else { return Err(wrong("is no object")) };
    let role = object.get("role").and_then(Value::as_str).ok_or_else(|| wrong("has no `role`"))?;
    let role = if role == "developer" { "system" } else { role };
    if !["system", "user", "assistant", "tool", "function"].contains(&role) {
        return Err(wrong(&format!("has the role `{role}`: it must be system, user, assistant or tool")));
    }
    let content = match object.get("content") {
        None | Some(Value::Null) if role == "assistant" => Value::String(String::new()),
        None | Some(Value::Null) => return Err(wrong("has no `content`")),
        Some(Value::String(text)) => Value::String(text.clone()),
        Some(Value::Array(parts)) => Value::String(text_of_parts(i, parts)?),
        Some(_) => return Err(wrong("has a `content` that is neither a text nor a list of parts")),
    };
    let mut extra = object.clone();
    extra.retain(|name, value| name != "role" && name != "content" && !value.is_null());
    // Templates take arguments as what they say, and clients send them as a text that holds JSON.
    if let Some(Value::Array(calls)) = extra.get_mut("tool_calls") {
        for call in calls {
            if let Some(text) = call.pointer("/function/arguments").and_then(Value::as_str)
                && let Ok(arguments) = serde_json::from_str::<Value>(text)
                && let Some(place) = call.pointer_mut("/function/arguments")
            {
                *place = arguments;
            }
        }
    }
    Ok(Message { role: role.to_owned(), content, extra })
}

fn text_of_parts(i: usize, parts: &[Value]) -> Result<String, ApiError> {
    let mut text = String::new();
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text" | "input_text" | "output_text") | None, Some(words)) => text.push_str(words),
            (kind, _) => {
                let kind = kind.unwrap_or("unknown");
                return Err(ApiError::field(
                    format!("messages[{i}].content"),
                    format!("message {i} holds a part of type `{kind}`: this model reads text alone"),
                ));
            }
        }
    }
    Ok(text)
}

/// A request that was understood.
struct Chat {
    id: String,
    created: u64,
    asks: Vec<Ask>,
    with_tools: bool,
    thinks: bool,
    logprobs: bool,
    usage: bool,
    continuous: bool,
    /// Whether a stream tells how far its prompt was read.
    progress: bool,
}

impl ChatRequest {
    fn understand(self, serving: &Serving, caller: Caller) -> Result<Chat, ApiError> {
        refuse_unknown(&without_sampling(self.rest))?;
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::field("n", format!("n is {n}, but must be from 1 to {MAX_N}")));
        }
        if let Some(format) = &self.response_format
            && format.get("type").and_then(Value::as_str) != Some("text")
        {
            return Err(ApiError::field(
                "response_format",
                "only `{\"type\": \"text\"}` is supported as response_format",
            ));
        }
        let logprobs = self.logprobs.unwrap_or(false);
        let top = self.top_logprobs.unwrap_or(0);
        if top > MAX_TOP || (top > 0 && !logprobs) {
            let text = format!("top_logprobs must be at most {MAX_TOP}, and needs `logprobs` to be true");
            return Err(ApiError::field("top_logprobs", text));
        }
        let tools = self.tools.filter(|tools| !tools.is_empty());
        let with_tools = match self.tool_choice.as_ref().map(|choice| choice.as_str().unwrap_or("named")) {
            None | Some("auto") => tools.is_some(),
            Some("none") => false,
            Some(_) => {
                return Err(ApiError::field(
                    "tool_choice",
                    "tool_choice may be `auto` or `none`: no call can be forced",
                ));
            }
        };
        if self.parallel_tool_calls == Some(false) && with_tools {
            return Err(ApiError::field(
                "parallel_tool_calls",
                "parallel_tool_calls cannot be false: how many calls a model makes is its own choice",
            ));
        }
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is empty: give at least one"));
        }
        let messages =
            self.messages.iter().enumerate().map(|(i, value)| message(i, value)).collect::<Result<_, _>>()?;
        let conversation = Conversation {
            messages,
            tools: tools.filter(|_| with_tools).map(Value::Array),
            variables: self.chat_template_kwargs.unwrap_or_default(),
            prefill: None,
        };
        let pieces = conversation.pieces(&serving.tokenizer, serving.template.as_ref())?;
        let thinks = prompt::begins_thought(&serving.tokenizer, &pieces);
        let kv = self.kv.unwrap_or_default();
        let (session, layout) = (kv.session(serving)?, kv.layout());
        let generate = self.sampling.options(self.stop, self.max_completion_tokens.or(self.max_tokens))?;
        let ask = |i: usize| {
            let mut generate = generate.clone();
            generate.sampling.seed = generate.sampling.seed.wrapping_add(i as u64);
            Ask {
                pieces: pieces.clone(),
                generate,
                session: session.clone(),
                key: caller.0,
                logprobs: logprobs.then_some(top),
                layout,
            }
        };
        let options = self.stream_options.unwrap_or_default();
        let (usage, continuous) = (options.include_usage, options.continuous_usage_stats);
        let (id, created) = (serving.id("chatcmpl-"), now());
        let (asks, progress) = ((0..n).map(ask).collect(), self.return_progress.unwrap_or(false));
        Ok(Chat { id, created, asks, with_tools, thinks, logprobs, usage, continuous, progress })
    }
}

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
    let running = try_join_all(asks.into_iter().map(|ask| Running::start(&serving, ask))).await?;
    if streams {
        let stream = stream(serving, chat, running);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response());
    }
    let answers = try_join_all(running.into_iter().map(Running::whole)).await?;
    Ok(Json(whole(&serving, &chat, &answers)).into_response())
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
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
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

/// What is known of an answer that is streamed.
struct Line {
    parser: Option<Parser>,
    calls: usize,
    generated: usize,
    /// Tokens whose text is held back.
    tokens: Vec<Sampled>,
    outcome: Option<Box<Outcome>>,
}

fn stream(serving: Arc<Serving>, chat: Chat, running: Vec<Running>) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut lines: Vec<Line> = running
        .iter()
        .map(|_| Line {
            parser: Some(Parser::new(chat.with_tools, chat.thinks)),
            calls: 0,
            generated: 0,
            tokens: Vec::new(),
            outcome: None,
        })
        .collect();
    let chunk = {
        let (serving, id, created) = (serving.clone(), chat.id.clone(), chat.created);
        move |choices: Value| {
            json!({
                "id": id, "object": "chat.completion.chunk", "created": created,
                "model": serving.settings.model_name, "choices": choices,
            })
        }
    };
    let opening = (0..lines.len()).map(|i| {
        let delta = json!({"role": "assistant", "content": ""});
        Ok(event(&chunk(json!([{"index": i, "delta": delta, "logprobs": null, "finish_reason": null}]))))
    });
    let opening: Vec<_> = opening.collect();
    let events = merged(running).map(Some).chain(futures_util::stream::iter([None]));
    let rest = events.flat_map(move |told| {
        let mut out = Vec::new();
        match told {
            Some(Err(error)) => out.push(Ok(event(&error.body()))),
            Some(Ok((i, Heard::Held(held)))) => {
                let choice = json!([{"index": i, "delta": {}, "logprobs": null, "finish_reason": null}]);
                let mut value = chunk(choice);
                value["kv"] = answer::kv_now(&held);
                out.push(Ok(event(&value)));
            }
            Some(Ok((i, Heard::Reading(done, total)))) => {
                if chat.progress {
                    let choice = json!([{"index": i, "delta": {}, "logprobs": null, "finish_reason": null}]);
                    let mut value = chunk(choice);
                    value["prompt_progress"] = json!({"processed": done, "total": total});
                    out.push(Ok(event(&value)));
                }
            }
            Some(Ok((i, told))) => {
                let line = &mut lines[i];
                let said = match told {
                    Heard::Reading(..) | Heard::Held(_) => Vec::new(),
                    Heard::Token(sampled) => {
                        line.generated += 1;
                        let said = line.parser.as_mut().map(|parser| parser.push(&sampled.text)).unwrap_or_default();
                        line.tokens.push(sampled);
                        said
                    }
                    Heard::Done(outcome) => {
                        line.outcome = Some(outcome);
                        line.parser.take().map(Parser::finish).unwrap_or_default()
                    }
                };
                let mut deltas: Vec<Value> = said.into_iter().map(|said| delta(&serving, line, said)).collect();
                let ended = line.outcome.as_ref().map(|outcome| reason(outcome, line.calls));
                if deltas.is_empty() && ended.is_some() && chat.logprobs && !line.tokens.is_empty() {
                    deltas.push(json!({}));
                }
                for delta in deltas {
                    let tokens = std::mem::take(&mut line.tokens);
                    let logprobs = chat.logprobs.then(|| probabilities::of_chat(&serving.tokenizer, &tokens));
                    let choice = json!([{"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": null}]);
                    let mut value = chunk(choice);
                    if chat.continuous {
                        value["usage"] = usage(0, 0, line.generated);
                    }
                    out.push(Ok(event(&value)));
                }
                if let Some(reason) = ended {
                    let choice = json!([{"index": i, "delta": {}, "logprobs": null, "finish_reason": reason}]);
                    let mut value = chunk(choice);
                    if let Some(outcome) = &line.outcome {
                        add_figures(&mut value, &[outcome]);
                    }
                    out.push(Ok(event(&value)));
                }
            }
            None => {
                let outcomes: Vec<&Outcome> = lines.iter().filter_map(|line| line.outcome.as_deref()).collect();
                if chat.usage && outcomes.len() == lines.len() {
                    let mut value = chunk(json!([]));
                    value["usage"] = usage_of(&outcomes);
                    out.push(Ok(event(&value)));
                }
                out.push(Ok(Event::default().data("[DONE]")));
            }
        }
        futures_util::stream::iter(out)
    });
    futures_util::stream::iter(opening).chain(rest)
}

/// What a stream tells of what the model said.
fn delta(serving: &Serving, line: &mut Line, said: Said) -> Value {
    match said {
        Said::Text(text) => json!({"content": text}),
        Said::Reasoning(text) => json!({"reasoning_content": text}),
        Said::Call { name, arguments } => {
            let mut call = call(serving.id("call_"), &name, &arguments);
            call["index"] = line.calls.into();
            line.calls += 1;
            json!({"tool_calls": [call]})
        }
    }
}
