//! What the server answers.

mod chats;
mod responses;

use super::schema::{Field, answer, boolean, count, list, named, one_of, or_null, text};
use serde_json::{Map, Value, json};

/// A number of seconds, of tokens a second, and the like.
fn amount() -> Value {
    json!({"type": "number", "minimum": 0})
}

fn usage() -> Value {
    let details =
        answer(&[("cached_tokens", count(), "Tokens that were found in a checkpoint and not read again")], &[]);
    answer(
        &[
            ("prompt_tokens", count(), "Tokens of the prompt"),
            ("completion_tokens", count(), "Tokens that were generated"),
            ("total_tokens", count(), "Both together"),
            ("prompt_tokens_details", details, "Where the prompt's came from"),
        ],
        &[],
    )
}

fn kv() -> Value {
    let head = answer(
        &[
            ("layer", count(), "The layer, from 0"),
            ("head", count(), "The KV head of the layer, from 0"),
            ("sinks", count(), "Entries of the first tokens, which are never touched"),
            ("clustered", list(count()), "Entries between those and the recent ones, by class"),
            ("recent", count(), "Entries of the latest tokens, one each"),
        ],
        &[],
    );
    let layout = answer(
        &[
            (
                "classes",
                list(or_null(count())),
                "The most tokens that an entry of each class stands for; null is no bound",
            ),
            ("heads", list(head), "Heads of the layers that see the whole text"),
        ],
        &[],
    );
    answer(
        &[
            ("tokens", count(), "Tokens that the cache has seen"),
            ("entries", count(), "Entries over all heads"),
            ("bytes", count(), "Bytes that it holds"),
            ("bytes_full", count(), "Bytes that a full cache of 16-bit numbers would take"),
        ],
        &[
            ("squeezed_to", text(), "The budget that it was squeezed to, if it was, as `kv.min` allows"),
            ("layout", layout, "How the entries of each head lie, where `kv.layout` asks for it"),
        ],
    )
}

fn timings() -> Value {
    answer(
        &[
            ("queue_ms", amount(), "Milliseconds until the request's turn came"),
            ("cache_n", count(), "Tokens of the prompt that were found in a checkpoint"),
            ("prompt_n", count(), "Tokens that were read"),
            ("prompt_ms", amount(), "Milliseconds for it"),
            ("prompt_per_second", amount(), "Tokens a second"),
            ("predicted_n", count(), "Tokens that were generated"),
            ("predicted_ms", amount(), "Milliseconds for it"),
            ("predicted_per_second", amount(), "Tokens a second"),
        ],
        &[],
    )
}

/// What every answer of OpenAI's begins with.
fn opening(object: &str) -> Vec<Field> {
    vec![
        ("id", text(), "A name that no other answer has"),
        ("object", json!({"const": object}), "What this is"),
        ("created", count(), "Seconds since 1970"),
        ("model", text(), "The model's name"),
    ]
}

fn figures() -> [Field; 2] {
    [("timings", named("Timings"), "Where time went"), ("kv", named("Kv"), "What the cache holds")]
}

/// Where the cache of a prompt can be fetched by another server.
fn offer() -> Field {
    let fields = [
        ("do_remote_prefill", json!({"const": true}), "What the next request is to hold"),
        ("do_remote_decode", json!({"const": false}), "What the next request is to hold"),
        ("url", text(), "Where the cache can be fetched"),
        ("digest", text(), "SHA-256 of it"),
        ("bytes", count(), "Its bytes"),
    ];
    ("kv_transfer_params", answer(&fields, &[]), "Where the cache can be fetched, if it is handed over")
}

fn loads() -> Value {
    let engine = [
        ("dp_rank", count(), "Always 0"),
        ("num_running_reqs", count(), "Requests that are read or answered"),
        ("num_waiting_reqs", count(), "Requests that wait for their turn"),
        ("num_total_reqs", count(), "Both together"),
        ("num_used_tokens", count(), "Tokens that the caches of requests have seen"),
        ("token_usage", amount(), "Bytes of all caches, as a share of their limit"),
        ("cache_hit_rate", amount(), "Tokens of prompts that were found in checkpoints, as a share of all"),
        ("max_running_requests", count(), "Most answers that are generated together"),
        ("kv_bytes", count(), "Bytes of all caches"),
        ("kv_bytes_limit", count(), "Bytes that they may take"),
    ];
    let aggregate = [
        ("total_running_reqs", count(), "Requests that are read or answered"),
        ("total_waiting_reqs", count(), "Requests that wait"),
        ("total_reqs", count(), "Both together"),
        ("total_used_tokens", count(), "Tokens that their caches have seen"),
        ("avg_token_usage", amount(), "Bytes of all caches, as a share of their limit"),
    ];
    answer(
        &[
            ("version", text(), "The server's version"),
            ("dp_rank_count", count(), "Always 1"),
            ("loads", list(answer(&engine, &[])), "The one engine"),
            ("aggregate", answer(&aggregate, &[]), "The same of all engines"),
        ],
        &[],
    )
}

fn server_info() -> Value {
    let sizes = ["tp_size", "dp_size", "pp_size"].map(|name| (name, count(), "Always 1"));
    let fields = [
        ("version", text(), "The server's version"),
        ("model_path", text(), "The model's name"),
        ("served_model_name", text(), "The model's name"),
        ("context_length", count(), "Tokens of prompt and answer together, at most"),
        ("max_running_requests", count(), "Most answers that are generated together"),
        ("max_queued_requests", count(), "Most requests that wait"),
        ("is_embedding", json!({"const": false}), "Always false"),
        ("disaggregation_mode", text(), "Always `null`: any server reads and answers"),
        ("kv_budget", text(), "What a cache may hold where a request does not say"),
        ("kv_policy", text(), "How it is chosen what is kept"),
        ("status", one_of(&["ready", "ending"]), "Whether new requests are taken"),
    ];
    answer(&[&sizes[..], &fields[..]].concat(), &[])
}

/// A document, or a cache that was mounted.
fn file() -> Value {
    let mounted = answer(
        &[
            ("sha256", text(), "SHA-256 of the file"),
            ("tokens", count(), "Tokens of its text"),
            ("system", or_null(text()), "The system message that it was read with"),
        ],
        &[],
    );
    answer(
        &[
            ("id", text(), "What `kv.document` and parts of type `file` name it by"),
            ("object", json!({"const": "file"}), "What this is"),
            ("bytes", count(), "Bytes of its text, or of the mounted file"),
            ("created_at", count(), "Seconds since 1970"),
            ("expires_at", json!({"type": "null"}), "Always null"),
            ("filename", text(), "The name that it was brought under"),
            ("purpose", one_of(&["user_data", "assistants"]), "What it is for"),
            ("status", json!({"const": "processed"}), "Always `processed`"),
        ],
        &[("mounted", mounted, "Of a cache that the server was started with")],
    )
}

fn files() -> Value {
    answer(
        &[
            ("object", json!({"const": "list"}), "What this is"),
            ("data", list(named("File")), "The files"),
            ("has_more", boolean(), "Whether there are more after these"),
            ("first_id", or_null(text()), "The first one's id"),
            ("last_id", or_null(text()), "The last one's id, to go on after"),
        ],
        &[],
    )
}

fn model() -> Value {
    let meta = ["n_ctx", "n_ctx_train", "n_vocab", "n_embd"].map(|name| (name, count(), "As llama.cpp calls it"));
    answer(
        &[
            ("id", text(), "The model's name"),
            ("object", json!({"const": "model"}), "What this is"),
            ("created", count(), "When the server was started, in seconds since 1970"),
            ("owned_by", text(), "Always `chelsea`"),
            ("max_model_len", count(), "Tokens of prompt and answer together, at most"),
            ("meta", answer(&meta, &[]), "The model's sizes"),
        ],
        &[],
    )
}

fn properties() -> Value {
    let kv = answer(
        &[
            ("budget", text(), "What a cache may hold where a request does not say"),
            ("policy", text(), "How it is chosen what is kept"),
            ("type", or_null(text()), "In which numbers, if that was said"),
            ("bytes_limit", count(), "Bytes that all caches together may take"),
            ("bytes", count(), "Bytes that they take now"),
            ("bytes_for_4096", count(), "Bytes that a conversation of 4096 tokens takes"),
            ("bytes_full_for_4096", count(), "Bytes that it takes with the whole cache"),
        ],
        &[],
    );
    let limits = [
        ("running", count(), "Answers that are generated together"),
        ("waiting", count(), "Requests that wait"),
        ("body", count(), "Bytes of a request"),
    ];
    let requests = ["waiting", "reading", "running"].map(|name| (name, count(), "Requests"));
    answer(
        &[
            ("model", text(), "The model's name"),
            ("context", count(), "Tokens of prompt and answer together, at most"),
            ("kv", kv, "The caches"),
            ("limits", answer(&limits, &[]), "The most that there may be"),
            ("read_step", or_null(count()), "Tokens of a prompt that are read at once"),
            ("max_stall_ms", count(), "Longest pause that a prompt makes in the answers of others"),
            ("requests", answer(&requests, &[]), "What is going on"),
            ("version", text(), "The server's version"),
        ],
        &[],
    )
}

fn error(is_anthropic: bool) -> Value {
    let mut fields =
        vec![("type", text(), "The kind of mistake"), ("message", text(), "What is wrong, and what to do")];
    if is_anthropic {
        let required =
            [("type", json!({"const": "error"}), "What this is"), ("error", answer(&fields, &[]), "The mistake")];
        return answer(&required, &[]);
    }
    fields.push(("param", or_null(text()), "The field that is wrong, if it is one"));
    fields.push(("code", or_null(text()), "A short name of the mistake, if it has one"));
    answer(&[("error", answer(&fields, &[]), "The mistake")], &[])
}

fn tokens() -> Value {
    let piece = answer(&[("id", count(), "The token"), ("piece", text(), "Its text")], &[]);
    let either = json!({"anyOf": [list(count()), list(piece)]});
    answer(
        &[
            ("tokens", either, "The tokens, each with its text where `with_pieces` asks for it"),
            ("count", count(), "How many"),
            ("max_model_len", count(), "Tokens of prompt and answer together, at most"),
        ],
        &[],
    )
}

/// All of them.
pub(super) fn schemas() -> Map<String, Value> {
    let said = |name: &'static str, values: &[&str]| answer(&[(name, one_of(values), "How it is")], &[]);
    let models = answer(
        &[
            ("object", json!({"const": "list"}), "What this is"),
            ("data", list(named("Model")), "The one model that is here"),
        ],
        &[],
    );
    let tokenizer = ["eos_token", "bos_token", "chat_template"].map(|name| (name, or_null(text()), "If there is one"));
    let deleted = answer(
        &[
            ("id", text(), "What was deleted"),
            ("object", json!({"const": "file"}), "What it was"),
            ("deleted", json!({"const": true}), "Always true"),
        ],
        &[],
    );
    let vocabulary = [("vocab_size", count(), "Tokens of the vocabulary")];
    let all = [
        ("Usage", usage()),
        ("Kv", kv()),
        ("Timings", timings()),
        ("Chat", chats::chat(false)),
        ("ChatChunk", chats::chat(true)),
        ("Completion", chats::completion()),
        ("Response", responses::response()),
        ("ResponseEvent", responses::event()),
        ("File", file()),
        ("Files", files()),
        ("Deleted", deleted),
        ("Message", chats::message()),
        ("MessageEvent", answer(&[("type", text(), "`message_start`, `content_block_delta`, `ping` and so on")], &[])),
        ("TokenCount", answer(&[("input_tokens", count(), "Tokens of the conversation")], &[])),
        ("Model", model()),
        ("Models", models),
        ("Tokens", tokens()),
        ("Detokenized", answer(&[("prompt", text(), "The text"), ("content", text(), "The same")], &[])),
        ("Tokenizer", answer(&[&tokenizer[..], &vocabulary[..]].concat(), &[])),
        ("Status", said("status", &["ok", "ready"])),
        ("Properties", properties()),
        ("Loads", loads()),
        ("ServerInfo", server_info()),
        ("Version", answer(&[("version", text(), "The server's version")], &[])),
        ("Description", json!({"type": "object", "required": ["openapi", "paths"]})),
        ("Error", error(false)),
        ("AnthropicError", error(true)),
    ];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}
