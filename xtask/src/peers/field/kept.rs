//! Results as they are kept: every run of every setting, in JSON.

use crate::peers::replace_file;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What was measured on one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub model: String,
    pub machine: Machine,
    /// Of the first run, as year-month-day in UTC.
    pub date: String,
    pub threads: u32,
    pub trials: u32,
    /// What each engine says of its version and its instructions.
    pub versions: BTreeMap<String, String>,
    pub runs: Vec<Run>,
}

/// The processor and what Chelsea uses of it, as `chelsea bench --json` tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: Option<String>,
    pub products: String,
    pub attention: String,
}

/// One process: one setting in one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub trial: u32,
    pub engine: String,
    pub cache: String,
    pub setting: String,
    /// Why there are no times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Read>,
}

/// One prompt with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Tokens.
    pub prompt: usize,
    pub prompt_s: f64,
    /// Tokens.
    pub generate: usize,
    /// Seconds of the whole answer.
    pub decode_s: f64,
    /// Bytes of the cache after the last token, and the most that it ever had.
    pub kv_bytes: u64,
    pub kv_bytes_peak: u64,
}

impl Results {
    pub fn read(path: &Path) -> Result<Results> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no results of --field", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        replace_file(path, &(serde_json::to_string_pretty(self)? + "\n"))
    }

    /// The model and the kind of processor: results of one machine never replace those of another.
    pub fn title(&self) -> String {
        let cpu = self.machine.cpu.as_deref().unwrap_or("unknown processor");
        format!("{} on {cpu}, {}", self.model, self.machine.products)
    }

    pub fn file_name(&self) -> String {
        let plain = self.title().to_lowercase();
        let words: Vec<&str> =
            plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        format!("field-{}.json", words.join("-"))
    }
}

/// The day in UTC, as year-month-day.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    day(seconds / 86_400)
}

/// The day so many days after 1970-01-01.
fn day(mut days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_by_the_calendar() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(11_017), "2000-03-01");
        assert_eq!(day(19_722), "2023-12-31");
        assert_eq!(day(19_723), "2024-01-01");
    }

    #[test]
    fn results_are_read_back_as_they_were_written() {
        let read = Read { prompt: 8, prompt_s: 0.5, generate: 4, decode_s: 0.25, kv_bytes: 10, kv_bytes_peak: 20 };
        let run = |failure, reads| Run {
            trial: 0,
            engine: "x".into(),
            cache: "f16".into(),
            setting: "s".into(),
            failure,
            reads,
        };
        let results = Results {
            model: "m/x".into(),
            machine: Machine { cpu: Some("A (B)".into()), products: "AVX2".into(), attention: "Avx2".into() },
            date: day(0),
            threads: 2,
            trials: 1,
            versions: BTreeMap::from([("x".into(), "1".into())]),
            runs: vec![run(None, vec![read]), run(Some("signal: 4 (SIGILL)".into()), Vec::new())],
        };
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(results.file_name());
        assert!(file.ends_with("field-m-x-on-a-b-avx2.json"), "{file:?}");
        results.write(&file).expect("written");
        assert_eq!(Results::read(&file).expect("read"), results);
        std::fs::write(&file, "{}").expect("written");
        assert!(Results::read(&file).expect_err("no results").to_string().contains("holds no results"));
    }
}
