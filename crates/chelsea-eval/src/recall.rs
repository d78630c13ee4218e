//! Recall of needles under several settings of the cache, with as few prefills as possible.
//!
//! One reading of a context serves every one-shot setting: the full cache is forked, clustered, and
//! asked. Online settings need a reading each.

use crate::needles::{self, Context, HaystackError, Needle, NeedleOptions};
use chelsea_engine::{Compression, EngineError, GenerateOptions, Layout, Session, SessionOptions, generate};
use chelsea_kv::Budget;
use chelsea_kv::policy::{Needs, Policy};
use chelsea_model::Model;
use chelsea_model::tokenizer::Tokenizer;
use rayon::ThreadPool;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use thiserror::Error;

/// One way to keep the cache.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Setting {
    /// A policy of the registry.
    pub policy: String,
    /// Share of the entries kept.
    pub keep: f32,
    /// Whether the cache is clustered while reading, or once after it.
    pub online: bool,
}

/// One question under one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// How the cache was kept.
    #[serde(flatten)]
    pub setting: Setting,
    /// Number of the context.
    pub context: u64,
    /// What was asked for.
    pub city: String,
    /// The right answer.
    pub digits: String,
    /// The model's answer.
    pub answer: String,
    /// Whether it holds the digits exactly.
    pub hit: bool,
    /// Mean `-ln p` of the digits' tokens, had they been given as the answer.
    pub nll: f64,
    /// Bytes of the cache when the question came.
    pub kv_bytes: usize,
    /// Bytes that a full cache would have had.
    pub kv_bytes_full: usize,
}

/// What can go wrong in an evaluation.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The haystack is no good.
    #[error(transparent)]
    Haystack(#[from] HaystackError),
}

/// What is evaluated.
pub struct Subject<'a> {
    /// The model.
    pub model: Arc<Model>,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How prompts are laid out for it.
    pub layout: &'a Layout<'a>,
    /// Threads to compute with.
    pub pool: Arc<ThreadPool>,
    /// Ends the evaluation early.
    pub cancel: Arc<AtomicBool>,
    /// How sequences are kept, apart from what a [`Setting`] says.
    pub options: SessionOptions,
}

fn policy(setting: &Setting) -> Result<Arc<dyn Policy>, EvalError> {
    Ok(chelsea_kv::policy(&setting.policy).map_err(EngineError::from)?)
}

impl Subject<'_> {
    fn session(&self, setting: &Setting) -> Result<Session, EvalError> {
        let options = SessionOptions {
            policy: setting.policy.clone(),
            budget: Budget::Keep(setting.keep),
            compression: if setting.online { Compression::Online } else { Compression::OneShot },
            ..self.options.clone()
        };
        Ok(Session::new(self.model.clone(), self.pool.clone(), self.cancel.clone(), &options)?)
    }

    /// Asks for every needle of context `index` under every setting; `report` gets each outcome as it
    /// comes.
    pub fn run_context(
        &self,
        haystack: &str,
        needles: &NeedleOptions,
        index: u64,
        settings: &[Setting],
        report: &mut dyn FnMut(Outcome),
    ) -> Result<(), EvalError> {
        let count = |text: &str| self.tokenizer.encode(text, false).map_or(0, |t| t.len());
        let context = needles::context(haystack, needles, index, &count)?;
        let document = self.layout.document(&context.text)?;
        let mut full: Option<Session> = None;
        let mut repeated = None;
        for setting in settings {
            let session = if setting.online {
                let mut session = self.session(setting)?;
                session.read(&document, |_| ())?;
                session
            } else {
                let full = match &mut full {
                    Some(full) => full,
                    None => full.insert(self.full(&document, settings)?),
                };
                let chunk = policy(setting)?.needs().repetition;
                if setting.keep < 1.0
                    && let Some(chunk) = chunk
                    && repeated != Some(chunk)
                {
                    full.score_by_repetition(&self.layout.repetition()?, chunk)?;
                    repeated = Some(chunk);
                }
                let mut session = full.fork();
                // With that, what only other policies want to know is dropped.
                session.reconfigure(&setting.policy, Budget::Keep(setting.keep))?;
                if setting.keep < 1.0 && !session.cancelled() {
                    session.compress()?;
                }
                session
            };
            self.ask_all(&session, setting, index, &context, report)?;
            if session.cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// The full cache of a document, with all that the one-shot policies of `settings` want to know.
    fn full(&self, document: &[u32], settings: &[Setting]) -> Result<Session, EvalError> {
        let mut needs = Needs::default();
        for setting in settings.iter().filter(|setting| !setting.online && setting.keep < 1.0) {
            needs = needs.and(policy(setting)?.needs());
        }
        let mut session = self.session(&Setting { policy: "full".into(), keep: 1.0, online: false })?;
        session.cache_mut().gather(needs);
        session.read(document, |_| ())?;
        Ok(session)
    }

    fn ask_all(
        &self,
        session: &Session,
        setting: &Setting,
        index: u64,
        context: &Context,
        report: &mut dyn FnMut(Outcome),
    ) -> Result<(), EvalError> {
        for needle in &context.needles {
            if session.cancelled() {
                return Ok(());
            }
            let (answer, nll) = self.ask(session, needle)?;
            report(Outcome {
                setting: setting.clone(),
                context: index,
                city: needle.city.into(),
                digits: needle.digits.clone(),
                hit: needle.answered_by(&answer),
                answer,
                nll,
                kv_bytes: session.memory().total(),
                kv_bytes_full: session.cache().full_bytes(),
            });
        }
        Ok(())
    }

    fn ask(&self, session: &Session, needle: &Needle) -> Result<(String, f64), EvalError> {
        let mut asked = session.fork();
        asked.read(&self.layout.question(&needle.question())?, |_| ())?;
        let mut scored = asked.fork();
        let digits = self.tokenizer.encode(&needle.digits, false).map_err(EngineError::from)?;
        let losses = scored.score(&digits)?;
        let options = GenerateOptions { max_tokens: Some(32), ..GenerateOptions::default() };
        let generation = generate(&mut asked, self.tokenizer, &options, |_| ())?;
        Ok((generation.text, losses.iter().sum::<f64>() / losses.len().max(1) as f64))
    }
}
