//! The body of a chat, understood or refused.

use super::message::message;
use crate::answer::Ask;
use crate::documents::{self, Document};
use crate::fields::{KvFields, OneOrMany, SamplingFields, refuse_unknown, without_flattened};
use crate::form::{self, FormFields};
use crate::guard::Caller;
use crate::openai::StreamOptions;
use crate::prompt::{self, Conversation, Thought};
use crate::settings::now;
use crate::tools::{Calls, Choice};
use crate::transfer::Wanted;
use crate::{ApiError, Serving};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most answers to one request.
const MAX_N: usize = 16;
/// Most of the likeliest tokens that are told for each.
pub(crate) const MAX_TOP: usize = 20;
/// The body of a request.
#[derive(Debug, Deserialize)]
pub struct ChatRequest {
    pub(super) model: Option<String>,
    messages: Vec<Value>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<usize>,
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    chat_template_kwargs: Option<Map<String, Value>>,
    return_progress: Option<bool>,
    kv: Option<KvFields>,
    kv_transfer_params: Option<Value>,
    #[serde(flatten)]
    form: FormFields,
    #[serde(flatten)]
    sampling: SamplingFields,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A request that was understood.
pub(super) struct Chat {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) asks: Vec<Ask>,
    pub(super) with_tools: bool,
    pub(super) thinks: bool,
    pub(super) logprobs: bool,
    pub(super) usage: bool,
    pub(super) continuous: bool,
    /// Whether a stream tells how far its prompt was read.
    pub(super) progress: bool,
    /// What is to be done with caches.
    pub(super) wanted: Wanted,
}

impl ChatRequest {
    pub(super) fn understand(mut self, serving: &Serving, caller: Caller) -> Result<Chat, ApiError> {
        refuse_unknown(&without_flattened(self.rest))?;
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::field("n", format!("n is {n}, but must be from 1 to {MAX_N}")));
        }
        let form = self.form.form()?;
        let logprobs = self.logprobs.unwrap_or(false);
        let top = self.top_logprobs.unwrap_or(0);
        if top > MAX_TOP || (top > 0 && !logprobs) {
            let text = format!("top_logprobs must be at most {MAX_TOP}, and needs `logprobs` to be true");
            return Err(ApiError::field("top_logprobs", text));
        }
        let tools = self.tools.filter(|tools| !tools.is_empty());
        let choice = Choice::openai(self.tool_choice.as_ref())?;
        let parallel = self.parallel_tool_calls.unwrap_or(true);
        let calls = Calls::new(serving, tools.as_deref(), &choice, parallel)?;
        let with_tools = calls.is_some();
        calls.as_ref().map_or(Ok(()), |calls| calls.check_parallel("parallel_tool_calls", parallel, form.as_ref()))?;
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is empty: give at least one"));
        }
        let mut documents = Vec::new();
        for (i, value) in self.messages.iter_mut().enumerate() {
            let field = format!("messages[{i}].content");
            for id in documents::take_file_ids(&field, value, documents::OF_CHAT)? {
                let source = documents::find(serving, caller, &field, &id)?;
                documents.push(Document { message: i, source });
            }
        }
        let messages =
            self.messages.iter().enumerate().map(|(i, value)| message(i, value)).collect::<Result<_, _>>()?;
        let kv = self.kv.unwrap_or_default();
        let mut conversation = Conversation {
            messages,
            documents,
            tools: tools.filter(|_| with_tools).map(Value::Array),
            variables: self.chat_template_kwargs.unwrap_or_default(),
            prefill: None,
        };
        conversation.put_first(serving, caller, &kv)?;
        let pieces = conversation.pieces(serving)?;
        let thought = prompt::thought(&serving.tokenizer, &pieces);
        let (pieces, session) = documents::lay_out(serving, &kv, pieces)?;
        let mut generate = self.sampling.options(self.stop, self.max_completion_tokens.or(self.max_tokens))?;
        generate.grammar = form::grammar(serving, thought, form.as_ref(), calls.as_ref())?;
        let ask = |i: usize| {
            let mut generate = generate.clone();
            generate.sampling.seed = generate.sampling.seed.wrapping_add(i as u64);
            Ask {
                pieces: pieces.clone(),
                generate,
                session: session.clone(),
                key: caller.0,
                logprobs: logprobs.then_some(top),
                prompt_logprobs: None,
                apart: false,
                layout: kv.layout(),
            }
        };
        let options = self.stream_options.unwrap_or_default();
        let (usage, continuous) = (options.include_usage, options.continuous_usage_stats);
        let (id, created) = (serving.id("chatcmpl-"), now());
        let (asks, progress) = ((0..n).map(ask).collect(), self.return_progress.unwrap_or(false));
        let thinks = thought == Thought::Begun;
        let wanted = Wanted::of_field(self.kv_transfer_params.as_ref())?;
        Ok(Chat { id, created, asks, with_tools, thinks, logprobs, usage, continuous, progress, wanted })
    }
}
