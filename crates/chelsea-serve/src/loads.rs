//! What routers ask before they choose: how much there is to do, and within what limits.

use crate::Serving;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/loads`, in the shape of SGLang: one entry for each engine, of which there is one.
pub async fn loads(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let stats = serving.engine.stats();
    let running = stats.running + stats.reading;
    let share = stats.kv_bytes as f64 / stats.kv_limit.max(1) as f64;
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "dp_rank_count": 1,
        "loads": [{
            "dp_rank": 0,
            "num_running_reqs": running,
            "num_waiting_reqs": stats.waiting,
            "num_total_reqs": running + stats.waiting,
            "num_used_tokens": stats.kv_tokens,
            "token_usage": share,
            "cache_hit_rate": hit_rate(stats.cached_tokens, stats.prompt_tokens),
            "max_running_requests": serving.settings.running,
            "kv_bytes": stats.kv_bytes,
            "kv_bytes_limit": stats.kv_limit,
        }],
        "aggregate": {
            "total_running_reqs": running,
            "total_waiting_reqs": stats.waiting,
            "total_reqs": running + stats.waiting,
            "total_used_tokens": stats.kv_tokens,
            "avg_token_usage": share,
        },
    }))
}

fn hit_rate(cached: u64, read: u64) -> f64 {
    cached as f64 / (cached + read).max(1) as f64
}

/// `GET /server_info`: what routers look for in SGLang's.
pub async fn server_info(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let session = &serving.settings.session;
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model_path": serving.settings.model_name,
        "served_model_name": serving.settings.model_name,
        "tp_size": 1,
        "dp_size": 1,
        "pp_size": 1,
        "context_length": serving.context(),
        "max_running_requests": serving.settings.running,
        "max_queued_requests": serving.settings.waiting,
        "is_embedding": false,
        "disaggregation_mode": "null",
        "kv_budget": session.budget.to_string(),
        "kv_policy": session.policy.spec(),
        "status": if serving.engine.is_ready() { "ready" } else { "ending" },
    }))
}
