//! Responses and their events.

use super::super::schema::{Field, answer, boolean, count, list, named, one_of, or_null, text};
use super::{amount, figures};
use serde_json::{Value, json};

/// What is said, thought and called.
fn item() -> Value {
    let part = answer(
        &[("type", one_of(&["output_text", "reasoning_text"]), "What it is"), ("text", text(), "Its words")],
        &[
            ("annotations", list(json!({})), "None"),
            ("logprobs", list(json!({"type": "object"})), "How likely tokens were, where that was asked for"),
        ],
    );
    answer(
        &[
            ("id", text(), "A name that no other item has"),
            ("type", one_of(&["message", "reasoning", "function_call"]), "What it is"),
            ("status", one_of(&["in_progress", "completed", "incomplete"]), "Whether all of it was said"),
        ],
        &[
            ("role", json!({"const": "assistant"}), "Whose turn a message is"),
            ("content", list(part), "What a message or a thought says"),
            ("summary", list(json!({})), "Of thoughts: none, as they are told whole"),
            ("call_id", text(), "What the result of a call refers to"),
            ("name", text(), "The tool that is called"),
            ("arguments", text(), "What it is given, as JSON"),
        ],
    )
}

fn usage() -> Value {
    let input = answer(
        &[
            ("cached_tokens", count(), "Tokens that were found in a checkpoint and not read again"),
            ("cache_write_tokens", count(), "Always 0: what is kept costs nothing"),
        ],
        &[],
    );
    let output = answer(&[("reasoning_tokens", count(), "Tokens that went into thoughts")], &[]);
    answer(
        &[
            ("input_tokens", count(), "Tokens of the prompt"),
            ("input_tokens_details", input, "Where they came from"),
            ("output_tokens", count(), "Tokens that were generated"),
            ("output_tokens_details", output, "Where they went"),
            ("total_tokens", count(), "Both together"),
        ],
        &[],
    )
}

pub(super) fn response() -> Value {
    let error = answer(&[("code", text(), "A short name"), ("message", text(), "What went wrong")], &[]);
    let details = answer(&[("reason", json!({"const": "max_output_tokens"}), "Why it was cut")], &[]);
    let states = one_of(&["in_progress", "completed", "incomplete", "failed"]);
    let any = || json!({"type": "object"});
    let required: Vec<Field> = vec![
        ("id", text(), "A name that no other answer has"),
        ("object", json!({"const": "response"}), "What this is"),
        ("created_at", count(), "Seconds since 1970"),
        ("completed_at", or_null(count()), "The same at its end, unless it was cut"),
        ("status", states, "How far it is"),
        ("background", json!({"const": false}), "Always false"),
        ("error", or_null(error), "What went wrong, if anything did"),
        ("incomplete_details", or_null(details), "Why it was cut, if it was"),
        ("instructions", or_null(text()), "As it was asked"),
        ("max_output_tokens", or_null(count()), "As it was asked"),
        ("max_tool_calls", json!({}), "As it was asked: changes nothing"),
        ("model", text(), "The model's name"),
        ("output", list(item()), "What is said, thought and called"),
        ("parallel_tool_calls", boolean(), "As it was asked"),
        ("previous_response_id", json!({"type": "null"}), "Always null"),
        ("reasoning", any(), "As it was asked"),
        ("store", json!({"const": false}), "Always false: nothing is stored"),
        ("prompt_cache_key", json!({}), "As it was asked: changes nothing"),
        ("safety_identifier", json!({}), "As it was asked: changes nothing"),
        ("service_tier", json!({"const": "default"}), "Always `default`"),
        ("presence_penalty", json!({"type": "number"}), "As it was asked"),
        ("frequency_penalty", json!({"type": "number"}), "As it was asked"),
        ("temperature", amount(), "As it was asked"),
        ("top_p", amount(), "As it was asked"),
        ("text", any(), "As it was asked"),
        ("tool_choice", json!({"type": ["string", "object"]}), "As it was asked"),
        ("tools", list(any()), "As it was asked"),
        ("top_logprobs", count(), "As it was asked"),
        ("truncation", json!({"const": "disabled"}), "Always `disabled`"),
        ("usage", or_null(usage()), "The tokens, at its end"),
        ("metadata", json!({}), "As it was asked"),
    ];
    answer(&required, &figures())
}

/// An event of a stream, by its type.
pub(super) fn event() -> Value {
    let kinds = one_of(&[
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]);
    answer(
        &[
            ("type", kinds, "What happened"),
            ("sequence_number", count(), "Which of the stream's events this is, from 0"),
        ],
        &[
            ("response", named("Response"), "The response as it is now: of events that begin or end it"),
            ("output_index", count(), "Which item it is about"),
            ("item_id", text(), "The same by its name"),
            ("item", item(), "The item: of events that begin or end one"),
            ("content_index", count(), "Which part of the item"),
            ("part", json!({"type": "object"}), "The part: of events that begin or end one"),
            ("delta", text(), "What it grows by"),
            ("text", text(), "All of its words"),
            ("name", text(), "The tool that is called"),
            ("arguments", text(), "What it is given, as JSON"),
            ("logprobs", list(json!({"type": "object"})), "How likely the tokens were, where that was asked for"),
        ],
    )
}
