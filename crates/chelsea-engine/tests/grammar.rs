//! Answers that keep to a grammar: always, to its end and no further, whoever else is served.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::grammar::Part;
use chelsea_engine::scheduler::Request;
use chelsea_engine::{
    Finish, GenerateOptions, Grammar, Grammars, Sampling, Scheduler, SchedulerOptions, SessionOptions,
};
use chelsea_kv::{Budget, Pool};
use chelsea_linear::Products;
use serde_json::{Value, json};
use std::sync::Arc;
use support::bytes::{Ear, tokenizer};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "size": {"enum": ["small", "large"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "size", "count"],
        "additionalProperties": false,
        "x-guidance": {"whitespace_pattern": " "},
    })
}

fn scheduler(with_end: bool, options: SchedulerOptions) -> Scheduler {
    Scheduler::new(support::model(Products::Fast), Arc::new(tokenizer(with_end)), support::pool(2), options).unwrap()
}

fn compile(with_end: bool, rules: &str, parts: Vec<(String, Part)>) -> Grammar {
    Grammars::new(&tokenizer(with_end)).unwrap().compile(rules, parts).unwrap()
}

fn json_grammar(with_end: bool) -> Grammar {
    compile(with_end, "start: @form", vec![("form".into(), Part::Schema(schema()))])
}

fn request(prompt: u32, grammar: Option<&Grammar>, most: usize, seed: u64, ear: &Ear) -> Request {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    Request {
        pieces: vec![Arc::from(support::tokens(100, prompt))],
        generate: GenerateOptions {
            max_tokens: Some(most),
            sampling,
            grammar: grammar.cloned(),
            ..GenerateOptions::default()
        },
        session: SessionOptions { step: Some(16), ..support::options(Budget::ByteFraction(0.25), "chelsea") },
        key: 0,
        logprobs: Some(0),
        prompt_logprobs: None,
        apart: false,
        listener: Box::new(ear.clone()),
    }
}

fn run(scheduler: &mut Scheduler) {
    let mut steps = 0;
    while scheduler.step() {
        steps += 1;
        assert!(steps < 50_000, "it never ends");
    }
}

fn answer(with_end: bool, grammar: &Grammar, most: usize, seed: u64) -> Ear {
    let (ear, mut scheduler) = (Ear::default(), scheduler(with_end, SchedulerOptions::default()));
    scheduler.submit(request(1, Some(grammar), most, seed, &ear));
    run(&mut scheduler);
    ear
}

fn is_what_the_schema_says(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value.as_object().unwrap().len() == 3
        && value["name"].as_str().unwrap().chars().count() <= 6
        && ["small", "large"].contains(&value["size"].as_str().unwrap())
        && value["count"].as_u64().unwrap() <= 99
}

#[test]
fn a_model_of_random_weights_says_what_the_schema_says_and_stops() {
    for with_end in [true, false] {
        let grammar = json_grammar(with_end);
        for seed in 0..12 {
            let ear = answer(with_end, &grammar, 500, seed);
            assert!(is_what_the_schema_says(&ear.text()), "{}", ear.text());
            assert_eq!((ear.outcome().finish, ear.text().ends_with('}')), (Finish::Complete, true));
        }
    }
}

#[test]
fn a_turn_ends_only_where_the_grammar_may_end() {
    let grammar = compile(true, r#"start: "ab" "c"*"#, Vec::new());
    for seed in 0..20 {
        let ear = answer(true, &grammar, 500, seed);
        let (text, outcome) = (ear.text(), ear.outcome());
        assert!(text.starts_with("ab") && text[2..].bytes().all(|b| b == b'c'), "{text}");
        // The end is a token like the others: it was sampled among them, and is told with how likely it was.
        assert_eq!((outcome.finish, outcome.generated_tokens), (Finish::EndOfTurn, text.len() + 1));
    }
    // Where no token ends a turn, there is nothing to end it with.
    let endless = compile(false, r#"start: "ab" "c"*"#, Vec::new());
    assert_eq!(answer(false, &endless, 50, 1).outcome().finish, Finish::MaxTokens);
}

#[test]
fn probabilities_are_those_before_the_grammar() {
    let grammar = compile(true, r#"start: "a" | "b""#, Vec::new());
    let ear = answer(true, &grammar, 10, 1);
    // Two tokens of 320 that nothing speaks for are no certainty.
    let logprob = ear.0.lock().unwrap().tokens[0].logprobs.as_ref().unwrap().chosen;
    assert!(logprob < -2.0, "{logprob}");
}

#[test]
fn a_cut_answer_is_told_as_cut_and_a_complete_one_is_not() {
    let grammar = compile(true, r#"start: "abcde""#, Vec::new());
    assert_eq!(answer(true, &grammar, 4, 1).outcome().finish, Finish::MaxTokens);
    assert_eq!(answer(true, &grammar, 5, 1).outcome().finish, Finish::Complete);
    assert_eq!(answer(true, &grammar, 5, 1).text(), "abcde");
}

#[test]
fn what_comes_after_a_thought_is_held_to_the_grammar_and_the_thought_is_not() {
    let rules = "start: thought SPACE? @form\nthought[lazy]: /(.|\\n)*<\\/think>/\nSPACE: /[ \\n]{1,4}/";
    let grammar = compile(true, rules, vec![("form".into(), Part::Schema(schema()))]);
    let mut thoughts = 0;
    for seed in 0..6 {
        let ear = answer(true, &grammar, 2000, seed);
        if let Some((thought, said)) = ear.text().split_once("</think>") {
            assert!(!thought.starts_with('{'), "{thought}");
            if ear.outcome().finish == Finish::Complete {
                assert!(is_what_the_schema_says(said.trim_start()), "{said}");
                thoughts += 1;
            }
        }
    }
    assert!(thoughts >= 3, "{thoughts} thoughts came to an end");
}

#[test]
fn neighbours_change_no_answer_that_keeps_to_a_grammar() {
    let grammar = json_grammar(true);
    let mut together = scheduler(true, SchedulerOptions::default());
    let ears: Vec<Ear> = (0..10).map(|_| Ear::default()).collect();
    for (i, ear) in ears.iter().enumerate() {
        // One grammar for several answers, and some without.
        together.submit(request(i as u32, Some(&grammar).filter(|_| i % 3 != 0), 300, i as u64, ear));
        together.step();
    }
    run(&mut together);
    for (i, ear) in ears.iter().enumerate() {
        let (alone, mut single) = (Ear::default(), scheduler(true, SchedulerOptions::default()));
        single.submit(request(i as u32, Some(&grammar).filter(|_| i % 3 != 0), 300, i as u64, &alone));
        run(&mut single);
        assert_eq!(ear.text(), alone.text(), "request {i}");
    }
}

#[test]
fn an_answer_that_steps_aside_keeps_its_place_in_the_grammar() {
    let long = json!({"type": "array", "items": {"type": "integer"}, "minItems": 500, "x-guidance": {"whitespace_pattern": " "}});
    let grammar = compile(true, "start: @form", vec![("form".into(), Part::Schema(long))]);
    let options = SchedulerOptions { ahead: 1, checkpoints: 0, ..SchedulerOptions::default() };
    let asked = |i: usize, ear: &Ear| {
        let session = support::options(Budget::EntryFraction(1.0), "full");
        Request { session, ..request(i as u32, Some(&grammar), 700, i as u64, ear) }
    };
    for limit in [700, 900, 1200, 1600].map(|kib| kib << 10) {
        let mut tight = scheduler(true, SchedulerOptions { pool: Pool::with_limit(limit), ..options.clone() });
        let ears: Vec<Ear> = (0..5).map(|_| Ear::default()).collect();
        ears.iter().enumerate().for_each(|(i, ear)| tight.submit(asked(i, ear)));
        run(&mut tight);
        let whole = |ear: &Ear| ear.0.lock().unwrap().outcome.as_ref().is_some_and(|o| o.generated_tokens == 700);
        if tight.stats().stepped_aside == 0 || !ears.iter().all(whole) {
            continue;
        }
        for (i, ear) in ears.iter().enumerate() {
            let (alone, mut single) = (Ear::default(), scheduler(true, options.clone()));
            single.submit(asked(i, &alone));
            run(&mut single);
            assert_eq!(ear.text(), alone.text(), "request {i} at {limit}");
            assert!(ear.text().starts_with('['));
        }
        return;
    }
    panic!("nobody had to step aside");
}

#[test]
fn what_a_grammar_cannot_say_is_told_in_the_librarys_words() {
    let grammars = Grammars::new(&tokenizer(true)).unwrap();
    let refused = |schema: Value| {
        grammars.compile("start: @form", vec![("form".into(), Part::Schema(schema))]).unwrap_err().to_string()
    };
    assert!(refused(json!({"type": "wizard"})).contains("wizard"));
    assert!(refused(json!({"type": "string", "format": "no-such-format"})).contains("no-such-format"));
    assert!(refused(json!({"$ref": "#/$defs/missing"})).contains("missing"));
    assert!(refused(json!({"type": "string", "pattern": "("})).contains("regex"));
    assert!(grammars.compile("start: nowhere", Vec::new()).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn no_schema_takes_forever() {
    let grammars = Grammars::new(&tokenizer(true)).unwrap();
    let long = json!({"type": "array", "items": {"type": "array", "minItems": 90_000}, "minItems": 90_000});
    let pattern = json!({"type": "string", "pattern": "^((a|b){1,900}c){1,900}$"});
    let names: serde_json::Map<String, Value> =
        (0..5000).map(|i| (format!("name{i}"), json!({"type": "string"}))).collect();
    for schema in [long, pattern, json!({"type": "object", "properties": names})] {
        let start = std::time::Instant::now();
        // Refused, or compiled and then refused at the step that grows beyond its limits: either way, soon.
        if let Ok(grammar) = grammars.compile("start: @form", vec![("form".into(), Part::Schema(schema))]) {
            let (ear, mut scheduler) = (Ear::default(), scheduler(true, SchedulerOptions::default()));
            scheduler.submit(request(1, Some(&grammar), 50, 1, &ear));
            run(&mut scheduler);
            let heard = ear.0.lock().unwrap();
            assert!(heard.outcome.is_some() || heard.error.as_ref().is_some_and(|error| error.contains("grammar")));
        }
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}
