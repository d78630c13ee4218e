//! OpenAI's responses.

use super::requests::{format, harmless, kv, model, part, sampling, stop, stream, tool_choice};
use super::schema::{answer, any, boolean, closed, count, integer, list, named, one_of, or_null, request, text};
use serde_json::{Map, Value, json};

/// An item of an input.
fn item() -> Value {
    let of = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required});
    let parts = || any(&[text(), list(part(&["text", "input_text", "output_text"]))]);
    let roles = one_of(&["system", "developer", "user", "assistant"]);
    any(&[
        of(json!({"type": {"const": "message"}, "role": roles, "content": parts()}), &["role", "content"]),
        of(
            json!({"type": {"const": "function_call"}, "call_id": text(), "name": text(), "arguments": text()}),
            &["type", "call_id", "name", "arguments"],
        ),
        of(
            json!({"type": {"const": "function_call_output"}, "call_id": text(), "output": parts()}),
            &["type", "call_id", "output"],
        ),
        of(json!({"type": {"const": "reasoning"}}), &["type"]),
    ])
}

fn asked() -> Value {
    let items = json!({"type": "array", "items": item(), "minItems": 1});
    let reasoning = [
        ("effort", text(), "Told to the template; `none` turns thinking off"),
        ("summary", json!({}), "Sent back as it is"),
        ("generate_summary", json!({}), "The same by an older name"),
    ];
    let look = [
        ("format", format(true), "Text, a JSON object, or JSON of a schema"),
        ("verbosity", one_of(&["medium"]), "Medium"),
    ];
    let tool =
        json!({"type": "object", "properties": {"type": {"const": "function"}, "name": text()}, "required": ["type"]});
    let include = list(one_of(&["message.output_text.logprobs", "reasoning.encrypted_content"]));
    let mut optional = vec![
        model(),
        ("instructions", text(), "What the model is told before the conversation"),
        ("max_output_tokens", count(), "Most tokens of the answer"),
        stream(),
        ("tools", list(tool), "Functions that may be called"),
        ("tool_choice", tool_choice(), "Whether tools may be called, must be, or which one must"),
        ("parallel_tool_calls", boolean(), "`false` has a forced call be the only one"),
        ("text", closed(&look), "What the answer has to look like"),
        ("reasoning", closed(&reasoning), "How much the model is to think"),
        ("include", include, "What is told beside the answer"),
        ("top_logprobs", integer(0, 20), "How many of the likeliest tokens are told for each"),
        ("truncation", one_of(&["disabled"]), "Nothing is ever cut"),
        ("previous_response_id", json!({"type": "null"}), "Refused: no response is stored"),
        ("conversation", json!({"type": "null"}), "Refused: none is stored"),
        stop("stop"),
        ("chat_template_kwargs", json!({"type": "object"}), "Further variables for the chat template"),
        kv(),
    ];
    let further = ["prompt_cache_retention", "stream_options", "max_tool_calls"];
    optional.extend(further.into_iter().map(|name| (name, json!({}), "Changes nothing here")));
    optional.extend(sampling());
    optional.extend(harmless());
    request(&[("input", any(&[text(), items]), "A text, or what was said, called and returned so far")], &optional)
}

fn response() -> Value {
    let item = answer(
        &[("type", one_of(&["message", "reasoning", "function_call"]), "What it is"), ("id", text(), "Its name")],
        &[],
    );
    let details = |name: &'static str| answer(&[(name, count(), "Tokens")], &[]);
    let usage = answer(
        &[
            ("input_tokens", count(), "Tokens of the prompt"),
            ("input_tokens_details", details("cached_tokens"), "Those that were found in a checkpoint"),
            ("output_tokens", count(), "Tokens that were generated"),
            ("output_tokens_details", details("reasoning_tokens"), "Those of thoughts"),
            ("total_tokens", count(), "Both together"),
        ],
        &[],
    );
    let why = answer(&[("reason", one_of(&["max_output_tokens"]), "Why")], &[]);
    answer(
        &[
            ("id", text(), "A name that no other answer has"),
            ("object", json!({"const": "response"}), "What this is"),
            ("created_at", count(), "Seconds since 1970"),
            ("status", one_of(&["in_progress", "completed", "incomplete", "failed"]), "How far it is"),
            ("incomplete_details", or_null(why), "Why it was cut, if it was"),
            ("model", text(), "The model's name"),
            ("output", list(item), "What is said, thought and called"),
            ("store", json!({"const": false}), "Nothing is stored"),
            ("usage", or_null(usage), "The tokens"),
        ],
        &[("timings", named("Timings"), "Where time went"), ("kv", named("Kv"), "What the cache holds")],
    )
}

/// All of them.
pub(super) fn schemas() -> Map<String, Value> {
    let event = answer(
        &[("type", text(), "`response.created`, `response.output_text.delta` and so on")],
        &[("sequence_number", count(), "Which event of the stream this is")],
    );
    let all = [("ResponsesRequest", asked()), ("Response", response()), ("ResponseEvent", event)];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}
