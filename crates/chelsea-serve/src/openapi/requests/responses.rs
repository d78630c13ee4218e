//! Responses.

use super::super::schema::{any, boolean, closed, count, integer, list, one_of, request, text};
use super::chats::{said, said_with};
use super::forms::{response_tools, text_format, tool_choice, typed};
use super::{harmless, kv, model, sampling, stop, stream};
use serde_json::{Value, json};

/// What was said, called and returned.
fn item() -> Value {
    let message = |roles: &[&str], content: Value| {
        let kind = one_of(&["message"]);
        let properties = json!({"type": kind, "role": one_of(roles), "content": content});
        json!({"type": "object", "properties": properties, "required": ["role", "content"]})
    };
    let file = typed("input_file", json!({"file_id": text()}), &["file_id"]);
    any(&[
        message(&["user"], said_with(file)),
        message(&["system", "developer", "assistant"], said()),
        typed(
            "function_call",
            json!({"call_id": text(), "name": text(), "arguments": text()}),
            &["call_id", "name", "arguments"],
        ),
        typed("function_call_output", json!({"call_id": text(), "output": said()}), &["call_id", "output"]),
        typed("reasoning", json!({}), &[]),
    ])
}

pub(super) fn response() -> Value {
    let input = any(&[text(), json!({"type": "array", "items": item(), "minItems": 1})]);
    let of_text = [
        ("format", text_format(), "What the answer has to look like"),
        ("verbosity", one_of(&["medium"]), "Nothing else can be asked for"),
    ];
    let reasoning = [
        ("effort", text(), "Told to the chat template; `none` turns `enable_thinking` off"),
        ("summary", json!({}), "Changes nothing here: thoughts are told whole"),
        ("generate_summary", json!({}), "The same by its earlier name"),
    ];
    let include = list(one_of(&["message.output_text.logprobs", "reasoning.encrypted_content"]));
    let nothing = || json!({"enum": [null]});
    let mut optional = vec![
        model(),
        ("instructions", text(), "A system message that goes before the input"),
        ("max_output_tokens", count(), "Most tokens of the answer; as many as fit by default"),
        stream(),
        stop("stop"),
        ("tools", response_tools(), "Functions that may be called"),
        (
            "tool_choice",
            tool_choice(),
            "Whether tools may be called (`auto`), or must (`required`, or one by its name)",
        ),
        ("parallel_tool_calls", boolean(), "`false`: one call at most, where a call is forced or a form is asked for"),
        ("text", closed(&of_text), "What the text of the answer is like"),
        ("reasoning", closed(&reasoning), "How much the model thinks"),
        ("include", include, "Whether it is told how likely tokens were"),
        ("top_logprobs", integer(0, 20), "How many of the likeliest tokens are told for each"),
        ("truncation", one_of(&["disabled"]), "An input that does not fit is refused, never cut"),
        ("previous_response_id", nothing(), "Refused: no response is stored here"),
        ("conversation", nothing(), "Refused: no conversation is stored here"),
        ("chat_template_kwargs", json!({"type": "object"}), "Further variables for the chat template"),
        kv(),
    ];
    optional.extend(sampling());
    optional.extend(harmless());
    let further = ["prompt_cache_retention", "stream_options", "max_tool_calls"];
    optional.extend(further.map(|name| (name, json!({}), "Changes nothing here")));
    request(&[("input", input, "What the user says, or a conversation as items")], &optional)
}
