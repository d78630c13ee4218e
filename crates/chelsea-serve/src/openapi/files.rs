//! Documents.

use super::schema::{answer, count, list, one_of, or_null, text};
use serde_json::{Map, Value, json};

fn file() -> Value {
    let mounted = answer(
        &[
            ("sha256", text(), "The file's checksum"),
            ("tokens", count(), "Tokens that it holds"),
            ("system", or_null(text()), "The system message that was read before it"),
        ],
        &[],
    );
    answer(
        &[
            ("id", text(), "The name under which it is asked about"),
            ("object", json!({"const": "file"}), "What this is"),
            ("bytes", count(), "Its length"),
            ("created_at", count(), "When it came, in seconds since 1970"),
            ("filename", text(), "Its name"),
            ("purpose", text(), "What for"),
            ("status", json!({"const": "processed"}), "Always so"),
        ],
        &[("mounted", mounted, "Of a cache that the server was started with")],
    )
}

/// All of them.
pub(super) fn schemas() -> Map<String, Value> {
    let purpose = || one_of(&["user_data", "assistants"]);
    let as_json = json!({
        "type": "object",
        "properties": {"name": text(), "text": {"type": "string", "minLength": 1}, "purpose": or_null(purpose())},
        "required": ["name", "text"],
        "additionalProperties": false,
    });
    let form = json!({
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary", "minLength": 1}, "purpose": purpose()},
        "required": ["file", "purpose"],
        "additionalProperties": false,
    });
    let files = answer(
        &[("object", json!({"const": "list"}), "What this is"), ("data", list(file()), "The documents")],
        &[("has_more", json!({"type": "boolean"}), "Whether there are more")],
    );
    let deleted = answer(
        &[
            ("id", text(), "Which one"),
            ("object", json!({"const": "file"}), "What it was"),
            ("deleted", json!({"const": true}), "It is there no more"),
        ],
        &[],
    );
    let all = [
        ("DocumentRequest", as_json),
        ("DocumentForm", form),
        ("File", file()),
        ("Files", files),
        ("Deleted", deleted),
    ];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}
