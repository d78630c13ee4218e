//! The paths: how each is asked and what it answers.

use super::schema::{Field, any, integer, named, one_of, text};
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
    /// What is sent: kinds of content, with the schema of each.
    bodies: &'static [(&'static str, &'static str)],
    answer: Answer,
}

const JSON: &str = "application/json";

const fn get(
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    answer: Answer,
) -> Operation {
    Operation { method: "get", path, id, tag, summary, bodies: &[], answer }
}

const fn delete(
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    answer: Answer,
) -> Operation {
    Operation { method: "delete", path, id, tag, summary, bodies: &[], answer }
}

const fn post(
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    bodies: &'static [(&'static str, &'static str)],
    answer: Answer,
) -> Operation {
    Operation { method: "post", path, id, tag, summary, bodies, answer }
}

#[rustfmt::skip] // one line for each path
fn operations() -> Vec<Operation> {
    vec![
        post("/v1/chat/completions", "chat", "OpenAI", "Answer a conversation", &[(JSON, "ChatRequest")], Stream("Chat", "ChatChunk")),
        post("/v1/completions", "complete", "OpenAI", "Go on from a prompt", &[(JSON, "CompletionRequest")], Stream("Completion", "Completion")),
        post("/v1/responses", "respond", "OpenAI", "Answer a conversation that is not stored", &[(JSON, "ResponseRequest")], Stream("Response", "ResponseEvent")),
        get("/v1/files", "files", "Documents", "The documents that are here", Json("Files")),
        post("/v1/files", "bring", "Documents", "Put a document on the server", &[("multipart/form-data", "FileForm"), (JSON, "FileText")], Json("File")),
        get("/v1/files/{id}", "file", "Documents", "What is known of a document", Json("File")),
        delete("/v1/files/{id}", "delete", "Documents", "Delete a document", Json("Deleted")),
        get("/v1/files/{id}/content", "content", "Documents", "The text of a document", Text("text/plain")),
        post("/v1/embeddings", "embed", "OpenAI", "Refused: there are no embeddings", &[(JSON, "EmbeddingsRequest")], Json("Error")),
        get("/v1/models", "models", "OpenAI", "Which model is here", Json("Models")),
        get("/v1/models/{name}", "model", "OpenAI", "The model of this name", Json("Model")),
        post("/v1/messages", "message", "Anthropic", "Answer a conversation", &[(JSON, "MessagesRequest")], Stream("Message", "MessageEvent")),
        post("/v1/messages/count_tokens", "countTokens", "Anthropic", "Count the tokens of a conversation", &[(JSON, "CountRequest")], Json("TokenCount")),
        post("/tokenize", "tokenize", "Tokens", "The tokens of a text", &[(JSON, "TokenizeRequest")], Json("Tokens")),
        post("/detokenize", "detokenize", "Tokens", "The text of tokens", &[(JSON, "DetokenizeRequest")], Json("Detokenized")),
        get("/tokenizer_info", "tokenizer", "Tokens", "What is known of the tokenizer", Json("Tokenizer")),
        get("/health", "health", "Server", "Whether the engine lives", Json("Status")),
        get("/ready", "ready", "Server", "Whether new requests are taken", Json("Status")),
        get("/props", "properties", "Server", "Limits as they hold, and what caches take now", Json("Properties")),
        get("/version", "version", "Server", "The version", Json("Version")),
        get("/server_info", "serverInfo", "Server", "Limits, for routers", Json("ServerInfo")),
        get("/v1/loads", "loads", "Server", "How much there is to do, for routers", Json("Loads")),
        get("/v1/kv/{id}", "handedOver", "Server", "A cache that waits for another server, for who knows their token", Text("application/octet-stream")),
        delete("/v1/kv/{id}", "arrived", "Server", "The cache has arrived", Text("text/plain")),
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
            // Streams of chats and completions end with an event that is no JSON.
            let is_open_ended = ["chat", "complete"].contains(&operation.id);
            let data = if is_open_ended { any(&[data, json!({"const": "[DONE]"})]) } else { data };
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
    if !operation.bodies.is_empty() {
        let of_body = |&(kind, name): &(&str, &str)| (kind.to_owned(), json!({"schema": named(name)}));
        let content: Map<String, Value> = operation.bodies.iter().map(of_body).collect();
        value["requestBody"] = json!({"required": true, "content": content});
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    // What tells nothing of requests needs no key.
    if crate::guard::is_open(operation.path) {
        value["security"] = json!([]);
    }
    value
}

/// What stands in the path, or behind it.
fn parameters(operation: &Operation) -> Vec<Value> {
    let mut all = Vec::new();
    for name in ["name", "id"] {
        if operation.path.contains(&format!("{{{name}}}")) {
            let schema = json!({"type": "string", "minLength": 1});
            all.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        }
    }
    if operation.id == "files" {
        let of_query =
            |(name, schema, text): Field| json!({"name": name, "in": "query", "schema": schema, "description": text});
        let which = [
            ("purpose", text(), "Those that are for this alone"),
            ("limit", integer(1, 10_000), "So many at most"),
            ("after", text(), "Those after the one of this id"),
            ("order", one_of(&["asc", "desc"]), "The oldest first, or the newest, as by default"),
        ];
        all.extend(which.map(of_query));
    }
    all
}
