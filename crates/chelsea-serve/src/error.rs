//! What is answered when a request cannot be: a status and a text that says what to do, in the shape of the interface that
//! was asked.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chelsea_engine::scheduler::RequestError;
use serde_json::{Value, json};

/// Whose errors a client expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// `{"error": {"message", "type", "param", "code"}}`.
    #[default]
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`.
    Anthropic,
}

/// A request that is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub message: String,
    /// The field that is wrong, if it is one.
    pub param: Option<String>,
    /// OpenAI's short name of the mistake, if it has one.
    pub code: Option<&'static str>,
    /// In whose shape it is told.
    pub style: Style,
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), param: None, code: None, style: Style::default() }
    }

    /// Something is wrong with the request.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something is wrong with a field of the request.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..Self::bad(message) }
    }

    /// The same in another shape.
    pub fn in_style(self, style: Style) -> Self {
        ApiError { style, ..self }
    }

    /// OpenAI's and Anthropic's name of the kind of error.
    fn kind(&self) -> &'static str {
        match (self.style, self.status.as_u16()) {
            (_, 400 | 413 | 415 | 422) | (Style::OpenAi, 404 | 405 | 408 | 501) => "invalid_request_error",
            (_, 401) => "authentication_error",
            (_, 403) => "permission_error",
            (_, 404) => "not_found_error",
            (_, 429) => "rate_limit_error",
            (Style::Anthropic, 503) => "overloaded_error",
            (Style::Anthropic, _) => "api_error",
            (Style::OpenAi, _) => "server_error",
        }
    }

    /// What is sent, in a body of its own or as an event of a stream.
    pub fn body(&self) -> Value {
        match self.style {
            Style::OpenAi => json!({"error": {
                "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
            }}),
            Style::Anthropic => json!({"type": "error", "error": {"type": self.kind(), "message": self.message}}),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = match &error {
            // Clients look for OpenAI's words to find out that they have to shorten a conversation.
            RequestError::Context { prompt, limit } => format!(
                "This model's maximum context length is {limit} tokens. However, your messages resulted in {prompt} tokens. \
                 Please reduce the length of the messages."
            ),
            error => error.to_string(),
        };
        let status = match &error {
            RequestError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            RequestError::Draining => StatusCode::SERVICE_UNAVAILABLE,
            error if error.is_of_the_request() => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let code = matches!(error, RequestError::Context { .. }).then_some("context_length_exceeded");
        ApiError { code, ..ApiError::new(status, message) }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        ApiError::bad(rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
