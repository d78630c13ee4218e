//! What is put before a model: a document, and what is asked of it after it was read.

use crate::metrics::Metric;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A document with its questions. The unit that is run, recorded and resampled: its questions share one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The task, as the report groups it.
    pub task: String,
    /// Tells samples of a task apart.
    pub id: String,
    /// How long the document was meant to be, in tokens: what the report groups by.
    pub length: usize,
    /// A system message, where there is one: it stands before a document that is text.
    pub system: Option<String>,
    /// The document.
    pub document: Document,
    /// What is asked.
    pub probes: Vec<Probe>,
    /// Where it was read from, for error messages.
    pub source: Option<Source>,
}

/// A document as text, which is laid out as the model's chat template wants it, or as tokens, which are read as they
/// are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Text.
    Text(String),
    /// Tokens, after the beginning-of-sequence token where the model wants one.
    Tokens(Vec<u32>),
}

/// One thing to find out.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A question, answered freely.
    Ask(Question),
    /// Tokens whose probability is measured.
    Continue(Continuation),
}

/// A question and how its answer is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// What the answer is made to begin with; it is not part of the answer that is scored.
    pub prefix: String,
    /// The right answers.
    pub expected: Vec<String>,
    /// How the answer is scored.
    pub metric: Metric,
    /// What a classification may name.
    pub classes: Vec<String>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Whether only the first line of the answer is scored.
    pub first_line: bool,
    /// Where in the document the answer lies, from 0 to 1, where that is one place.
    pub depth: Option<f64>,
    /// A short name of what is asked for, where it has one.
    pub about: String,
}

impl Question {
    /// What of a generated text is scored.
    pub(crate) fn scored<'t>(&self, text: &'t str) -> &'t str {
        // Of a line of code its indentation is a part.
        let text = if self.metric == Metric::CodeSimilarity { text.trim_end() } else { text.trim() };
        if self.first_line { text.lines().next().unwrap_or("") } else { text }
    }

    /// Whether nothing that may follow `text` can change its score.
    pub(crate) fn settled(&self, text: &str) -> bool {
        (self.first_line && text.trim_start().contains('\n')) || self.metric.settled(text, &self.expected)
    }
}

/// Tokens that follow a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// Tokens that are read after compression, before anything is scored.
    pub cue: Vec<u32>,
    /// Tokens that are scored, each given all before it.
    pub target: Vec<u32>,
    /// What counts as right: the token that the full cache finds most likely, or the target's own.
    pub judge: Judge,
    /// Where in the document the target stands, from 0 to 1, if it does.
    pub depth: Option<f64>,
}

/// Against what a predicted token is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// The target: a passage is to be copied.
    Target,
    /// The full cache's prediction: the model is to go on as if nothing had been dropped.
    Full,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Sample {
    /// Whether anything is held against what the full cache predicts.
    pub fn compares_with_full(&self) -> bool {
        self.probes.iter().any(|p| matches!(p, Probe::Continue(c) if c.judge == Judge::Full))
    }

    /// The name under which results are recorded: the id, and a digest of all that is read and asked, so that a
    /// changed file is not taken for the one measured before.
    pub fn key(&self) -> String {
        let mut digest = Digest::new();
        self.system.iter().for_each(|system| digest.text(system));
        match &self.document {
            Document::Text(text) => digest.text(text),
            Document::Tokens(tokens) => digest.tokens(tokens),
        }
        for probe in &self.probes {
            match probe {
                Probe::Ask(q) => {
                    digest.text(&q.text);
                    digest.text(&q.prefix);
                    q.expected.iter().chain(&q.classes).for_each(|text| digest.text(text));
                    digest.text(&format!("{} {} {}", q.metric, q.max_tokens, q.first_line));
                }
                Probe::Continue(c) => {
                    digest.tokens(&c.cue);
                    digest.tokens(&c.target);
                }
            }
        }
        format!("{}#{:08x}", self.id, digest.value() as u32)
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn text(&mut self, text: &str) {
        text.bytes().for_each(|b| self.byte(b));
        // No text holds this byte: two texts differ from the same letters cut elsewhere.
        self.byte(0xff);
    }

    fn tokens(&mut self, tokens: &[u32]) {
        tokens.iter().flat_map(|t| t.to_le_bytes()).for_each(|b| self.byte(b));
        self.byte(0xff);
    }

    /// Both halves folded together.
    fn value(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A question with one right answer, for tests.
    pub(crate) fn question(text: &str, expected: &str) -> Question {
        Question {
            text: text.into(),
            prefix: String::new(),
            expected: vec![expected.into()],
            metric: Metric::Exact,
            classes: Vec::new(),
            max_tokens: 8,
            first_line: false,
            depth: None,
            about: String::new(),
        }
    }

    fn sample(text: &str, questions: &[(&str, &str)]) -> Sample {
        Sample {
            task: "t".into(),
            id: "1".into(),
            length: 10,
            system: None,
            document: Document::Text(text.into()),
            probes: questions.iter().map(|(q, a)| Probe::Ask(question(q, a))).collect(),
            source: None,
        }
    }

    #[test]
    fn a_key_changes_with_whatever_is_read_or_asked() {
        let key = sample("doc", &[("q", "a")]).key();
        assert!(key.starts_with("1#") && key.len() == 10, "{key}");
        assert_eq!(key, sample("doc", &[("q", "a")]).key());
        for other in [
            sample("doc ", &[("q", "a")]),
            sample("doc", &[("qa", "")]),
            sample("doc", &[("q", "b")]),
            sample("doc", &[("q", "a"), ("q", "a")]),
        ] {
            assert_ne!(other.key(), key);
        }
        assert_ne!(Sample { system: Some("s".into()), ..sample("doc", &[("q", "a")]) }.key(), key);
    }
}
