//! Chats and completions.

use super::super::schema::{any, boolean, count, integer, list, named, one_of, or_null, request, text};
use super::forms::{chat_tools, forms, tool_choice, typed};
use super::{harmless, kv, model, sampling, stop, stream, stream_options, transfer};
use serde_json::{Value, json};

/// What is said: a text, or parts of it.
pub(super) fn said() -> Value {
    let part = json!({
        "type": "object",
        "properties": {"type": one_of(&["text", "input_text", "output_text"]), "text": text()},
        "required": ["text"],
    });
    any(&[text(), list(part)])
}

/// What users of chats say: documents, too, that are on the server.
fn said_by_users() -> Value {
    let file = json!({"type": "object", "properties": {"file_id": text()}, "required": ["file_id"]});
    said_with(typed("file", json!({"file": file}), &["file"]))
}

/// What is said: a text, or parts of it with others among them.
pub(super) fn said_with(other: Value) -> Value {
    let part = json!({
        "type": "object",
        "properties": {"type": one_of(&["text", "input_text", "output_text"]), "text": text()},
        "required": ["text"],
    });
    any(&[text(), list(any(&[part, other]))])
}

/// A turn of a chat.
pub(super) fn turn() -> Value {
    let of = |roles: &[&str], content: Value, more: Value, required: &[&str]| {
        let mut properties = json!({"role": one_of(roles), "content": content});
        if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
            properties.extend(more);
        }
        json!({"type": "object", "properties": properties, "required": required})
    };
    let calls = json!({"tool_calls": {"description": "What it called, as it was answered"}});
    let result = json!({"tool_call_id": {"description": "The call that this is the result of"}});
    any(&[
        of(&["system", "developer", "function"], said(), json!({}), &["role", "content"]),
        of(&["user"], said_by_users(), json!({}), &["role", "content"]),
        of(&["tool"], said(), result, &["role", "content"]),
        of(&["assistant"], or_null(said()), calls, &["role"]),
    ])
}

pub(super) fn chat() -> Value {
    let messages = json!({"type": "array", "items": named("Turn"), "minItems": 1});
    let required = [("messages", messages, "The conversation")];
    let mut optional = vec![
        model(),
        ("max_tokens", count(), "Most tokens of the answer; as many as fit by default"),
        ("max_completion_tokens", count(), "The same by another name, which goes first"),
        ("n", integer(1, 16), "How many answers"),
        stream(),
        stream_options(),
        ("return_progress", boolean(), "Whether a stream tells how far the prompt was read"),
        stop("stop"),
        ("logprobs", boolean(), "Whether it is told how likely tokens were"),
        ("top_logprobs", integer(0, 20), "How many of the likeliest tokens are told for each; needs `logprobs`"),
        ("tools", chat_tools(), "Functions that may be called"),
        (
            "tool_choice",
            tool_choice(),
            "Whether tools may be called (`auto`), or must (`required`, or one by its name)",
        ),
        ("parallel_tool_calls", boolean(), "`false`: one call at most, where a call is forced or a form is asked for"),
        ("chat_template_kwargs", json!({"type": "object"}), "Further variables for the chat template"),
        kv(),
        transfer(),
    ];
    optional.extend(forms());
    optional.extend(sampling());
    optional.extend(harmless());
    request(&required, &optional)
}

pub(super) fn completion(vocab: u64) -> Value {
    let token = || integer(0, vocab.saturating_sub(1));
    let several = |of: Value| json!({"type": "array", "items": of, "minItems": 1, "maxItems": 128});
    let tokens = || json!({"type": "array", "items": token(), "minItems": 1});
    let prompt = any(&[text(), tokens(), several(text()), several(tokens())]);
    let length = integer(-1, i64::MAX as u64);
    let mut optional = vec![
        model(),
        ("max_tokens", length.clone(), "Most tokens of an answer, 16 by default; -1 is as many as fit, 0 is none"),
        ("n_predict", length, "llama.cpp's name of `max_tokens`"),
        ("n", integer(1, 16), "How many answers to each prompt"),
        stream(),
        stream_options(),
        stop("stop"),
        ("logprobs", integer(0, 20), "How many of the likeliest tokens are told for each"),
        ("echo", boolean(), "Whether the prompt comes before the answer; with `logprobs`, its tokens are scored"),
        kv(),
        transfer(),
    ];
    optional.extend(forms());
    optional.extend(sampling());
    optional.extend(harmless());
    request(&[("prompt", prompt, "A prompt or several, as texts or tokens")], &optional)
}
