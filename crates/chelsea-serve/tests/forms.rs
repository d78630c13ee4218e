//! Answers that have to look like something: JSON of a schema, one of several texts, calls of tools.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Server, TEMPLATE, TOOLS, start, start_with_tools, tokenizer_with};

/// Short, so that even a model of random weights comes to an end.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "kind": {"enum": ["big", "small"]}},
        "required": ["city", "kind"],
        "additionalProperties": false,
    })
}

fn ask(form: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Which city?"}], "max_tokens": 600, "seed": 5});
    body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
    body
}

fn named(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "city", "strict": true, "schema": schema}}})
}

/// The JSON of an answer, if it is one of the schema.
fn city(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value["city"].as_str().unwrap().chars().count() <= 5, "{text}");
    assert!(["big", "small"].contains(&value["kind"].as_str().unwrap()), "{text}");
    assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
    value
}

fn tools() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema()}});
    json!([tool("find"), tool("say \"it\"")])
}

fn calls(answer: &Value) -> Vec<(String, Value)> {
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("no call: {answer}"));
    let one = |call: &Value| {
        let function = &call["function"];
        (function["name"].as_str().unwrap().to_owned(), city(function["arguments"].as_str().unwrap()))
    };
    calls.iter().map(one).collect()
}

#[test]
fn a_schema_holds_for_every_answer_whole_and_streamed() {
    let server = start();
    let mut body = ask(named(&schema()));
    body["n"] = 3.into();
    let (status, whole) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{whole}");
    let texts: Vec<&str> =
        whole["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    texts.iter().for_each(|text| drop(city(text)));
    assert!(texts.len() == 3 && texts[0] != texts[1]);
    assert!(whole["choices"].as_array().unwrap().iter().all(|choice| choice["finish_reason"] == "stop"), "{whole}");
    body["stream"] = true.into();
    let events = server.stream("/v1/chat/completions", &body);
    for (i, text) in texts.iter().enumerate() {
        let of_answer = events.iter().filter(|event| event["choices"][0]["index"] == i);
        let streamed: String = of_answer.filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, *text);
    }
}

#[test]
fn forms_go_by_the_names_of_several_servers() {
    let server = start();
    let text = |form: Value| {
        let (status, answer) = server.post("/v1/chat/completions", &ask(form));
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().trim_start().to_owned()
    };
    for form in [
        json!({"guided_json": schema()}),
        json!({"guided_json": schema().to_string()}),
        json!({"json_schema": schema()}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"response_format": {"type": "json_object", "schema": schema()}}),
    ] {
        city(&text(form));
    }
    for form in
        [json!({"guided_choice": ["yes", "\"no\"\n"]}), json!({"structured_outputs": {"choice": ["yes", "\"no\"\n"]}})]
    {
        assert!(["yes", "\"no\"\n"].contains(&text(form).as_str()));
    }
    let date = text(json!({"guided_regex": "[0-9]{4}/[01][0-9]"}));
    assert!(date.len() == 7 && date.as_bytes()[4] == b'/', "{date}");
    assert!(text(json!({"response_format": {"type": "json_object"}})).starts_with('{'));
    let (_, completion) = server.post("/v1/completions", &json!({"prompt": "x", "guided_choice": ["maybe"]}));
    assert_eq!(completion["choices"][0]["text"].as_str().unwrap().trim_start(), "maybe");
}

#[test]
fn a_call_is_made_where_one_is_forced() {
    let server = start_with_tools();
    for (choice, parallel) in [(json!("required"), true), (json!("required"), false)] {
        for seed in 0..4 {
            let body = ask(json!({
                "tools": tools(), "tool_choice": choice, "parallel_tool_calls": parallel, "seed": seed, "max_tokens": 4000,
            }));
            let (status, answer) = server.post("/v1/chat/completions", &body);
            assert_eq!((status, answer["choices"][0]["finish_reason"].as_str()), (200, Some("tool_calls")), "{answer}");
            let calls = calls(&answer);
            assert!(calls.iter().all(|(name, _)| ["find", "say \"it\""].contains(&name.as_str())));
            assert!(parallel || calls.len() == 1);
            assert!(answer["choices"][0]["message"]["content"].is_null(), "{answer}");
        }
    }
    let mut body = ask(json!({
        "tools": tools(), "tool_choice": {"type": "function", "function": {"name": "say \"it\""}},
    }));
    let (_, whole) = server.post("/v1/chat/completions", &body);
    let made = calls(&whole);
    assert!(made.len() == 1 && made[0].0 == "say \"it\"", "{whole}");
    body["stream"] = true.into();
    let events = server.stream("/v1/chat/completions", &body);
    let streamed: Vec<&Value> =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(streamed.len(), 1);
    assert_eq!(streamed[0]["function"], whole["choices"][0]["message"]["tool_calls"][0]["function"]);
}

#[test]
fn a_call_is_written_as_the_models_own_template_has_it() {
    let template = format!("{{# '\"parameters\": ' #}}{TOOLS}");
    let server = Server::start_with(support::tokenizer(), &template, |_, _| ());
    let body = ask(json!({"tools": tools(), "tool_choice": "required", "logprobs": true}));
    let (_, answer) = server.post("/v1/chat/completions", &body);
    assert_eq!(calls(&answer).len(), 1);
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let written: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert!(written.contains("\"parameters\": ") && !written.contains("<tool_call>"), "{written}");
}

#[test]
fn anthropics_clients_force_calls_and_forms_too() {
    let server = start_with_tools();
    let tools: Vec<Value> =
        ["find", "other"].iter().map(|name| json!({"name": name, "input_schema": schema()})).collect();
    let ask = |more: Value| {
        let mut body = json!({"max_tokens": 4000, "messages": [{"role": "user", "content": "Which city?"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/messages", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let any = ask(json!({"tools": tools, "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}));
    assert_eq!((any["stop_reason"].as_str(), any["content"].as_array().unwrap().len()), (Some("tool_use"), 1));
    city(&any["content"][0]["input"].to_string());
    let one = ask(json!({"tools": tools, "tool_choice": {"type": "tool", "name": "other"}}));
    assert_eq!(
        (one["content"][0]["type"].as_str(), one["content"][0]["name"].as_str()),
        (Some("tool_use"), Some("other"))
    );
    let form = ask(json!({"output_config": {"format": {"type": "json_schema", "schema": schema()}}}));
    city(form["content"][0]["text"].as_str().unwrap());
    assert_eq!(form["stop_reason"], "end_turn");
}

#[test]
fn a_thought_is_not_held_to_the_form_of_what_follows() {
    let template = format!("{TEMPLATE}<think>\n");
    let server = Server::start_with(tokenizer_with(&["</think>"]), &template, |_, _| ());
    let mut body = ask(named(&schema()));
    body["max_tokens"] = 3000.into();
    // The mark comes sooner.
    body["logit_bias"] = json!({"256": 4});
    let (status, answer) = server.post("/v1/chat/completions", &body);
    assert_eq!((status, answer["choices"][0]["finish_reason"].as_str()), (200, Some("stop")), "{answer}");
    let message = &answer["choices"][0]["message"];
    assert!(!message["reasoning_content"].as_str().unwrap().starts_with('{'));
    city(message["content"].as_str().unwrap());
    let (_, response) = server.post(
        "/v1/responses",
        &json!({
            "input": "Which city?", "max_output_tokens": 3000, "seed": 5, "logit_bias": {"256": 4},
            "text": {"format": {"type": "json_schema", "name": "city", "schema": schema()}},
        }),
    );
    let kinds: Vec<&str> =
        response["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message"], "{response}");
    assert!(response["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64() > Some(0));
    city(response["output"][1]["content"][0]["text"].as_str().unwrap());
}

#[test]
fn a_model_that_may_think_first_is_let_to() {
    let server = Server::start_with(tokenizer_with(&["<think>", "</think>"]), TEMPLATE, |_, _| ());
    let mut body = ask(named(&schema()));
    body["logprobs"] = true.into();
    let mut written = |bias: Value| {
        body["logit_bias"] = bias;
        let (status, answer) = server.post("/v1/chat/completions", &body);
        let choice = &answer["choices"][0];
        assert_eq!((status, choice["finish_reason"].as_str()), (200, Some("stop")), "{answer}");
        city(choice["message"]["content"].as_str().unwrap());
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        tokens.iter().map(|token| token["token"].as_str().unwrap()).collect::<String>()
    };
    // The marks are the likeliest by far, wherever they may come.
    let thinks = written(json!({"256": 60, "257": 100}));
    assert!(thinks.starts_with("<think>") && thinks.contains("</think>"), "{thinks}");
    let speaks = written(json!({"123": 100}));
    assert!(speaks.starts_with('{'), "{speaks}");
}

#[test]
fn what_cannot_be_held_to_is_refused_with_the_reason() {
    let server = start_with_tools();
    let strict = |schema: Value| named(&schema);
    let unknown = json!({"type": "string", "format": "no-such-format"});
    let find = json!([{"type": "function", "function": {"name": "find", "parameters": {"type": "wizard"}}}]);
    for (form, words) in [
        (strict(json!({"type": "wizard"})), "wizard"),
        (strict(unknown.clone()), "no-such-format"),
        (strict(json!({"$ref": "#/$defs/nothing"})), "nothing"),
        (strict(json!(3)), "must be an object"),
        (json!({"guided_json": "{"}), "holds no JSON"),
        (json!({"guided_regex": "("}), "response_format"),
        (json!({"guided_choice": []}), "at least one"),
        (json!({"guided_choice": ["a"], "guided_regex": "a"}), "several"),
        (json!({"response_format": {"type": "json_schema"}}), "json_schema"),
        (json!({"tools": find, "tool_choice": "required"}), "wizard"),
        (json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "lose"}}}), "`lose`"),
        (json!({"tools": tools(), "parallel_tool_calls": false}), "parallel_tool_calls"),
    ] {
        let (status, answer) = server.post("/v1/chat/completions", &ask(form.clone()));
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(words), "{form}: {status} {answer}");
    }
    // Without `strict`, what cannot be held to is left out.
    assert_eq!(server.post("/v1/chat/completions", &ask(json!({"guided_json": unknown}))).0, 200);
    assert_eq!(server.post("/v1/chat/completions", &ask(json!({}))).0, 200);
}
