//! Chats, completions and messages.

use super::super::schema::{Field, answer, count, integer, list, named, one_of, or_null, text};
use super::{figures, offer, opening};
use serde_json::{Value, json};

/// How likely the tokens of a chat were.
fn of_tokens() -> Value {
    let entry = [
        ("token", text(), "Its text"),
        ("logprob", json!({"type": "number"}), "The logarithm of how likely it was"),
        ("bytes", list(integer(0, 255)), "The bytes of its text"),
    ];
    let top = [("top_logprobs", list(answer(&entry, &[])), "The same of the likeliest tokens")];
    let token = answer(&[&entry[..], &top[..]].concat(), &[]);
    let said = ("content", list(token), "The tokens");
    answer(&[said, ("refusal", json!({"type": "null"}), "Always null")], &[])
}

pub(super) fn chat(is_chunk: bool) -> Value {
    let call = json!({"type": "object", "properties": {
        "index": count(), "id": text(), "type": {"const": "function"},
        "function": answer(&[("name", text(), "The tool"), ("arguments", text(), "What it is given, as JSON")], &[]),
    }, "required": ["id", "type", "function"]});
    let said: Vec<Field> = vec![
        ("role", json!({"const": "assistant"}), "Whose turn it is"),
        ("content", or_null(text()), "What the model says"),
        ("refusal", json!({"type": "null"}), "Always null"),
        ("annotations", list(json!({})), "None"),
        ("reasoning_content", text(), "What it thinks"),
        ("tool_calls", list(call), "Tools that it calls"),
    ];
    let (message, said) =
        if is_chunk { ("delta", answer(&[], &said)) } else { ("message", answer(&said[..4], &said[4..])) };
    let reasons = one_of(&["stop", "length", "tool_calls"]);
    let choice = answer(
        &[
            ("index", integer(0, 15), "Which of the answers"),
            (message, said, "What is said"),
            ("logprobs", or_null(of_tokens()), "How likely tokens were"),
            ("finish_reason", if is_chunk { or_null(reasons) } else { reasons }, "Why it ended"),
        ],
        &[],
    );
    let mut required = opening(if is_chunk { "chat.completion.chunk" } else { "chat.completion" });
    required.push(("choices", list(choice), "The answers"));
    let usage = ("usage", named("Usage"), "The tokens");
    if is_chunk {
        let progress = answer(
            &[
                ("total", count(), "Tokens of the prompt"),
                ("cache", count(), "Those of them that lay in a checkpoint"),
                ("processed", count(), "Those that need not be read any more, with those of the checkpoint"),
            ],
            &[],
        );
        let mut optional = vec![usage, ("prompt_progress", progress, "How far the prompt was read")];
        optional.extend(figures());
        return answer(&required, &optional);
    }
    required.push(usage);
    required.extend(figures());
    answer(&required, &[offer()])
}

pub(super) fn completion() -> Value {
    let logprob = || or_null(json!({"type": "number"}));
    let columns = answer(
        &[
            ("tokens", list(text()), "The tokens' texts"),
            ("token_logprobs", list(logprob()), "Their logarithms; nothing of the first of a prompt"),
            ("top_logprobs", list(or_null(json!({"type": "object"}))), "Those of the likeliest, by their texts"),
            ("text_offset", list(count()), "Where each begins in the text, in characters"),
        ],
        &[],
    );
    let choice = answer(
        &[
            ("index", count(), "Which of the answers"),
            ("text", text(), "What is said"),
            ("logprobs", or_null(columns), "How likely tokens were; of the prompt too with `echo`"),
            ("finish_reason", or_null(one_of(&["stop", "length"])), "Why it ended"),
        ],
        &[],
    );
    let mut required = opening("text_completion");
    required.push(("choices", list(choice), "The answers"));
    let mut optional = vec![("usage", named("Usage"), "The tokens"), offer()];
    optional.extend(figures());
    answer(&required, &optional)
}

pub(super) fn message() -> Value {
    let nothing = || json!({"type": "null"});
    let kinds = one_of(&["text", "thinking", "tool_use"]);
    let reasons = one_of(&["end_turn", "max_tokens", "stop_sequence", "tool_use"]);
    let usage = answer(
        &[
            ("input_tokens", count(), "Tokens of the prompt that were read"),
            ("cache_read_input_tokens", count(), "Tokens of the prompt that were found in a checkpoint"),
            ("cache_creation_input_tokens", count(), "Always 0: what is kept costs nothing"),
            ("cache_creation", nothing(), "Always null"),
            ("output_tokens", count(), "Tokens that were generated"),
            ("output_tokens_details", nothing(), "Always null"),
            ("server_tool_use", nothing(), "Always null"),
            ("service_tier", json!({"const": "standard"}), "Always `standard`"),
            ("inference_geo", nothing(), "Always null"),
        ],
        &[],
    );
    let mut required = vec![
        ("id", text(), "A name that no other answer has"),
        ("type", json!({"const": "message"}), "What this is"),
        ("role", json!({"const": "assistant"}), "Whose turn it is"),
        ("model", text(), "The model's name"),
        ("content", list(answer(&[("type", kinds, "What the block holds")], &[])), "What is said, thought and called"),
        ("stop_reason", reasons, "Why it ended"),
        ("stop_sequence", or_null(text()), "The text that ended it, if one did"),
        ("stop_details", nothing(), "Always null"),
        ("container", nothing(), "Always null"),
        ("usage", usage, "The tokens"),
    ];
    required.extend(figures());
    answer(&required, &[])
}
