//! From a conversation to the tokens of a prompt, cut where a checkpoint may be kept.
//!
//! What users, documents and tools say is data: no text of theirs becomes a control token (`foreign`).
//! A prompt is cut after the system message, after every document and after every turn of the user's, wherever what comes
//! before is rendered the same whatever follows; pieces shorter than 64 tokens are joined to the next one.
//!
//! Documents go before the words of their message, each followed by an empty line, as `chelsea run` puts them. One that was
//! mounted stands for the tokens that were read when its cache was made: the head of the conversation has to be what it was
//! then.

use crate::documents::{Document, Source};
use crate::foreign::{self, Content, Foreign, stand_in};
use crate::mounts::Mount;
use crate::reply::THINK;
use crate::{ApiError, Serving};
use chelsea_engine::Layout;
use chelsea_model::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use chelsea_model::tokenizer::{Before, Part, Tokenizer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tokens of a piece at least: compressing fewer would gain nothing, and a checkpoint would save nothing.
const LEAST: usize = 64;

/// Where a message holds calls of tools.
const CALLS: &str = "tool_calls";

/// A conversation to be rendered.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The turns. Contents are texts.
    pub messages: Vec<Message>,
    /// Descriptions of tools, for the template.
    pub tools: Option<Value>,
    /// Further variables for the template.
    pub variables: Map<String, Value>,
    /// The beginning of the answer, which the model goes on from.
    pub prefill: Option<String>,
    /// What goes before the words of messages, in order.
    pub documents: Vec<Document>,
}

/// What stands between a document and what follows it.
pub(crate) const AFTER_DOCUMENT: &str = "\n\n";

/// The tokens of a text that is given to the model as it is.
pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ApiError> {
    let tokens = tokenizer.encode(text, false).map_err(|error| ApiError::bad(error.to_string()))?;
    Ok(with_prefix(tokenizer, tokens))
}

/// The tokens of a text that goes on from other text.
pub fn after_text(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ApiError> {
    let tokens = tokenizer.encode_parts(Before::Text, &[Part::Foreign(text)]);
    tokens.map_err(|error| ApiError::bad(error.to_string()))
}

/// Where an answer stands with what the model thinks before it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thought {
    /// It begins with what is said.
    Over,
    /// It may begin with a thought.
    MayBegin,
    /// It begins within a thought.
    Begun,
}

/// Where the answer to a prompt stands.
pub fn thought(tokenizer: &Tokenizer, pieces: &[Arc<[u32]>]) -> Thought {
    let Some(last) = pieces.last() else { return Thought::Over };
    let end = tokenizer.decode(&last[last.len().saturating_sub(8)..], false);
    if end.trim_end().ends_with(THINK.0) {
        Thought::Begun
    } else if !end.trim_end().ends_with(THINK.1) && tokenizer.token_id(THINK.0).is_some() {
        Thought::MayBegin
    } else {
        Thought::Over
    }
}

pub(crate) fn with_prefix(tokenizer: &Tokenizer, mut tokens: Vec<u32>) -> Vec<u32> {
    let prefix = tokenizer.prefix();
    if !tokens.starts_with(prefix) {
        tokens.splice(0..0, prefix.iter().copied());
    }
    tokens
}

/// A conversation as its template takes it.
struct Laid<'a> {
    template: &'a ChatTemplate,
    foreign: &'a Foreign,
    messages: Vec<Message>,
    tools: Option<Value>,
    variables: Map<String, Value>,
}

impl Laid<'_> {
    fn render(&self) -> Result<String, ApiError> {
        self.beginning(self.messages.len(), true).map_err(|error| match error {
            ChatError::Refused(_) => ApiError::field("messages", error.to_string()),
            error => ApiError::bad(error.to_string()),
        })
    }

    /// The first messages, and the opening of an answer to them.
    fn beginning(&self, messages: usize, answer: bool) -> Result<String, ChatError> {
        let options = RenderOptions {
            add_generation_prompt: answer,
            tools: self.tools.clone(),
            variables: self.variables.clone(),
            now: None,
        };
        self.template.render(&self.messages[..messages], &options).map(|text| self.foreign.tidy(text))
    }

    /// Refuses tools, and calls in earlier turns, that the template does not show to the model: `whole` would be the same
    /// without them.
    fn check_tools(&self, whole: &str) -> Result<(), ApiError> {
        // What cannot be rendered without them has shown them.
        let is_shown = |without: Laid<'_>| {
            without.beginning(without.messages.len(), true).map_or(true, |without| without != whole)
        };
        let plain =
            || Laid { messages: self.messages.clone(), variables: self.variables.clone(), tools: None, ..*self };
        if self.tools.is_some() && !is_shown(plain()) {
            let text = "the chat template of this model shows it no tools: leave `tools` out, or choose a model that was \
                        trained to call tools";
            return Err(ApiError::field("tools", text));
        }
        let calls =
            |message: &Message| message.extra.get(CALLS).is_some_and(|calls| *calls != Value::Array(Vec::new()));
        if self.messages.iter().any(calls) {
            let mut without = Laid { tools: self.tools.clone(), ..plain() };
            without.messages.iter_mut().for_each(|message| drop(message.extra.remove(CALLS)));
            if !is_shown(without) {
                let text = "an earlier turn calls a tool, and the chat template of this model shows it no calls: leave them \
                            out, or choose a model that was trained to call tools";
                return Err(ApiError::field("messages", text));
            }
        }
        Ok(())
    }

    /// Where the rendered conversation may be cut after messages, in bytes.
    fn cuts(&self, whole: &str) -> Vec<usize> {
        let mut cuts = Vec::new();
        for (i, message) in self.messages.iter().enumerate() {
            let next = self.messages.get(i + 1);
            // The opening of the answer belongs to the turn before it.
            let answer = match message.role.as_str() {
                "system" | "developer" if next.is_some_and(|next| next.role == "user") => false,
                "user" | "tool" if next.is_some_and(|next| next.role == "assistant") => true,
                _ => continue,
            };
            if let Ok(beginning) = self.beginning(i + 1, answer)
                && beginning.len() < whole.len()
                && whole.starts_with(&beginning)
            {
                cuts.push(beginning.len());
            }
        }
        cuts
    }
}

impl Conversation {
    /// The pieces of the prompt.
    ///
    /// # Errors
    /// If the model has no template, or its template refuses the conversation or leaves a part of it out.
    pub fn pieces(&self, serving: &Serving) -> Result<Vec<Arc<[u32]>>, ApiError> {
        let tokenizer = &*serving.tokenizer;
        let Some(template) = &serving.template else {
            return Err(ApiError::bad(
                "this model has no chat template: give a prompt to /v1/completions instead of messages",
            ));
        };
        let contents = self.contents();
        let laid = self.lay(tokenizer, template, &serving.foreign, &contents);
        let whole = laid.render()?;
        for (i, _) in contents.iter().enumerate().filter(|(_, content)| !content.is_empty()) {
            if foreign::find(&whole, i).is_none() {
                let i = self.message_of(i);
                return Err(ApiError::field(
                    format!("messages[{i}]"),
                    format!("the chat template of this model leaves out message {i} ({})", self.messages[i].role),
                ));
            }
        }
        laid.check_tools(&whole)?;
        let mut cuts = laid.cuts(&whole);
        cuts.extend((0..self.documents.len()).filter_map(|k| self.end_of_document(k, &whole)));
        cuts.push(whole.len());
        cuts.sort_unstable();
        let mut pieces: Vec<Vec<u32>> = vec![Vec::new()];
        let (mut from, mut all) = (0, Vec::new());
        if let Some((mount, end)) = self.mounted(&laid, &whole)? {
            all.extend_from_slice(&mount.about.tokens);
            // A piece of its own, however short.
            pieces = vec![all.clone(), Vec::new()];
            cuts.retain(|&cut| cut > end);
            from = end;
        }
        for cut in cuts {
            if cut == from {
                continue;
            }
            let parts = foreign::parts(&whole[from..cut], &contents);
            let before = if from == 0 { Before::Nothing } else { tokenizer.before(&all) };
            let mut tokens =
                tokenizer.encode_parts(before, &parts).map_err(|error| ApiError::bad(error.to_string()))?;
            if from == 0 {
                tokens = with_prefix(tokenizer, tokens);
            }
            all.extend_from_slice(&tokens);
            match pieces.last_mut() {
                Some(last) if last.len() < LEAST => last.extend(tokens),
                _ => pieces.push(tokens),
            }
            from = cut;
        }
        if let Some(prefill) = &self.prefill {
            let before = tokenizer.before(&all);
            let tokens = tokenizer.encode_parts(before, &[Part::Foreign(prefill)]);
            pieces.push(tokens.map_err(|error| ApiError::bad(error.to_string()))?);
        }
        Ok(pieces.into_iter().filter(|piece| !piece.is_empty()).map(Arc::from).collect())
    }

    /// What each message says, and then each document.
    fn contents(&self) -> Vec<Content<'_>> {
        let texts = self.messages.iter().map(|message| message.content.as_str().unwrap_or_default());
        let documents = self.documents.iter().map(|document| match &document.source {
            Source::Text(text) => &**text,
            // Never encoded: its tokens are known. It has to be rendered all the same.
            Source::Mounted(mount) => &*mount.name,
        });
        texts.chain(documents).map(Content::new).collect()
    }

    /// The messages with stand-ins for what they say. A system message that the template does not know goes before what the
    /// user says first.
    fn lay<'a>(
        &self,
        tokenizer: &Tokenizer,
        template: &'a ChatTemplate,
        foreign: &'a Foreign,
        contents: &[Content<'_>],
    ) -> Laid<'a> {
        let stand_in_of = |(i, message): (usize, &Message)| {
            let own = if contents[i].is_empty() { None } else { Some(stand_in(i)) };
            let documents = self.documents.iter().enumerate().filter(|(_, document)| document.message == i);
            let before: String = documents.map(|(k, _)| stand_in(self.messages.len() + k) + AFTER_DOCUMENT).collect();
            let content = match own {
                None if before.is_empty() => message.content.clone(),
                own => (before + &own.unwrap_or_default()).into(),
            };
            Message { role: message.role.clone(), content, extra: foreign.fields(&message.extra) }
        };
        let mut messages: Vec<Message> = self.messages.iter().enumerate().map(stand_in_of).collect();
        if let [system, user, ..] = messages.as_mut_slice()
            && system.role == "system"
            && user.role == "user"
            && Layout::new(tokenizer, Some(template), Some(&stand_in(0))).folds_system()
        {
            let words = user.content.as_str().unwrap_or_default();
            user.content = format!("{}\n\n{words}", stand_in(0)).into();
            messages.remove(0);
        }
        Laid {
            template,
            foreign,
            messages,
            tools: self.tools.as_ref().map(|tools| foreign.value(tools)),
            variables: foreign.fields(&self.variables),
        }
    }

    /// Where document `k` ends in the rendered conversation, with the empty line that follows it.
    fn end_of_document(&self, k: usize, whole: &str) -> Option<usize> {
        let (_, end) = foreign::find(whole, self.messages.len() + k)?;
        Some(if whole[end..].starts_with(AFTER_DOCUMENT) { end + AFTER_DOCUMENT.len() } else { end })
    }

    /// The message that content `i` belongs to.
    fn message_of(&self, i: usize) -> usize {
        i.checked_sub(self.messages.len()).map_or(i, |k| self.documents[k].message)
    }

    /// The mounted cache that the conversation begins with, and where its words end in the rendered conversation.
    ///
    /// # Errors
    /// If a mounted document does not come first, or what stands before it is not what was read before it.
    fn mounted(&self, laid: &Laid<'_>, whole: &str) -> Result<Option<(&Mount, usize)>, ApiError> {
        let is_mounted = |document: &&Document| matches!(document.source, Source::Mounted(_));
        let wrong = |what: &str| Err(ApiError::field("kv.document", format!("a mounted document {what}")));
        let Some(Document { message, source: Source::Mounted(mount) }) = self.documents.iter().find(is_mounted) else {
            return Ok(None);
        };
        let user = self.messages.iter().position(|message| message.role == "user");
        if !matches!(self.documents[0].source, Source::Mounted(_)) || user != Some(*message) {
            return wrong("has to come before all other documents, in the first message of the user's");
        }
        if self.documents.iter().filter(is_mounted).count() > 1 {
            return wrong("has to come first, so there can be one of them alone");
        }
        let system = self.messages[..*message].iter().map(|message| message.content.as_str().unwrap_or_default());
        let own = mount.system.as_deref();
        if !system.eq(own) {
            return wrong(match own {
                Some(_) => "was read after another system message: leave yours out",
                None => "was read without a system message: leave yours out",
            });
        }
        // Where the template folds a system message, there is one message fewer.
        let last = laid.messages.iter().position(|message| message.role == "user").unwrap_or(0);
        let messages = laid.messages[..=last].to_vec();
        let plain = Laid { messages, tools: None, variables: Map::new(), ..*laid };
        let there = plain.render().ok().and_then(|plain| {
            let end = self.end_of_document(0, &plain)?;
            Some(plain[..end].to_owned())
        });
        let here = self.end_of_document(0, whole);
        match (here, there) {
            (Some(end), Some(there)) if whole[..end] == there => Ok(Some((mount, end))),
            _ => wrong(
                "was read without tools and settings of the template, which would stand before it here: leave them out",
            ),
        }
    }
}
