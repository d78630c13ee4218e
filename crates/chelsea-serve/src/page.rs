//! The pages at `/` and `/docs`: files that were compiled in, with no request to anywhere else.

use crate::ApiError;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// What a page may load: files of this server, and a picture in its own text.
const ALLOWED: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the pages are made of, by name below `/assets`.
const ASSETS: &[(&str, &str, &str)] = &[
    ("style.css", CSS, include_str!("page/style.css")),
    ("app.js", SCRIPT, include_str!("page/app.js")),
    ("cache.js", SCRIPT, include_str!("page/cache.js")),
    ("client.js", SCRIPT, include_str!("page/client.js")),
    ("documents.js", SCRIPT, include_str!("page/documents.js")),
    ("store.js", SCRIPT, include_str!("page/store.js")),
    ("docs.css", CSS, include_str!("page/docs.css")),
    ("docs.js", SCRIPT, include_str!("page/docs.js")),
];

/// `GET /`.
pub(crate) async fn page() -> Response {
    guarded(Html(include_str!("page/index.html")))
}

/// `GET /docs`: what `/openapi.json` says, to be read by people.
pub(crate) async fn docs() -> Response {
    guarded(Html(include_str!("page/docs.html")))
}

/// `GET /assets/NAME`.
pub(crate) async fn asset(name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let Some(&(_, kind, text)) = ASSETS.iter().find(|asset| asset.0 == name) else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no file `{name}` here")));
    };
    Ok(guarded(([(header::CONTENT_TYPE, kind)], text)))
}

fn guarded(content: impl IntoResponse) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, ALLOWED),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}
