//! Chat templates: a conversation as the text a model was trained on.
//!
//! Models carry their template with them, as Jinja source. It is rendered as `transformers` renders it: blocks
//! trimmed and stripped, loop controls, `raise_exception`, `strftime_now`, a `tojson` that writes as Python does,
//! `{% generation %}` ignored, Python's methods on strings and dictionaries. A template is foreign code: its steps
//! are bounded, and it can touch nothing but what it is given.
//!
//! [`ChatTemplate::render`] gives the text. In its ids the template's control tokens have to be control tokens and those
//! in the messages only text: see [`Tokenizer::encode_parts`].

mod python;
mod tojson;

use std::path::Path;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use super::tokenizer::Tokenizer;
use crate::checkpoint::ModelFile;
use crate::files::gguf::Gguf;

/// Steps a template may take, and blocks of 64 bytes it may make; real ones take thousands.
const FUEL: u64 = 4_000_000;
/// Longest template source accepted, in bytes. The longest in use are about 20 KB.
const MAX_SOURCE: usize = 1 << 20;

/// A chat template that cannot be used.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The source is not a template.
    #[error("the model's chat template is damaged: {0}")]
    Syntax(String),
    /// The template itself refused the conversation, in its own words.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template failed.
    #[error("the model's chat template failed: {0}")]
    Render(String),
    /// The companion file that holds the template cannot be read.
    #[error("cannot read the chat template from {path}: {why}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The metadata key holds something else than a text.
    #[error(transparent)]
    Gguf(#[from] crate::files::gguf::GgufError),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said. Templates for several kinds of content take a list of parts.
    pub content: Value,
    /// Whatever else the template may look at: `name`, `tool_calls`, `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(content.into()), extra: Map::new() }
    }

    fn to_jinja(&self) -> JinjaValue {
        let own = [("role", JinjaValue::from(&self.role)), ("content", python::value(&self.content))];
        JinjaValue::from_pairs(own.into_iter().chain(self.extra.iter().map(|(k, v)| (k.as_str(), python::value(v)))))
    }
}

/// What is rendered beside the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// End with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Descriptions of tools, as the template expects them.
    pub tools: Option<Value>,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time `strftime_now` tells, in UTC; where `None`, the present as clocks of this place show it.
    pub now: Option<SystemTime>,
}

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    fingerprint: [u8; 16],
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts behind its `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::Syntax(format!("its source is {} bytes long", source.len())));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| ChatError::Syntax(describe(&e)))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson::tojson);
        // Python cannot iterate over none: `tools is iterable` asks whether there are any.
        environment.add_test("iterable", |value: &JinjaValue| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: String| -> Result<JinjaValue, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Refusal))
        });
        environment
            .add_template_owned(NAME, python::without_generation_tags(source))
            .map_err(|e| ChatError::Syntax(describe(&e)))?;
        let mut hash = Xxh3::new();
        for text in [Some(source), bos, eos] {
            // A length first: texts that are cut elsewhere are others.
            hash.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            hash.update(text.unwrap_or_default().as_bytes());
        }
        let fingerprint = hash.digest128().to_le_bytes();
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            fingerprint,
        })
    }

    /// The template as the model carries it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Names the template: its source and the two tokens it is given. The same conversation and time give the same text
    /// from templates of one fingerprint.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// The template of a model file or folder, if it has one; without one, a caller talks in plain text.
    ///
    /// # Errors
    /// [`ChatError`]: what is there cannot be read, or is no template.
    pub fn open(file: &ModelFile, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        match file.gguf() {
            Some(gguf) => Self::from_gguf(gguf, tokenizer),
            None => Self::from_folder(file.folder().unwrap_or(Path::new(".")), tokenizer),
        }
    }

    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// [`ChatError`]: the key holds no text, or no template.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let source = gguf.metadata.str("tokenizer.chat_template")?;
        source.map_or(Ok(None), |source| Self::for_tokenizer(source, tokenizer))
    }

    /// The template of a model folder, if it has one: `chat_template.jinja`, or `chat_template` in
    /// `chat_template.json` or `tokenizer_config.json` (of several, the one named `default`).
    ///
    /// # Errors
    /// [`ChatError`]: a file cannot be read, or holds no template.
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path)
                .map_err(|e| ChatError::Read { path: path.display().to_string(), why: e.to_string() })?;
            // Some editors begin files with a byte order mark, which is no part of a prompt.
            Ok::<_, ChatError>(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
        };
        let alone = folder.join("chat_template.jinja");
        if alone.exists() {
            return Self::for_tokenizer(&read(&alone)?, tokenizer);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            if !path.exists() {
                continue;
            }
            let json: Value = serde_json::from_str(&read(&path)?)
                .map_err(|e| ChatError::Read { path: path.display().to_string(), why: e.to_string() })?;
            let template = &json["chat_template"];
            let named = || template.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
            if let Some(source) = template.as_str().or_else(named) {
                return Self::for_tokenizer(source, tokenizer);
            }
        }
        Ok(None)
    }

    /// An empty template is none: rendered, it would leave out what the user says.
    fn for_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        if source.trim().is_empty() {
            tracing::warn!("the model's chat template is empty: prompts go to the model as they are");
            return Ok(None);
        }
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// [`ChatError::Refused`] where the template raises an exception, [`ChatError::Render`] where it fails.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, ChatError> {
        let now = match options.now.map(Timestamp::try_from) {
            Some(Ok(moment)) => moment.to_zoned_datetime(TimeZone::UTC),
            Some(Err(error)) => return Err(ChatError::Render(error.to_string())),
            None => ZonedDateTime::now(),
        };
        let strftime = move |format: String| python::strftime(&now, &format);
        let token = |text: &Option<String>| text.as_deref().map_or(JinjaValue::UNDEFINED, JinjaValue::from);
        let mut variables = vec![
            ("messages", messages.iter().map(Message::to_jinja).collect()),
            ("tools", options.tools.as_ref().map_or(JinjaValue::from(()), python::value)),
            ("bos_token", token(&self.bos)),
            ("eos_token", token(&self.eos)),
            ("add_generation_prompt", JinjaValue::from(options.add_generation_prompt)),
            ("strftime_now", JinjaValue::from_function(strftime)),
        ];
        variables.extend(options.variables.iter().map(|(name, value)| (name.as_str(), python::value(value))));
        let context = JinjaValue::from_pairs(variables);
        let template = self.environment.get_template(NAME).map_err(|e| ChatError::Render(describe(&e)))?;
        template.render(context).map_err(|e| {
            if refused(&e) {
                ChatError::Refused(e.detail().unwrap_or_default().to_owned())
            } else {
                ChatError::Render(describe(&e))
            }
        })
    }
}

/// Marks the error `raise_exception` makes.
#[derive(Debug, Error)]
#[error("raised by the template")]
struct Refusal;

fn refused(error: &minijinja::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Refusal>())
}

/// What is wrong and where, in one line.
fn describe(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
