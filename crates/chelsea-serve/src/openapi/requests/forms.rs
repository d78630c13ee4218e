//! What an answer has to look like, and tools that may be called.

use super::super::schema::{Field, any, boolean, closed, list, one_of, or_null, text};
use serde_json::{Value, json};

/// A JSON schema as it is written.
fn written() -> Value {
    json!({"type": ["object", "boolean"]})
}

/// The same, or a text that holds one.
fn written_or_text() -> Value {
    json!({"type": ["object", "boolean", "string"]})
}

/// An object with a type of its own, in which other fields change nothing.
pub(super) fn typed(kind: &str, properties: Value, required: &[&str]) -> Value {
    let mut all = json!({"type": {"const": kind}});
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), properties) {
        all.extend(more);
    }
    let required: Vec<&str> = std::iter::once("type").chain(required.iter().copied()).collect();
    json!({"type": "object", "properties": all, "required": required})
}

/// What a schema has beside itself.
fn beside_schema() -> Value {
    json!({"schema": or_null(written()), "strict": or_null(boolean()), "name": {}, "description": {}})
}

/// `response_format` of chats and completions.
pub(super) fn response_format() -> Value {
    let named = json!({"type": "object", "properties": beside_schema()});
    any(&[
        typed("text", json!({}), &[]),
        typed("json_object", json!({"schema": or_null(written())}), &[]),
        typed("json_schema", json!({"json_schema": named}), &["json_schema"]),
    ])
}

/// `text.format` of responses, in which a schema has no object of its own.
pub(super) fn text_format() -> Value {
    any(&[
        typed("text", json!({}), &[]),
        typed("json_object", json!({"schema": or_null(written())}), &[]),
        typed("json_schema", beside_schema(), &[]),
    ])
}

/// `output_config.format` of messages.
pub(super) fn output_format() -> Value {
    typed("json_schema", json!({"schema": or_null(written()), "strict": or_null(boolean())}), &["schema"])
}

/// What an answer has to look like, by the names of several servers: one of these at most.
pub(super) fn forms() -> Vec<Field> {
    let choice = || json!({"type": "array", "items": text(), "minItems": 1});
    let structured = [
        ("json", written_or_text(), "JSON of this schema"),
        ("json_object", boolean(), "Any JSON object"),
        ("regex", text(), "A text that this regular expression matches"),
        ("choice", choice(), "One of these texts"),
    ];
    vec![
        ("response_format", response_format(), "What the answer has to look like"),
        ("structured_outputs", closed(&structured), "The same as vLLM has it: one of these"),
        ("guided_json", written_or_text(), "JSON of this schema"),
        ("guided_regex", text(), "A text that this regular expression matches"),
        ("guided_choice", choice(), "One of these texts"),
        ("json_schema", written_or_text(), "JSON of this schema, as llama.cpp has it"),
    ]
}

/// What is known of a function.
fn function() -> Value {
    json!({"name": text(), "description": or_null(text()), "parameters": or_null(written()), "strict": or_null(boolean())})
}

/// A tool of a chat.
pub(super) fn chat_tools() -> Value {
    let function = json!({"type": "object", "properties": function(), "required": ["name"]});
    let properties = json!({"type": {"const": "function"}, "function": function});
    list(json!({"type": "object", "properties": properties, "required": ["function"]}))
}

/// A tool of a response, which has no object of its own.
pub(super) fn response_tools() -> Value {
    list(typed("function", function(), &["name"]))
}

/// Whether tools may be called, or must.
pub(super) fn tool_choice() -> Value {
    let named = json!({"type": "object", "properties": {"name": text()}, "required": ["name"]});
    any(&[
        one_of(&["auto", "none", "required"]),
        typed("function", json!({"function": named}), &["function"]),
        typed("function", json!({"name": text()}), &["name"]),
    ])
}

/// The same in messages.
pub(super) fn message_tool_choice() -> Value {
    let one = || json!({"disable_parallel_tool_use": or_null(boolean())});
    let named = json!({"name": text(), "disable_parallel_tool_use": or_null(boolean())});
    any(&[
        typed("auto", one(), &[]),
        typed("none", one(), &[]),
        typed("any", one(), &[]),
        typed("tool", named, &["name"]),
    ])
}
