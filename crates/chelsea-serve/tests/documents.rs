//! Documents that are put on the server once, and asked about by their ids.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::scheduler::DiskOptions;
use chelsea_serve::{FileLimits, Files};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{Server, start};

const KEY: &str = "x-api-key";

fn document() -> String {
    "The tower was built in 1931 and painted green. ".repeat(12).trim_end().to_owned()
}

fn get(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let (status, text) = server.ask(method, path, headers, "");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn put(server: &Server, headers: &[(&str, &str)], name: &str, text: &str) -> Value {
    let (status, file) = server.ask("POST", "/v1/files", headers, &json!({"name": name, "text": text}).to_string());
    assert_eq!(status, 200, "{file}");
    serde_json::from_str(&file).unwrap()
}

fn asked(id: &str, question: &str) -> Value {
    json!({
        "messages": [{"role": "user", "content": question}], "max_tokens": 8, "temperature": 0, "kv": {"document": id},
    })
}

fn cached(answer: &Value) -> usize {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() as usize
}

#[test]
fn a_document_is_read_once_and_goes_before_the_question_as_a_text_of_the_users() {
    // One that the random model says something to.
    const QUESTION: &str = "Which colour is it?";
    let server = start();
    let id = put(&server, &[], "tower.txt", &format!("\u{feff}{}\n\n", document()))["id"].as_str().unwrap().to_owned();
    let (status, first) = server.post("/v1/chat/completions", &asked(&id, "When?"));
    assert_eq!(status, 200, "{first}");
    let before = format!("<user>{}\n\n", document()).len();
    let after = "When?</user><assistant>".len();
    assert_eq!((first["usage"]["prompt_tokens"].as_u64(), cached(&first)), (Some((before + after) as u64), 0));
    let (_, second) = server.post("/v1/chat/completions", &asked(&id, QUESTION));
    assert_eq!(cached(&second), before);
    assert_ne!(second["choices"][0]["message"]["content"], "");
    // As a part of a message it is the same prompt; so it is to a server that has read nothing.
    let part = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": QUESTION}, {"type": "file", "file": {"file_id": id}},
    ]}], "max_tokens": 8, "temperature": 0});
    let (_, third) = server.post("/v1/chat/completions", &part);
    assert_eq!((cached(&third), &third["choices"]), (before + after - 5 + QUESTION.len(), &second["choices"]));
    let input = json!({"input": [{"role": "user", "content": [
        {"type": "input_text", "text": QUESTION}, {"type": "input_file", "file_id": id},
    ]}], "max_output_tokens": 8, "temperature": 0});
    let (_, response) = server.post("/v1/responses", &input);
    assert_eq!(response["output"][0]["content"][0]["text"], second["choices"][0]["message"]["content"], "{response}");
    let fresh = start();
    let id = put(&fresh, &[], "tower.txt", &document())["id"].as_str().unwrap().to_owned();
    let (_, alone) = fresh.post("/v1/chat/completions", &asked(&id, QUESTION));
    assert_eq!((cached(&alone), &alone["choices"]), (0, &second["choices"]));
}

#[test]
fn every_interface_takes_a_document() {
    let server = start();
    let id = put(&server, &[], "tower.txt", &document())["id"].as_str().unwrap().to_owned();
    let message = json!({
        "system": "Be brief.", "messages": [{"role": "user", "content": "When?"}], "max_tokens": 4,
        "kv": {"document": id},
    });
    let prompt = format!("<system>Be brief.</system><user>{}\n\nWhen?</user><assistant>", document());
    let (status, answer) = server.post("/v1/messages", &message);
    assert_eq!((status, answer["usage"]["input_tokens"].as_u64()), (200, Some(prompt.len() as u64)), "{answer}");
    let (_, count) = server.post("/v1/messages/count_tokens", &message);
    assert_eq!(count["input_tokens"], prompt.len());
    let raw = json!({"prompt": "When? ", "max_tokens": 4, "kv": {"document": id}, "echo": true});
    let (status, answer) = server.post("/v1/completions", &raw);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], document().len() + "\n\nWhen? ".len());
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with("When? "));
    let (_, again) = server.post("/v1/completions", &raw);
    assert_eq!(cached(&again), document().len() + "\n\nWhen? ".len());
}

#[test]
fn documents_belong_to_the_key_that_brought_them() {
    let server = Server::start(|settings, _| {
        settings.api_keys = vec!["one".into(), "two".into()];
        settings.files = Arc::new(Files::in_memory(FileLimits { files: 2, bytes: 2000 }));
    });
    let (one, two) = ([(KEY, "one")], [(KEY, "two")]);
    let file = put(&server, &one, "tower.txt", &document());
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!((&file["object"], &file["filename"]), (&json!("file"), &json!("tower.txt")));
    assert_eq!(get(&server, "GET", &path, &one), (200, file.clone()));
    assert_eq!(server.ask("GET", &format!("{path}/content"), &one, ""), (200, document()));
    for (method, path) in [("GET", path.clone()), ("GET", format!("{path}/content")), ("DELETE", path.clone())] {
        let (status, error) = get(&server, method, &path, &two);
        assert_eq!((status, &error["error"]["type"]), (404, &json!("invalid_request_error")), "{error}");
    }
    let body = asked(file["id"].as_str().unwrap(), "When?").to_string();
    assert_eq!(server.ask("POST", "/v1/chat/completions", &two, &body).0, 404);
    assert_eq!(get(&server, "GET", "/v1/files", &two).1["data"], json!([]));
    // So many, and so long together, for each key.
    let text = |n: usize| json!({"name": "x", "text": "x".repeat(n)}).to_string();
    let (status, error) = server.ask("POST", "/v1/files", &one, &text(1900));
    assert!(status == 413 && error.contains("2000 bytes"), "{error}");
    assert_eq!(server.ask("POST", "/v1/files", &one, &text(10)).0, 200);
    let (status, error) = server.ask("POST", "/v1/files", &one, &text(10));
    assert!(status == 413 && error.contains("delete one first"), "{error}");
    assert_eq!(server.ask("POST", "/v1/files", &two, &text(1900)).0, 200);
    assert_eq!(
        get(&server, "DELETE", &path, &one),
        (
            200,
            json!({
                "id": file["id"], "object": "file", "deleted": true,
            })
        )
    );
    assert_eq!(get(&server, "GET", &path, &one).0, 404);
    assert_eq!(server.ask("POST", "/v1/chat/completions", &one, &body).0, 404);
}

#[test]
fn files_are_listed_page_by_page() {
    let server = start();
    let ids: Vec<Value> = (0..3).map(|i| put(&server, &[], &format!("{i}"), "text")["id"].clone()).collect();
    let (_, all) = get(&server, "GET", "/v1/files?order=asc", &[]);
    let listed: Vec<&Value> = all["data"].as_array().unwrap().iter().map(|file| &file["id"]).collect();
    assert_eq!(listed.len(), 3);
    assert!(ids.iter().all(|id| listed.contains(&id)) && all["has_more"] == false);
    let (_, page) = get(&server, "GET", "/v1/files?order=asc&limit=2", &[]);
    assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (2, &json!(true)));
    let after = page["last_id"].as_str().unwrap();
    let (_, rest) = get(&server, "GET", &format!("/v1/files?order=asc&after={after}"), &[]);
    assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (listed[2], &json!(false)));
    assert_eq!(get(&server, "GET", "/v1/files?purpose=assistants", &[]).1["data"], json!([]));
    for bad in ["?limit=0", "?after=file-none", "?order=up", "?frobnicate=1"] {
        let (status, error) = get(&server, "GET", &format!("/v1/files{bad}"), &[]);
        assert!(status == 400 && error["error"]["message"].is_string(), "{bad} {error}");
    }
}

/// A field of a form: its name, what else its head says, and its content.
type Field<'a> = (&'a str, &'a str, &'a [u8]);

fn form(fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, rest, content) in fields {
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{rest}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    body
}

#[test]
fn files_come_as_forms_and_what_is_no_text_is_refused() {
    let server = Server::start(|settings, _| settings.body = 4096);
    let headers = [("Content-Type", "multipart/form-data; boundary=XX")];
    let send = |fields: &[Field<'_>]| {
        let body = form(fields);
        let (status, text) = server.ask_bytes("POST", "/v1/files", &headers, &body);
        (status, serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text)))
    };
    let named = "; filename=\"a tower.txt\"";
    let (status, file) = send(&[("purpose", "", b"user_data"), ("file", named, "naïve".as_bytes())]);
    assert_eq!((status, &file["filename"], &file["bytes"]), (200, &json!("a tower.txt"), &json!(6)), "{file}");
    let cases: &[(&[Field<'_>], u16, &str)] = &[
        (&[("file", named, b"text")], 400, "purpose"),
        (&[("purpose", "", b"user_data")], 400, "file"),
        (&[("purpose", "", b"fine-tune"), ("file", named, b"text")], 400, "fine-tune"),
        (&[("purpose", "", b"user_data"), ("file", named, b"caf\xe9")], 400, "UTF-8"),
        (&[("purpose", "", b"user_data"), ("file", named, b" \n")], 400, "empty"),
        (&[("purpose", "", b"user_data"), ("expires_after", "", b"1"), ("file", named, b"t")], 400, "expires_after"),
        (&[("purpose", "", b"user_data"), ("file", named, &[b'x'; 5000])], 413, "4096"),
    ];
    for (fields, expected, word) in cases {
        let (status, error) = send(fields);
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(status == *expected && message.contains(word), "{status} {error}");
    }
    let (status, error) = server.ask("POST", "/v1/files", &[], "{\"name\": \"x\"}");
    assert!(status == 400 && error.contains("text"), "{error}");
    let (status, error) = server.ask("POST", "/v1/files", &headers, "no form");
    assert!(status == 400 && error.contains("form"), "{error}");
}

#[test]
fn what_cannot_go_before_a_conversation_is_told() {
    let server = start();
    let id = put(&server, &[], "tower.txt", &document())["id"].as_str().unwrap().to_owned();
    let part = json!({"type": "file", "file": {"file_id": id}});
    let cases = [
        (asked("file-none", "When?"), 404, "file-none"),
        (json!({"messages": [{"role": "system", "content": "x"}], "kv": {"document": id}}), 400, "user"),
        (json!({"messages": [{"role": "system", "content": [part]}]}), 400, "user"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "eA=="}}]}]}),
            400,
            "/v1/files",
        ),
        (json!({"messages": [{"role": "user", "content": "x"}], "kv": {"min": "30%"}}), 400, "less than"),
        (json!({"messages": [{"role": "user", "content": "x"}], "kv": {"min": "some"}}), 400, "kv.min"),
    ];
    for (body, expected, word) in cases {
        let (status, error) = server.post("/v1/chat/completions", &body);
        assert!(status == expected && error.to_string().contains(word), "{body} {status} {error}");
    }
    let allowed = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "kv": {"min": "20%"}});
    assert_eq!(server.post("/v1/chat/completions", &allowed).0, 200);
}

/// A server on a folder, and its end: when that is reached, everything is written and the folder is free.
fn in_folder(folder: &Path) -> Server {
    Server::start(|settings, scheduling| {
        scheduling.disk = Some(DiskOptions { folder: folder.to_owned(), bytes: 1 << 30 });
        settings.files = Arc::new(Files::in_folder(&folder.join("documents"), FileLimits::default()).unwrap());
    })
}

fn end(server: Server) {
    let engine = server.engine.clone();
    drop(server);
    while engine.is_alive() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn documents_and_what_was_read_of_them_outlive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let first = in_folder(folder.path());
    let file = put(&first, &[], "tower.txt", &document());
    let id = file["id"].as_str().unwrap().to_owned();
    let (_, asked_first) = first.post("/v1/chat/completions", &asked(&id, "When?"));
    end(first);
    let second = in_folder(folder.path());
    assert_eq!(get(&second, "GET", "/v1/files", &[]).1["data"], json!([file]));
    let (_, asked_again) = second.post("/v1/chat/completions", &asked(&id, "When?"));
    assert_eq!(cached(&asked_again), format!("<user>{}\n\n", document()).len());
    assert_eq!(asked_again["choices"], asked_first["choices"]);
    end(second);
}
