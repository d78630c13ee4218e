//! Requests over a real socket, against a tiny model of random weights.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;
use support::{Server, TEMPLATE, start};

fn chat(question: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 12, "seed": 3})
}

#[test]
fn a_chat_is_answered_the_same_whole_and_streamed() {
    let server = start();
    let mut body = chat("What is it?");
    let (status, whole) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    assert_eq!(
        (choice["finish_reason"].as_str(), choice["message"]["role"].as_str()),
        (Some("length"), Some("assistant"))
    );
    let usage = &whole["usage"];
    let prompt = "<user>What is it?</user><assistant>".len();
    assert_eq!((usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()), (Some(prompt as u64), Some(12)));
    assert!(whole["kv"]["bytes"].as_u64() > Some(0) && whole["timings"]["predicted_n"] == 12);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let events = server.stream("/v1/chat/completions", &body);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(Some(text.as_str()), choice["message"]["content"].as_str());
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 12);
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn what_was_read_before_is_told_as_cached_and_changes_nothing() {
    let server = start();
    let document = "The tower was built in 1931 and painted green. ".repeat(12);
    let body = |question: &str| {
        json!({"messages": [
            {"role": "system", "content": document}, {"role": "user", "content": question},
        ], "max_tokens": 8, "temperature": 0})
    };
    let (_, first) = server.post("/v1/chat/completions", &body("When?"));
    let (_, second) = server.post("/v1/chat/completions", &body("Which colour?"));
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() as usize;
    assert_eq!(cached, document.len() + "<system></system>".len());
    let (_, again) = server.post("/v1/chat/completions", &body("When?"));
    assert_eq!(again["choices"], first["choices"]);
    // A fresh server reads all of it and answers alike.
    let (_, alone) = start().post("/v1/chat/completions", &body("Which colour?"));
    assert_eq!(alone["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(alone["choices"], second["choices"]);
}

#[test]
fn a_conversation_goes_on_from_the_end_of_the_turn_before() {
    let server = start();
    let opening = "a long opening ".repeat(20);
    let mut messages = vec![json!({"role": "user", "content": opening})];
    let body = |messages: &[Value]| json!({"messages": messages, "max_tokens": 8, "temperature": 0});
    let (_, first) = server.post("/v1/chat/completions", &body(&messages));
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "and then?"}));
    let (status, second) = server.post("/v1/chat/completions", &body(&messages));
    assert_eq!(status, 200, "{second}");
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() as usize;
    assert_eq!(cached, format!("<user>{opening}</user><assistant>").len());
}

#[test]
fn a_stream_tells_how_far_its_prompt_was_read() {
    let server = start();
    let opening = "a long opening ".repeat(20);
    let body = json!({
        "messages": [{"role": "user", "content": opening}], "max_tokens": 3, "stream": true, "return_progress": true,
    });
    let told = || {
        let events = server.stream("/v1/chat/completions", &body);
        let cached = events.iter().find_map(|event| event["timings"]["cache_n"].as_u64()).unwrap();
        let progress: Vec<[u64; 3]> = events
            .iter()
            .filter(|event| event["prompt_progress"].is_object())
            .map(|event| ["total", "cache", "processed"].map(|name| event["prompt_progress"][name].as_u64().unwrap()))
            .collect();
        (cached, progress)
    };
    let all = format!("<user>{opening}</user><assistant>").len() as u64;
    let (cached, progress) = told();
    assert!(cached == 0 && progress[0] == [all, 0, 0] && progress.last() == Some(&[all, 0, all]), "{progress:?}");
    assert!(progress.is_sorted_by(|a, b| a[2] < b[2]), "{progress:?}");
    // The second time there is nothing to read.
    let (cached, progress) = told();
    assert!(cached == all && progress.last() == Some(&[all, all, all]), "{cached} {progress:?}");
}

#[test]
fn mistakes_are_told_in_the_shape_of_the_interface() {
    let server = start();
    let message = json!([{"role": "user", "content": "x"}]);
    let cases: &[(Value, &str, u16)] = &[
        (json!({"messages": []}), "messages", 400),
        (json!({"messages": message, "n": 0}), "n", 400),
        (json!({"messages": message, "temperature": -1}), "temperature", 400),
        (json!({"messages": message, "frobnicate": 1}), "frobnicate", 400),
        (json!({"messages": message, "response_format": {"type": "yaml"}}), "response_format", 400),
        (json!({"messages": message, "tools": [{"type": "function"}]}), "tool 0 has no `function`", 400),
        (json!({"messages": message, "tool_choice": "required"}), "tool_choice", 400),
        (json!({"messages": message, "tool_choice": "perhaps"}), "tool_choice", 400),
        (json!({"messages": message, "model": "other"}), "other", 404),
        (json!({"messages": message, "kv": {"budget": "lots"}}), "budget", 400),
        (json!({"messages": message, "kv": {"policy": "none-such"}}), "policy", 400),
        (json!({"messages": message, "top_logprobs": 3}), "top_logprobs", 400),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "image_url",
            400,
        ),
        (json!({"messages": [{"role": "wizard", "content": "x"}]}), "wizard", 400),
        (json!({"messages": [{"role": "user", "content": [{"type": 3, "text": "x"}]}]}), "must be a text", 400),
        (json!({"messages": 3}), "messages", 422),
    ];
    for (body, word, expected) in cases {
        let (status, answer) = server.post("/v1/chat/completions", body);
        assert_eq!(status, if *expected == 422 { 400 } else { *expected }, "{body} {answer}");
        let error = &answer["error"];
        assert!(
            error["message"].as_str().is_some_and(|m| m.contains(word)) && error["type"].is_string(),
            "{body} {answer}"
        );
    }
    let long = "word ".repeat(4000);
    let (status, answer) = server.post("/v1/chat/completions", &chat(&long));
    assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{answer}");
    let (status, answer) = server.post("/v1/messages", &json!({"messages": message}));
    assert_eq!((status, answer["type"].as_str()), (400, Some("error")), "{answer}");
    for wrong in [
        json!({"messages": [{"role": "user", "content": [{"type": null, "text": "x"}]}]}),
        json!({"messages": message, "tool_choice": {"type": 3}}),
        json!({"messages": message, "mcp_servers": {}}),
        json!({"messages": message, "max_tokens": 0}),
        json!({"messages": message, "temperature": -1}),
        json!({"messages": message, "output_config": {"format": {"type": "json_schema", "schema": []}}}),
    ] {
        let (status, answer) = server.post("/v1/messages/count_tokens", &wrong);
        assert_eq!((status, answer["type"].as_str()), (400, Some("error")), "{wrong} {answer}");
    }
    let (status, text) = server.ask("POST", "/v1/chat/completions", &[], "{\"messages\": [");
    assert!(status == 400 && text.contains("invalid_request_error"), "{text}");
    let (status, _) = server.ask("POST", "/v1/chat/completions", &[("Content-Type", "text/plain")], "{}");
    assert_eq!(status, 415);
    assert_eq!(server.ask("GET", "/nothing", &[], "").0, 404);
    assert_eq!(server.ask("GET", "/v1/chat/completions", &[], "").0, 405);
    assert_eq!(server.post("/v1/embeddings", &json!({})).0, 501);
    // After all of that it still answers.
    assert_eq!(server.post("/v1/chat/completions", &chat("still there?")).0, 200);
}

#[test]
fn keys_hosts_and_origins_are_checked() {
    let server = Server::start(|settings, _| settings.api_keys = vec!["secret".into()]);
    let body = chat("x").to_string();
    assert_eq!(server.ask("POST", "/v1/chat/completions", &[], &body).0, 401);
    assert_eq!(server.ask("POST", "/v1/chat/completions", &[("Authorization", "Bearer secret")], &body).0, 200);
    assert_eq!(server.ask("GET", "/metrics", &[], "").0, 401);
    assert_eq!(server.ask("GET", "/health", &[], "").0, 200);
    let evil = [("Authorization", "Bearer secret"), ("Origin", "http://evil.example")];
    assert_eq!(server.ask("POST", "/v1/chat/completions", &evil, &body).0, 403);
    assert_eq!(server.ask("GET", "/health", &[("Host", "rebound.example")], "").0, 403);
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let server = Server::start(|settings, _| settings.body = 1000);
    let (status, text) = server.ask("POST", "/v1/chat/completions", &[], &chat(&"x".repeat(2000)).to_string());
    assert!(status == 413 && text.contains("1000 bytes"), "{status} {text}");
}

#[test]
fn kept_prompts_are_given_up_when_that_is_asked_for() {
    let server = start();
    assert_eq!(server.post("/v1/chat/completions", &chat(&"The tower is green. ".repeat(20))).0, 200);
    let bytes = || {
        let props: Value = serde_json::from_str(&server.ask("GET", "/props", &[], "").1).unwrap();
        props["kv"]["bytes"].as_u64().unwrap()
    };
    assert!(bytes() > 0);
    assert_eq!(server.ask("POST", "/reset_prefix_cache", &[], "").0, 200);
    let start = std::time::Instant::now();
    while bytes() > 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    // With several keys, nobody gives up what others had read.
    let shared = Server::start(|settings, _| settings.api_keys = vec!["mine".into(), "yours".into()]);
    assert_eq!(shared.ask("POST", "/reset_prefix_cache", &[("x-api-key", "mine")], "").0, 403);
}

#[test]
fn a_client_that_goes_away_frees_its_memory() {
    let server = Server::start(|_, scheduling| scheduling.checkpoints = 0);
    let mut body = chat("tell me");
    body["max_tokens"] = 4000.into();
    body["stream"] = true.into();
    let mut stream = server.open("POST", "/v1/chat/completions", &[], &body.to_string());
    let mut some = [0; 400];
    stream.read_exact(&mut some).unwrap();
    let start = std::time::Instant::now();
    while server.engine.stats().running != 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", server.engine.stats());
    }
    drop(stream);
    while server.engine.stats().kv_bytes > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", server.engine.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.engine.stats().cancelled, 1);
}

#[test]
fn completions_take_texts_and_tokens_and_tell_probabilities() {
    let server = start();
    let body = json!({"prompt": ["abc", "abc"], "max_tokens": 6, "temperature": 0, "logprobs": 2, "n": 1});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    let logprobs = &choices[0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 6);
    let first = logprobs["token_logprobs"][0].as_f64().unwrap();
    assert!(first <= 0.0 && logprobs["top_logprobs"][0].as_object().unwrap().len() >= 2);
    let tokens: Vec<u32> = "abc".bytes().map(u32::from).collect();
    let (_, same) = server.post("/v1/completions", &json!({"prompt": tokens, "max_tokens": 6, "temperature": 0}));
    assert_eq!(same["choices"][0]["text"], choices[0]["text"]);
    let echo = json!({"prompt": "abc", "max_tokens": 6, "temperature": 0, "echo": true, "stream": true});
    let text: String =
        server.stream("/v1/completions", &echo).iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, format!("abc{}", choices[0]["text"].as_str().unwrap()));
    assert_eq!(server.post("/v1/completions", &json!({"prompt": [1, 100_000]})).0, 400);
}

#[test]
fn messages_are_answered_as_anthropic_does() {
    let server = start();
    let mut body = json!({
        "model": "tiny", "max_tokens": 9, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}], "temperature": 0,
    });
    let (status, whole) = server.post("/v1/messages", &body);
    assert_eq!(status, 200, "{whole}");
    assert_eq!((whole["type"].as_str(), whole["stop_reason"].as_str()), (Some("message"), Some("max_tokens")));
    let prompt = "<system>Be brief.</system><user>Hello?</user><assistant>".len() as u64;
    assert_eq!(whole["usage"]["input_tokens"].as_u64(), Some(prompt));
    let (_, counted) = server.post("/v1/messages/count_tokens", &body);
    assert_eq!(counted["input_tokens"].as_u64(), Some(prompt));
    body["stream"] = true.into();
    let events = server.stream("/v1/messages", &body);
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).filter(|kind| *kind != "ping").collect();
    assert_eq!((kinds[0], kinds[1]), ("message_start", "content_block_start"));
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(Some(text.as_str()), whole["content"][0]["text"].as_str());
    // What the assistant began is gone on from.
    body["stream"] = false.into();
    body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "I"}));
    let (_, begun) = server.post("/v1/messages", &body);
    assert_eq!(
        begun["usage"]["input_tokens"].as_u64().unwrap() + begun["usage"]["cache_read_input_tokens"].as_u64().unwrap(),
        prompt + 1
    );
}

#[test]
fn stop_strings_and_counts_are_honoured() {
    let server = start();
    let (_, free) = server.post("/v1/completions", &json!({"prompt": "abc", "max_tokens": 40, "temperature": 0}));
    let text = free["choices"][0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(5).take(2).collect();
    let body = json!({"prompt": "abc", "max_tokens": 40, "temperature": 0, "stop": stop});
    let (_, stopped) = server.post("/v1/completions", &body);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["choices"][0]["text"].as_str().unwrap(), &text[..text.find(&stop).unwrap()]);
    let (_, several) = server.post(
        "/v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "x"}], "n": 3, "seed": 1, "max_tokens": 20}),
    );
    let texts: Vec<&str> =
        several["choices"].as_array().unwrap().iter().filter_map(|c| c["message"]["content"].as_str()).collect();
    assert!(texts.len() == 3 && texts[0] != texts[1], "{texts:?}");
}

#[test]
fn what_is_known_of_the_model_and_the_server_is_told() {
    let server = start();
    let get = |path: &str| {
        let (status, text) = server.ask("GET", path, &[], "");
        assert_eq!(status, 200, "{path}: {text}");
        text
    };
    let models: Value = serde_json::from_str(&get("/v1/models")).unwrap();
    assert_eq!(models["data"][0]["id"], "tiny");
    assert!(models["data"][0]["max_model_len"].as_u64() > Some(100));
    let props: Value = serde_json::from_str(&get("/props")).unwrap();
    assert_eq!((props["kv"]["budget"].as_str(), props["kv"]["bytes_limit"].as_u64()), (Some("25%"), Some(64 << 20)));
    let info: Value = serde_json::from_str(&get("/tokenizer_info")).unwrap();
    assert_eq!(info["chat_template"], TEMPLATE);
    let (_, tokens) = server.post("/tokenize", &json!({"prompt": "añb"}));
    assert_eq!((tokens["count"].as_u64(), tokens["tokens"].as_array().map(Vec::len)), (Some(4), Some(4)));
    let (_, text) = server.post("/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!(text["prompt"], "añb");
    let metrics = get("/metrics");
    assert!(metrics.contains("vllm:num_requests_running{") && metrics.contains("chelsea:kv_bytes{"));
    assert!(get("/").contains("<title>Chelsea</title>"));
    get("/ready");
    get("/version");
}

#[test]
fn more_requests_than_may_wait_are_told_to_try_again() {
    let server = Server::start(|_, scheduling| (scheduling.waiting, scheduling.running) = (2, 1));
    let mut body = chat("x");
    body["max_tokens"] = 500.into();
    let body = body.to_string();
    let streams: Vec<TcpStream> = (0..8).map(|_| server.open("POST", "/v1/chat/completions", &[], &body)).collect();
    let statuses: Vec<u16> = streams
        .into_iter()
        .map(|mut stream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            if text.contains(" 429 ") {
                assert!(text.to_lowercase().contains("retry-after: 1"), "{text}");
            }
            text.split(' ').nth(1).unwrap().parse().unwrap()
        })
        .collect();
    let count = |status| statuses.iter().filter(|&&s| s == status).count();
    assert!(count(200) >= 2 && count(429) >= 1 && count(200) + count(429) == 8, "{statuses:?}");
}

#[test]
fn those_who_ask_are_told_how_the_entries_of_their_cache_lie() {
    let server = start();
    let mut body = chat(&"The tower was built in 1931 and painted green. ".repeat(20));
    let (_, without) = server.post("/v1/chat/completions", &body);
    assert!(without["kv"]["layout"].is_null());
    body["kv"] = json!({"layout": true});
    let (status, whole) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["choices"], without["choices"], "an answer does not depend on who watches");
    let counted = |kv: &Value| -> u64 {
        let heads = kv["layout"]["heads"].as_array().unwrap();
        let of_head = |head: &Value| {
            let clustered: u64 = head["clustered"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
            head["sinks"].as_u64().unwrap() + clustered + head["recent"].as_u64().unwrap()
        };
        heads.iter().map(of_head).sum()
    };
    assert_eq!(Some(counted(&whole["kv"])), whole["kv"]["entries"].as_u64());
    body["stream"] = true.into();
    let told = |path: &str, body: &Value| -> Vec<Value> {
        let events = server.stream(path, body);
        events.into_iter().map(|mut event| event["kv"].take()).filter(Value::is_object).collect()
    };
    let kv = told("/v1/chat/completions", &body);
    assert!(kv.len() >= 2, "one while it is read and one at the end: {kv:?}");
    for kv in &kv {
        assert_eq!(Some(counted(kv)), kv["entries"].as_u64());
    }
    assert_eq!(kv.last().unwrap()["layout"], whole["kv"]["layout"]);
    let completion = json!({"prompt": "abc".repeat(200), "max_tokens": 5, "stream": true, "kv": {"layout": true}});
    assert!(told("/v1/completions", &completion).len() >= 2);
    let message = json!({
        "max_tokens": 5, "stream": true, "kv": {"layout": true}, "messages": [{"role": "user", "content": "abc".repeat(200)}],
    });
    assert!(told("/v1/messages", &message).len() >= 2);
}

#[test]
fn the_pages_load_nothing_but_what_is_here() {
    let server = start();
    for path in ["/", "/docs"] {
        let (status, page) = server.ask("GET", path, &[], "");
        assert_eq!(status, 200);
        let links = page.split('"').filter(|part| part.starts_with("/assets/"));
        let links: Vec<&str> = links.collect();
        assert!(links.len() >= 2, "{path}: {links:?}");
        for link in links {
            assert_eq!(server.ask("GET", link, &[], "").0, 200, "{link}");
        }
        assert!(
            !page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org/").count()
        );
        let mut stream = server.open("GET", path, &[], "");
        let mut head = String::new();
        stream.read_to_string(&mut head).unwrap();
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    }
    let (status, text) = server.ask("GET", "/assets/none.js", &[], "");
    assert!(status == 404 && text.contains("none.js"), "{text}");
}

#[test]
fn a_wrong_method_is_told_which_ones_there_are() {
    let server = start();
    for (method, path, allowed) in [
        ("GET", "/v1/completions", "POST"),
        ("DELETE", "/health", "GET,HEAD"),
        ("PATCH", "/v1/models/tiny", "GET,HEAD"),
    ] {
        let mut stream = server.open(method, path, &[], "");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        assert!(text.contains(&format!("allow: {allowed}\r\n")), "{method} {path}: {text}");
        assert!(text.contains("invalid_request_error"), "{text}");
    }
    for path in ["/v1/models/%ff", "/assets/%ff"] {
        let (status, text) = server.ask("GET", path, &[], "");
        assert!(status == 400 && text.contains("\"error\""), "{status} {text}");
    }
}
