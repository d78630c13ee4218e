//! Samples from files: one JSON object per line, in the format of RULER, of LongBench, or with many questions about one
//! document.
//!
//! RULER's lines have `input` and `outputs`, LongBench's `context`, `input` and `answers`; the third have `context` and
//! `questions`. Files are foreign: every
//! error names the file and the line, and a bad line costs no more than itself.

mod longbench;
mod questions;
mod ruler;

use crate::metrics::{Metric, UnknownMetric};
use crate::sample::{Document, Probe, Question, Sample, Source};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longest line that is read: far more than any model's context.
const MAX_LINE: u64 = 256 << 20;

/// What a file cannot say of itself.
#[derive(Debug, Clone, Default)]
pub struct JsonlOptions {
    /// At most this many samples of a file, drawn by the seed; all when none is given.
    pub samples: Option<usize>,
    /// Which samples are drawn.
    pub seed: u64,
    /// How answers are scored, instead of the metric of the task's name.
    pub metric: Option<Metric>,
    /// Most tokens of an answer, instead of the benchmark's own number.
    pub max_tokens: Option<usize>,
}

/// A line that is no sample.
#[derive(Debug, Error)]
pub enum LineError {
    /// Bytes that are no text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Longer than anything that could be read.
    #[error("it is longer than {} MiB", MAX_LINE >> 20)]
    TooLong,
    /// Text that is no JSON.
    #[error("it is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// JSON of another kind.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// Neither format.
    #[error(
        "it is neither a line of RULER (with `input` and `outputs`) nor of LongBench (with `context`, `input` and \
         `answers`), nor a document with many questions (with `context` and `questions`)"
    )]
    UnknownFormat,
    /// A field of the wrong kind, or none.
    #[error("{0}")]
    Field(serde_json::Error),
    /// Nothing to compare with.
    #[error("it has no right answers (`{0}` is empty)")]
    NoAnswers(&'static str),
    /// A document that nothing is asked of, or more than can be answered.
    #[error("it asks {0} questions: that must be from 1 to 10000")]
    Questions(usize),
    /// RULER keeps document and question in one field.
    #[error("where its question begins cannot be told: add the question as a field `question` (the end of `input`)")]
    NoQuestion,
    /// A question that is not where it should be.
    #[error("its field `{0}` is not the end of `input`")]
    NotTheEnd(&'static str),
    /// A task of no known benchmark.
    #[error("the task `{0}` is not known: say how its answers are scored (--metric, or a field `metric`)")]
    UnknownTask(String),
    /// Nothing to choose from.
    #[error("a classification needs the classes there are, as a field `all_classes`")]
    NoClasses,
    /// A metric that does not exist.
    #[error(transparent)]
    Metric(#[from] UnknownMetric),
    /// A number of tokens that makes no sense.
    #[error("its answers may have {0} tokens: that must be from 1 to 65536")]
    MaxTokens(usize),
}

/// A file, or a line of it, that cannot be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line is no sample.
    #[error("{place}: {problem}")]
    Line {
        /// Where.
        place: Source,
        /// What is wrong with it.
        problem: LineError,
    },
    /// The file has no lines.
    #[error("{} holds no samples", .0.display())]
    Empty(PathBuf),
}

/// Some editors begin files with it.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// Reads the samples of a file, in the order of its lines. Whoever calls decides whether a bad line ends the work.
pub fn read(file: &Path, options: &JsonlOptions) -> Result<Vec<Result<Sample, ReadError>>, ReadError> {
    let failed = |error| ReadError::File { file: file.to_owned(), error };
    let mut reader = BufReader::new(File::open(file).map_err(failed)?);
    let (mut lines, mut number) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        if (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        number += 1;
        if number == 1 && line.starts_with(BOM) {
            line.drain(..BOM.len());
        }
        if line.len() as u64 > MAX_LINE {
            let place = Source { file: file.to_owned(), line: number };
            return Err(ReadError::Line { place, problem: LineError::TooLong });
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            lines.push((number, line));
        }
    }
    if lines.is_empty() {
        return Err(ReadError::Empty(file.to_owned()));
    }
    if let Some(samples) = options.samples.filter(|&n| n < lines.len()) {
        // Of a longer draw, a shorter one is the beginning: asking for more samples keeps those already run.
        lines.shuffle(&mut StdRng::seed_from_u64(options.seed));
        lines.truncate(samples);
        lines.sort_by_key(|(number, _)| *number);
    }
    let task = task_of(file);
    let sample = |(number, line): (usize, Vec<u8>)| {
        let place = Source { file: file.to_owned(), line: number };
        match parse_line(&line, &task, number, options) {
            Ok(sample) => Ok(Sample { source: Some(place), ..sample }),
            Err(problem) => Err(ReadError::Line { place, problem }),
        }
    };
    Ok(lines.into_iter().map(sample).collect())
}

/// The task that a file's name speaks of: `niah_single_1.jsonl`, or `niah_single_1/validation.jsonl`.
fn task_of(file: &Path) -> String {
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name(file);
    match file.parent() {
        Some(folder) if matches!(stem.as_str(), "validation" | "test" | "train") && !name(folder).is_empty() => {
            name(folder)
        }
        _ => stem,
    }
}

/// Makes a sample of one line; `task` is what the file's name says, `number` the line's.
pub fn parse_line(line: &[u8], task: &str, number: usize, options: &JsonlOptions) -> Result<Sample, LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotText)?;
    let value: Value = serde_json::from_str(text).map_err(LineError::NotJson)?;
    let Value::Object(fields) = value else { return Err(LineError::NotAnObject) };
    let common = Common::read(&fields, task, number, options)?;
    if fields.contains_key("outputs") {
        ruler::sample(typed(fields)?, common)
    } else if fields.contains_key("answers") && fields.contains_key("context") {
        longbench::sample(typed(fields)?, common)
    } else if fields.contains_key("questions") && fields.contains_key("context") {
        questions::sample(typed(fields)?, common)
    } else {
        Err(LineError::UnknownFormat)
    }
}

fn typed<T: for<'a> Deserialize<'a>>(fields: Map<String, Value>) -> Result<T, LineError> {
    T::deserialize(Value::Object(fields)).map_err(LineError::Field)
}

/// What all formats share.
struct Common {
    task: String,
    id: String,
    metric: Option<Metric>,
    max_tokens: Option<usize>,
    length: Option<usize>,
}

impl Common {
    /// The sample that asks one question of a text.
    fn sample(self, document: &str, question: Question) -> Sample {
        Sample {
            task: self.task,
            id: self.id,
            length: self.length.unwrap_or(0),
            system: None,
            document: Document::Text(document.trim_end().to_owned()),
            probes: vec![Probe::Ask(question)],
            source: None,
        }
    }

    fn read(fields: &Map<String, Value>, task: &str, number: usize, options: &JsonlOptions) -> Result<Self, LineError> {
        let text = |key: &str| match fields.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let number_of = |key: &str| fields.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let metric = match (options.metric, text("metric")) {
            (Some(metric), _) => Some(metric),
            (None, Some(name)) => Some(name.parse()?),
            (None, None) => None,
        };
        let max_tokens = options.max_tokens.or(number_of("max_new_tokens")).or(number_of("tokens_to_generate"));
        if let Some(n) = max_tokens.filter(|n| !(1..=65_536).contains(n)) {
            return Err(LineError::MaxTokens(n));
        }
        Ok(Common {
            task: text("task").or_else(|| text("dataset")).unwrap_or_else(|| task.to_owned()),
            id: text("_id")
                .or_else(|| text("index"))
                .or_else(|| text("id"))
                .unwrap_or_else(|| format!("line {number}")),
            metric,
            max_tokens,
            // What a file says it was made for tells more than what each line came to. LongBench counts words, not
            // tokens.
            length: number_of("max_length").or(number_of("length").filter(|_| fields.contains_key("outputs"))),
        })
    }
}

/// One text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<Scalar>),
}

/// A text, or a number that is meant as one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
}

impl Texts {
    /// The texts, without those that say nothing.
    fn into_vec(self) -> Vec<String> {
        let texts = match self {
            Texts::One(text) => vec![text],
            Texts::Many(many) => many
                .into_iter()
                .map(|one| match one {
                    Scalar::Text(text) => text,
                    Scalar::Number(number) => number.to_string(),
                })
                .collect(),
        };
        texts.into_iter().filter(|text| !text.trim().is_empty()).collect()
    }
}

#[cfg(test)]
mod tests;
