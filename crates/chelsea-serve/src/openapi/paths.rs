//! The paths: how each is asked and what it answers.

use super::schema::{any, integer, named, one_of, text};
use serde_json::{Map, Value, json};

/// What a path answers when it is asked as it should be.
enum Answer {
    Json(&'static str),
    /// One answer, or a stream of events.
    Stream(&'static str, &'static str),
    Text(&'static str),
}

use Answer::{Json, Stream, Text};

/// One path, one way to ask it.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    answer: Answer,
}

const fn get(
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    answer: Answer,
) -> Operation {
    Operation { method: "get", path, id, tag, summary, body: None, answer }
}

const fn post(
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    body: &'static str,
    answer: Answer,
) -> Operation {
    Operation { method: "post", path, id, tag, summary, body: Some(body), answer }
}

#[rustfmt::skip] // one line for each path
fn operations() -> Vec<Operation> {
    vec![
        post("/v1/chat/completions", "chat", "OpenAI", "Answer a conversation", "ChatRequest", Stream("Chat", "ChatChunk")),
        post("/v1/completions", "complete", "OpenAI", "Go on from a prompt", "CompletionRequest", Stream("Completion", "Completion")),
        post("/v1/responses", "respond", "OpenAI", "Answer an input, without a memory", "ResponsesRequest", Stream("Response", "ResponseEvent")),
        get("/v1/files", "documents", "Documents", "Documents that are here", Json("Files")),
        post("/v1/files", "putDocument", "Documents", "Put a document on the server", "DocumentRequest", Json("File")),
        get("/v1/files/{id}", "document", "Documents", "A document", Json("File")),
        Operation { method: "delete", ..get("/v1/files/{id}", "deleteDocument", "Documents", "Take a document away", Json("Deleted")) },
        get("/v1/files/{id}/content", "documentText", "Documents", "A document's text", Text("text/plain")),
        post("/v1/embeddings", "embed", "OpenAI", "Refused: there are no embeddings", "EmbeddingsRequest", Json("Error")),
        get("/v1/models", "models", "OpenAI", "Which model is here", Json("Models")),
        get("/v1/models/{name}", "model", "OpenAI", "The model of this name", Json("Model")),
        post("/v1/messages", "message", "Anthropic", "Answer a conversation", "MessagesRequest", Stream("Message", "MessageEvent")),
        post("/v1/messages/count_tokens", "countTokens", "Anthropic", "Count the tokens of a conversation", "CountRequest", Json("TokenCount")),
        post("/tokenize", "tokenize", "Tokens", "The tokens of a text", "TokenizeRequest", Json("Tokens")),
        post("/detokenize", "detokenize", "Tokens", "The text of tokens", "DetokenizeRequest", Json("Detokenized")),
        get("/tokenizer_info", "tokenizer", "Tokens", "What is known of the tokenizer", Json("Tokenizer")),
        get("/health", "health", "Server", "Whether the engine lives", Json("Status")),
        get("/ready", "ready", "Server", "Whether new requests are taken", Json("Status")),
        get("/props", "properties", "Server", "Limits as they hold, and what caches take now", Json("Properties")),
        get("/version", "version", "Server", "The version", Json("Version")),
        get("/metrics", "metrics", "Server", "Figures in the text format of Prometheus", Text("text/plain")),
        get("/openapi.json", "openapi", "Server", "This description", Json("Description")),
        get("/", "page", "Pages", "A page to ask questions about documents", Text("text/html")),
        get("/docs", "docs", "Pages", "This description as a page", Text("text/html")),
        get("/assets/{name}", "asset", "Pages", "A file that these pages load", Text("text/*")),
    ]
}

/// All of them, as the document has them.
pub(super) fn paths() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method] = describe(&operation);
    }
    Value::Object(paths)
}

fn describe(operation: &Operation) -> Value {
    let is_anthropic = operation.tag == "Anthropic";
    let error = named(if is_anthropic { "AnthropicError" } else { "Error" });
    let refused = |text: &str| json!({"description": text, "content": {"application/json": {"schema": error}}});
    let (content, told) = match operation.answer {
        Json(name) => (json!({"application/json": {"schema": named(name)}}), "What was asked for"),
        Stream(whole, event) => {
            let data = json!({"type": "string", "contentMediaType": "application/json", "contentSchema": named(event)});
            // OpenAI's streams end with an event that is no JSON.
            let data = if is_anthropic { data } else { any(&[data, json!({"const": "[DONE]"})]) };
            let events = json!({
                "type": "object",
                "description": "with `stream`, server-sent events, each with a line of `data`",
                "properties": {"data": data, "event": text()},
            });
            (
                json!({"application/json": {"schema": named(whole)}, "text/event-stream": {"schema": events}}),
                "The answer, whole or as a stream",
            )
        }
        Text(kind) => (json!({kind: {"schema": text()}}), "What was asked for"),
    };
    let mut responses = json!({"4XX": refused("The request is refused: the message says why")});
    if operation.id == "embed" {
        responses["501"] = refused("There are none");
    } else {
        responses["200"] = json!({"description": told, "content": content});
        responses["5XX"] = refused("The server failed or is ending: ask again");
    }
    let mut value = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": responses,
    });
    if let Some(body) = operation.body {
        value["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": named(body)}}});
    }
    if operation.id == "putDocument" {
        value["requestBody"]["content"]["multipart/form-data"] = json!({"schema": named("DocumentForm")});
    }
    if operation.id == "documents" {
        let of = |name: &str, schema: Value| json!({"name": name, "in": "query", "schema": schema});
        value["parameters"] = json!([
            of("purpose", text()),
            of("limit", integer(1, 10_000)),
            of("after", text()),
            of("order", one_of(&["asc", "desc"])),
        ]);
    }
    for name in ["name", "id"] {
        if operation.path.contains(&format!("{{{name}}}")) {
            let schema = json!({"type": "string", "minLength": 1});
            value["parameters"] = json!([{"name": name, "in": "path", "required": true, "schema": schema}]);
        }
    }
    // What tells nothing of requests needs no key.
    if crate::guard::is_open(operation.path) {
        value["security"] = json!([]);
    }
    value
}
