//! Results on disk: one JSON object per line, one line for each sample and setting, in the order they were measured.
//!
//! A line is written at once and only when it is complete, so a run can be killed at any time. What is there when it
//! starts again is not measured again. A last line without an end, left by a kill in the middle of a write, is cut
//! off; any other line that cannot be read is an error, for it would be lost silently.

use crate::metrics::agree;
use crate::setting::{Basis, Mode, Setting};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The version of the lines: it changes with how things are measured. In version 1, answers went on being compressed
/// after a single compression, and what policies gather of queries counted as cache.
const VERSION: u32 = 2;

/// What one question, or one stretch of scored tokens, came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// What was asked for, where it has a short name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The right answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<String>,
    /// The model's answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// From 0 to 1.
    pub score: f64,
    /// Mean `-ln p` of a right answer's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Mean KL divergence of the predictions from the full cache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Whether every scored token was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Where in the document the answer lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
}

/// One sample under one setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the line.
    pub v: u32,
    /// The model as it was named.
    pub model: String,
    /// The model's fingerprint.
    pub fingerprint: String,
    /// The task.
    pub task: String,
    /// The sample, with a digest of its contents.
    pub sample: String,
    /// How the cache was kept and asked.
    #[serde(flatten)]
    pub setting: Setting,
    /// The policy with all its settings.
    pub spec: String,
    /// The seed of the run.
    pub seed: u64,
    /// What else of the cache's configuration matters.
    pub setup: String,
    /// Length that the document was meant to have, in tokens.
    pub length: usize,
    /// Length that it had.
    pub tokens: usize,
    /// Mean score of what was asked.
    pub score: f64,
    /// Bytes of the cache when the question came.
    pub kv_bytes: usize,
    /// Bytes of keys and values that a full cache would have had.
    pub kv_bytes_full: usize,
    /// How long it took, a reading that others share left out.
    pub seconds: f64,
    /// All that was asked.
    pub asked: Vec<Asked>,
}

/// What tells one measurement from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    fingerprint: String,
    task: String,
    sample: String,
    spec: String,
    keep: u32,
    of: Basis,
    mode: Mode,
    seed: u64,
    setup: String,
}

/// Begins the part of a setup that says how the full cache is stored which results are held against, where that is not
/// how their own is.
pub(crate) const AGAINST: &str = "against=";

impl Record {
    /// The current version.
    pub const VERSION: u32 = VERSION;

    /// What tells this measurement from others.
    pub fn key(&self) -> Key {
        Key {
            fingerprint: self.fingerprint.clone(),
            task: self.task.clone(),
            sample: self.sample.clone(),
            spec: self.spec.clone(),
            keep: self.setting.keep.to_bits(),
            of: self.setting.of,
            mode: self.setting.mode,
            seed: self.seed,
            setup: self.setup.clone(),
        }
    }

    /// Mean of a figure over all that was asked, where all have it.
    pub fn mean(&self, figure: impl Fn(&Asked) -> Option<f64>) -> Option<f64> {
        let figures: Option<Vec<f64>> = self.asked.iter().map(figure).collect();
        figures.filter(|f| !f.is_empty()).map(|f| f.iter().sum::<f64>() / f.len() as f64)
    }

    /// How many of the questions that both were asked are answered alike ([`agree`]), and how many there are.
    pub fn agreement(&self, other: &Record) -> (usize, usize) {
        let asked = self.asked.iter().zip(&other.asked);
        let answered = asked.filter(|(own, _)| !own.expected.is_empty() && own.kl.is_none());
        answered.fold((0, 0), |(alike, all), (own, other)| {
            (alike + usize::from(agree(&own.answer, &other.answer, &own.expected)), all + 1)
        })
    }

    /// Bytes kept as a share of the full cache's.
    pub fn share(&self) -> f64 {
        self.kv_bytes as f64 / self.kv_bytes_full.max(1) as f64
    }

    fn check(&self) -> Result<(), String> {
        if self.v != VERSION {
            return Err(format!(
                "it is of version {} and was measured in another way than version {VERSION}, which this program reads and \
                 writes: name another file, and what it holds is measured again",
                self.v
            ));
        }
        let figures = self.asked.iter().flat_map(|a| [Some(a.score), a.nll, a.kl, a.depth]).flatten();
        if !(self.setting.keep > 0.0 && self.setting.keep <= 1.0) {
            return Err(format!("it keeps {} of the cache", self.setting.keep));
        }
        if !self.score.is_finite() || figures.into_iter().any(|f| !f.is_finite()) {
            return Err("it holds a figure that is no number".into());
        }
        Ok(())
    }
}

/// Results that cannot be read or written.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The system refuses.
    #[error("cannot {what} the results {}: {error}", file.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Another run is at it.
    #[error("another run writes to the results {}: wait for it, or give another file", .0.display())]
    Busy(PathBuf),
    /// A line is no result.
    #[error("{}:{line}: not a result: {problem}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A result cannot be written down.
    #[error("a result cannot be written down: {0}")]
    Json(serde_json::Error),
}

/// Reads one line.
pub fn parse_line(line: &[u8]) -> Result<Record, String> {
    let mut record: Record = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    record.check()?;
    // Settings may have had other names when it was measured.
    record.spec = chelsea_kv::policy::current_spec(&record.spec);
    Ok(record)
}

/// How every line begins.
const BEGINNING: &[u8] = b"{\"v\":";

/// The results of a file's bytes, and how many bytes at its end are a line cut short.
fn parse(bytes: &[u8], file: &Path) -> Result<(Vec<Record>, usize), ResultsError> {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut records = Vec::new();
    for (number, line) in bytes[..end].split(|&b| b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let at = |problem| ResultsError::Line { file: file.to_owned(), line: number + 1, problem };
        records.push(parse_line(line).map_err(at)?);
    }
    let torn = &bytes[end..];
    // Whatever else stands there is somebody's and must not be cut off.
    if !torn.starts_with(BEGINNING) && !BEGINNING.starts_with(torn) {
        let line = bytes[..end].iter().filter(|&&b| b == b'\n').count() + 1;
        let problem = "it has no end, and does not begin as results do".into();
        return Err(ResultsError::Line { file: file.to_owned(), line, problem });
    }
    Ok((records, torn.len()))
}

/// Reads a file of results without changing it; says whether its last line was cut short.
pub fn load(file: &Path) -> Result<(Vec<Record>, bool), ResultsError> {
    let bytes = std::fs::read(file).map_err(failed("read", file))?;
    let (records, torn) = parse(&bytes, file)?;
    Ok((records, torn > 0))
}

fn failed(what: &'static str, file: &Path) -> impl FnOnce(std::io::Error) -> ResultsError {
    let file = file.to_owned();
    move |error| ResultsError::File { what, file, error }
}

/// A file that results are added to.
#[derive(Debug)]
pub struct ResultsFile {
    path: PathBuf,
    file: File,
    /// What was there at the start.
    pub earlier: Vec<Record>,
    /// Whether a line cut short was dropped.
    pub torn: bool,
}

impl ResultsFile {
    /// Opens or makes the file, for this run alone, and reads what is there.
    pub fn open(path: &Path) -> Result<Self, ResultsError> {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ResultsError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read", path))?;
        let (earlier, torn) = parse(&bytes, path)?;
        file.set_len((bytes.len() - torn) as u64).map_err(failed("cut", path))?;
        file.seek(SeekFrom::End(0)).map_err(failed("open", path))?;
        Ok(ResultsFile { path: path.to_owned(), file, earlier, torn: torn > 0 })
    }

    /// Adds a result.
    pub fn push(&mut self, record: &Record) -> Result<(), ResultsError> {
        let mut line = serde_json::to_vec(record).map_err(ResultsError::Json)?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(failed("write", &self.path))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A result made up for tests.
    pub(crate) fn record(task: &str, sample: &str, setting: Setting, score: f64) -> Record {
        let kept = if setting.policy == "full" { 1.0 } else { f64::from(setting.keep) };
        Record {
            v: VERSION,
            model: "m".into(),
            fingerprint: "00ff".into(),
            task: task.into(),
            sample: sample.into(),
            spec: chelsea_kv::policy(&setting.policy).unwrap().spec(),
            setting,
            seed: 0,
            setup: "f16".into(),
            length: 4096,
            tokens: 4000,
            score,
            kv_bytes: (kept * 1000.0) as usize,
            kv_bytes_full: 1000,
            seconds: 0.5,
            asked: vec![Asked {
                about: String::new(),
                expected: vec!["x".into()],
                answer: "y".into(),
                score,
                nll: Some(1.0 - score),
                kl: None,
                exact: None,
                depth: Some(0.5),
            }],
        }
    }

    fn setting(keep: f32) -> Setting {
        Setting { policy: "chelsea".into(), keep, of: Basis::Entries, mode: Mode::OneShot }
    }

    #[test]
    fn what_was_written_is_there_when_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let (a, b) = (record("t", "1", setting(0.2), 1.0), record("t", "1", setting(0.25), 0.5));
        let mut file = ResultsFile::open(&path).unwrap();
        file.push(&a).unwrap();
        assert!(matches!(ResultsFile::open(&path), Err(ResultsError::Busy(_))), "one run at a time");
        drop(file);
        let mut file = ResultsFile::open(&path).unwrap();
        assert_eq!(file.earlier, std::slice::from_ref(&a));
        assert!(!file.torn);
        file.push(&b).unwrap();
        assert_eq!(load(&path).unwrap(), (vec![a, b], false));
    }

    #[test]
    fn a_line_cut_short_by_a_kill_is_dropped_wherever_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let (a, b) = (record("t", "1", setting(0.2), 1.0), record("t", "2", setting(0.2), 0.0));
        let line = |r: &Record| format!("{}\n", serde_json::to_string(r).unwrap());
        for cut in 1..line(&b).len() {
            std::fs::write(&path, format!("{}{}", line(&a), &line(&b)[..cut])).unwrap();
            assert_eq!(load(&path).unwrap(), (vec![a.clone()], true));
            let mut file = ResultsFile::open(&path).unwrap();
            assert!(file.torn && file.earlier == [a.clone()]);
            file.push(&b).unwrap();
            drop(file);
            assert_eq!(load(&path).unwrap(), (vec![a.clone(), b.clone()], false));
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_that_names_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let line = serde_json::to_string(&record("t", "1", setting(0.2), 1.0)).unwrap();
        for (bad, word) in [
            ("{\"v\":1}".to_string(), "missing field"),
            (line[..line.len() / 2].to_string(), "EOF"),
            (line.replace("\"v\":2", "\"v\":9"), "version 9"),
            (line.replace("one-shot", "two-shot"), "two-shot"),
        ] {
            std::fs::write(&path, format!("{line}\n{bad}\n{line}\n")).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("r.jsonl:2") && error.contains(word), "{error}");
            assert!(ResultsFile::open(&path).is_err());
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let line = serde_json::to_string(&record("t", "1", setting(0.2), 1.0)).unwrap();
        for (foreign, at) in [("a note".to_string(), ":1"), ("{\"a\":1}".into(), ":1"), (format!("{line}\nrest"), ":2")]
        {
            std::fs::write(&path, &foreign).unwrap();
            let error = ResultsFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(at) && error.contains("no end"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn a_mean_needs_every_figure() {
        let mut r = record("t", "1", setting(0.2), 0.25);
        assert_eq!(r.mean(|a| a.nll), Some(0.75));
        assert_eq!(r.mean(|a| a.kl), None);
        r.asked.clear();
        assert_eq!(r.mean(|a| a.nll), None);
    }
}
