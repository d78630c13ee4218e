//! The body of a request for a response, understood or refused.

use super::input::{self, Turns};
use crate::answer::Ask;
use crate::documents::{self, Document};
use crate::fields::{KvFields, OneOrMany, SamplingFields, refuse_unknown, without_flattened};
use crate::form::{self, Form};
use crate::guard::Caller;
use crate::openai::chat::MAX_TOP;
use crate::prompt::{self, Conversation, Thought};
use crate::settings::now;
use crate::tools::{Calls, Choice};
use crate::{ApiError, Serving};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The body of a request.
#[derive(Debug, Deserialize)]
pub struct ResponsesRequest {
    pub(super) model: Option<String>,
    input: Value,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    pub(super) stream: Option<bool>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<TextFields>,
    reasoning: Option<ReasoningFields>,
    include: Option<Vec<String>>,
    top_logprobs: Option<usize>,
    truncation: Option<String>,
    previous_response_id: Option<Value>,
    conversation: Option<Value>,
    metadata: Option<Value>,
    stop: Option<OneOrMany>,
    chat_template_kwargs: Option<Map<String, Value>>,
    kv: Option<KvFields>,
    #[serde(flatten)]
    sampling: SamplingFields,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFields {
    format: Option<Value>,
    verbosity: Option<String>,
}

/// How much a model is to think.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasoningFields {
    effort: Option<String>,
    summary: Option<Value>,
    generate_summary: Option<Value>,
}

/// Fields that change nothing here: nothing is stored, and no tools are run.
const HARMLESS: &[&str] = &["prompt_cache_retention", "stream_options", "max_tool_calls"];

/// What `include` may name: the probabilities, and thoughts in a form for servers that keep none.
const LOGPROBS: &str = "message.output_text.logprobs";
const ENCRYPTED: &str = "reasoning.encrypted_content";

/// A request that was understood.
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) with_tools: bool,
    pub(super) thinks: bool,
    /// The response, of which nothing was said yet.
    pub(super) response: Value,
}

impl ResponsesRequest {
    /// Refuses what would need a memory of earlier responses, or what is not here.
    fn check(&self) -> Result<(), ApiError> {
        let mut rest = without_flattened(self.rest.clone());
        rest.retain(|name, _| !HARMLESS.contains(&name.as_str()));
        refuse_unknown(&rest)?;
        for (name, value) in
            [("previous_response_id", &self.previous_response_id), ("conversation", &self.conversation)]
        {
            if value.as_ref().is_some_and(|value| !value.is_null()) {
                let text =
                    format!("{name} is not supported, as no response is stored here: send the whole input again");
                return Err(ApiError::field(name, text));
            }
        }
        if self.truncation.as_deref().is_some_and(|truncation| truncation != "disabled") {
            let text = "truncation must be `disabled`: an input that does not fit is refused, never cut";
            return Err(ApiError::field("truncation", text));
        }
        let verbosity = self.text.as_ref().and_then(|text| text.verbosity.as_deref());
        if verbosity.is_some_and(|verbosity| verbosity != "medium") {
            let text = "text.verbosity must be `medium`: ask for shorter or longer answers in the instructions";
            return Err(ApiError::field("text.verbosity", text));
        }
        let unknown = self.include.iter().flatten().find(|name| ![LOGPROBS, ENCRYPTED].contains(&name.as_str()));
        if let Some(name) = unknown {
            return Err(ApiError::field("include", format!("include names `{name}`, which is not here")));
        }
        Ok(())
    }

    /// How many of the likeliest tokens are told for each.
    fn logprobs(&self) -> Result<Option<usize>, ApiError> {
        let wanted = self.include.iter().flatten().any(|name| name == LOGPROBS);
        match self.top_logprobs {
            Some(top) if top > MAX_TOP => {
                Err(ApiError::field("top_logprobs", format!("top_logprobs must be at most {MAX_TOP}")))
            }
            // As many clients send it without wanting any.
            Some(0) | None => Ok(wanted.then_some(0)),
            top => Ok(top),
        }
    }

    fn form(&self) -> Result<Option<Form>, ApiError> {
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        match format.and_then(|format| format.get("type")).and_then(Value::as_str) {
            Some("json_schema") => format.map(|format| form::json_schema("text.format", format)).transpose(),
            _ => format.map_or(Ok(None), form::response_format),
        }
    }

    /// What templates are told of how much to think.
    fn variables(&self) -> Map<String, Value> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(effort) = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref()) {
            variables.entry("enable_thinking").or_insert_with(|| (effort != "none").into());
            variables.entry("reasoning_effort").or_insert_with(|| effort.as_str().into());
        }
        variables
    }

    pub(super) fn understand(self, serving: &Serving, caller: Caller) -> Result<Asked, ApiError> {
        self.check()?;
        let (logprobs, form) = (self.logprobs()?, self.form()?);
        let choice = Choice::openai(self.tool_choice.as_ref())?;
        let parallel = self.parallel_tool_calls.unwrap_or(true);
        let tools = input::tools(self.tools.as_deref().unwrap_or_default())?;
        let calls = Calls::new(serving, Some(&tools), &choice, parallel)?;
        calls.as_ref().map_or(Ok(()), |calls| calls.check_parallel("parallel_tool_calls", parallel, form.as_ref()))?;
        let with_tools = calls.is_some();
        let kv = self.kv.clone().unwrap_or_default();
        let Turns { messages, files } = input::turns(self.instructions.as_deref(), &self.input)?;
        let document = |(message, field, id): &(usize, String, String)| {
            documents::find(serving, caller, field, id).map(|source| Document { message: *message, source })
        };
        let documents = files.iter().map(document).collect::<Result<_, _>>()?;
        let mut conversation = Conversation {
            messages,
            tools: Some(Value::Array(tools)).filter(|_| with_tools),
            variables: self.variables(),
            prefill: None,
            documents,
        };
        conversation.put_first(serving, caller, &kv)?;
        let pieces = conversation.pieces(serving)?;
        let thought = prompt::thought(&serving.tokenizer, &pieces);
        let response = self.response(serving, parallel);
        let (pieces, session) = documents::lay_out(serving, &kv, pieces)?;
        let mut generate = self.sampling.options(self.stop, self.max_output_tokens)?;
        generate.grammar = form::grammar(serving, thought, form.as_ref(), calls.as_ref())?;
        let ask = Ask {
            pieces,
            generate,
            session,
            key: caller.0,
            logprobs,
            prompt_logprobs: None,
            apart: false,
            layout: kv.layout(),
        };
        Ok(Asked { ask, with_tools, thinks: thought == Thought::Begun, response })
    }

    /// The response, with what was asked and nothing said.
    fn response(&self, serving: &Serving, parallel: bool) -> Value {
        let reasoning = self.reasoning.as_ref();
        let summary = reasoning.and_then(|reasoning| reasoning.summary.clone().or(reasoning.generate_summary.clone()));
        let format = self.text.as_ref().and_then(|text| text.format.clone()).filter(|format| !format.is_null());
        json!({
            "id": serving.id("resp_"),
            "object": "response",
            "created_at": now(),
            "completed_at": null,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.rest.get("max_tool_calls"),
            "model": serving.settings.model_name,
            "output": [],
            "parallel_tool_calls": parallel,
            "previous_response_id": null,
            "reasoning": {"effort": reasoning.and_then(|reasoning| reasoning.effort.clone()), "summary": summary},
            "prompt_cache_key": self.rest.get("prompt_cache_key"),
            "safety_identifier": self.rest.get("safety_identifier"),
            "service_tier": "default",
            "store": false,
            "temperature": self.sampling.temperature(),
            "top_p": self.sampling.top_p(),
            "presence_penalty": self.sampling.presence_penalty(),
            "frequency_penalty": self.sampling.frequency_penalty(),
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"})), "verbosity": "medium"},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": self.tools.iter().flatten().map(in_full).collect::<Vec<_>>(),
            "top_logprobs": self.top_logprobs.unwrap_or(0),
            "truncation": "disabled",
            "usage": null,
            "metadata": self.metadata.clone().unwrap_or_else(|| json!({})),
        })
    }
}

/// A tool as it was described, with what was not said of it.
fn in_full(tool: &Value) -> Value {
    let mut tool = tool.clone();
    if let Value::Object(tool) = &mut tool {
        for name in ["description", "parameters", "strict"] {
            tool.entry(name).or_insert(Value::Null);
        }
    }
    tool
}
