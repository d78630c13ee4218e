//! The interface of OpenAI, as vLLM and llama.cpp extend it.

pub mod chat;
pub mod completions;
pub mod files;
pub mod models;
mod probabilities;
pub mod responses;
pub mod tokens;

use axum::response::sse::Event;
use serde_json::Value;

/// An event of a stream.
fn event(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

/// What `stream_options` holds.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether the tokens are told at the end.
    #[serde(default)]
    include_usage: bool,
    /// Whether they are told in every event.
    #[serde(default)]
    continuous_usage_stats: bool,
}
