//! Runs samples under many settings with as few readings as possible.
//!
//! One reading of a document serves every setting that compresses after it and stores entries alike: the full cache is
//! forked, compressed and asked. Settings that compress while reading need a reading each. Statistics that policies need are gathered in
//! that one reading for all of them together. Questions of several settings are answered side by side.

use crate::error::EvalError;
use crate::probe::{self, OpenProbe, Outcome, Prepared};
use crate::results::{AGAINST, Record};
use crate::sample::{Document, Sample};
use crate::setting::{Mode, PIECES, ParsedSetting};
use chelsea_engine::{Compression, Layout, Session, SessionOptions, dtype_for};
use chelsea_kv::policy::{Full, Needs, Policy};
use chelsea_kv::{Budget, Dtype};
use chelsea_model::Model;
use chelsea_model::tokenizer::Tokenizer;
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Questions that are answered side by side at most, if a sample and its settings have so many: enough to share each
/// pass over the weights, few enough that their caches fit beside each other.
const TOGETHER: usize = 16;

/// What is evaluated.
pub struct Subject<'a> {
    /// The model.
    pub model: Arc<Model>,
    /// What it is called in results.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How prompts are laid out for it.
    pub layout: &'a Layout<'a>,
    /// Threads to compute with.
    pub pool: Arc<ThreadPool>,
    /// Ends the evaluation early.
    pub cancel: Arc<AtomicBool>,
    /// How sequences are kept, apart from what a [`Setting`](crate::Setting) says.
    pub options: SessionOptions,
    /// The seed of the run, for the record.
    pub seed: u64,
    /// What else results depend on, such as how products are computed; empty for the defaults.
    pub setup: String,
}

/// A sample as tokens.
struct Tokens<'a> {
    /// What budgets that do not grow with the text are a share of.
    length: usize,
    document: Vec<u32>,
    probes: Vec<Prepared<'a>>,
}

/// The policy that keeps everything.
fn full() -> Arc<dyn Policy> {
    Arc::new(Full)
}

impl Subject<'_> {
    /// A record of `sample` under `setting` with nothing measured yet: its key says whether it was.
    pub fn record(&self, sample: &Sample, setting: &ParsedSetting) -> Result<Record, EvalError> {
        let o = &self.options;
        let stored = self.stored(setting, sample.length).name();
        let mut setup = format!("sinks={},window={},block={},{stored}", o.sinks, o.window, o.block);
        // What is held against the full cache depends on how that is stored, too.
        if self.judge().name() != stored && sample.compares_with_full() {
            setup += &format!(",{AGAINST}{}", self.judge().name());
        }
        if setting.mode.online() {
            setup += ",once";
        }
        if !self.layout.has_template() {
            setup += ",plain";
        }
        if !self.setup.is_empty() {
            setup += &format!(",{}", self.setup);
        }
        Ok(Record {
            v: Record::VERSION,
            model: self.name.clone(),
            fingerprint: self.model.fingerprint().iter().map(|b| format!("{b:02x}")).collect(),
            task: sample.task.clone(),
            sample: sample.key(),
            spec: setting.made_policy().spec(),
            setting: (**setting).clone(),
            seed: self.seed,
            setup: setup.to_lowercase(),
            length: sample.length,
            tokens: 0,
            score: 0.0,
            kv_bytes: 0,
            kv_bytes_full: 0,
            seconds: 0.0,
            asked: Vec::new(),
        })
    }

    /// How the full cache is stored that predictions are held against: as the model has it, so that what bits cost is seen
    /// as well.
    fn judge(&self) -> Dtype {
        self.model.kv_dtype()
    }

    /// How entries are stored under a setting, of a sample of so many tokens.
    fn stored(&self, setting: &ParsedSetting, length: usize) -> Dtype {
        self.options.dtype.unwrap_or(dtype_for(setting.budget(length), self.model.kv_dtype()))
    }

    /// Runs a sample under every setting; `done` gets each result as it comes.
    pub fn run(
        &self,
        sample: &Sample,
        settings: &[ParsedSetting],
        done: &mut dyn FnMut(Record) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let tokens = self.prepare(sample, settings)?;
        let compared = sample.compares_with_full();
        let mut references = vec![None; tokens.probes.len()];
        // What a full cache says comes from one that is stored as full caches are, and so comes first.
        let mut types = if compared { vec![self.judge()] } else { Vec::new() };
        for stored in settings.iter().map(|s| self.stored(s, sample.length)) {
            if !types.contains(&stored) {
                types.push(stored);
            }
        }
        for stored in types {
            let alike: Vec<&ParsedSetting> =
                settings.iter().filter(|s| self.stored(s, sample.length) == stored).collect();
            let judge = compared && stored == self.judge();
            let full = if judge || alike.iter().any(|s| !s.mode.online()) {
                Some(self.read_full(&tokens.document, &alike, stored)?)
            } else {
                None
            };
            if let Some(full) = full.as_ref().filter(|_| judge) {
                references = probe::references(full, &tokens.probes)?;
            }
            self.run_alike(sample, &tokens, &alike, full, &references, done)?;
        }
        Ok(())
    }

    /// Runs settings that store entries alike, over one full cache.
    fn run_alike(
        &self,
        sample: &Sample,
        tokens: &Tokens<'_>,
        settings: &[&ParsedSetting],
        mut full: Option<Session>,
        references: &[Option<probe::Reference>],
        done: &mut dyn FnMut(Record) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut repeated = None;
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        for &setting in settings {
            let there = waiting.iter().map(|w| w.standing.len()).sum::<usize>();
            if there > 0 && there + tokens.probes.len() > TOGETHER {
                self.ask(std::mem::take(&mut waiting), done)?;
            }
            let start = Instant::now();
            // Some policies read twice. What that finds out serves all settings that read in the same chunks.
            let chunk = setting.repetition();
            if let (Some(chunk), Some(full)) = (chunk, &mut full)
                && repeated != Some(chunk)
            {
                full.score_by_repetition(&self.layout.repetition()?, chunk)?;
                repeated = Some(chunk);
            }
            let mut record = self.record(sample, setting)?;
            record.tokens = tokens.document.len();
            let mut next = Waiting { record, standing: Vec::new() };
            if setting.mode.turns() {
                self.in_turns(tokens, &mut next.record, setting, full.as_ref(), references)?;
            } else {
                next.standing = self.before_asking(tokens, &mut next.record, setting, full.as_ref(), references)?;
            }
            next.record.seconds = start.elapsed().as_secs_f64();
            waiting.push(next);
        }
        self.ask(waiting, done)
    }

    /// Asks all that wait side by side.
    fn ask(
        &self,
        waiting: Vec<Waiting<'_>>,
        done: &mut dyn FnMut(Record) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let start = Instant::now();
        let (mut records, mut standing) = (Vec::new(), Vec::new());
        for one in waiting {
            records.push((one.record, one.standing.len()));
            standing.extend(one.standing);
        }
        let all = standing.len().max(1) as f64;
        let mut asked = probe::measure(&mut standing, self.tokenizer, false)?.into_iter().map(|(asked, _)| asked);
        if self.cancel.load(Ordering::Relaxed) {
            return Err(EvalError::Cancelled);
        }
        for (mut record, n) in records {
            record.asked.extend(asked.by_ref().take(n));
            record.score = record.asked.iter().map(|a| a.score).sum::<f64>() / record.asked.len().max(1) as f64;
            record.seconds += start.elapsed().as_secs_f64() * n as f64 / all;
            done(record)?;
        }
        Ok(())
    }

    fn prepare<'s>(&self, sample: &'s Sample, settings: &[ParsedSetting]) -> Result<Tokens<'s>, EvalError> {
        let document = match &sample.document {
            Document::Text(text) => match &sample.system {
                Some(system) => self.layout.with_system(system).document(text)?,
                None => self.layout.document(text)?,
            },
            Document::Tokens(tokens) => [self.tokenizer.prefix(), tokens].concat(),
        };
        let prepared = |probe| Prepared::new(probe, self.layout, self.tokenizer);
        let probes: Vec<Prepared<'_>> = sample.probes.iter().map(prepared).collect::<Result<_, _>>()?;
        let trained = self.model.config().context_length;
        let limit = self.options.context.unwrap_or(trained).min(self.model.config().max_positions());
        let lengths = || probes.iter().map(|p| p.longest());
        let turns = settings.iter().any(|s| s.mode.turns());
        let asked: usize = if turns { lengths().sum() } else { lengths().max().unwrap_or(0) };
        let needed = document.len() + asked.max(self.repeated(document.len(), settings)?);
        if needed > limit {
            let what = match &sample.source {
                Some(place) => format!("{place}: the sample"),
                None => format!("sample {} of {}", sample.id, sample.task),
            };
            return Err(EvalError::TooLong { what, needed, limit });
        }
        Ok(Tokens { length: sample.length, document, probes })
    }

    /// Tokens that the longest repetition of a document takes after it, where a policy wants one.
    fn repeated(&self, document: usize, settings: &[ParsedSetting]) -> Result<usize, EvalError> {
        let mut most = 0;
        for setting in settings {
            if let Some(chunk) = setting.repetition() {
                most = most.max(self.layout.repetition()?.longest(document.min(chunk)));
            }
        }
        Ok(most)
    }

    /// The document in a cache that keeps everything, with the statistics that any of the policies needs.
    fn read_full(&self, document: &[u32], settings: &[&ParsedSetting], stored: Dtype) -> Result<Session, EvalError> {
        let mut needs = Needs::default();
        for setting in settings.iter().filter(|s| !s.mode.online() && s.keep < 1.0) {
            needs = needs.and(setting.made_policy().needs());
        }
        let mut session = self.session(&full(), Budget::EntryFraction(1.0), Compression::OneShot, stored)?;
        session.cache_mut().gather(needs).map_err(chelsea_engine::EngineError::from)?;
        self.read(&mut session, document)?;
        Ok(session)
    }

    fn read(&self, session: &mut Session, tokens: &[u32]) -> Result<(), EvalError> {
        session.read(tokens, |_| ())?;
        if session.cancelled() { Err(EvalError::Cancelled) } else { Ok(()) }
    }

    /// An empty sequence.
    fn session(
        &self,
        policy: &Arc<dyn Policy>,
        budget: Budget,
        compression: Compression,
        stored: Dtype,
    ) -> Result<Session, EvalError> {
        let dtype = Some(stored);
        let options = SessionOptions { policy: policy.clone(), budget, compression, dtype, ..self.options.clone() };
        Ok(Session::new(self.model.clone(), self.pool.clone(), self.cancel.clone(), &options)?)
    }

    /// An empty sequence that compresses while it reads.
    fn online(&self, setting: &ParsedSetting, length: usize) -> Result<Session, EvalError> {
        let (budget, stored) = (setting.budget(length), self.stored(setting, length));
        self.session(setting.made_policy(), budget, Compression::Online, stored)
    }

    /// Brings a full cache down to what the setting allows. What only other policies want to know is dropped.
    fn compress(&self, session: &mut Session, setting: &ParsedSetting, length: usize) -> Result<(), EvalError> {
        if session.cancelled() {
            return Err(EvalError::Cancelled);
        }
        session.reconfigure(setting.made_policy(), setting.budget(length))?;
        if setting.keep < 1.0 {
            session.compress_with(&self.layout.repetition()?)?;
            // Once means once. What the policy gathered to choose by goes too: bytes are those of what it kept.
            session.reconfigure(&full(), Budget::EntryFraction(1.0))?;
        }
        Ok(())
    }

    /// A cache of the document and the `cue` after it, compressed as the setting says: a fork of the full cache where it
    /// serves, else a reading of its own.
    fn compressed(
        &self,
        tokens: &Tokens<'_>,
        cue: &[u32],
        setting: &ParsedSetting,
        full: Option<&Session>,
    ) -> Result<Session, EvalError> {
        let Some(full) = full.filter(|_| !setting.mode.online()) else {
            let mut session = self.online(setting, tokens.length)?;
            let text = [&tokens.document, cue].concat();
            let piece = if setting.mode == Mode::Pieces { text.len().div_ceil(PIECES) } else { text.len() };
            for piece in text.chunks(piece.max(1)) {
                self.read(&mut session, piece)?;
            }
            return Ok(session);
        };
        let mut session = full.fork()?;
        // The last token is read over the compressed cache: what is said first comes from that, too.
        let last = usize::from(setting.keep < 1.0);
        let (before, last) = cue.split_at(cue.len().saturating_sub(last));
        if !before.is_empty() {
            self.read(&mut session, before)?;
        }
        self.compress(&mut session, setting, tokens.length)?;
        if !last.is_empty() {
            self.read(&mut session, last)?;
        }
        Ok(session)
    }

    /// A session for each question, at the point where its answer begins: the question follows compression, or is
    /// read before it, and then each needs a compression of its own. Of more than may wait together the first are
    /// answered at once.
    fn before_asking<'a>(
        &self,
        tokens: &'a Tokens<'_>,
        record: &mut Record,
        setting: &ParsedSetting,
        full: Option<&Session>,
        references: &'a [Option<probe::Reference>],
    ) -> Result<Vec<OpenProbe<'a>>, EvalError> {
        let once = if setting.mode.aware() { None } else { Some(self.compressed(tokens, &[], setting, full)?) };
        let mut standing = Vec::with_capacity(tokens.probes.len().min(TOGETHER));
        let (mut bytes, mut full_bytes) = (0, 0);
        for (prepared, reference) in tokens.probes.iter().zip(references) {
            if standing.len() == TOGETHER {
                let answers = probe::measure(&mut standing, self.tokenizer, false)?;
                record.asked.extend(answers.into_iter().map(|(asked, _)| asked));
                standing.clear();
            }
            let session = match &once {
                Some(once) => once.fork()?,
                None => self.compressed(tokens, prepared.cue(), setting, full)?,
            };
            bytes += session.memory().total();
            full_bytes += session.cache().full_bytes();
            standing.push(OpenProbe { prepared, session, reference: reference.as_ref() });
            if once.is_some() {
                let last = standing.len() - 1;
                self.read(&mut standing[last].session, prepared.cue())?;
            }
        }
        let n = tokens.probes.len().max(1);
        (record.kv_bytes, record.kv_bytes_full) = (bytes / n, full_bytes / n);
        Ok(standing)
    }

    /// Questions that follow each other in one conversation.
    fn in_turns(
        &self,
        tokens: &Tokens<'_>,
        record: &mut Record,
        setting: &ParsedSetting,
        full: Option<&Session>,
        references: &[Option<probe::Reference>],
    ) -> Result<(), EvalError> {
        let mut session = self.compressed(tokens, &[], setting, full)?;
        (record.kv_bytes, record.kv_bytes_full) = (session.memory().total(), session.cache().full_bytes());
        let mut said = Outcome::Nothing;
        for (prepared, reference) in tokens.probes.iter().zip(references) {
            prepared.say(&mut session, self.layout, self.tokenizer, &said)?;
            let mut standing = [OpenProbe { prepared, session, reference: reference.as_ref() }];
            for (asked, next) in probe::measure(&mut standing, self.tokenizer, true)? {
                record.asked.push(asked);
                said = next;
            }
            [OpenProbe { session, .. }] = standing;
            if session.cancelled() {
                return Err(EvalError::Cancelled);
            }
            // Of text that is read while it is scored, bytes are those at its end.
            if prepared.is_text() {
                (record.kv_bytes, record.kv_bytes_full) = (session.memory().total(), session.cache().full_bytes());
            }
        }
        Ok(())
    }
}

/// A setting whose questions are still to be answered.
struct Waiting<'a> {
    record: Record,
    standing: Vec<OpenProbe<'a>>,
}
