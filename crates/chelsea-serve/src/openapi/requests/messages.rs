//! Messages.

use super::super::schema::{any, integer, list, number, number_above, one_of, or_null, request, text};
use super::forms::{message_tool_choice, output_format, typed};
use super::{F32, harmless, kv, model, stream};
use serde_json::{Value, json};

/// What a message of Anthropic's says.
fn blocks() -> Value {
    let result =
        any(&[or_null(text()), list(json!({"type": "object", "required": ["text"], "properties": {"text": text()}}))]);
    let kind = one_of(&["text"]);
    let words = json!({"type": "object", "properties": {"type": kind, "text": text()}, "required": ["text"]});
    let block = any(&[
        words,
        typed("thinking", json!({}), &[]),
        typed("redacted_thinking", json!({}), &[]),
        typed("tool_use", json!({"name": text(), "input": {}}), &["name"]),
        typed("tool_result", json!({"tool_use_id": {}, "content": result}), &[]),
    ]);
    any(&[text(), list(block)])
}

/// `needs_length`: answers are at most as long as is said; a prompt that is counted has none.
pub(super) fn messages(needs_length: bool) -> Value {
    let turn = json!({
        "type": "object",
        "properties": {"role": one_of(&["user", "assistant", "system"]), "content": blocks()},
        "required": ["role", "content"],
    });
    let turns = json!({"type": "array", "items": turn, "minItems": 1});
    let length = ("max_tokens", integer(1, u64::MAX), "Most tokens of the answer");
    let mut required = vec![("messages", turns, "The conversation; a last turn of the assistant's is gone on from")];
    let system = any(&[text(), list(json!({"type": "object", "properties": {"text": text()}, "required": ["text"]}))]);
    let tool = json!({
        "type": "object",
        "properties": {
            "name": text(), "description": or_null(text()), "input_schema": {"type": ["object", "boolean", "null"]},
        },
        "required": ["name", "input_schema"],
    });
    let thinking =
        any(&[typed("enabled", json!({}), &[]), typed("disabled", json!({}), &[]), typed("adaptive", json!({}), &[])]);
    let config = json!({
        "type": "object",
        "properties": {"format": or_null(output_format()), "effort": {"description": "Changes nothing here"}},
    });
    let mut optional = vec![
        model(),
        ("system", system, "What the model is told before the conversation"),
        ("stop_sequences", json!({"type": "array", "items": text(), "maxItems": 16}), "Texts that end the answer"),
        stream(),
        ("temperature", number(0.0, F32), "0 always takes the likeliest token; 1 by default"),
        ("top_p", number_above(0.0, 1.0), "Choose among the tokens that make up this much probability"),
        ("top_k", integer(i64::MIN, i64::MAX as u64), "Choose among so many likeliest tokens"),
        ("tools", list(tool), "Tools that may be called"),
        ("tool_choice", message_tool_choice(), "Whether tools may be called (`auto`), or must (`any`, `tool`)"),
        ("thinking", thinking, "Whether the model is to think first; its tokens count among `max_tokens`"),
        ("output_config", config, "What the answer has to look like"),
        ("output_format", output_format(), "The same by its earlier name"),
        kv(),
    ];
    if needs_length {
        required.push(length);
    } else {
        optional.push(length);
    }
    let further = ["cache_control", "context_management", "container", "betas"];
    optional.extend(further.into_iter().map(|name| (name, json!({}), "Changes nothing here")));
    optional.push(("mcp_servers", json!({"enum": [[], null, false]}), "Refused unless it is empty"));
    optional.extend(harmless());
    request(&required, &optional)
}
