//! From an id in a request to the document that is put before its words, and from a prompt to how its cache is kept.

use crate::fields::KvFields;
use crate::files::FileError;
use crate::guard::Caller;
use crate::mounts::{self, Mount};
use crate::prompt::{self, AFTER_DOCUMENT, Conversation};
use crate::{ApiError, Serving};
use axum::http::StatusCode;
use chelsea_engine::SessionOptions;
use chelsea_model::chat::Message;
use chelsea_model::tokenizer::{Before, Part};
use serde_json::Value;
use std::sync::Arc;

/// A document of a conversation.
#[derive(Debug, Clone)]
pub struct Document {
    /// The message before whose words it goes.
    pub message: usize,
    /// What it is.
    pub source: Source,
}

/// The tokens of a prompt, cut where checkpoints may be kept.
pub type Pieces = Vec<Arc<[u32]>>;

/// What a document is.
#[derive(Debug, Clone)]
pub enum Source {
    /// A text.
    Text(Arc<str>),
    /// A text that was read when its cache was made.
    Mounted(Arc<Mount>),
}

/// The document of an id: one of the caller's own, or one that is mounted.
///
/// # Errors
/// If there is none, with status 404.
pub fn find(serving: &Serving, caller: Caller, param: &str, id: &str) -> Result<Source, ApiError> {
    if let Some(mount) = serving.settings.mounts.find(id) {
        return Ok(Source::Mounted(mount.clone()));
    }
    let text = serving.settings.files.text(caller.0, id);
    text.map(Source::Text).map_err(|error| ApiError { param: Some(param.to_owned()), ..error.into() })
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> ApiError {
        let status = match &error {
            FileError::Unknown(_) => StatusCode::NOT_FOUND,
            FileError::TooMany(_) | FileError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            FileError::Name => StatusCode::BAD_REQUEST,
            FileError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error.to_string())
    }
}

/// How a part of a message names a file: its type, and where its id stands.
pub type FilePart = (&'static str, &'static str);
/// A part of a chat's.
pub const OF_CHAT: FilePart = ("file", "/file/file_id");
/// A part of a response's input.
pub const OF_RESPONSE: FilePart = ("input_file", "/file_id");

/// Takes the parts that name files out of a message in OpenAI's shape, the content of which is this field, and gives their
/// ids.
///
/// # Errors
/// If such a part holds no id, or the message is not the user's.
pub fn take_file_ids(field: &str, message: &mut Value, (kind, at): FilePart) -> Result<Vec<String>, ApiError> {
    let wrong = |what: &str| ApiError::field(field, format!("{field} {what}"));
    let is_user = message.get("role").and_then(Value::as_str) == Some("user");
    let Some(Value::Array(parts)) = message.get_mut("content") else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    for part in parts.iter().filter(|part| part["type"] == kind) {
        let id = part.pointer(at).and_then(Value::as_str);
        ids.push(id.map(str::to_owned).ok_or_else(|| {
            wrong("holds a file without a `file_id`: put its text on the server with POST /v1/files first")
        })?);
    }
    if !ids.is_empty() && !is_user {
        return Err(wrong("holds a file: only messages of the user's may"));
    }
    parts.retain(|part| part["type"] != kind);
    Ok(ids)
}

impl Conversation {
    /// Puts the document that `kv.document` names before everything that the user says.
    ///
    /// # Errors
    /// If there is no such document, or the user says nothing.
    pub fn put_first(&mut self, serving: &Serving, caller: Caller, kv: &KvFields) -> Result<(), ApiError> {
        if let Some(id) = kv.document() {
            let source = find(serving, caller, "kv.document", id)?;
            let Some(user) = self.messages.iter().position(|message| message.role == "user") else {
                return Err(ApiError::field("kv.document", "a document goes before what the user says: say something"));
            };
            self.documents.insert(0, Document { message: user, source });
        }
        self.put_system_of_mounted()
    }

    /// A mounted document was read with its own system message, which need not be said again.
    fn put_system_of_mounted(&mut self) -> Result<(), ApiError> {
        let Some(Document { source: Source::Mounted(mount), .. }) = self.documents.first() else { return Ok(()) };
        if !mount.with_template {
            return Err(ApiError::field(
                "kv.document",
                format!("{} was read without the chat template: ask about it with /v1/completions", mount.name),
            ));
        }
        let has_none = self.messages.first().is_none_or(|message| message.role != "system");
        if let Some(system) = mount.system.clone()
            && has_none
        {
            self.messages.insert(0, Message::new("system", system));
            self.documents.iter_mut().for_each(|document| document.message += 1);
        }
        Ok(())
    }
}

/// The tokens of the document that `kv.document` names, for a prompt that is given to the model as it is.
///
/// # Errors
/// If there is no such document, or it was laid out by the chat template.
pub fn before_prompt(serving: &Serving, caller: Caller, kv: &KvFields) -> Result<Option<Arc<[u32]>>, ApiError> {
    let Some(id) = kv.document() else { return Ok(None) };
    match find(serving, caller, "kv.document", id)? {
        Source::Mounted(mount) if mount.with_template => Err(ApiError::field(
            "kv.document",
            format!("{} was read with the chat template: ask about it in a chat", mount.name),
        )),
        Source::Mounted(mount) => Ok(Some(mount.about.tokens.clone())),
        Source::Text(text) => {
            let parts = [Part::Foreign(&text), Part::Own(AFTER_DOCUMENT)];
            let tokens = serving.tokenizer.encode_parts(Before::Nothing, &parts);
            let tokens = tokens.map_err(|error| ApiError::bad(error.to_string()))?;
            Ok(Some(prompt::with_prefix(&serving.tokenizer, tokens).into()))
        }
    }
}

/// Cuts a prompt where a mounted cache can be gone on from, and says how its cache is kept.
///
/// # Errors
/// If a setting is none, or asks for another number type than that of the mounted cache that was named.
pub fn lay_out(serving: &Serving, kv: &KvFields, pieces: Pieces) -> Result<(Pieces, SessionOptions), ApiError> {
    let Some(mount) = serving.settings.mounts.beginning(&pieces) else {
        return Ok((pieces, kv.session(serving, None)?));
    };
    let session = kv.session(serving, Some(mount))?;
    let own = mount.about.config.dtype;
    if session.dtype == Some(own) {
        return Ok((mounts::cut_at(pieces, mount.about.tokens.clone()), session));
    }
    if kv.document().is_some() {
        let text =
            format!("the mounted document is kept as {}, which cannot be changed: leave kv.type out", own.name());
        return Err(ApiError::field("kv.type", text));
    }
    // Another number type was asked for: all of it is read here.
    Ok((pieces, kv.session(serving, None)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_are_taken_out_of_the_users_messages_and_the_words_stay() {
        let mut message = json!({"role": "user", "content": [
            {"type": "file", "file": {"file_id": "file-1"}}, {"type": "text", "text": "Why?"},
            {"type": "file", "file": {"file_id": "file-2"}},
        ]});
        let take = |message: &mut Value| take_file_ids("messages[3].content", message, OF_CHAT);
        assert_eq!(take(&mut message).unwrap(), ["file-1", "file-2"]);
        assert_eq!(message["content"], json!([{"type": "text", "text": "Why?"}]));
        assert!(take(&mut message).unwrap().is_empty());
        let mut data = json!({"role": "user", "content": [{"type": "file", "file": {"file_data": "aGk="}}]});
        assert!(take(&mut data).unwrap_err().message.contains("messages[3].content"));
        let mut system = json!({"role": "system", "content": [{"type": "file", "file": {"file_id": "file-1"}}]});
        assert!(take(&mut system).is_err());
        let mut input = json!({"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]});
        assert_eq!(take_file_ids("input[0].content", &mut input, OF_RESPONSE).unwrap(), ["file-1"]);
    }
}
