//! `/v1/files`: documents that are put on the server once and asked about by their ids.
//!
//! A document comes as OpenAI's clients send files (a form with `file` and `purpose`), or as JSON with a name and a text.
//! Those that the server was started with are listed, too.

use crate::files::FileInfo;
use crate::guard::Caller;
use crate::mounts::Mount;
use crate::router::{Body, aside, too_long, too_slow};
use crate::{ApiError, Serving};
use axum::extract::multipart::{Multipart, MultipartError};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest as _, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Purposes of files that are read: nothing is trained here, and nothing is done in batches.
const PURPOSES: [&str; 2] = ["user_data", "assistants"];
/// Files of a list where nothing is said, and at most.
const LISTED: usize = 10_000;

/// A document that is brought.
struct Brought {
    name: String,
    purpose: String,
    bytes: Vec<u8>,
}

/// A document as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    text: String,
    purpose: Option<String>,
}

fn described(info: &FileInfo) -> Value {
    json!({
        "id": info.id,
        "object": "file",
        "bytes": info.bytes,
        "created_at": info.created,
        "expires_at": null,
        "filename": info.name,
        "purpose": info.purpose,
        "status": "processed",
    })
}

fn mounted(mount: &Mount) -> Value {
    json!({
        "id": mount.id(),
        "object": "file",
        "bytes": mount.bytes,
        "created_at": mount.created,
        "expires_at": null,
        "filename": mount.name,
        "purpose": PURPOSES[0],
        "status": "processed",
        "mounted": {"sha256": mount.digest, "tokens": mount.about.tokens.len(), "system": mount.system},
    })
}

/// `POST /v1/files`.
pub async fn create(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>, Response> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let brought = if kind.starts_with("multipart/form-data") {
        let reading = form(&serving, request);
        let read = tokio::time::timeout(serving.settings.patience, reading).await;
        read.unwrap_or_else(|_| Err(too_slow(&serving))).map_err(ApiError::into_response)?
    } else {
        let Body(Text { name, text, purpose }) = Body::from_request(request, &serving).await?;
        Brought { name, purpose: purpose.unwrap_or_else(|| PURPOSES[0].into()), bytes: text.into_bytes() }
    };
    let kept = serving.clone();
    let info = aside(move || keep(&kept, caller, brought)).await.map_err(ApiError::into_response)?;
    Ok(Json(described(&info)))
}

fn keep(serving: &Serving, caller: Caller, brought: Brought) -> Result<FileInfo, ApiError> {
    let Brought { name, purpose, bytes } = brought;
    if !PURPOSES.contains(&purpose.as_str()) {
        let text = format!("the purpose `{purpose}` is none that a file can have here: use `{}`", PURPOSES[0]);
        return Err(ApiError::field("purpose", text));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text =
            format!("{name} is no text in UTF-8 (byte {at} is none): convert it first, this model reads text alone");
        ApiError::field("file", text)
    })?;
    // As `chelsea run` takes documents.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
    if text.is_empty() {
        return Err(ApiError::field("file", format!("{name} is empty: there is nothing in it to answer from")));
    }
    Ok(serving.settings.files.put(caller.0, &name, &purpose, text)?)
}

/// A document that comes as a form.
async fn form(serving: &Arc<Serving>, request: Request) -> Result<Brought, ApiError> {
    let bad = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(serving),
        _ => ApiError::bad(format!("the form cannot be read: {}", error.body_text())),
    };
    let form = Multipart::from_request(request, serving).await;
    let mut form = form.map_err(|error| ApiError::bad(format!("the form cannot be read: {}", error.body_text())))?;
    let (mut file, mut purpose) = (None, None);
    while let Some(field) = form.next_field().await.map_err(bad)? {
        match field.name().unwrap_or_default() {
            "file" => {
                let name = field.file_name().unwrap_or("document.txt").to_owned();
                file = Some((name, field.bytes().await.map_err(bad)?.to_vec()));
            }
            "purpose" => purpose = Some(field.text().await.map_err(bad)?),
            other => {
                let text = format!("`{other}` is not supported here: leave it out (docs/api.md lists what is)");
                return Err(ApiError::field(other, text));
            }
        }
    }
    let (name, bytes) = file.ok_or_else(|| ApiError::field("file", "the form has no `file`: add one"))?;
    let purpose = purpose.ok_or_else(|| {
        ApiError::field("purpose", format!("the form has no `purpose`: add one, such as `{}`", PURPOSES[0]))
    })?;
    Ok(Brought { name, purpose, bytes })
}

/// Which files are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    purpose: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    order: Option<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

/// `GET /v1/files`.
pub async fn list(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(which) = which.map_err(|error| ApiError::bad(error.body_text()))?;
    let mut all: Vec<Value> = serving.settings.mounts.iter().map(|mount| mounted(mount)).collect();
    all.extend(serving.settings.files.list(caller.0).iter().map(described));
    // The newest first, as OpenAI has it.
    if which.order != Some(Order::Asc) {
        all.reverse();
    }
    if let Some(purpose) = &which.purpose {
        all.retain(|file| file["purpose"] == **purpose);
    }
    if let Some(after) = &which.after {
        let Some(at) = all.iter().position(|file| file["id"] == **after) else {
            return Err(ApiError::field("after", format!("there is no file `{after}` to go on after")));
        };
        all.drain(..=at);
    }
    let limit = which.limit.unwrap_or(LISTED);
    if !(1..=LISTED).contains(&limit) {
        return Err(ApiError::field("limit", format!("limit is {limit}, but must be from 1 to {LISTED}")));
    }
    let has_more = all.len() > limit;
    all.truncate(limit);
    let id = |file: Option<&Value>| file.map(|file| file["id"].clone());
    let (first, last) = (id(all.first()), id(all.last()));
    Ok(Json(json!({"object": "list", "data": all, "has_more": has_more, "first_id": first, "last_id": last})))
}

/// `GET /v1/files/ID`.
pub async fn one(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id?;
    match serving.settings.mounts.find(&id) {
        Some(mount) => Ok(Json(mounted(mount))),
        None => Ok(Json(described(&serving.settings.files.info(caller.0, &id).map_err(of_path)?))),
    }
}

/// `GET /v1/files/ID/content`.
pub async fn content(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id?;
    if let Some(mount) = serving.settings.mounts.find(&id) {
        let text = format!("{} is a saved cache: it holds tokens, but not its text", mount.name);
        return Err(ApiError::field("id", text));
    }
    let text = aside(move || serving.settings.files.text(caller.0, &id).map_err(of_path)).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_string()).into_response())
}

/// `DELETE /v1/files/ID`.
pub async fn delete(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id?;
    if let Some(mount) = serving.settings.mounts.find(&id) {
        let text = format!("{} was mounted when the server was started, and stays as long as it runs", mount.name);
        return Err(ApiError { param: Some("id".into()), ..ApiError::new(StatusCode::FORBIDDEN, text) });
    }
    let named = id.clone();
    aside(move || serving.settings.files.delete(caller.0, &named).map_err(of_path)).await?;
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}

fn of_path(error: crate::files::FileError) -> ApiError {
    ApiError { param: Some("id".into()), ..error.into() }
}
