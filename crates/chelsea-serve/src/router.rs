//! Paths, limits, and the life of the server.

use crate::{ApiError, Serving, Style, anthropic, guard, loads, openai, openapi, page, transfer, unread};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, OriginalUri, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A body of JSON whose mistakes are told in the interface's own shape.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Serving>> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, serving: &Arc<Serving>) -> Result<Self, Response> {
        let style = style_of(request.uri().path());
        let patience = serving.settings.patience;
        let read = tokio::time::timeout(patience, Json::<T>::from_request(request, serving));
        let error = match read.await {
            Ok(Ok(Json(body))) => return Ok(Body(body)),
            Ok(Err(rejection)) => rejected(&rejection, serving),
            Err(_) => too_slow(serving),
        };
        Err(error.in_style(style).into_response())
    }
}

/// A request that did not arrive in time.
pub(crate) fn too_slow(serving: &Serving) -> ApiError {
    let text = format!("the request did not arrive within {} seconds", serving.settings.patience.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, text)
}

/// A request that is longer than it may be.
pub(crate) fn too_long(serving: &Serving) -> ApiError {
    let limit = serving.settings.body;
    let text = format!("the request is longer than {limit} bytes, which is the most that this server takes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn rejected(rejection: &JsonRejection, serving: &Serving) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(serving),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the request as JSON, with `Content-Type: application/json`",
        ),
        _ => ApiError::bad(rejection.body_text()),
    }
}

fn style_of(path: &str) -> Style {
    if path.starts_with("/v1/messages") { Style::Anthropic } else { Style::OpenAi }
}

/// Does what takes a while, such as encoding a long text, on a thread where nobody waits for it.
///
/// # Errors
/// Those of the work, and status 500 if it panics.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let lost = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be read");
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

/// Every method and path with what answers it. [`openapi`] describes exactly these.
#[rustfmt::skip] // one line for each path
pub(crate) fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Arc<Serving>>)> {
    vec![
        ("GET", "/", get(page::page)),
        ("GET", "/docs", get(page::docs)),
        ("GET", "/assets/{name}", get(page::asset)),
        ("GET", "/openapi.json", get(openapi::openapi)),
        ("GET", "/health", get(health)),
        ("GET", "/ready", get(ready)),
        ("GET", "/metrics", get(metrics)),
        ("GET", "/props", get(openai::models::props)),
        ("GET", "/version", get(version)),
        ("GET", "/server_info", get(loads::server_info)),
        ("GET", "/v1/loads", get(loads::loads)),
        ("POST", "/reset_prefix_cache", post(reset)),
        ("GET", "/v1/models", get(openai::models::list)),
        ("GET", "/v1/models/{*name}", get(openai::models::one)),
        ("POST", "/v1/chat/completions", post(openai::chat::create)),
        ("POST", "/v1/completions", post(openai::completions::create)),
        ("POST", "/v1/responses", post(openai::responses::create)),
        ("GET", "/v1/files", get(openai::files::list)),
        ("POST", "/v1/files", post(openai::files::create)),
        ("GET", "/v1/files/{id}", get(openai::files::one)),
        ("DELETE", "/v1/files/{id}", delete(openai::files::delete)),
        ("GET", "/v1/files/{id}/content", get(openai::files::content)),
        ("GET", "/v1/kv/{id}", get(transfer::route::send)),
        ("DELETE", "/v1/kv/{id}", delete(transfer::route::arrived)),
        ("POST", "/v1/embeddings", post(no_embeddings)),
        ("POST", "/v1/messages", post(anthropic::create)),
        ("POST", "/v1/messages/count_tokens", post(anthropic::count)),
        ("POST", "/tokenize", post(openai::tokens::tokenize)),
        ("POST", "/detokenize", post(openai::tokens::detokenize)),
        ("GET", "/tokenizer_info", get(openai::tokens::info)),
    ]
}

/// Everything that the server answers.
pub fn router(serving: Arc<Serving>) -> Router {
    let limit = DefaultBodyLimit::max(serving.settings.body);
    let routed = routes().into_iter().fold(Router::new(), |router, (_, path, answers)| router.route(path, answers));
    routed
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(limit)
        .layer(middleware::from_fn_with_state(serving.clone(), guard::check))
        .layer(middleware::from_fn_with_state(serving.clone(), note))
        .layer(middleware::from_fn(unread::take_in))
        .with_state(serving)
}

/// Gives every request a name, which clients may choose, and notes what became of it: never what it says.
async fn note(State(serving): State<Arc<Serving>>, request: Request, next: Next) -> Response {
    const NAME: &str = "x-request-id";
    let given = request.headers().get(NAME).and_then(|value| value.to_str().ok());
    let id = given.filter(|id| id.len() <= 128).map_or_else(|| serving.id("req_"), str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let start = std::time::Instant::now();
    let mut response = next.run(request).await;
    tracing::info!("{method} {path} {} in {:.0?} [{id}]", response.status().as_u16(), start.elapsed());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(NAME, value.clone());
        response.headers_mut().insert("request-id", value);
    }
    response
}

async fn unknown(OriginalUri(uri): OriginalUri) -> ApiError {
    let text = format!("there is nothing at {}: `GET /` shows what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, text).in_style(style_of(uri.path()))
}

async fn wrong_method(OriginalUri(uri): OriginalUri) -> ApiError {
    let text = format!("{} is not asked by this method", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text).in_style(style_of(uri.path()))
}

async fn no_embeddings() -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "this server generates text and makes no embeddings")
}

async fn health(State(serving): State<Arc<Serving>>) -> Response {
    if serving.engine.is_alive() {
        return Json(json!({"status": "ok"})).into_response();
    }
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the engine has ended").into_response()
}

async fn ready(State(serving): State<Arc<Serving>>) -> Response {
    if serving.engine.is_ready() {
        return Json(json!({"status": "ready"})).into_response();
    }
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending").into_response()
}

/// Gives up the prompts that are kept in memory, as vLLM's path of this name does.
async fn reset(State(serving): State<Arc<Serving>>) -> Result<Json<Value>, ApiError> {
    if serving.settings.api_keys.len() > 1 {
        let text = "the prompts of all keys would be given up, and this server has several";
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    serving.engine.flush();
    Ok(Json(json!({"status": "ok"})))
}

async fn metrics(State(serving): State<Arc<Serving>>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    let figures = serving.transfer.figures(serving.metrics.labels());
    (headers, serving.metrics.text(&serving.engine.stats()) + &figures).into_response()
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Answers until `ending` comes to pass; then no request is taken any more, those that were taken are answered, and the
/// server ends.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    serving: Arc<Serving>,
    ending: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (engine, answers) = (serving.engine.clone(), serving.answers.clone());
    let (ended, mut told) = tokio::sync::watch::channel(false);
    let draining = engine.clone();
    let signal = async move {
        ending.await;
        draining.drain();
        let _nobody = ended.send(true);
    };
    let server = axum::serve(listener, router(serving)).with_graceful_shutdown(signal);
    let idle = async move {
        // First the signal, then every answer, then the last bytes on their way.
        let _gone = told.wait_for(|&ended| ended).await;
        answers.read(&engine).await;
    };
    tokio::select! {
        result = server => result,
        () = idle => Ok(()),
    }
}
