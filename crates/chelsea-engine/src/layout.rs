//! How documents and questions become tokens: through the model's chat template when it has one.
//!
//! The document comes first and the question last, so that everything before the question can be
//! read, clustered and saved before any question is known. Only the template's own words may form
//! special tokens; the user's text never does. Apart from that a prompt has the tokens of the whole rendered
//! text: no spaces come in where its parts meet. A template is rendered with stand-ins for documents, questions and
//! the system message, so what it would do to their contents (trimming them, asking what they say) is not done.

use crate::{EngineError, Repetition};
use chelsea_model::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use chelsea_model::tokenizer::{Before, Part, Tokenizer};

/// Stand-ins for the user's text while the template is rendered: private-use characters that no
/// template contains.
const SYSTEM: &str = "\u{F5D6}\u{F5D7}";
const DOCUMENT: &str = "\u{F5D0}\u{F5D1}";
const QUESTION: &str = "\u{F5D2}\u{F5D3}";

/// Lays out prompts for one model.
pub struct Layout<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    system: Option<&'a str>,
    /// Whether the system message goes into the first user message.
    folds: bool,
    /// Whether questions may spell control tokens.
    special: bool,
}

/// A template rendered around a document and a question.
struct Frame {
    head: String,
    between: String,
    tail: String,
}

impl<'a> Layout<'a> {
    /// `template` is none for a model without one, or when the user wants none. A system message that the template
    /// refuses or leaves out is put before the first user message ([`Layout::folds_system`]).
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, system: Option<&'a str>) -> Self {
        let folds = template.zip(system).is_some_and(|(template, system)| !system.is_empty() && leaves_out(template));
        Layout { tokenizer, template, system, folds, special: false }
    }

    /// Questions without a chat template are the program's own words from here on: spellings of control tokens in them
    /// become control tokens. Documents, system messages and what goes through a template stay data.
    pub fn with_special(self, special: bool) -> Self {
        Layout { special, ..self }
    }

    /// The same with another system message.
    pub fn with_system<'b>(&self, system: &'b str) -> Layout<'b>
    where
        'a: 'b,
    {
        Layout::new(self.tokenizer, self.template, Some(system)).with_special(self.special)
    }

    /// Whether the template knows no system message, so that it is put before the first user message.
    pub fn folds_system(&self) -> bool {
        self.folds
    }

    /// A question, as data or as the user's own prompt.
    fn asked<'t>(&self, text: &'t str) -> Part<'t> {
        if self.special && self.template.is_none() { Part::Own(text) } else { Part::Foreign(text) }
    }

    /// Whether prompts go through a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    fn frame(&self, with_document: bool) -> Result<Frame, EngineError> {
        let user = if with_document { format!("{DOCUMENT}\n\n{QUESTION}") } else { QUESTION.to_string() };
        let text = match self.template {
            Some(template) => template.render(&self.opening(&user), &turn())?,
            None if self.system.is_some() => format!("{SYSTEM}\n\n{user}"),
            None => user,
        };
        let (before, tail) = text.split_once(QUESTION).ok_or(EngineError::Template("the user's message"))?;
        let (head, between) = before.split_once(DOCUMENT).unwrap_or((before, ""));
        Ok(Frame { head: head.into(), between: between.into(), tail: tail.into() })
    }

    /// The system message and the first user message, for a template.
    fn opening(&self, user: &str) -> Vec<Message> {
        match self.system {
            Some(_) if self.folds => vec![Message::new("user", format!("{SYSTEM}\n\n{user}"))],
            // Templates may leave out an empty one.
            Some("") => vec![Message::new("system", ""), Message::new("user", user)],
            Some(_) => vec![Message::new("system", SYSTEM), Message::new("user", user)],
            None => vec![Message::new("user", user)],
        }
    }

    /// Rendered words, with the system message in its place.
    fn words<'t>(&'t self, rendered: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        for (i, own) in rendered.split(SYSTEM).enumerate() {
            if i > 0 {
                parts.push(Part::Foreign(self.system.unwrap_or_default()));
            }
            parts.push(Part::Own(own));
        }
        parts
    }

    /// Tokens of everything up to the question: the template's beginning and the documents.
    pub fn document(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let frame = self.frame(true)?;
        self.beginning(&[self.words(&frame.head), vec![Part::Foreign(text)], self.words(&frame.between)].concat())
    }

    /// Tokens of a question that follows a document.
    pub fn question(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let frame = self.frame(true)?;
        // Between the two there is text, in the same message.
        let parts = [vec![self.asked(text)], self.words(&frame.tail)].concat();
        Ok(self.tokenizer.encode_parts(Before::Text, &parts)?)
    }

    /// The words that have the model repeat a document, for policies that read it a second time.
    pub fn repetition(&self) -> Result<Repetition, EngineError> {
        let frame = self.frame(true)?;
        let encode = |parts: &[Part<'_>]| self.tokenizer.encode_parts(Before::Text, parts);
        Ok(Repetition {
            first: encode(&[Part::Foreign("Repeat the previous context exactly.")])?,
            next: encode(&[Part::Foreign("Repeat the part of the previous context exactly, starting with")])?,
            turn: encode(&self.words(&frame.tail))?,
        })
    }

    /// Tokens of a prompt without a document.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let frame = self.frame(false)?;
        self.beginning(&[self.words(&frame.head), vec![self.asked(text)], self.words(&frame.tail)].concat())
    }

    /// Tokens of a chat's next turn, after the model's last answer ended with an end-of-turn token or
    /// (`closed` is false) was cut off before it.
    pub fn next_turn(&self, text: &str, closed: bool) -> Result<Vec<u32>, EngineError> {
        let before = if closed { Before::Token } else { Before::Text };
        let Some(template) = self.template else {
            return Ok(self.tokenizer.encode_parts(before, &[Part::Own("\n\n"), self.asked(text)])?);
        };
        const ANSWER: &str = "\u{F5D4}\u{F5D5}";
        let mut messages = self.opening(DOCUMENT);
        messages.extend([Message::new("assistant", ANSWER), Message::new("user", QUESTION)]);
        let rendered = template.render(&messages, &turn())?;
        let (_, after) = rendered.split_once(ANSWER).ok_or(EngineError::Template("the model's answers"))?;
        let (mut middle, tail) = after.split_once(QUESTION).ok_or(EngineError::Template("the user's message"))?;
        let mut ends = self.tokenizer.turn_ends().iter().filter_map(|&id| self.tokenizer.token_text(id));
        // Some templates have a space before the end; models do not say it.
        let rest = middle.trim_start();
        if closed && let Some(end) = ends.find(|text| rest.starts_with(text)) {
            middle = &rest[end.len()..];
        }
        let parts = [self.words(middle), vec![Part::Foreign(text)], self.words(tail)].concat();
        Ok(self.tokenizer.encode_parts(before, &parts)?)
    }

    /// The first tokens, with the beginning-of-sequence token where the model wants one and the
    /// template has not written it already.
    fn beginning(&self, parts: &[Part<'_>]) -> Result<Vec<u32>, EngineError> {
        let mut tokens = self.tokenizer.encode_parts(Before::Nothing, parts)?;
        let prefix = self.tokenizer.prefix();
        if !tokens.starts_with(prefix) {
            tokens.splice(0..0, prefix.iter().copied());
        }
        Ok(tokens)
    }
}

/// Whether a template refuses a system message, or renders a conversation without it, and would go on without one.
fn leaves_out(template: &ChatTemplate) -> bool {
    let user = Message::new("user", QUESTION);
    match template.render(&[Message::new("system", SYSTEM), user.clone()], &turn()) {
        Ok(text) => !text.contains(SYSTEM) && text.contains(QUESTION),
        Err(ChatError::Refused(_)) => template.render(&[user], &turn()).is_ok(),
        Err(_) => false,
    }
}

/// The conversation, and the opening of the model's turn.
fn turn() -> RenderOptions {
    RenderOptions { add_generation_prompt: true, ..RenderOptions::default() }
}

#[cfg(test)]
mod tests;
