//! `POST /v1/responses`, without a memory: a conversation is sent whole with every request, and nothing is stored.

mod input;
mod items;
mod request;
mod stream;

pub use request::ResponsesRequest;

use super::chat::{PING, add_figures, check_model};
use crate::answer::{Running, finish_reason};
use crate::guard::Caller;
use crate::reply::Parser;
use crate::router::{Body, aside};
use crate::settings::now;
use crate::{ApiError, Serving};
use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chelsea_engine::scheduler::Outcome;
use items::Items;
use request::Asked;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers a request.
pub async fn create(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ResponsesRequest>,
) -> Result<Response, ApiError> {
    check_model(&serving, request.model.as_deref())?;
    let streams = request.stream.unwrap_or(false);
    let understanding = serving.clone();
    let Asked { ask, with_tools, thinks, response } = aside(move || request.understand(&understanding, caller)).await?;
    let with_logprobs = ask.logprobs.is_some();
    let running = Running::start(&serving, ask).await?;
    let mut items = Items::new(serving, Parser::new(with_tools, thinks), with_logprobs);
    if streams {
        let stream = stream::events(response, items, running);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response());
    }
    let whole = running.whole().await?;
    let mut events = Vec::new();
    whole.tokens.into_iter().for_each(|sampled| items.push(sampled, &mut events));
    items.finish(is_cut(&whole.outcome), &mut events);
    Ok(Json(complete(response, &items, &whole.outcome)).into_response())
}

/// Whether an answer was cut for its length.
fn is_cut(outcome: &Outcome) -> bool {
    finish_reason(outcome.finish) == "length"
}

/// A response with all that is known at its end.
fn complete(mut response: Value, items: &Items, outcome: &Outcome) -> Value {
    let is_cut = is_cut(outcome);
    response["status"] = if is_cut { "incomplete" } else { "completed" }.into();
    if is_cut {
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    } else {
        response["completed_at"] = now().into();
    }
    response["output"] = items.done().into();
    response["usage"] = json!({
        "input_tokens": outcome.prompt_tokens,
        "input_tokens_details": {"cached_tokens": outcome.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": outcome.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": items.thought()},
        "total_tokens": outcome.prompt_tokens + outcome.generated_tokens,
    });
    add_figures(&mut response, &[outcome]);
    response
}
