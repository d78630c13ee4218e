//! Scores of answers, from 0 (wrong) to 1 (right).
//!
//! A [`Metric`] compares one answer with the right ones. Where a published benchmark defines a score, this is that
//! score: RULER's string matches, LongBench's overlap, classification, retrieval and code scores. Several right
//! answers mean alternatives (the best one counts), except for [`Metric::MatchAll`], [`Metric::Exact`] and
//! [`Metric::Rules`], which ask for all of them and give the share found.

mod edit;
mod matching;
mod overlap;
mod rules;

pub(crate) use matching::choice;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// How an answer is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of the right answers that occur in the answer, case aside (RULER's `string_match_all`).
    MatchAll,
    /// Whether any right answer occurs in the answer, case aside (RULER's `string_match_part`).
    MatchPart,
    /// Share of the right answers that stand in the answer whole: digits neither cut short nor run on.
    Exact,
    /// F1 of the words both have in common, articles and punctuation aside (LongBench's QA score).
    QaF1,
    /// The same over characters, for Chinese text (LongBench cuts words with a dictionary instead).
    QaF1Zh,
    /// F1 of the longest common subsequence of words, sentence by sentence (LongBench's `rouge`).
    RougeL,
    /// The same over characters, for Chinese text.
    RougeLZh,
    /// Whether the answer names the right class; less when it names others too (LongBench).
    Classification,
    /// Whether the answer chooses the right letter of a multiple choice.
    Choice,
    /// Share of the rules for its form that the answer keeps, whatever it says.
    Rules,
    /// Share of the numbers in the answer that are the right paragraph's (LongBench).
    Retrieval,
    /// Share of the numbers in the answer that are right (LongBench).
    Count,
    /// 1 less the edit distance divided by the longer length.
    EditSimilarity,
    /// Similarity of the first line of code (LongBench's code score).
    CodeSimilarity,
}

/// Every metric with its name.
pub const METRICS: &[(&str, Metric)] = &[
    ("match-all", Metric::MatchAll),
    ("match-part", Metric::MatchPart),
    ("exact", Metric::Exact),
    ("qa-f1", Metric::QaF1),
    ("qa-f1-zh", Metric::QaF1Zh),
    ("rouge-l", Metric::RougeL),
    ("rouge-l-zh", Metric::RougeLZh),
    ("classification", Metric::Classification),
    ("choice", Metric::Choice),
    ("rules", Metric::Rules),
    ("retrieval", Metric::Retrieval),
    ("count", Metric::Count),
    ("edit-similarity", Metric::EditSimilarity),
    ("code-similarity", Metric::CodeSimilarity),
];

/// No metric has this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no metric is called `{name}`; there are: {}", names())]
pub struct UnknownMetric {
    /// What was asked for.
    pub name: String,
}

fn names() -> String {
    METRICS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Whether two answers to the same question say the same: they choose the same letter where the right ones are letters, and
/// have the same words otherwise, case and punctuation aside.
pub fn agree(one: &str, other: &str, expected: &[String]) -> bool {
    if !expected.is_empty() && expected.iter().all(|answer| choice(answer).is_some()) {
        return choice(one) == choice(other);
    }
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    words(one) == words(other)
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        let found = METRICS.iter().find(|(known, _)| *known == name.trim());
        found.map(|(_, metric)| *metric).ok_or_else(|| UnknownMetric { name: name.trim().to_owned() })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = METRICS.iter().find(|(_, metric)| metric == self);
        f.pad(found.map_or("?", |(name, _)| name))
    }
}

impl Metric {
    /// The score of `answer`; `expected` are the right answers, `classes` what a classification may name.
    pub fn score(self, answer: &str, expected: &[String], classes: &[String]) -> f64 {
        let best = |one: &dyn Fn(&str) -> f64| expected.iter().map(|e| one(e)).fold(0.0, f64::max);
        match self {
            Metric::MatchAll => matching::share(expected, |e| matching::contains(answer, e)),
            Metric::MatchPart => best(&|e| f64::from(u8::from(matching::contains(answer, e)))),
            Metric::Exact => matching::share(expected, |e| matching::stands_whole(answer, e)),
            Metric::QaF1 => best(&|e| overlap::qa_f1(answer, e)),
            Metric::QaF1Zh => best(&|e| overlap::qa_f1_chars(answer, e)),
            Metric::RougeL => best(&|e| overlap::rouge_l(answer, e)),
            Metric::RougeLZh => best(&|e| overlap::rouge_l(&overlap::spaced(answer), &overlap::spaced(e))),
            Metric::Classification => best(&|e| matching::classification(answer, e, classes)),
            Metric::Choice => best(&|e| f64::from(u8::from(choice(answer).is_some() && choice(answer) == choice(e)))),
            Metric::Rules => matching::share(expected, |rule| rules::kept(rule, answer)),
            Metric::Retrieval => best(&|e| matching::retrieval(answer, e)),
            Metric::Count => best(&|e| matching::count(answer, e)),
            Metric::EditSimilarity => best(&|e| edit::similarity(answer.trim(), e.trim())),
            Metric::CodeSimilarity => best(&|e| edit::code_similarity(answer, e)),
        }
    }

    /// Whether the answer has its score whatever may follow: a model that goes on need not be waited for.
    pub fn settled(self, answer: &str, expected: &[String]) -> bool {
        match self {
            Metric::MatchAll | Metric::MatchPart => self.score(answer, expected, &[]) == 1.0,
            // A digit runs on from anything that would be cut short by it.
            Metric::Exact => self.score(&format!("{answer}0"), expected, &[]) == 1.0,
            Metric::Choice => !expected.is_empty() && matching::has_chosen(answer),
            _ => false,
        }
    }

    /// Whether all right answers are asked for, rather than any of them.
    pub fn wants_all(self) -> bool {
        matches!(self, Metric::MatchAll | Metric::Exact | Metric::Rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, answer: &str, expected: &[&str]) -> f64 {
        let expected: Vec<String> = expected.iter().map(|e| (*e).to_owned()).collect();
        metric.score(answer, &expected, &[])
    }

    #[test]
    fn every_metric_answers_to_its_name_alone() {
        for (name, metric) in METRICS {
            assert_eq!(name.parse(), Ok(*metric));
            assert_eq!(metric.to_string(), *name);
            assert_eq!(serde_json::to_string(metric).unwrap(), format!("\"{name}\""));
        }
        let error = "bleu".parse::<Metric>().unwrap_err().to_string();
        assert!(error.contains("`bleu`") && error.contains("rouge-l"), "{error}");
    }

    #[test]
    fn all_are_asked_for_or_any() {
        assert_eq!(score(Metric::MatchAll, "It is ABC, and def.", &["abc", "def", "xyz", "q"]), 0.5);
        assert_eq!(score(Metric::MatchPart, "It is ABC", &["abc", "def"]), 1.0);
        assert_eq!(score(Metric::MatchPart, "nothing", &["abc", "def"]), 0.0);
    }

    #[test]
    fn an_answer_is_settled_when_nothing_that_follows_can_change_its_score() {
        let expected = ["1234".to_owned(), "warm".to_owned()];
        let settled = |metric: Metric, answer: &str| metric.settled(answer, &expected);
        assert!(settled(Metric::MatchAll, "12345, warm") && settled(Metric::MatchPart, "warm"));
        assert!(!settled(Metric::MatchAll, "warm") && !settled(Metric::MatchPart, "war"));
        assert!(settled(Metric::Exact, "1234, warm "));
        assert!(!settled(Metric::Exact, "1234, warm") && !settled(Metric::Exact, "warm, 1234"), "it may run on");
        for (_, metric) in METRICS {
            assert!(!metric.settled("1234 warm ", &[]), "{metric}: nothing was asked for");
        }
        assert!(!settled(Metric::QaF1, "1234 warm"), "more words cost precision");
    }

    #[test]
    fn answers_agree_in_letters_or_in_words() {
        let (letters, words) = (["(B) it was".to_owned()], ["in 1914".to_owned()]);
        assert!(agree("(C)", "C. because", &letters) && !agree("B", "C", &letters));
        assert!(agree("In 1914.", "in 1914", &words) && !agree("in 1914", "in 1915", &words));
        assert_eq!(score(Metric::Choice, "The answer is (B).", &["(B) it was"]), 1.0);
        assert_eq!(score(Metric::Choice, "it was", &["(B) it was"]), 0.0);
    }

    #[test]
    fn of_alternatives_the_best_counts() {
        assert_eq!(score(Metric::QaF1, "the cat", &["a dog", "cat"]), 1.0);
        assert_eq!(score(Metric::Count, "There are 7", &["3", "7"]), 1.0);
    }

    #[test]
    fn without_right_answers_every_score_is_zero() {
        for (_, metric) in METRICS {
            assert_eq!(score(*metric, "anything 1", &[]), 0.0, "{metric}");
        }
    }

    #[test]
    fn scores_stay_between_zero_and_one() {
        let texts = ["", "1", "a b c", "Paragraph 3", "。你好", "def f(x):\n  return", "...", "the the the"];
        for (_, metric) in METRICS {
            for answer in texts {
                for expected in texts {
                    let s = score(*metric, answer, &[expected]);
                    assert!((0.0..=1.0).contains(&s), "{metric} of {answer:?} for {expected:?}: {s}");
                }
            }
        }
    }
}
