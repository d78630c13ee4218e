//! `GET /v1/kv/ID`: a cache that was handed over, or any part of it; `DELETE` says that it has arrived.

use super::store::Kept;
use crate::{ApiError, Serving};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq as _;

/// Bytes that are read from a file at once.
const CHUNK: usize = 1 << 20;

/// Lets those through who know the token.
fn check(serving: &Serving, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match &serving.transfer.options.token {
        Some(token) if bool::from(token.as_bytes().ct_eq(given.as_bytes())) => Ok(()),
        _ => Err(ApiError::new(StatusCode::UNAUTHORIZED, "caches are handed to peers that know the token alone")),
    }
}

fn find(serving: &Serving, id: &str) -> Result<Arc<Kept>, ApiError> {
    let gone = || ApiError::new(StatusCode::NOT_FOUND, "no such cache waits here (any more)");
    serving.transfer.store.find(id).ok_or_else(gone)
}

/// The bytes of one range, the end excluded: `bytes=N-` or `bytes=N-M`, the only kinds that are asked for.
fn range_of(headers: &HeaderMap, bytes: u64) -> Result<Option<Range<u64>>, ApiError> {
    let Some(range) = headers.get(header::RANGE) else { return Ok(None) };
    let parse = |range: &str| {
        let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let end = if last.is_empty() { bytes } else { last.parse::<u64>().ok()?.saturating_add(1).min(bytes) };
        Some(from.parse().ok()?..end)
    };
    match range.to_str().ok().and_then(parse) {
        Some(range) if !range.is_empty() => Ok(Some(range)),
        _ => Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("ask for `bytes=N-` or `bytes=N-M` with N below {bytes}, and M not below N"),
        )),
    }
}

/// Sends a cache.
pub async fn send(
    State(serving): State<Arc<Serving>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    check(&serving, &headers)?;
    let kept = find(&serving, &id)?;
    let range = range_of(&headers, kept.bytes)?;
    let (bytes, digest) = (kept.bytes, kept.digest.clone());
    let Range { start, end } = range.clone().unwrap_or(0..bytes);
    let chunks = futures_util::stream::unfold((serving, kept, start), move |(serving, kept, at)| async move {
        if at >= end {
            return None;
        }
        let reading = kept.clone();
        let read = tokio::task::spawn_blocking(move || reading.read(at, CHUNK.min((end - at) as usize))).await;
        let read = read.unwrap_or_else(|_| Err(io::Error::other("the cache could not be read")));
        let read = read.inspect(|bytes| {
            serving.transfer.counts.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        // After an error there is nothing more.
        let next = read.as_ref().map_or(u64::MAX, |bytes| at + bytes.len() as u64);
        Some((read.map(Bytes::from), (serving, kept, next)))
    });
    let mut response = Body::from_stream(chunks).into_response();
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    let mut put = |name, value: String| value.parse().map(|value| headers.insert(name, value));
    let said = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, (end - start).to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{digest}\"")),
    ];
    let said =
        said.into_iter().chain(range.map(|_| (header::CONTENT_RANGE, format!("bytes {start}-{}/{bytes}", end - 1))));
    for (name, value) in said {
        put(name, value).map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "a header is none"))?;
    }
    Ok(response)
}

/// Gives a cache up that has arrived.
pub async fn arrived(
    State(serving): State<Arc<Serving>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    check(&serving, &headers)?;
    if serving.transfer.store.give_up(&id) {
        return Ok(StatusCode::NO_CONTENT);
    }
    find(&serving, &id).map(|_| StatusCode::NO_CONTENT)
}
