//! RULER's lines: `{"index", "input", "outputs", "length"}`, and `answer_prefix` in newer files.
//!
//! `input` is the document with the question at its end, and in older files the beginning of the answer after that.
//! The three are taken apart here, so that the document can be compressed before the question is known.

use super::{Common, LineError, Texts};
use crate::metrics::Metric;
use crate::sample::{Question, Sample};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    input: String,
    outputs: Texts,
    answer_prefix: Option<String>,
    question: Option<String>,
}

/// Where the questions of the thirteen tasks begin.
const QUESTIONS: &[&str] = &[
    "\n\nAnswer the question based on the given documents.",
    "\nWhat are all the special magic ",
    "\nWhat is the special magic ",
    "\nQuestion: ",
];
/// Where the beginnings of their answers do, within the question.
const ANSWERS: &[&str] = &[" The special magic ", " Answer:"];

/// Tasks by the beginning of their names: tokens of an answer, and whether all right answers are asked for.
const TASKS: &[(&str, usize, Metric)] = &[
    ("niah", 128, Metric::MatchAll),
    ("vt", 30, Metric::MatchAll),
    ("variable_tracking", 30, Metric::MatchAll),
    ("cwe", 120, Metric::MatchAll),
    ("common_words", 120, Metric::MatchAll),
    ("fwe", 50, Metric::MatchAll),
    ("freq_words", 50, Metric::MatchAll),
    ("qa", 32, Metric::MatchPart),
];

pub(super) fn sample(line: Line, common: Common) -> Result<Sample, LineError> {
    let expected = line.outputs.into_vec();
    if expected.is_empty() {
        return Err(LineError::NoAnswers("outputs"));
    }
    let known = TASKS.iter().find(|(name, ..)| common.task.starts_with(name));
    let metric = common.metric.or(known.map(|(.., metric)| *metric));
    let metric = metric.ok_or_else(|| LineError::UnknownTask(common.task.clone()))?;
    if metric == Metric::Classification {
        return Err(LineError::NoClasses);
    }
    let parts = take_apart(&line.input, line.question.as_deref(), line.answer_prefix.as_deref())?;
    let question = Question {
        text: parts.question.trim().to_owned(),
        prefix: parts.prefix.to_owned(),
        expected,
        metric,
        classes: Vec::new(),
        max_tokens: common.max_tokens.unwrap_or(known.map_or(128, |(_, n, _)| *n)),
        first_line: false,
        depth: None,
        about: String::new(),
    };
    Ok(common.sample(parts.document, question))
}

#[derive(Debug, PartialEq)]
struct Parts<'a> {
    document: &'a str,
    question: &'a str,
    prefix: &'a str,
}

fn take_apart<'a>(input: &'a str, question: Option<&'a str>, prefix: Option<&'a str>) -> Result<Parts<'a>, LineError> {
    let body = prefix.map_or(input, |prefix| input.strip_suffix(prefix).unwrap_or(input));
    if let Some(question) = question.filter(|q| !q.trim().is_empty()) {
        let document = body.strip_suffix(question).ok_or(LineError::NotTheEnd("question"))?;
        return Ok(Parts { document, question, prefix: prefix.unwrap_or("") });
    }
    // The documents of some tasks begin with an example: the last question is the one that is asked.
    let at = QUESTIONS.iter().find_map(|mark| body.rfind(mark)).filter(|&at| at > 0).ok_or(LineError::NoQuestion)?;
    let (document, question) = body.split_at(at);
    if let Some(prefix) = prefix {
        return Ok(Parts { document, question, prefix });
    }
    let at = ANSWERS.iter().find_map(|mark| question.rfind(mark)).unwrap_or(question.len());
    let (question, prefix) = question.split_at(at);
    Ok(Parts { document, question, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(input: &str) -> (&str, &str, &str) {
        let p = take_apart(input, None, None).unwrap();
        (p.document, p.question, p.prefix)
    }

    #[test]
    fn every_kind_of_task_is_taken_apart_at_its_last_question() {
        let needle = "A text.\nWhat is the special magic number for x mentioned in the provided text? The special \
                      magic number for x mentioned in the provided text is";
        let (document, question, prefix) = parts(needle);
        assert_eq!(document, "A text.");
        assert!(question.ends_with("provided text?") && prefix.ends_with(" text is"), "{question} | {prefix}");
        let example = "List.\nQuestion: Which? Answer: a b\nList of words.\nQuestion: Which ones? Answer: They are:";
        assert_eq!(
            parts(example),
            ("List.\nQuestion: Which? Answer: a b\nList of words.", "\nQuestion: Which ones?", " Answer: They are:")
        );
        let documents = "Answer the question based on the given documents. Short.\n\nDocument 1:\nIs it? Answer: no.\n\n\
                         Answer the question based on the given documents. Short.\n\nQuestion: Who? Answer:";
        let (document, question, prefix) = parts(documents);
        assert!(document.ends_with("Answer: no.") && question.ends_with("Question: Who?"), "{document} | {question}");
        assert_eq!(prefix, " Answer:");
    }

    #[test]
    fn fields_say_where_question_and_answer_begin() {
        let p = take_apart("Doc. Q? A:", Some(" Q?"), Some(" A:")).unwrap();
        assert_eq!(p, Parts { document: "Doc.", question: " Q?", prefix: " A:" });
        let p = take_apart("Doc. Q?", Some(" Q?"), Some(" A:")).unwrap();
        assert_eq!(p, Parts { document: "Doc.", question: " Q?", prefix: " A:" });
        assert!(matches!(take_apart("Doc. Q?", Some("R?"), None), Err(LineError::NotTheEnd("question"))));
        assert!(matches!(take_apart("Only a document.", None, None), Err(LineError::NoQuestion)));
    }
}
