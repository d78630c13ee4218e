//! Fields that several interfaces share: how tokens are sampled, and how the cache is kept.

use crate::form::FORMS;
use crate::mounts::Mount;
use crate::{ApiError, Serving};
use chelsea_engine::{EngineError, GenerateOptions, Sampling, SessionOptions, cache_config, dtype_for};
use chelsea_kv::{Budget, Dtype, Pool};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// How tokens are sampled, by the names that clients of OpenAI, vLLM and llama.cpp use.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SamplingFields {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    #[serde(alias = "repeat_penalty")]
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    ignore_eos: Option<bool>,
}

/// Names of fields that [`SamplingFields`] takes: `flatten` leaves them in the rest, too.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "ignore_eos",
];

/// What is left of a body beside the fields that its flattened parts take: how tokens are sampled, and what the answer has
/// to look like.
pub fn without_flattened(mut rest: Map<String, Value>) -> Map<String, Value> {
    rest.retain(|name, _| !SAMPLING.contains(&name.as_str()) && !FORMS.contains(&name.as_str()));
    rest
}

/// Most stop strings of a request, over whichever interface it comes.
pub(crate) const MAX_STOPS: usize = 16;

impl SamplingFields {
    /// 0 is greedy; 1 is the model's own distribution.
    pub fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(1.0)
    }

    /// Share of the probability that is kept.
    pub fn top_p(&self) -> f32 {
        self.top_p.unwrap_or(1.0)
    }

    /// What is taken off the logits of tokens that were generated.
    pub fn presence_penalty(&self) -> f32 {
        self.presence_penalty.unwrap_or(0.0)
    }

    /// The same for each time that they were.
    pub fn frequency_penalty(&self) -> f32 {
        self.frequency_penalty.unwrap_or(0.0)
    }

    /// The same as what is to be generated, with a seed drawn where none is given.
    pub fn options(&self, stop: Option<OneOrMany>, max_tokens: Option<usize>) -> Result<GenerateOptions, ApiError> {
        let mut bias = Vec::new();
        for (token, &amount) in self.logit_bias.iter().flatten() {
            let token = token.parse().map_err(|_| {
                ApiError::field("logit_bias", format!("`{token}` is no token id: keys of logit_bias are token ids"))
            })?;
            bias.push((token, amount));
        }
        let sampling = Sampling {
            temperature: self.temperature(),
            top_k: self.top_k.map_or(0, |k| usize::try_from(k).unwrap_or(0)),
            top_p: self.top_p(),
            min_p: self.min_p.unwrap_or(0.0),
            repeat_penalty: self.repetition_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty(),
            frequency_penalty: self.frequency_penalty(),
            bias: Arc::from(bias),
            seed: match self.seed {
                Some(seed) if seed != -1 => seed as u64,
                _ => rand::random(),
            },
            ..Sampling::default()
        };
        sampling.validate().map_err(|error| ApiError::bad(error.to_string()))?;
        let stop = stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.len() > MAX_STOPS {
            return Err(ApiError::field(
                "stop",
                format!("{} stop strings were given, and {MAX_STOPS} may be", stop.len()),
            ));
        }
        let ignore_eos = self.ignore_eos.unwrap_or(false);
        Ok(GenerateOptions { max_tokens, sampling, stop, ignore_eos, ..GenerateOptions::default() })
    }
}

/// How the cache of a request is kept: the server's settings where nothing is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvFields {
    /// As `--kv-budget` takes it.
    budget: Option<String>,
    /// As `--policy` takes it.
    policy: Option<String>,
    /// As `--kv-type` takes it.
    r#type: Option<String>,
    /// The least budget that the cache may be squeezed to where memory runs short.
    min: Option<String>,
    /// The id of a document that goes before the conversation.
    document: Option<String>,
    /// Whether it is told how the entries lie.
    layout: Option<bool>,
}

fn budget(field: &str, text: &str) -> Result<Budget, ApiError> {
    match text {
        "full" => Ok(Budget::EntryFraction(1.0)),
        text => text.parse().map_err(|error| ApiError::field(field, format!("{error}"))),
    }
}

impl KvFields {
    /// Whether it is to be told how the entries lie.
    pub fn layout(&self) -> bool {
        self.layout.unwrap_or(false)
    }

    /// The id of the document that goes before the conversation.
    pub fn document(&self) -> Option<&str> {
        self.document.as_deref()
    }

    /// The settings of a session, within the server's limits: of one that goes on from a mounted cache, if there is one.
    pub fn session(&self, serving: &Serving, mount: Option<&Mount>) -> Result<SessionOptions, ApiError> {
        let server = &serving.settings.session;
        let mut session = mount.map_or_else(|| server.clone(), |mount| mount.session(server));
        if let Some(text) = &self.budget {
            session.budget = budget("kv.budget", text)?;
            if mount.is_none() {
                session.dtype = None;
            }
        }
        if let Some(policy) = &self.policy {
            let policy = chelsea_kv::policy(policy).map_err(|error| ApiError::field("kv.policy", error.to_string()))?;
            if policy.needs().repetition.is_some() {
                return Err(ApiError::field(
                    "kv.policy",
                    format!("policy `{}` reads a text twice, which the server does not: choose another", policy.name()),
                ));
            }
            session.policy = policy;
        }
        if let Some(name) = &self.r#type {
            let dtype: Option<Dtype> = Dtype::ALL.iter().copied().find(|dtype| dtype.name() == name);
            session.dtype = Some(dtype.ok_or_else(|| {
                let names: Vec<_> = Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
                ApiError::field("kv.type", format!("`{name}` is no number type: choose one of {}", names.join(", ")))
            })?);
        }
        if let Some(text) = &self.min {
            session.squeeze = Some(self.min(serving, &session, text)?);
        }
        Ok(session)
    }

    /// What the cache may be squeezed to, which has to be less than its budget.
    fn min(&self, serving: &Serving, session: &SessionOptions, text: &str) -> Result<Budget, ApiError> {
        /// Tokens of a text by which budgets of different kinds are compared.
        const TOKENS: usize = 4096;
        let min = budget("kv.min", text)?;
        let bytes = |budget| {
            let dtype = Some(session.dtype.unwrap_or(dtype_for(session.budget, serving.model.kv_dtype())));
            let session = SessionOptions { budget, dtype, ..session.clone() };
            let config = cache_config(&serving.model, &session)?;
            // Says what is wrong with a budget that cannot be held.
            chelsea_kv::SequenceCache::new(chelsea_kv::CacheConfig { pool: Pool::unlimited(), ..config.clone() })?;
            Ok(config.forecast(TOKENS, &session.plan()).settled)
        };
        let wrong = |error: EngineError| ApiError::field("kv.min", error.to_string());
        if bytes(min).map_err(wrong)? >= bytes(session.budget).map_err(wrong)? {
            let text = format!("kv.min is {min}, but must be less than the budget, which is {}", session.budget);
            return Err(ApiError::field("kv.min", text));
        }
        Ok(min)
    }
}

/// What an object says it is, if it says so.
///
/// # Errors
/// If it is no object, or that is no text: `place` is named.
pub(crate) fn kind_of<'v>(value: &'v Value, place: &str) -> Result<Option<&'v str>, ApiError> {
    match value.get("type") {
        _ if !value.is_object() => Err(ApiError::field(place, format!("{place} must be an object"))),
        None => Ok(None),
        Some(Value::String(kind)) => Ok(Some(kind)),
        Some(_) => Err(ApiError::field(place, format!("{place}: `type` must be a text"))),
    }
}

/// Fields that change nothing here, and that clients send all the same.
const HARMLESS: &[&str] = &["user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"];

/// Refuses what is neither honoured nor harmless, unless it asks for nothing.
pub fn refuse_unknown(rest: &Map<String, Value>) -> Result<(), ApiError> {
    let says_something = |value: &Value| !value.is_null() && *value != Value::Bool(false);
    let unknown = rest.iter().find(|(name, value)| !HARMLESS.contains(&name.as_str()) && says_something(value));
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::field(
            name,
            format!("`{name}` is not supported here: leave it out (docs/api.md lists what is)"),
        )),
    }
}
