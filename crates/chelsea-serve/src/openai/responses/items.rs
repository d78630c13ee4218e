//! What a model says as the items of a response's output: thoughts, messages and calls, each with the events that tell how
//! it grows. Whole answers and streams go through the same items.

use crate::Serving;
use crate::openai::probabilities;
use crate::reply::{Parser, Said};
use chelsea_engine::scheduler::Sampled;
use serde_json::{Value, json};
use std::sync::Arc;

/// What kind of item grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Kind {
    /// The type of its only part, which also names its events.
    fn part(self) -> &'static str {
        match self {
            Kind::Reasoning => "reasoning_text",
            Kind::Message => "output_text",
        }
    }
}

/// The item that grows.
#[derive(Debug)]
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

impl Open {
    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            Kind::Message => json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs,
            }),
        }
    }

    fn item(&self, status: &str, content: Value) -> Value {
        match self.kind {
            Kind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status,
            }),
            Kind::Message => json!({
                "id": self.id, "type": "message", "role": "assistant", "content": content, "status": status,
            }),
        }
    }
}

/// The items of an answer on its way.
pub(super) struct Items {
    serving: Arc<Serving>,
    parser: Option<Parser>,
    with_logprobs: bool,
    /// Items that are complete.
    done: Vec<Value>,
    open: Option<Open>,
    /// Tokens whose text was not told yet.
    tokens: Vec<Sampled>,
    /// Tokens of thoughts.
    thought: usize,
}

impl Items {
    pub(super) fn new(serving: Arc<Serving>, parser: Parser, with_logprobs: bool) -> Self {
        let (done, tokens) = (Vec::new(), Vec::new());
        Items { serving, parser: Some(parser), with_logprobs, done, open: None, tokens, thought: 0 }
    }

    /// The complete items.
    pub(super) fn done(&self) -> &[Value] {
        &self.done
    }

    /// Tokens that went into thoughts, their marks included.
    pub(super) fn thought(&self) -> usize {
        self.thought
    }

    /// Takes the next token in; what follows from it is added to `events`.
    pub(super) fn push(&mut self, sampled: Sampled, events: &mut Vec<Value>) {
        let Some(parser) = &mut self.parser else { return };
        let before = parser.is_thinking();
        let said = parser.push(&sampled.text);
        self.thought += usize::from(before || parser.is_thinking());
        if self.with_logprobs {
            self.tokens.push(sampled);
        }
        said.into_iter().for_each(|said| self.say(said, events));
    }

    /// The end of the answer, which was cut or is complete.
    pub(super) fn finish(&mut self, is_cut: bool, events: &mut Vec<Value>) {
        let said = self.parser.take().map(Parser::finish).unwrap_or_default();
        said.into_iter().for_each(|said| self.say(said, events));
        self.close(if is_cut { "incomplete" } else { "completed" }, events);
    }

    fn say(&mut self, said: Said, events: &mut Vec<Value>) {
        match said {
            Said::Reasoning(text) => self.grow(Kind::Reasoning, &text, events),
            Said::Text(text) => self.grow(Kind::Message, &text, events),
            Said::Call { name, arguments } => self.call(&name, &arguments, events),
        }
    }

    fn grow(&mut self, kind: Kind, text: &str, events: &mut Vec<Value>) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close("completed", events);
            let id = self.serving.id(if kind == Kind::Reasoning { "rs_" } else { "msg_" });
            let open = Open { kind, id, text: String::new(), logprobs: Vec::new() };
            let index = self.done.len();
            events.push(json!({
                "type": "response.output_item.added", "output_index": index, "item": open.item("in_progress", json!([])),
            }));
            events.push(json!({
                "type": "response.content_part.added", "item_id": open.id, "output_index": index, "content_index": 0,
                "part": open.part(),
            }));
            self.open = Some(open);
        }
        let (tokens, index) = (std::mem::take(&mut self.tokens), self.done.len());
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut event = json!({
            "type": format!("response.{}.delta", kind.part()), "item_id": open.id, "output_index": index,
            "content_index": 0, "delta": text,
        });
        if kind == Kind::Message {
            let logprobs = probabilities::entries(&self.serving.tokenizer, &tokens);
            open.logprobs.extend(logprobs.iter().cloned());
            event["logprobs"] = logprobs.into();
        }
        events.push(event);
    }

    fn close(&mut self, status: &str, events: &mut Vec<Value>) {
        let Some(open) = self.open.take() else { return };
        let (index, part) = (self.done.len(), open.part());
        let mut event = json!({
            "type": format!("response.{}.done", open.kind.part()), "item_id": open.id, "output_index": index,
            "content_index": 0, "text": open.text,
        });
        if open.kind == Kind::Message {
            event["logprobs"] = open.logprobs.clone().into();
        }
        events.push(event);
        events.push(json!({
            "type": "response.content_part.done", "item_id": open.id, "output_index": index, "content_index": 0,
            "part": part.clone(),
        }));
        self.complete(open.item(status, json!([part])), events);
    }

    fn complete(&mut self, item: Value, events: &mut Vec<Value>) {
        events.push(json!({
            "type": "response.output_item.done", "output_index": self.done.len(), "item": item.clone(),
        }));
        self.done.push(item);
    }

    /// A call is known only once all of it was said, so it grows in one step.
    fn call(&mut self, name: &str, arguments: &str, events: &mut Vec<Value>) {
        self.close("completed", events);
        self.tokens.clear();
        let (id, index) = (self.serving.id("fc_"), self.done.len());
        let mut item = json!({
            "id": id, "type": "function_call", "call_id": self.serving.id("call_"), "name": name, "arguments": "",
            "status": "in_progress",
        });
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": item.clone()}));
        events.push(json!({
            "type": "response.function_call_arguments.delta", "item_id": id, "output_index": index, "delta": arguments,
        }));
        events.push(json!({
            "type": "response.function_call_arguments.done", "item_id": id, "output_index": index, "name": name,
            "arguments": arguments,
        }));
        (item["arguments"], item["status"]) = (arguments.into(), "completed".into());
        self.complete(item, events);
    }
}
