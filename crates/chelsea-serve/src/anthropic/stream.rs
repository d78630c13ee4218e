//! A message as a stream of events: blocks begin, grow and end one after the other.

use super::{stop_reason, text_block, tool_use, usage, usage_of};
use crate::answer::{Heard, Running, kv, kv_now};
use crate::reply::{Parser, Said};
use crate::{ApiError, Serving, Style};
use axum::response::sse::Event;
use chelsea_engine::scheduler::Outcome;
use futures_util::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

fn event(value: &Value) -> Event {
    Event::default().event(value["type"].as_str().unwrap_or_default()).data(value.to_string())
}

/// A message on its way.
struct Line {
    serving: Arc<Serving>,
    parser: Option<Parser>,
    running: Option<Running>,
    out: VecDeque<Value>,
    /// The kind of the block that is open.
    open: Option<&'static str>,
    blocks: usize,
    calls: usize,
}

impl Line {
    fn close(&mut self) {
        if self.open.take().is_some() {
            self.out.push_back(json!({"type": "content_block_stop", "index": self.blocks - 1}));
        }
    }

    /// Opens a block of this kind, unless it is open.
    fn open(&mut self, kind: &'static str, block: Value) {
        if self.open == Some(kind) && kind != "tool_use" {
            return;
        }
        self.close();
        self.out.push_back(json!({"type": "content_block_start", "index": self.blocks, "content_block": block}));
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn grow(&mut self, delta: Value) {
        self.out.push_back(json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta}));
    }

    fn say(&mut self, said: Said) {
        match said {
            Said::Text(text) => {
                self.open("text", text_block(""));
                self.grow(json!({"type": "text_delta", "text": text}));
            }
            Said::Reasoning(text) => {
                self.open("thinking", json!({"type": "thinking", "thinking": "", "signature": ""}));
                self.grow(json!({"type": "thinking_delta", "thinking": text}));
            }
            Said::Call { name, arguments } => {
                self.calls += 1;
                let id = self.serving.id("toolu_");
                self.open("tool_use", tool_use(id, &name, json!({})));
                self.grow(json!({"type": "input_json_delta", "partial_json": arguments}));
            }
        }
    }

    fn hear(&mut self, heard: Result<Heard, ApiError>) {
        match heard {
            Ok(Heard::Reading(..) | Heard::Scored(_)) => {}
            // Clients take pings of any content, and pass them over.
            Ok(Heard::Held(held)) => self.out.push_back(json!({"type": "ping", "kv": kv_now(&held)})),
            Ok(Heard::Token(sampled)) => {
                let said = self.parser.as_mut().map(|parser| parser.push(&sampled.text)).unwrap_or_default();
                said.into_iter().for_each(|said| self.say(said));
            }
            Ok(Heard::Done(outcome)) => {
                let said = self.parser.take().map(Parser::finish).unwrap_or_default();
                said.into_iter().for_each(|said| self.say(said));
                self.finish(&outcome);
                self.running = None;
            }
            Err(error) => {
                self.out.push_back(error.in_style(Style::Anthropic).body());
                self.running = None;
            }
        }
    }

    fn finish(&mut self, outcome: &Outcome) {
        self.close();
        let delta = json!({
            "stop_reason": stop_reason(outcome, self.calls), "stop_sequence": outcome.stop, "stop_details": null,
            "container": null,
        });
        let mut last = json!({"type": "message_delta", "delta": delta, "usage": usage(outcome)});
        if outcome.layout.is_some() {
            last["kv"] = kv(outcome);
        }
        self.out.push_back(last);
        self.out.push_back(json!({"type": "message_stop"}));
    }
}

/// The events of a message.
pub(super) fn events(
    serving: Arc<Serving>,
    id: String,
    prompt: usize,
    parser: Parser,
    running: Running,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let start = json!({"type": "message_start", "message": {
        "id": id, "type": "message", "role": "assistant", "model": serving.settings.model_name, "content": [],
        "stop_reason": null, "stop_sequence": null, "stop_details": null, "container": null,
        "usage": usage_of(prompt, 0, 0),
    }});
    let line = Line {
        serving,
        parser: Some(parser),
        running: Some(running),
        out: VecDeque::from([start]),
        open: None,
        blocks: 0,
        calls: 0,
    };
    futures_util::stream::unfold(line, |mut line| async move {
        loop {
            if let Some(value) = line.out.pop_front() {
                return Some((Ok(event(&value)), line));
            }
            let heard = line.running.as_mut()?.next().await;
            line.hear(heard);
        }
    })
}
