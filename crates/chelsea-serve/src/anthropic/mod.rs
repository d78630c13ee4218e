//! The interface of Anthropic: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

mod content;
mod stream;

use crate::answer::{Ask, Running, Whole};
use crate::documents;
use crate::fields::{KvFields, OneOrMany, SamplingFields, kind_of, refuse_unknown};
use crate::form::{self, Form};
use crate::guard::Caller;
use crate::openai::chat::{PING, check_model};
use crate::prompt::{self, Conversation, Thought};
use crate::reply::{Parser, Said};
use crate::router::{Body, aside};
use crate::tools::{Calls, Choice};
use crate::{ApiError, Serving, Style};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chelsea_engine::scheduler::Outcome;
use chelsea_engine::{Finish, GenerateOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The body of a request.
#[derive(Debug, Deserialize)]
pub struct MessagesRequest {
    model: Option<String>,
    messages: Vec<Value>,
    max_tokens: Option<usize>,
    system: Option<Value>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    thinking: Option<Value>,
    output_config: Option<OutputConfig>,
    output_format: Option<Value>,
    kv: Option<KvFields>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What an answer is to be like. How much effort is to be made changes nothing here.
#[derive(Debug, Deserialize)]
struct OutputConfig {
    format: Option<Value>,
}

/// Fields that only say where a cache may be kept, or what is switched on for others.
const HARMLESS: &[&str] = &["cache_control", "context_management", "container", "mcp_servers", "betas"];

const TOO_SHORT: &str = "max_tokens: a number of at least 1 is required";

/// A request that was understood.
struct Message {
    id: String,
    ask: Ask,
    with_tools: bool,
    thinks: bool,
}

impl MessagesRequest {
    /// The conversation as templates take it.
    fn conversation(&self) -> Result<(Conversation, Choice), ApiError> {
        let mut rest = self.rest.clone();
        rest.retain(|name, value| !HARMLESS.contains(&name.as_str()) || names_servers(name, value));
        refuse_unknown(&rest)?;
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages: at least one message is required"));
        }
        let tools = self.tools.as_ref().filter(|tools| !tools.is_empty());
        let choice = Choice::anthropic(self.tool_choice.as_ref())?;
        let with_tools = tools.is_some() && choice != Choice::None;
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            let text = content::system(system)?;
            if !text.is_empty() {
                messages.push(chelsea_model::chat::Message::new("system", text));
            }
        }
        for (i, value) in self.messages.iter().enumerate() {
            content::turn(i, value, &mut messages)?;
        }
        // A last turn of the assistant's is the beginning of the answer.
        let prefill = match messages.last() {
            Some(last) if last.role == "assistant" && last.extra.is_empty() => {
                let text = last.content.as_str().unwrap_or_default().to_owned();
                messages.pop();
                Some(text)
            }
            _ => None,
        };
        let tools = tools.map(|tools| tools.iter().enumerate().map(content::tool).collect());
        let mut variables = Map::new();
        if let Some(thinking) = &self.thinking {
            let thinks = match kind_of(thinking, "thinking")? {
                Some("disabled") => false,
                Some("enabled" | "adaptive") => true,
                _ => {
                    let text = "thinking: its type must be `enabled`, `adaptive` or `disabled`";
                    return Err(ApiError::field("thinking", text));
                }
            };
            variables.insert("enable_thinking".into(), thinks.into());
        }
        let tools: Option<Vec<Value>> = tools.transpose()?;
        let tools = tools.filter(|_| with_tools).map(Value::Array);
        Ok((Conversation { messages, tools, variables, prefill, documents: Vec::new() }, choice))
    }

    /// What the answer has to look like: `output_config.format`, or `output_format` as it was called before.
    fn form(&self) -> Result<Option<Form>, ApiError> {
        let config = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        let Some(format) = config.or(self.output_format.as_ref()) else { return Ok(None) };
        match format.get("type").and_then(Value::as_str) {
            Some("json_schema") if format.get("schema").is_some() => {
                form::json_schema("output_config.format", format).map(Some)
            }
            _ => {
                Err(ApiError::field("output_config", "output_config.format: it must be a json_schema with a `schema`"))
            }
        }
    }

    /// Whether an answer may hold several calls.
    fn parallel_calls(&self) -> Result<bool, ApiError> {
        match self.tool_choice.as_ref().and_then(|choice| choice.get("disable_parallel_tool_use")) {
            None | Some(Value::Null) => Ok(true),
            Some(Value::Bool(one)) => Ok(!one),
            Some(_) => {
                Err(ApiError::field("tool_choice", "tool_choice: disable_parallel_tool_use must be `true` or `false`"))
            }
        }
    }

    /// How the answer is generated.
    fn generation(&self) -> Result<GenerateOptions, ApiError> {
        if self.max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", TOO_SHORT));
        }
        let sampling = json!({"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k});
        let sampling: SamplingFields =
            serde_json::from_value(sampling).map_err(|error| ApiError::bad(error.to_string()))?;
        sampling.options(self.stop_sequences.clone().map(OneOrMany::Many), self.max_tokens)
    }

    fn understand(self, serving: &Serving, caller: Caller) -> Result<Message, ApiError> {
        if self.max_tokens.is_none() {
            return Err(ApiError::field("max_tokens", TOO_SHORT));
        }
        let (mut conversation, choice) = self.conversation()?;
        let form = self.form()?;
        let parallel = self.parallel_calls()?;
        let tools = conversation.tools.as_ref().and_then(Value::as_array).map(Vec::as_slice);
        let calls = Calls::new(serving, tools, &choice, parallel)?;
        calls.as_ref().map_or(Ok(()), |calls| calls.check_parallel("tool_choice", parallel, form.as_ref()))?;
        let with_tools = calls.is_some();
        let kv = self.kv.clone().unwrap_or_default();
        conversation.put_first(serving, caller, &kv)?;
        let pieces = conversation.pieces(serving)?;
        let mut generate = self.generation()?;
        let thought = prompt::thought(&serving.tokenizer, &pieces);
        let (pieces, session) = documents::lay_out(serving, &kv, pieces)?;
        generate.grammar = form::grammar(serving, thought, form.as_ref(), calls.as_ref())?;
        let thinks = thought == Thought::Begun;
        let ask = Ask {
            pieces,
            generate,
            session,
            key: caller.0,
            logprobs: None,
            prompt_logprobs: None,
            apart: false,
            layout: kv.layout(),
        };
        Ok(Message { id: serving.id("msg_"), ask, with_tools, thinks })
    }
}

/// Servers would be used: they are refused, unless the list of them is empty.
fn names_servers(name: &str, value: &Value) -> bool {
    name == "mcp_servers" && value.as_array().is_none_or(|list| !list.is_empty())
}

/// Answers a request.
pub async fn create(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<MessagesRequest>,
) -> Response {
    match answer(serving, caller, request).await {
        Ok(response) => response,
        Err(error) => error.in_style(Style::Anthropic).into_response(),
    }
}

async fn answer(serving: Arc<Serving>, caller: Caller, request: MessagesRequest) -> Result<Response, ApiError> {
    check_model(&serving, request.model.as_deref())?;
    let streams = request.stream.unwrap_or(false);
    let understanding = serving.clone();
    let understood = aside(move || request.understand(&understanding, caller));
    let Message { id, ask, with_tools, thinks } = understood.await?;
    let prompt = ask.pieces.iter().map(|piece| piece.len()).sum();
    let running = Running::start(&serving, ask).await?;
    let parser = Parser::new(with_tools, thinks);
    if streams {
        let stream = stream::events(serving, id, prompt, parser, running);
        let ping = Event::default().event("ping").data(json!({"type": "ping"}).to_string());
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(PING).event(ping)).into_response());
    }
    let whole = running.whole().await?;
    Ok(Json(body(&serving, &id, parser, &whole)).into_response())
}

fn body(serving: &Serving, id: &str, mut parser: Parser, whole: &Whole) -> Value {
    let mut said = parser.push(&whole.text);
    said.extend(parser.finish());
    let mut content: Vec<Value> = Vec::new();
    let mut calls = 0;
    for said in said {
        match said {
            Said::Text(text) => match content.last_mut() {
                Some(last) if last["type"] == "text" => {
                    let joined = format!("{}{text}", last["text"].as_str().unwrap_or_default());
                    last["text"] = joined.into();
                }
                _ => content.push(text_block(&text)),
            },
            Said::Reasoning(text) => match content.last_mut() {
                Some(last) if last["type"] == "thinking" => {
                    let joined = format!("{}{text}", last["thinking"].as_str().unwrap_or_default());
                    last["thinking"] = joined.into();
                }
                _ => content.push(json!({"type": "thinking", "thinking": text, "signature": ""})),
            },
            Said::Call { name, arguments } => {
                calls += 1;
                content.push(tool_use(serving.id("toolu_"), &name, input(&arguments)));
            }
        }
    }
    let mut value = json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": serving.settings.model_name,
        "content": content,
        "stop_reason": stop_reason(&whole.outcome, calls),
        "stop_sequence": whole.outcome.stop,
        "stop_details": null,
        "container": null,
        "usage": usage(&whole.outcome),
    });
    crate::openai::chat::add_figures(&mut value, &[&whole.outcome]);
    value
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text, "citations": null})
}

fn tool_use(id: String, name: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": id, "name": name, "input": input, "caller": {"type": "direct"}})
}

/// What a tool is given, as an object.
fn input(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({"arguments": arguments}))
}

/// Why an answer ended: one that was cut is never told as complete.
fn stop_reason(outcome: &Outcome, calls: usize) -> &'static str {
    match outcome.finish {
        Finish::MaxTokens | Finish::Context => "max_tokens",
        Finish::StopString => "stop_sequence",
        Finish::EndOfTurn | Finish::Complete | Finish::Cancelled if calls > 0 => "tool_use",
        Finish::EndOfTurn | Finish::Complete | Finish::Cancelled => "end_turn",
    }
}

/// The tokens of a request: those that were found in a checkpoint are told apart and are no part of the input.
fn usage(outcome: &Outcome) -> Value {
    let read = outcome.prompt_tokens - outcome.cached_tokens;
    usage_of(read, outcome.cached_tokens, outcome.generated_tokens)
}

/// What is kept costs nothing, nothing is searched, and there is one tier and one place.
fn usage_of(read: usize, cached: usize, generated: usize) -> Value {
    json!({
        "input_tokens": read,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "cache_creation": null,
        "output_tokens": generated,
        "output_tokens_details": null,
        "server_tool_use": null,
        "service_tier": "standard",
        "inference_geo": null,
    })
}

/// Counts the tokens of a prompt.
pub async fn count(
    State(serving): State<Arc<Serving>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<MessagesRequest>,
) -> Response {
    let counting = serving.clone();
    let counted = aside(move || {
        check_model(&counting, request.model.as_deref())?;
        let (mut conversation, _) = request.conversation()?;
        request.generation()?;
        request.form()?.map_or(Ok(()), |form| form.check())?;
        request.parallel_calls()?;
        let kv = request.kv.clone().unwrap_or_default();
        kv.session(&counting, None)?;
        conversation.put_first(&counting, caller, &kv)?;
        conversation.pieces(&counting)
    });
    match counted.await {
        Ok(pieces) => {
            let tokens: usize = pieces.iter().map(|piece| piece.len()).sum();
            Json(json!({"input_tokens": tokens})).into_response()
        }
        Err(error) => error.in_style(Style::Anthropic).into_response(),
    }
}
