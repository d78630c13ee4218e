//! A chat as a stream of events.

use super::request::Chat;
use super::{add_figures, call, merged, reason, usage_of};
use crate::Serving;
use crate::answer::{Heard, Running, kv_now, usage};
use crate::openai::{event, probabilities};
use crate::reply::{Parser, Said};
use axum::response::sse::Event;
use chelsea_engine::scheduler::{Outcome, Sampled};
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// What is known of an answer that is streamed.
struct Line {
    parser: Option<Parser>,
    calls: usize,
    generated: usize,
    /// Tokens whose text is held back.
    tokens: Vec<Sampled>,
    outcome: Option<Box<Outcome>>,
}

/// The events of a chat.
pub(super) fn events(
    serving: Arc<Serving>,
    chat: Chat,
    running: Vec<Running>,
) -> impl Stream<Item = Result<Event, Infallible>> {
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
                value["kv"] = kv_now(&held);
                out.push(Ok(event(&value)));
            }
            Some(Ok((i, Heard::Reading(progress)))) => {
                if chat.progress {
                    let choice = json!([{"index": i, "delta": {}, "logprobs": null, "finish_reason": null}]);
                    let mut value = chunk(choice);
                    value["prompt_progress"] = json!({
                        "total": progress.total, "cache": progress.cached, "processed": progress.processed,
                    });
                    out.push(Ok(event(&value)));
                }
            }
            Some(Ok((i, told))) => {
                let line = &mut lines[i];
                let said = match told {
                    Heard::Reading(..) | Heard::Held(_) | Heard::Scored(_) => Vec::new(),
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
