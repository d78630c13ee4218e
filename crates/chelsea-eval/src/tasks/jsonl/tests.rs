//! Lines of both formats, good and bad.

use super::*;
use crate::sample::{Document, Probe};
use std::io::Write as _;

const RULER: &str = r#"{"index": 7, "input": "Text.\nWhat is the special magic number for x? The special magic number for x is", "outputs": ["123"], "length": 4000}"#;
const LONGBENCH: &str = r#"{"input": "Who?", "context": "It was Ann.\n", "answers": ["Ann", "she"], "length": 3, "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "ab12"}"#;

fn parse(line: &str, task: &str) -> Result<Sample, LineError> {
    parse_line(line.as_bytes(), task, 1, &JsonlOptions::default())
}

fn question(sample: &Sample) -> &Question {
    let Probe::Ask(question) = &sample.probes[0] else { panic!("files ask") };
    question
}

#[test]
fn a_line_of_ruler_is_a_sample() {
    let s = parse(RULER, "niah_single_1").unwrap();
    assert_eq!((s.task.as_str(), s.id.as_str(), s.length), ("niah_single_1", "7", 4000));
    assert_eq!(s.document, Document::Text("Text.".into()));
    let q = question(&s);
    assert_eq!(q.text, "What is the special magic number for x?");
    assert_eq!(q.prefix, " The special magic number for x is");
    assert_eq!((q.metric, q.max_tokens, q.expected.len()), (Metric::MatchAll, 128, 1));
    assert_eq!(question(&parse(RULER, "qa_1").unwrap()).metric, Metric::MatchPart);
}

#[test]
fn a_line_of_longbench_is_a_sample() {
    let s = parse(LONGBENCH, "whatever").unwrap();
    assert_eq!((s.task.as_str(), s.id.as_str()), ("hotpotqa", "ab12"));
    assert_eq!(s.document, Document::Text("It was Ann.".into()));
    assert_eq!(s.length, 0, "its length is of words");
    let q = question(&s);
    assert!(q.text.ends_with("Question: Who?"));
    assert_eq!((q.metric, q.max_tokens, q.expected.len()), (Metric::QaF1, 32, 2));
    let even = LONGBENCH.replace("hotpotqa", "hotpotqa_e");
    assert_eq!(question(&parse(&even, "").unwrap()).metric, Metric::QaF1);
}

#[test]
fn a_document_may_come_with_many_questions() {
    let line = r#"{"_id": "q-1", "dataset": "mine", "context": "It was Ann.\n", "questions": [
        {"input": "Who?\nA. Bob\nB. Ann", "answers": ["B"]}, {"input": "Who?", "answers": ["Ann", "she"]}]}"#;
    let s = parse(&line.replace("[\n", "["), "").unwrap();
    assert_eq!((s.task.as_str(), s.id.as_str(), s.probes.len()), ("mine", "q-1", 2));
    let asked: Vec<&Question> =
        s.probes.iter().map(|p| if let Probe::Ask(q) = p { q } else { panic!("files ask") }).collect();
    assert_eq!((asked[0].metric, asked[1].metric), (Metric::Choice, Metric::QaF1));
    assert!(asked[0].text.contains("letter") && asked[0].text.ends_with("B. Ann"));
    assert_eq!(asked[1].expected.len(), 2);
    for (line, word) in [
        (r#"{"context": "x", "questions": []}"#, "asks 0 questions"),
        (r#"{"context": "x", "questions": [{"input": "y", "answers": []}]}"#, "no right answers"),
        (r#"{"context": "x", "questions": [{"answers": ["z"]}]}"#, "input"),
        (r#"{"context": "x", "questions": 3}"#, "sequence"),
    ] {
        let error = parse(line, "mine").unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_line_may_say_itself_how_it_is_scored() {
    let line = r#"{"input": "Doc. Which?", "question": "Which?", "outputs": 3, "metric": "count"}"#;
    assert!(matches!(parse(line, "mine"), Err(LineError::Field(_))), "outputs are a text or a list");
    let line =
        r#"{"input": "Doc. Which?", "question": "Which?", "outputs": [3], "metric": "count", "max_new_tokens": 5}"#;
    let s = parse(line, "mine").unwrap();
    assert_eq!((question(&s).metric, question(&s).max_tokens, s.id.as_str()), (Metric::Count, 5, "line 1"));
    let options = JsonlOptions { metric: Some(Metric::QaF1), max_tokens: Some(9), ..JsonlOptions::default() };
    let s = parse_line(line.as_bytes(), "mine", 1, &options).unwrap();
    assert_eq!((question(&s).metric, question(&s).max_tokens), (Metric::QaF1, 9));
}

#[test]
fn bad_lines_say_what_is_wrong() {
    for (line, task, word) in [
        ("{", "niah", "not JSON"),
        ("[1]", "niah", "not a JSON object"),
        (r#"{"question": "x"}"#, "niah", "RULER"),
        (r#"{"input": "x\nQuestion: y", "outputs": []}"#, "vt", "no right answers"),
        (r#"{"input": "x\nQuestion: y", "outputs": ["  "]}"#, "vt", "no right answers"),
        (r#"{"input": "x", "outputs": ["y"]}"#, "vt", "`question`"),
        (r#"{"outputs": ["y"]}"#, "vt", "input"),
        (r#"{"input": 5, "outputs": ["y"]}"#, "vt", "string"),
        (r#"{"input": "x\nQuestion: y", "outputs": ["y"]}"#, "mine", "--metric"),
        (r#"{"input": "x\nQuestion: y", "outputs": ["y"], "metric": "bleu"}"#, "mine", "`bleu`"),
        (r#"{"input": "x\nQuestion: y", "outputs": ["y"], "max_new_tokens": 0}"#, "vt", "65536"),
        (r#"{"input": "", "context": "c", "answers": []}"#, "qasper", "no right answers"),
        (r#"{"input": "", "context": "c", "answers": ["a"]}"#, "mine", "--metric"),
        (r#"{"input": "", "context": "c", "answers": ["a"]}"#, "trec", "all_classes"),
        (r#"{"input": "", "context": "c", "answers": ["a"], "all_classes": []}"#, "trec", "all_classes"),
        (r#"{"input": "x\nQuestion: y", "outputs": ["y"], "metric": "classification"}"#, "vt", "all_classes"),
    ] {
        let error = parse(line, task).unwrap_err().to_string();
        assert!(error.contains(word), "{line}: {error}");
    }
    let not_text = parse_line(b"\xff{}", "vt", 1, &JsonlOptions::default()).unwrap_err();
    assert!(matches!(not_text, LineError::NotText));
}

#[test]
fn errors_of_a_file_name_it_and_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("niah_single_1.jsonl");
    let mut file = File::create(&path).unwrap();
    writeln!(file, "{RULER}\n\nnot json\n{RULER}").unwrap();
    let samples = read(&path, &JsonlOptions::default()).unwrap();
    assert_eq!(samples.len(), 3);
    assert_eq!(samples[0].as_ref().unwrap().task, "niah_single_1");
    assert_eq!(samples[2].as_ref().unwrap().source.as_ref().unwrap().line, 4);
    let error = samples[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("niah_single_1.jsonl:3: it is not JSON"), "{error}");
    std::fs::write(&path, format!("\u{feff}{RULER}\n{RULER}")).unwrap();
    let marked = read(&path, &JsonlOptions::default()).unwrap();
    assert!(marked.len() == 2 && marked.iter().all(Result::is_ok), "a byte order mark is no part of a line");
    std::fs::write(&path, "\n \n").unwrap();
    assert!(matches!(read(&path, &JsonlOptions::default()), Err(ReadError::Empty(_))));
    let missing = read(&folder.path().join("none.jsonl"), &JsonlOptions::default()).unwrap_err().to_string();
    assert!(missing.contains("none.jsonl"), "{missing}");
}

#[test]
fn fewer_samples_are_part_of_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vt.jsonl");
    let line = |i: usize| format!(r#"{{"index": {i}, "input": "x\nQuestion: y", "outputs": ["y"]}}"#);
    std::fs::write(&path, (0..20).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let ids = |samples, seed| -> Vec<String> {
        let options = JsonlOptions { samples: Some(samples), seed, ..JsonlOptions::default() };
        read(&path, &options).unwrap().into_iter().map(|s| s.unwrap().id).collect()
    };
    let (few, many) = (ids(5, 3), ids(9, 3));
    assert_eq!((few.len(), many.len()), (5, 9));
    assert!(few.iter().all(|id| many.contains(id)));
    assert_ne!(ids(5, 4), few, "another seed draws others");
    assert_eq!(ids(100, 3).len(), 20);
}

#[test]
fn a_folder_names_the_task_of_its_validation_file() {
    assert_eq!(task_of(Path::new("a/niah_multikey_1/validation.jsonl")), "niah_multikey_1");
    assert_eq!(task_of(Path::new("a/hotpotqa.jsonl")), "hotpotqa");
    assert_eq!(task_of(Path::new("test.jsonl")), "test");
}
