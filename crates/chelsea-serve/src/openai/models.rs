//! Which model is here, and within what limits.

use crate::{ApiError, Serving};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use chelsea_engine::SessionOptions;
use chelsea_kv::Budget;
use serde_json::{Value, json};
use std::sync::Arc;

fn card(serving: &Serving) -> Value {
    let config = serving.model.config();
    json!({
        "id": serving.settings.model_name,
        "object": "model",
        "created": serving.started,
        "owned_by": "chelsea",
        // What Anthropic's clients look for.
        "type": "model",
        "display_name": serving.settings.model_name,
        "created_at": "1970-01-01T00:00:00Z",
        "max_model_len": serving.context(),
        "meta": {
            "n_ctx": serving.context(),
            "n_ctx_train": config.context_length,
            "n_vocab": config.vocab,
            "n_embd": config.hidden,
        },
    })
}

/// `GET /v1/models`.
pub async fn list(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let name = &serving.settings.model_name;
    Json(json!({"object": "list", "data": [card(&serving)], "has_more": false, "first_id": name, "last_id": name}))
}

/// `GET /v1/models/NAME`.
pub async fn one(
    State(serving): State<Arc<Serving>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name?;
    super::chat::check_model(&serving, Some(&name))?;
    Ok(Json(card(&serving)))
}

/// `GET /props`: what the server was started with, and what holds now.
pub async fn props(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let stats = serving.engine.stats();
    let session = &serving.settings.session;
    let settled = |session: &SessionOptions| {
        let config = chelsea_engine::cache_config(&serving.model, session);
        config.map_or(0, |config| config.forecast(4096, &session.plan()).settled)
    };
    let full = SessionOptions { budget: Budget::EntryFraction(1.0), dtype: None, ..session.clone() };
    Json(json!({
        "model": serving.settings.model_name,
        "context": serving.context(),
        "kv": {
            "budget": session.budget.to_string(),
            "policy": session.policy.spec(),
            "type": session.dtype.map(|dtype| dtype.name()),
            "bytes_limit": stats.kv_limit,
            "bytes": stats.kv_bytes,
            "bytes_for_4096": settled(session),
            "bytes_full_for_4096": settled(&full),
        },
        "limits": {
            "running": serving.settings.running,
            "waiting": serving.settings.waiting,
            "body": serving.settings.body,
        },
        "read_step": session.step,
        "max_stall_ms": serving.settings.max_stall.as_millis() as u64,
        "requests": {"waiting": stats.waiting, "reading": stats.reading, "running": stats.running},
        "version": env!("CARGO_PKG_VERSION"),
    }))
}
