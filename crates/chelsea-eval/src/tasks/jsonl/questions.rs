//! A document with many questions: `{"_id", "dataset", "context", "questions": [{"input", "answers"}]}`, as L-Eval has
//! them. The document is read once, and every question is asked of the same cache.
//!
//! A question that lists choices by letters is scored by the letter that is chosen, others by the words of their answers.

use super::longbench::short_answer;
use super::{Common, LineError, Texts};
use crate::metrics::{Metric, choice};
use crate::sample::{Document, Probe, Question, Sample};
use serde::Deserialize;

/// Most questions of a document.
const MOST: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    context: String,
    questions: Vec<Asked>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    input: String,
    answers: Texts,
}

pub(super) fn sample(line: Line, common: Common) -> Result<Sample, LineError> {
    if line.questions.is_empty() || line.questions.len() > MOST {
        return Err(LineError::Questions(line.questions.len()));
    }
    let questions = line.questions.into_iter().map(|asked| question(asked, &common));
    let probes = questions.map(|question| question.map(Probe::Ask)).collect::<Result<Vec<_>, _>>()?;
    let Common { task, id, length, .. } = common;
    let document = Document::Text(line.context.trim_end().to_owned());
    Ok(Sample { task, id, length: length.unwrap_or(0), system: None, document, probes, source: None })
}

/// Whether a question lists choices, the first two as `(A)` and `(B)`, or on lines that begin with `A.` and `B.`.
fn offers_letters(question: &str) -> bool {
    let begins = |letter: &str| {
        question
            .lines()
            .any(|line| line.trim_start().strip_prefix(letter).is_some_and(|rest| rest.starts_with(['.', ')', ':'])))
    };
    ["A", "B"].iter().all(|letter| question.contains(&format!("({letter})")) || begins(letter))
}

fn question(asked: Asked, common: &Common) -> Result<Question, LineError> {
    let expected = asked.answers.into_vec();
    if expected.is_empty() {
        return Err(LineError::NoAnswers("answers"));
    }
    let letters = offers_letters(&asked.input) && expected.iter().all(|answer| choice(answer).is_some());
    let metric = common.metric.unwrap_or(if letters { Metric::Choice } else { Metric::QaF1 });
    if metric == Metric::Classification {
        return Err(LineError::NoClasses);
    }
    let input = asked.input.trim();
    let (text, tokens) = match metric {
        Metric::Choice => {
            let ask = "Answer the following question from the text above with the letter of the right choice only.";
            (format!("{ask}\n\n{input}"), 8)
        }
        _ => (short_answer(input), 64),
    };
    Ok(Question {
        text,
        prefix: String::new(),
        expected,
        metric,
        classes: Vec::new(),
        max_tokens: common.max_tokens.unwrap_or(tokens),
        first_line: false,
        depth: None,
        about: String::new(),
    })
}
