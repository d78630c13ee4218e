//! From a conversation to the tokens of a prompt, cut where a checkpoint may be kept.
//!
//! What users, documents and tools say is data: it is rendered as a stand-in and encoded apart, so that no text of theirs
//! becomes a control token. A prompt is cut after the system message, after every document and after every turn of the
//! user's, wherever what comes before is rendered the same whatever follows; pieces shorter than 64 tokens are joined to the
//! next one.
//!
//! Documents go before the words of their message, each followed by an empty line, as `chelsea run` puts them. One that was
//! mounted stands for the tokens that were read when its cache was made: the head of the conversation has to be what it was
//! then.

use crate::ApiError;
use crate::documents::{Document, Source};
use crate::mounts::Mount;
use crate::reply::THINK;
use chelsea_engine::Layout;
use chelsea_model::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use chelsea_model::tokenizer::{Before, Part, Tokenizer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tokens of a piece at least: compressing fewer would gain nothing, and a checkpoint would save nothing.
const LEAST: usize = 64;

/// Around the number of a message whose words are to stand there: private-use characters that no template has.
const STAND_IN: (char, char) = ('\u{F5E0}', '\u{F5E1}');

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

impl Conversation {
    /// The pieces of the prompt.
    ///
    /// # Errors
    /// If the model has no template, or its template refuses the conversation or leaves a part of it out.
    pub fn pieces(&self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<Arc<[u32]>>, ApiError> {
        let Some(template) = template else {
            return Err(ApiError::bad(
                "this model has no chat template: give a prompt to /v1/completions instead of messages",
            ));
        };
        let (contents, messages) = self.stand_ins(tokenizer, template);
        let whole = self.render(template, &messages)?;
        for (i, _) in contents.iter().enumerate().filter(|(_, content)| !content.is_empty()) {
            if !whole.contains(&stand_in(i)) {
                let i = self.message_of(i);
                return Err(ApiError::field(
                    format!("messages[{i}]"),
                    format!("the chat template of this model leaves out message {i} ({})", self.messages[i].role),
                ));
            }
        }
        let mut cuts = self.cuts(template, &messages, &whole);
        cuts.push(whole.len());
        let mut pieces: Vec<Vec<u32>> = vec![Vec::new()];
        let (mut from, mut all) = (0, Vec::new());
        if let Some((mount, end)) = self.mounted(template, &messages, &whole)? {
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
            let parts = parts(&whole[from..cut], &contents);
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

    /// What each message says, and the messages with stand-ins for it. A system message that the template does not know
    /// goes before what the user says first.
    fn stand_ins(&self, tokenizer: &Tokenizer, template: &ChatTemplate) -> (Vec<&str>, Vec<Message>) {
        let texts = self.messages.iter().map(|message| message.content.as_str().unwrap_or_default());
        let documents = self.documents.iter().map(|document| match &document.source {
            Source::Text(text) => &**text,
            // Never encoded: its tokens are known. It has to be rendered all the same.
            Source::Mounted(mount) => &*mount.name,
        });
        let contents: Vec<&str> = texts.chain(documents).collect();
        let stand_in_of = |(i, message): (usize, &Message)| {
            let own = if contents[i].is_empty() { None } else { Some(stand_in(i)) };
            let documents = self.documents.iter().enumerate().filter(|(_, document)| document.message == i);
            let before: String = documents.map(|(k, _)| stand_in(self.messages.len() + k) + AFTER_DOCUMENT).collect();
            let content = match own {
                None if before.is_empty() => message.content.clone(),
                own => (before + &own.unwrap_or_default()).into(),
            };
            Message { content, ..message.clone() }
        };
        let messages: Vec<Message> = self.messages.iter().enumerate().map(stand_in_of).collect();
        let folds = || Layout::new(tokenizer, Some(template), Some(&stand_in(0))).folds_system();
        let folded = match messages.as_slice() {
            [system, user, rest @ ..] if system.role == "system" && user.role == "user" && folds() => {
                let words = user.content.as_str().unwrap_or_default();
                let content = format!("{}\n\n{words}", stand_in(0));
                let user = Message { content: content.into(), ..user.clone() };
                Some(std::iter::once(user).chain(rest.iter().cloned()).collect())
            }
            _ => None,
        };
        (contents, folded.unwrap_or(messages))
    }

    fn render(&self, template: &ChatTemplate, messages: &[Message]) -> Result<String, ApiError> {
        self.try_render(template, messages, true).map_err(|error| match error {
            ChatError::Refused(_) => ApiError::field("messages", error.to_string()),
            error => ApiError::bad(error.to_string()),
        })
    }

    fn try_render(&self, template: &ChatTemplate, messages: &[Message], answer: bool) -> Result<String, ChatError> {
        let options = RenderOptions {
            add_generation_prompt: answer,
            tools: self.tools.clone(),
            variables: self.variables.clone(),
            now: None,
        };
        template.render(messages, &options)
    }

    /// Where the rendered conversation may be cut, in bytes, ascending.
    fn cuts(&self, template: &ChatTemplate, messages: &[Message], whole: &str) -> Vec<usize> {
        let mut cuts = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            let next = messages.get(i + 1);
            // The opening of the answer belongs to the turn before it.
            let answer = match message.role.as_str() {
                "system" | "developer" if next.is_some_and(|next| next.role == "user") => false,
                "user" | "tool" if next.is_some_and(|next| next.role == "assistant") => true,
                _ => continue,
            };
            if let Ok(beginning) = self.try_render(template, &messages[..=i], answer)
                && beginning.len() < whole.len()
                && whole.starts_with(&beginning)
            {
                cuts.push(beginning.len());
            }
        }
        cuts.extend((0..self.documents.len()).filter_map(|k| self.end_of_document(k, whole)));
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// Where document `k` ends in the rendered conversation, with the empty line that follows it.
    fn end_of_document(&self, k: usize, whole: &str) -> Option<usize> {
        let (before, after) = whole.split_once(&stand_in(self.messages.len() + k))?;
        let between = if after.starts_with(AFTER_DOCUMENT) { AFTER_DOCUMENT.len() } else { 0 };
        Some(before.len() + stand_in(self.messages.len() + k).len() + between)
    }

    /// The message that content `i` belongs to.
    fn message_of(&self, i: usize) -> usize {
        i.checked_sub(self.messages.len()).map_or(i, |k| self.documents[k].message)
    }

    /// The mounted cache that the conversation begins with, and where its words end in the rendered conversation.
    ///
    /// # Errors
    /// If a mounted document does not come first, or what stands before it is not what was read before it.
    fn mounted(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        whole: &str,
    ) -> Result<Option<(&Mount, usize)>, ApiError> {
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
        let plain = Conversation::default();
        // Where the template folds a system message, there is one message fewer.
        let last = messages.iter().position(|message| message.role == "user").unwrap_or(0);
        let (here, there) = (
            self.end_of_document(0, whole),
            plain.render(template, &messages[..=last]).ok().and_then(|plain| {
                let end = self.end_of_document(0, &plain)?;
                Some(plain[..end].to_owned())
            }),
        );
        match (here, there) {
            (Some(end), Some(there)) if whole[..end] == there => Ok(Some((mount, end))),
            _ => wrong(
                "was read without tools and settings of the template, which would stand before it here: leave them out",
            ),
        }
    }
}

fn stand_in(i: usize) -> String {
    format!("{}{i}{}", STAND_IN.0, STAND_IN.1)
}

/// Rendered words with the messages' own in their places.
fn parts<'t>(rendered: &'t str, contents: &[&'t str]) -> Vec<Part<'t>> {
    let mut parts = Vec::new();
    let mut rest = rendered;
    while let Some((own, after)) = rest.split_once(STAND_IN.0) {
        let Some((number, after)) = after.split_once(STAND_IN.1) else { break };
        parts.push(Part::Own(own));
        if let Some(content) = number.parse().ok().and_then(|i: usize| contents.get(i).copied()) {
            parts.push(Part::Foreign(content));
        }
        rest = after;
    }
    parts.push(Part::Own(rest));
    parts
}
