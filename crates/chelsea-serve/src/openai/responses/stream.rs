//! A response as a stream of events, each with its number.

use super::items::Items;
use super::{complete, is_cut};
use crate::ApiError;
use crate::answer::{Heard, Running};
use axum::response::sse::Event;
use futures_util::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;

/// A response on its way.
struct Line {
    response: Value,
    items: Items,
    running: Option<Running>,
    out: VecDeque<Value>,
    /// Events so far.
    number: usize,
}

impl Line {
    fn hear(&mut self, heard: Result<Heard, ApiError>) {
        let mut events = Vec::new();
        match heard {
            Ok(Heard::Reading(..) | Heard::Held(_) | Heard::Scored(_)) => {}
            Ok(Heard::Token(sampled)) => self.items.push(sampled, &mut events),
            Ok(Heard::Done(outcome)) => {
                self.items.finish(is_cut(&outcome), &mut events);
                let kind = if is_cut(&outcome) { "response.incomplete" } else { "response.completed" };
                let response = complete(self.response.take(), &self.items, &outcome);
                events.push(json!({"type": kind, "response": response}));
                self.running = None;
            }
            Err(error) => {
                let mut response = self.response.take();
                response["status"] = "failed".into();
                response["output"] = self.items.done().into();
                response["error"] = json!({"code": "server_error", "message": error.message});
                events.push(json!({"type": "response.failed", "response": response}));
                self.running = None;
            }
        }
        self.out.extend(events);
    }

    fn event(&mut self, mut value: Value) -> Event {
        value["sequence_number"] = self.number.into();
        self.number += 1;
        Event::default().event(value["type"].as_str().unwrap_or_default()).data(value.to_string())
    }
}

/// The events of a response.
pub(super) fn events(response: Value, items: Items, running: Running) -> impl Stream<Item = Result<Event, Infallible>> {
    let opening = ["response.created", "response.in_progress"];
    let out = opening.map(|kind| json!({"type": kind, "response": response.clone()})).into();
    let line = Line { response, items, running: Some(running), out, number: 0 };
    futures_util::stream::unfold(line, |mut line| async move {
        loop {
            if let Some(value) = line.out.pop_front() {
                let event = line.event(value);
                return Some((Ok(event), line));
            }
            let heard = line.running.as_mut()?.next().await;
            line.hear(heard);
        }
    })
}
