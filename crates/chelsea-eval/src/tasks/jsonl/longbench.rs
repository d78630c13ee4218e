//! LongBench's lines: `{"input", "context", "answers", "length", "dataset", "language", "all_classes", "_id"}`.
//!
//! Scores are the benchmark's own; the words around context and input are this project's, and the same for every
//! cache that is compared. So scores compare with each other and not with published ones.

use super::{Common, LineError, Texts};
use crate::metrics::Metric;
use crate::sample::{Question, Sample};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(default)]
    input: String,
    context: String,
    answers: Texts,
    #[serde(default)]
    all_classes: Option<Vec<String>>,
}

/// What is wanted of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A short answer to a question.
    Answer,
    /// A summary, of all or of what the input asks for.
    Summary,
    /// To go on as the examples in the context do.
    Example,
    /// The number of the paragraph that the input is an abstract of.
    Paragraph,
    /// How many different paragraphs there are.
    Paragraphs,
    /// The next line of code.
    Code,
}

/// Data sets: what is wanted, how it is scored, and tokens of an answer.
const DATASETS: &[(&str, Wanted, Metric, usize)] = &[
    ("narrativeqa", Wanted::Answer, Metric::QaF1, 128),
    ("qasper", Wanted::Answer, Metric::QaF1, 128),
    ("multifieldqa_en", Wanted::Answer, Metric::QaF1, 64),
    ("multifieldqa_zh", Wanted::Answer, Metric::QaF1Zh, 64),
    ("hotpotqa", Wanted::Answer, Metric::QaF1, 32),
    ("2wikimqa", Wanted::Answer, Metric::QaF1, 32),
    ("musique", Wanted::Answer, Metric::QaF1, 32),
    ("squad", Wanted::Answer, Metric::QaF1, 32),
    ("dureader", Wanted::Answer, Metric::RougeLZh, 128),
    ("gov_report", Wanted::Summary, Metric::RougeL, 512),
    ("qmsum", Wanted::Summary, Metric::RougeL, 512),
    ("multi_news", Wanted::Summary, Metric::RougeL, 512),
    ("vcsum", Wanted::Summary, Metric::RougeLZh, 512),
    ("trec", Wanted::Example, Metric::Classification, 64),
    ("triviaqa", Wanted::Example, Metric::QaF1, 32),
    ("samsum", Wanted::Example, Metric::RougeL, 128),
    ("lsht", Wanted::Example, Metric::Classification, 64),
    ("passage_count", Wanted::Paragraphs, Metric::Count, 32),
    ("passage_retrieval_en", Wanted::Paragraph, Metric::Retrieval, 32),
    ("passage_retrieval_zh", Wanted::Paragraph, Metric::Retrieval, 32),
    ("lcc", Wanted::Code, Metric::CodeSimilarity, 64),
    ("repobench-p", Wanted::Code, Metric::CodeSimilarity, 64),
];

pub(super) fn sample(line: Line, common: Common) -> Result<Sample, LineError> {
    let expected = line.answers.into_vec();
    if expected.is_empty() {
        return Err(LineError::NoAnswers("answers"));
    }
    // A suffix marks the part with evenly spread lengths.
    let name = common.task.strip_suffix("_e").unwrap_or(&common.task);
    let known = DATASETS.iter().find(|(known, ..)| *known == name);
    let metric = common.metric.or(known.map(|(.., metric, _)| *metric));
    let metric = metric.ok_or_else(|| LineError::UnknownTask(common.task.clone()))?;
    let classes = line.all_classes.unwrap_or_default();
    if metric == Metric::Classification && classes.is_empty() {
        return Err(LineError::NoClasses);
    }
    let wanted = known.map_or(Wanted::Answer, |(_, wanted, ..)| *wanted);
    let question = Question {
        text: wanted.question(line.input.trim()),
        prefix: String::new(),
        expected,
        metric,
        classes,
        max_tokens: common.max_tokens.unwrap_or(known.map_or(64, |(.., n)| *n)),
        first_line: wanted == Wanted::Example,
        depth: None,
        about: String::new(),
    };
    Ok(common.sample(&line.context, question))
}

/// A question that is to be answered in a few words.
pub(super) fn short_answer(question: &str) -> String {
    format!(
        "Answer the following question from the text above, in as few words as possible and without any \
         explanation.\n\nQuestion: {question}"
    )
}

impl Wanted {
    fn question(self, input: &str) -> String {
        match self {
            Wanted::Answer => short_answer(input),
            Wanted::Summary if input.is_empty() => "Write a summary of the text above, of one page at most.".to_owned(),
            Wanted::Summary => format!("Answer the following from the text above, in a few sentences.\n\n{input}"),
            Wanted::Example => {
                format!("Go on with the following as the examples above do. Give the answer only.\n\n{input}")
            }
            Wanted::Paragraph => format!(
                "The following is an abstract of one of the paragraphs above. Answer with the paragraph's number only, \
                 as in \"Paragraph 1\".\n\n{input}"
            ),
            Wanted::Paragraphs => "Some of the paragraphs above may be repeated. How many different paragraphs are \
                                   there? Answer with the number only."
                .to_owned(),
            Wanted::Code if input.is_empty() => "What is the next line of this code? Give the line only.".to_owned(),
            Wanted::Code => format!("What is the next line of the following code? Give the line only.\n\n{input}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_is_scored_by_a_metric_that_suits_it() {
        for (name, wanted, metric, tokens) in DATASETS {
            assert!(!wanted.question("x").is_empty() && *tokens >= 32, "{name}");
            assert!(!metric.wants_all(), "{name}: answers are alternatives");
        }
    }

    #[test]
    fn an_input_is_part_of_the_question() {
        for wanted in [Wanted::Answer, Wanted::Summary, Wanted::Example, Wanted::Paragraph, Wanted::Code] {
            assert!(wanted.question("who was it?").ends_with("who was it?"), "{wanted:?}");
        }
        assert!(!Wanted::Summary.question("").contains("following"));
    }
}
