//! From text to tokens and back, by the names that clients of vLLM and of llama.cpp use.

use crate::router::{Body, aside};
use crate::{ApiError, Serving, prompt};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The body of `POST /tokenize`.
#[derive(Debug, Deserialize)]
pub struct Tokenize {
    #[serde(alias = "content")]
    prompt: String,
    add_special_tokens: Option<bool>,
    add_special: Option<bool>,
    with_pieces: Option<bool>,
}

/// `POST /tokenize`.
pub async fn tokenize(
    State(serving): State<Arc<Serving>>,
    Body(request): Body<Tokenize>,
) -> Result<Json<Value>, ApiError> {
    let special = request.add_special_tokens.or(request.add_special).unwrap_or(true);
    let (tokenizing, text) = (serving.clone(), request.prompt);
    let tokens = aside(move || {
        let tokenizer = &tokenizing.tokenizer;
        if special {
            return prompt::raw(tokenizer, &text);
        }
        tokenizer.encode(&text, false).map_err(|error| ApiError::bad(error.to_string()))
    });
    let tokens = tokens.await?;
    let count = tokens.len();
    let max_model_len = serving.context();
    if request.with_pieces == Some(true) {
        let piece = |&id: &u32| json!({"id": id, "piece": serving.tokenizer.decode(&[id], false)});
        let pieces: Vec<Value> = tokens.iter().map(piece).collect();
        return Ok(Json(json!({"tokens": pieces, "count": count, "max_model_len": max_model_len})));
    }
    Ok(Json(json!({"tokens": tokens, "count": count, "max_model_len": max_model_len})))
}

/// The body of `POST /detokenize`.
#[derive(Debug, Deserialize)]
pub struct Detokenize {
    tokens: Vec<u32>,
}

/// `POST /detokenize`.
pub async fn detokenize(
    State(serving): State<Arc<Serving>>,
    Body(request): Body<Detokenize>,
) -> Result<Json<Value>, ApiError> {
    let vocab = serving.model.config().vocab;
    if let Some(token) = request.tokens.iter().find(|&&token| token as usize >= vocab) {
        return Err(ApiError::field("tokens", format!("token {token} is outside the vocabulary of {vocab} tokens")));
    }
    let text = serving.tokenizer.decode(&request.tokens, false);
    Ok(Json(json!({"prompt": text, "content": text})))
}

/// `GET /tokenizer_info`: what evaluation harnesses need to lay prompts out themselves.
pub async fn info(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let text = |id: Option<u32>| id.and_then(|id| serving.tokenizer.token_text(id)).map(str::to_owned);
    Json(json!({
        "eos_token": text(serving.tokenizer.eos()),
        "bos_token": text(serving.tokenizer.bos()),
        "chat_template": serving.template.as_ref().map(|template| template.source().to_owned()),
        "vocab_size": serving.tokenizer.vocab_size(),
    }))
}
