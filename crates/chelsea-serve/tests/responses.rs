//! `POST /v1/responses`: items, their events, and what a server without a memory refuses.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{start, start_with_tools};

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn without_figures(mut response: Value) -> Value {
    for name in ["id", "created_at", "completed_at", "timings", "kv", "usage"] {
        response.as_object_mut().unwrap().remove(name);
    }
    for item in response["output"].as_array_mut().unwrap() {
        for name in ["id", "call_id"] {
            item.as_object_mut().unwrap().remove(name);
        }
    }
    response
}

#[test]
fn a_response_is_the_same_whole_and_streamed_and_its_events_build_it_up() {
    let server = start();
    let mut body = json!({
        "model": "tiny", "instructions": "Be brief.", "input": "What is it?", "max_output_tokens": 10, "seed": 3,
        "store": false, "metadata": {"a": "b"}, "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    });
    let (status, whole) = server.post("/v1/responses", &body);
    assert_eq!(status, 200, "{whole}");
    let prompt = "<system>Be brief.</system><user>What is it?</user><assistant>".len();
    assert_eq!((whole["object"].as_str(), whole["status"].as_str()), (Some("response"), Some("incomplete")));
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!((&whole["usage"]["input_tokens"], &whole["usage"]["output_tokens"]), (&json!(prompt), &json!(10)));
    assert_eq!((whole["metadata"]["a"].as_str(), &whole["store"]), (Some("b"), &json!(false)));
    let message = &whole["output"][0];
    assert_eq!((message["type"].as_str(), message["status"].as_str()), (Some("message"), Some("incomplete")));
    let part = &message["content"][0];
    assert!(
        part["type"] == "output_text" && part["logprobs"].as_array().is_some_and(|l| l[0]["top_logprobs"].is_array())
    );
    body["stream"] = true.into();
    let events = server.stream("/v1/responses", &body);
    let told = kinds(&events);
    assert_eq!(
        told[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",]
    );
    assert!(told[4..told.len() - 4].iter().all(|kind| *kind == "response.output_text.delta"), "{told:?}");
    assert_eq!(
        told[told.len() - 4..],
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",]
    );
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(Some(deltas.as_str()), part["text"].as_str());
    let logprobs: Vec<Value> = events
        .iter()
        .filter(|e| e["delta"].is_string())
        .flat_map(|e| e["logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(Value::from(logprobs), part["logprobs"]);
    let last = events.last().unwrap()["response"].clone();
    assert_eq!(without_figures(last), without_figures(whole));
    assert!(events[0]["response"]["status"] == "in_progress" && events[0]["response"]["output"] == json!([]));
}

#[test]
fn calls_are_items_and_their_results_go_back_in() {
    let server = start_with_tools();
    let parameters = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false});
    let tools = json!([{"type": "function", "name": "count", "parameters": parameters, "strict": true}]);
    let mut body = json!({
        "input": [{"role": "user", "content": "Count."}], "tools": tools, "seed": 1,
        "tool_choice": {"type": "function", "name": "count"}, "max_output_tokens": 500, "stream": true,
    });
    let events = server.stream("/v1/responses", &body);
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let response = &events.last().unwrap()["response"];
    let call = &response["output"][0];
    assert_eq!((call["type"].as_str(), call["name"].as_str()), (Some("function_call"), Some("count")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!([1, 2].contains(&arguments["n"].as_u64().unwrap()));
    let mut in_full = tools.clone();
    in_full[0]["description"] = Value::Null;
    assert_eq!((&response["tools"], &response["tool_choice"]["name"]), (&in_full, &json!("count")));
    // The next request holds all of it.
    let input = body["input"].as_array_mut().unwrap();
    input.push(call.clone());
    input.push(json!({"type": "function_call_output", "call_id": call["call_id"], "output": "two"}));
    body["tool_choice"] = "none".into();
    body["max_output_tokens"] = 3.into();
    body["stream"] = false.into();
    let (status, answer) = server.post("/v1/responses", &body);
    assert_eq!(status, 200, "{answer}");
    let given: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    let told = format!("<call>{{\"name\": \"count\", \"arguments\": {{\"n\": {}}}}}</call>", given["n"]);
    let prompt = format!("<user>Count.</user><assistant>{told}</assistant><tool>two</tool><assistant>");
    assert_eq!(answer["usage"]["input_tokens"], prompt.len());
}

#[test]
fn what_was_read_before_is_told_as_cached() {
    let server = start();
    let body = |question: &str| json!({"instructions": "A long document. ".repeat(30), "input": question, "max_output_tokens": 4, "temperature": 0});
    server.post("/v1/responses", &body("When?"));
    let (_, second) = server.post("/v1/responses", &body("Where?"));
    let cached = second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached, ("A long document. ".len() * 30 + "<system></system>".len()) as u64);
}

#[test]
fn what_needs_a_memory_or_is_not_here_is_refused_by_name() {
    let server = start();
    for (more, word) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"background": true}), "background"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"tools": [{"type": "web_search"}]}), "web_search"),
        (json!({"include": ["file_search_call.results"]}), "file_search_call.results"),
        (json!({"text": {"format": {"type": "yaml"}}}), "yaml"),
        (json!({"text": {"verbosity": "low"}}), "verbosity"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0]"),
        (json!({"prompt": {"id": "x"}}), "prompt"),
        (json!({"temperature": -1}), "temperature"),
    ] {
        let mut body = json!({"input": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/responses", &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(word), "{body}: {answer}");
    }
    // What changes nothing is taken.
    let harmless = json!({
        "input": "x", "max_output_tokens": 2, "store": true, "user": "u", "previous_response_id": null,
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}}, "stream_options": {"include_obfuscation": false}, "truncation": "disabled",
    });
    let (status, answer) = server.post("/v1/responses", &harmless);
    assert_eq!(
        (status, &answer["store"], &answer["reasoning"]["effort"]),
        (200, &json!(false), &json!("low")),
        "{answer}"
    );
}
