//! Who may ask: keys, the names under which the server is called, and the web pages that may call it.
//!
//! A server on a developer's machine can be reached by every web page that is open there. So a request that names an
//! origin is refused unless that is the server's own page or was allowed, and so is one that came by a name that is not
//! this machine's: a foreign name that was made to point here (DNS rebinding).

use crate::{ApiError, Serving, Settings, Style};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;
use xxhash_rust::xxh3::xxh3_64;

/// Whose request it is: one number for each key, 0 where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(pub u64);

/// Whether a path needs no key: it tells nothing about requests, or asks for a token of its own.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/ready" | "/docs" | "/openapi.json" | "/favicon.ico")
        || path.starts_with("/assets/")
        || path.starts_with("/v1/kv/")
}

/// Lets a request through, or answers it.
pub async fn check(State(serving): State<Arc<Serving>>, mut request: Request, next: Next) -> Response {
    let style = if request.uri().path().starts_with("/v1/messages") { Style::Anthropic } else { Style::OpenAi };
    let settings = &serving.settings;
    let origin = match allowed_origin(settings, request.headers()) {
        Ok(origin) => origin,
        Err(error) => return error.in_style(style).into_response(),
    };
    if request.method() == Method::OPTIONS && origin.is_some() {
        return with_origin(StatusCode::NO_CONTENT.into_response(), origin);
    }
    let caller = match caller(settings, request.headers()) {
        Some(caller) => caller,
        None if is_open(request.uri().path()) => Caller(0),
        None => {
            let text = "no valid API key was given: send one as `Authorization: Bearer KEY` or `x-api-key: KEY`";
            let error = ApiError { code: Some("invalid_api_key"), ..ApiError::new(StatusCode::UNAUTHORIZED, text) };
            return with_origin(error.in_style(style).into_response(), origin);
        }
    };
    request.extensions_mut().insert(caller);
    with_origin(next.run(request).await, origin)
}

/// Who asks, if that one may.
fn caller(settings: &Settings, headers: &HeaderMap) -> Option<Caller> {
    if settings.api_keys.is_empty() {
        return Some(Caller(0));
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let given = bearer.or(text("x-api-key"))?.trim();
    // All of them are compared, each in the same time wherever it differs.
    let mut found = None;
    for key in &settings.api_keys {
        if bool::from(key.as_bytes().ct_eq(given.as_bytes())) {
            found = Some(key);
        }
    }
    // The same after the server was started anew: checkpoints in files are a key's, too.
    Some(Caller(xxh3_64(found?.as_bytes()) | 1))
}

/// The origin that the answer is to name, if the request came from a web page that may ask.
fn allowed_origin(settings: &Settings, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host_name(host);
    let any = settings.hosts.iter().any(|allowed| allowed == "*");
    if !host.is_empty() && !any && !is_local(name) && !settings.hosts.iter().any(|allowed| allowed == name) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("this server does not answer to the name `{name}`: allow it with --allow-host {name}"),
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    let text = origin.to_str().unwrap_or_default();
    let own = text.split_once("://").is_some_and(|(_, rest)| rest == host);
    if own {
        return Ok(None);
    }
    if settings.origins.iter().any(|allowed| allowed == "*" || allowed == text) {
        return Ok(Some(origin.clone()));
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("web pages of {text} may not call this server: allow them with --allow-origin {text}"),
    ))
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a name is an address or one that only this machine has: nobody else can make it point here.
fn is_local(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.ends_with(".localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

fn with_origin(mut response: Response, origin: Option<HeaderValue>) -> Response {
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn a_page_of_elsewhere_is_refused_unless_it_was_allowed() {
        let mut settings = Settings::default();
        let asked = headers(&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")]);
        assert_eq!(allowed_origin(&settings, &asked).unwrap_err().status, StatusCode::FORBIDDEN);
        settings.origins.push("https://evil.example".into());
        assert_eq!(allowed_origin(&settings, &asked).unwrap(), asked.get("origin").cloned());
        let own = headers(&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]);
        assert_eq!(allowed_origin(&settings, &own).unwrap(), None);
        let null = headers(&[("host", "127.0.0.1:8080"), ("origin", "null")]);
        assert!(allowed_origin(&settings, &null).is_err());
    }

    #[test]
    fn a_foreign_name_that_points_here_is_refused() {
        let mut settings = Settings::default();
        for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "a.localhost", "192.168.1.5:80"] {
            assert!(allowed_origin(&settings, &headers(&[("host", host)])).is_ok(), "{host}");
        }
        let foreign = headers(&[("host", "rebind.example:8080")]);
        assert!(allowed_origin(&settings, &foreign).unwrap_err().message.contains("--allow-host rebind.example"));
        settings.hosts.push("rebind.example".into());
        assert!(allowed_origin(&settings, &foreign).is_ok());
    }

    #[test]
    fn each_key_is_a_caller_of_its_own_and_wrong_ones_are_none() {
        let settings = Settings { api_keys: vec!["one".into(), "two".into()], ..Settings::default() };
        let of = |pairs: &[(&'static str, &str)]| caller(&settings, &headers(pairs));
        let one = of(&[("authorization", "Bearer one")]).unwrap();
        assert_eq!(of(&[("x-api-key", "one")]), Some(one));
        assert_ne!(of(&[("x-api-key", "two")]), Some(one));
        for wrong in ["", "on", "onee", "three"] {
            assert_eq!(of(&[("x-api-key", wrong)]), None);
        }
        assert_eq!(of(&[]), None);
        assert_eq!(caller(&Settings::default(), &HeaderMap::new()), Some(Caller(0)));
    }
}
