//! What clients send.

mod chats;
mod forms;
mod messages;
mod responses;

use super::schema::{Field, any, boolean, closed, integer, list, number, number_above, one_of, or_null, text};
use serde_json::{Map, Value, json};

/// The largest number of 32 bits, in which settings are kept.
const F32: f64 = f32::MAX as f64;

/// How tokens are sampled.
fn sampling() -> Vec<Field> {
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

fn kv() -> Field {
    let fields = [
        ("budget", text(), "As `--kv-budget` takes it: `full`, `25%`, `512MiB`, entries per head"),
        ("policy", text(), "As `--policy` takes it"),
        ("type", one_of(&["f32", "f16", "bf16", "q8", "k8v4", "k5v4"]), "In which numbers entries are kept"),
        ("min", text(), "A smaller budget that the cache may be squeezed to should memory run short"),
        ("document", text(), "The id of a document that goes before what the user says"),
        (
            "layout",
            boolean(),
            "Whether the answer's `kv` tells how the entries of each head lie, and streams so meanwhile",
        ),
    ];
    ("kv", closed(&fields), "How the cache is kept: the server's settings where nothing is said")
}

/// What is to be done with the cache of the prompt.
fn transfer() -> Field {
    let digest = json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"});
    let fields = [
        ("do_remote_decode", boolean(), "Whether the cache is kept for another server, which is told in the answer"),
        ("do_remote_prefill", boolean(), "Whether the prompt was read by another server"),
        ("url", text(), "Where its cache can be fetched, as that server said"),
        ("digest", digest, "SHA-256 of it, as that server said"),
        ("bytes", integer(0, i64::MAX as u64), "Its bytes, as that server said"),
        ("remote_engine_id", json!({}), "Changes nothing here"),
        ("remote_block_ids", json!({}), "Changes nothing here"),
        ("remote_host", json!({}), "Changes nothing here"),
        ("remote_port", json!({}), "Changes nothing here"),
    ];
    (
        "kv_transfer_params",
        closed(&fields),
        "Hands the cache of the prompt to another server, or takes it over from one",
    )
}

/// Fields that change nothing here.
fn harmless() -> Vec<Field> {
    let names = ["user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"];
    names.into_iter().map(|name| (name, json!({}), "Changes nothing here")).collect()
}

fn model() -> Field {
    ("model", text(), "The model's name; empty or `default` is the one that is here")
}

fn stop(name: &'static str) -> Field {
    let several = json!({"type": "array", "items": text(), "maxItems": 16});
    (name, any(&[text(), several]), "Texts that end the answer")
}

fn stream() -> Field {
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

/// What a document is for: nothing is trained here, and nothing is done in batches.
fn purpose() -> Value {
    one_of(&["user_data", "assistants"])
}

/// A document as OpenAI's clients send files.
fn file_form() -> Value {
    let file = json!({"type": "string", "contentMediaType": "text/plain", "description": "A text in UTF-8"});
    json!({
        "type": "object", "properties": {"file": file, "purpose": purpose()}, "required": ["file", "purpose"],
        "additionalProperties": false,
    })
}

/// A document as JSON.
fn file_text() -> Value {
    let text = json!({"type": "string", "minLength": 1, "description": "What the document says"});
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 512, "description": "What it is called, in at most 512 bytes"},
            "text": text,
            "purpose": or_null(purpose()),
        },
        "required": ["name", "text"],
        "additionalProperties": false,
    })
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
        ("Turn", chats::turn()),
        ("ChatRequest", chats::chat()),
        ("CompletionRequest", chats::completion(vocab)),
        ("ResponseRequest", responses::response()),
        ("MessagesRequest", messages::messages(true)),
        ("CountRequest", messages::messages(false)),
        ("FileForm", file_form()),
        ("FileText", file_text()),
        ("TokenizeRequest", any(&[open(tokenize, &["prompt"]), open(content, &["content"])])),
        ("DetokenizeRequest", open(json!({"tokens": list(integer(0, vocab.saturating_sub(1)))}), &["tokens"])),
        ("EmbeddingsRequest", json!({})),
    ];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}
