//! What clients send.

use super::schema::{
    Field, any, boolean, closed, count, integer, list, named, number, number_above, one_of, or_null, request, text,
};
use serde_json::{Map, Value, json};

/// The largest number of 32 bits, in which settings are kept.
const F32: f64 = f32::MAX as f64;

/// How tokens are sampled.
pub(super) fn sampling() -> Vec<Field> {
    let bias = json!({
        "type": "object", "additionalProperties": number(-100.0, 100.0), "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    });
    vec![
        ("temperature", number(0.0, F32), "0 always takes the likeliest token; 1 by default"),
        ("top_p", number_above(0.0, 1.0), "Choose among the tokens that make up this much probability"),
        ("top_k", integer(i64::MIN, i64::MAX as u64), "Choose among so many likeliest tokens; 0 and less is off"),
        ("min_p", number(0.0, 1.0), "Leave out tokens so much less likely than the likeliest"),
        ("repetition_penalty", number_above(0.0, F32), "Makes tokens that came lately less likely; 1 is off"),
        ("repeat_penalty", number_above(0.0, F32), "llama.cpp's name of `repetition_penalty`"),
        ("presence_penalty", number(-2.0, 2.0), "Makes tokens that were generated less likely"),
        ("frequency_penalty", number(-2.0, 2.0), "The same for each time that they were"),
        ("logit_bias", bias, "What is added to the logits of tokens, by their ids"),
        ("seed", integer(i64::MIN, i64::MAX as u64), "Seed of the random choices; -1 draws one"),
        ("ignore_eos", boolean(), "Whether the answer goes on after the model ends its turn"),
    ]
}

pub(super) fn kv() -> Field {
    let fields = [
        ("budget", text(), "As `--kv-budget` takes it: `full`, `25%`, `512MiB`, entries per head"),
        ("policy", text(), "As `--policy` takes it"),
        ("min", text(), "A smaller budget that the cache may be squeezed to where memory runs short"),
        ("document", text(), "The id of a document that goes before the conversation"),
        ("type", one_of(&["f32", "f16", "bf16", "q8", "k8v4"]), "In which numbers entries are kept"),
        (
            "layout",
            boolean(),
            "Whether the answer's `kv` tells how the entries of each head lie, and streams so meanwhile",
        ),
    ];
    ("kv", closed(&fields), "How the cache is kept: the server's settings where nothing is said")
}

/// Fields that change nothing here.
pub(super) fn harmless() -> Vec<Field> {
    let names = ["user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"];
    names.into_iter().map(|name| (name, json!({}), "Changes nothing here")).collect()
}

pub(super) fn model() -> Field {
    ("model", text(), "The model's name; empty or `default` is the one that is here")
}

pub(super) fn stop(name: &'static str) -> Field {
    let several = json!({"type": "array", "items": text(), "maxItems": 16});
    (name, any(&[text(), several]), "Texts that end the answer")
}

pub(super) fn stream() -> Field {
    ("stream", boolean(), "Whether the answer comes as it is generated")
}

fn stream_options() -> Field {
    let fields = [
        ("include_usage", boolean(), "Whether the tokens are told at the end"),
        ("continuous_usage_stats", boolean(), "Whether they are told in every event"),
    ];
    let mut schema = closed(&fields);
    // These two have values of their own where nothing is said, so they cannot be null.
    for (name, of, _) in fields {
        schema["properties"][name]["type"] = of["type"].clone();
    }
    ("stream_options", schema, "What a stream tells beside the answer")
}

/// A part of what is said.
pub(super) fn part(kinds: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": {"type": one_of(kinds), "text": text()},
        "required": ["text"],
    })
}

/// A turn of a chat.
fn turn() -> Value {
    let file = json!({
        "type": "object",
        "properties": {
            "type": {"const": "file"},
            "file": {"type": "object", "properties": {"file_id": text()}, "required": ["file_id"]},
        },
        "required": ["type", "file"],
    });
    let parts = part(&["text", "input_text", "output_text"]);
    let of_user = any(&[text(), list(any(&[parts.clone(), file]))]);
    let said = any(&[text(), list(parts)]);
    let of = |roles: &[&str], content: Value, required: &[&str]| json!({"type": "object", "properties": {"role": one_of(roles), "content": content}, "required": required});
    any(&[
        of(&["user"], of_user, &["role", "content"]),
        of(&["system", "developer", "tool", "function"], said.clone(), &["role", "content"]),
        of(&["assistant"], or_null(said), &["role"]),
    ])
}

/// Whether a model is to call, as OpenAI has it.
pub(super) fn tool_choice() -> Value {
    let name = || json!({"type": "object", "properties": {"name": text()}, "required": ["name"]});
    let of = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required});
    any(&[
        one_of(&["auto", "none", "required"]),
        of(json!({"type": {"const": "function"}, "function": name()}), &["type", "function"]),
        of(json!({"type": {"const": "function"}, "name": text()}), &["type", "name"]),
    ])
}

/// A JSON schema, or a text that holds one.
fn json_schema() -> Value {
    json!({"type": ["object", "boolean", "string"]})
}

/// What OpenAI's `response_format` asks for.
pub(super) fn format(flat: bool) -> Value {
    let of = |kind: &str, properties: Value, required: &[&str]| {
        let mut schema = json!({"type": "object", "properties": properties, "required": required});
        schema["properties"]["type"] = json!({"const": kind});
        schema
    };
    let named = if flat {
        of("json_schema", json!({}), &["type"])
    } else {
        of("json_schema", json!({"json_schema": {"type": "object"}}), &["type", "json_schema"])
    };
    any(&[of("text", json!({}), &["type"]), of("json_object", json!({}), &["type"]), named])
}

/// What an answer has to look like, by the names of OpenAI, vLLM and llama.cpp: one of these.
fn forms() -> Vec<Field> {
    let choice = || json!({"type": "array", "items": text(), "minItems": 1});
    let structured = [
        ("json", json_schema(), "JSON of this schema"),
        ("json_object", boolean(), "A JSON object"),
        ("regex", text(), "A text that this regular expression matches"),
        ("choice", choice(), "One of these texts"),
    ];
    vec![
        ("response_format", format(false), "Text, a JSON object, or JSON of a schema"),
        ("structured_outputs", closed(&structured), "vLLM's name of it"),
        ("guided_json", json_schema(), "JSON of this schema"),
        ("guided_regex", text(), "A text that this regular expression matches"),
        ("guided_choice", choice(), "One of these texts"),
        ("json_schema", json_schema(), "JSON of this schema, as llama.cpp calls it"),
    ]
}

fn chat() -> Value {
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
        ("tools", list(json!({})), "Descriptions of tools that may be called"),
        ("tool_choice", tool_choice(), "Whether tools may be called, must be, or which one must"),
        ("parallel_tool_calls", boolean(), "`false` has a forced call be the only one"),
        ("chat_template_kwargs", json!({"type": "object"}), "Further variables for the chat template"),
        kv(),
    ];
    optional.extend(forms());
    optional.extend(sampling());
    optional.extend(harmless());
    request(&required, &optional)
}

fn completion(vocab: u64) -> Value {
    let token = || integer(0, vocab.saturating_sub(1));
    let several = |of: Value| json!({"type": "array", "items": of, "minItems": 1, "maxItems": 128});
    let tokens = || json!({"type": "array", "items": token(), "minItems": 1});
    let prompt = any(&[text(), tokens(), several(text()), several(tokens())]);
    let length = integer(-1, i64::MAX as u64);
    let mut optional = vec![
        model(),
        ("max_tokens", length.clone(), "Most tokens of an answer, 16 by default; 0 is none, -1 as many as fit"),
        ("n_predict", length, "llama.cpp's name of `max_tokens`"),
        ("n", integer(1, 16), "How many answers to each prompt"),
        stream(),
        stream_options(),
        stop("stop"),
        ("logprobs", integer(0, 20), "How many of the likeliest tokens are told for each"),
        ("echo", boolean(), "Whether the prompt comes before the answer, and with `logprobs` how likely it was"),
        kv(),
    ];
    optional.extend(forms());
    optional.extend(sampling());
    optional.extend(harmless());
    request(&[("prompt", prompt, "A prompt or several, as texts or tokens")], &optional)
}

/// A block of a message of Anthropic's.
fn blocks() -> Value {
    let of = |kind: &str, properties: Value, required: &[&str]| {
        let mut all = json!({"type": {"const": kind}});
        if let (Some(all), Some(more)) = (all.as_object_mut(), properties.as_object()) {
            all.extend(more.clone());
        }
        json!({"type": "object", "properties": all, "required": required})
    };
    let result =
        any(&[or_null(text()), list(json!({"type": "object", "required": ["text"], "properties": {"text": text()}}))]);
    let block = any(&[
        of("text", json!({"text": text()}), &["text"]),
        of("thinking", json!({}), &["type"]),
        of("redacted_thinking", json!({}), &["type"]),
        of("tool_use", json!({"name": text(), "input": {}}), &["type", "name"]),
        of("tool_result", json!({"tool_use_id": {}, "content": result}), &["type"]),
    ]);
    any(&[text(), list(block)])
}

fn messages(needs_length: bool) -> Value {
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
        "type": "object", "properties": {"name": text(), "input_schema": {}}, "required": ["name", "input_schema"],
    });
    let choice = any(&[
        json!({"type": "object", "properties": {"type": one_of(&["auto", "none", "any"])}, "required": ["type"]}),
        json!({"type": "object", "properties": {"type": {"const": "tool"}, "name": text()}, "required": ["type", "name"]}),
    ]);
    let mut choice = choice;
    for kind in choice["anyOf"].as_array_mut().into_iter().flatten() {
        kind["properties"]["disable_parallel_tool_use"] =
            json!({"description": "`true` has a forced call be the only one"});
    }
    let format = json!({
        "type": "object", "properties": {"type": {"const": "json_schema"}, "schema": {}}, "required": ["type", "schema"],
    });
    let thinking = json!({"type": "object", "properties": {"type": one_of(&["enabled", "disabled", "adaptive"])}});
    let mut optional = vec![
        model(),
        ("system", system, "What the model is told before the conversation"),
        ("stop_sequences", json!({"type": "array", "items": text(), "maxItems": 16}), "Texts that end the answer"),
        stream(),
        ("temperature", number(0.0, F32), "0 always takes the likeliest token; 1 by default"),
        ("top_p", number_above(0.0, 1.0), "Choose among the tokens that make up this much probability"),
        ("top_k", integer(i64::MIN, i64::MAX as u64), "Choose among so many likeliest tokens"),
        ("tools", list(tool), "Tools that may be called"),
        ("tool_choice", choice, "Whether tools may be called, must be, or which one must"),
        ("output_format", format, "JSON of a schema: `output_config.format` as it was called before"),
        ("thinking", thinking, "Whether the model is to think first"),
        kv(),
    ];
    if needs_length {
        required.push(length);
    } else {
        optional.push(length);
    }
    let further = ["cache_control", "context_management", "container", "betas"];
    optional.extend(further.into_iter().map(|name| (name, json!({}), "Changes nothing here")));
    optional.push((
        "output_config",
        json!({}),
        "`format` is what the answer has to look like; the rest changes nothing",
    ));
    optional.push(("mcp_servers", json!({"enum": [[], null, false]}), "Refused unless it is empty"));
    optional.extend(harmless());
    request(&required, &optional)
}

/// An object of a request in which other fields change nothing.
fn open(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

/// All of them, for a vocabulary of so many tokens.
pub(super) fn schemas(vocab: u64) -> Map<String, Value> {
    let tokenize = json!({
        "prompt": text(),
        "add_special_tokens": or_null(boolean()),
        "add_special": or_null(boolean()),
        "with_pieces": or_null(boolean()),
    });
    let mut content = tokenize.clone();
    if let Some(content) = content.as_object_mut() {
        content.remove("prompt");
        content.insert("content".into(), text());
    }
    let all = [
        ("Turn", turn()),
        ("ChatRequest", chat()),
        ("CompletionRequest", completion(vocab)),
        ("MessagesRequest", messages(true)),
        ("CountRequest", messages(false)),
        ("TokenizeRequest", any(&[open(tokenize, &["prompt"]), open(content, &["content"])])),
        ("DetokenizeRequest", open(json!({"tokens": list(integer(0, vocab.saturating_sub(1)))}), &["tokens"])),
        ("EmbeddingsRequest", json!({})),
    ];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}
