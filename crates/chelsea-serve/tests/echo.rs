//! `echo` with `logprobs`: how likely a prompt was, in the shape that evaluation harnesses read.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Server, start, tokenizer_with};

fn numbers(column: &Value) -> Vec<f64> {
    column.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[test]
fn what_was_generated_is_as_likely_when_it_is_scored() {
    let server = start();
    let ask = |more: Value| {
        let mut body = json!({"temperature": 0, "logprobs": 2, "kv": {"budget": "full"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0].clone()
    };
    let prompt: Vec<u32> = b"A text about a tower.".iter().map(|&b| b.into()).collect();
    // A text of which every character is a token: probabilities are those before the grammar.
    let generated = ask(json!({"prompt": prompt, "max_tokens": 30, "guided_regex": "[a-z]{12}"}));
    let likely = numbers(&generated["logprobs"]["token_logprobs"]);
    let text = generated["text"].as_str().unwrap();
    assert!(likely.len() == text.len() && text.is_ascii() && text.len() >= 12);
    let whole = format!("A text about a tower.{text}");
    let scored = ask(json!({"prompt": whole, "max_tokens": 0, "echo": true}));
    assert_eq!((scored["text"].as_str(), scored["finish_reason"].as_str()), (Some(whole.as_str()), Some("length")));
    let columns = &scored["logprobs"];
    assert!(columns["token_logprobs"][0].is_null() && columns["top_logprobs"][0].is_null());
    let scores = numbers(&columns["token_logprobs"]);
    assert_eq!(scores.len(), columns["tokens"].as_array().unwrap().len() - 1);
    for (a, b) in scores[prompt.len() - 1..].iter().zip(&likely) {
        assert!((a - b).abs() < 1e-3, "{a} and {b}");
    }
}

#[test]
fn a_batch_of_token_lists_is_scored_as_harnesses_ask() {
    let server = start();
    let texts = ["The tower was painted green.", "No.", "Something else, of another length"];
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| text.bytes().map(u32::from).collect()).collect();
    let body = json!({
        "model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true,
    });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    for (i, text) in texts.iter().enumerate() {
        let choice = &answer["choices"][i];
        assert_eq!(choice["index"], i);
        assert!(choice["text"].as_str().unwrap().starts_with(text));
        let columns = &choice["logprobs"];
        for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            // Those of the prompt, and the one that was generated.
            assert_eq!(columns[column].as_array().unwrap().len(), text.len() + 1, "{column}");
        }
        for at in 1..=text.len() {
            let likely = columns["token_logprobs"][at].as_f64().unwrap();
            let top: Vec<f64> =
                columns["top_logprobs"][at].as_object().unwrap().values().filter_map(Value::as_f64).collect();
            assert!(likely <= 0.0 && top.contains(&likely) && !top.is_empty());
        }
        // Greedy sampling takes the likeliest.
        let top = &columns["top_logprobs"][text.len()];
        let best = top.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(columns["token_logprobs"][text.len()].as_f64(), Some(best));
        // The same alone.
        let mut alone = body.clone();
        alone["prompt"] = json!(prompts[i]);
        assert_eq!(server.post("/v1/completions", &alone).1["choices"][0]["logprobs"], *columns);
    }
}

#[test]
fn offsets_are_those_of_the_echoed_text_and_streams_tell_the_same() {
    let server = Server::start_with(tokenizer_with(&["<mark>"]), support::TEMPLATE, |_, _| ());
    let mut body = json!({"prompt": "aé<mark>z", "max_tokens": 3, "temperature": 0, "echo": true, "logprobs": 0});
    let (_, whole) = server.post("/v1/completions", &body);
    let columns = &whole["choices"][0]["logprobs"];
    let offsets: Vec<u64> = columns["text_offset"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    // Half a character moves nothing.
    assert_eq!(offsets[..6], [0, 1, 1, 2, 8, 9]);
    body["stream"] = true.into();
    let events = server.stream("/v1/completions", &body);
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(Some(text.as_str()), whole["choices"][0]["text"].as_str());
    for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let parts = events.iter().filter_map(|event| event["choices"][0]["logprobs"][column].as_array());
        assert_eq!(Value::from(parts.flatten().cloned().collect::<Vec<_>>()), columns[column], "{column}");
    }
}

#[test]
fn an_answer_of_no_tokens_is_allowed_and_tells_its_usage() {
    let (_, answer) = start().post("/v1/completions", &json!({"prompt": "abc", "max_tokens": 0}));
    assert_eq!((answer["choices"][0]["text"].as_str(), answer["choices"][0]["logprobs"].is_null()), (Some(""), true));
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(3), &json!(0)));
    assert_eq!(start().post("/v1/completions", &json!({"prompt": "abc", "max_tokens": -2})).0, 400);
}
