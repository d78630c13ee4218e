//! Two real servers: one reads, and hands its caches to the other.

use crate::serve::{Server, cached, model};
use crate::support::{self, chelsea};
use serde_json::{Value, json};
use std::path::Path;

/// One that reads, and one that takes caches from it.
fn pair(folder: &Path, memory: &str, model: &str, args: [&[&str]; 2]) -> [Server; 2] {
    let token = folder.join("token");
    std::fs::write(&token, "between the two").unwrap();
    let token = ["--transfer-token-file", token.to_str().unwrap()];
    let reader = Server::start_in(memory, model, &[args[0], &token].concat());
    let peer = ["--transfer-peer", &reader.address];
    let answerer = Server::start_in(memory, model, &[args[1], &token, &peer].concat());
    [reader, answerer]
}

fn complete(server: &Server, body: &Value) -> Value {
    let (status, answer) = server.ask("POST", "/v1/completions", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    answer
}

/// What the second server answers once the first one has read the prompt.
fn handed_over([reader, answerer]: &[Server; 2], body: &Value) -> Value {
    let with = |more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let hand = json!({ "max_tokens": 1, "kv_transfer_params": { "do_remote_decode": true } });
    let offer = complete(reader, &with(hand))["kv_transfer_params"].clone();
    assert!(offer["bytes"].as_u64().unwrap() > 0, "{offer}");
    complete(answerer, &with(json!({ "kv_transfer_params": offer })))
}

fn refused(server: &Server) -> f64 {
    let (_, metrics) = server.ask("GET", "/metrics", "");
    let line = metrics.as_str().unwrap().lines().find(|line| line.starts_with("chelsea:kv_refused_total{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs models"]
fn a_cache_that_was_handed_over_answers_token_for_token_as_one_that_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = support::model();
    let model = model.to_str().unwrap();
    let text = support::essays(6_000);
    for budget in ["100%", "25%"] {
        let args = ["--kv-budget", budget];
        let servers = pair(folder.path(), "256MiB", model, [&args, &args]);
        let alone = Server::start_in("256MiB", model, &args);
        for (sampling, characters) in [(json!({ "temperature": 0 }), 6_000), (json!({ "seed": 7 }), 3_000)] {
            let prompt: String = text.chars().take(characters).collect();
            // With how likely each token was: the same to the last digit.
            let mut body = json!({ "prompt": prompt, "max_tokens": 48, "ignore_eos": true, "logprobs": 3 });
            body.as_object_mut().unwrap().extend(sampling.as_object().unwrap().clone());
            let read = complete(&alone, &body);
            let over = handed_over(&servers, &body);
            assert_eq!(read["usage"]["completion_tokens"], 48, "{read}");
            assert_eq!(over["choices"], read["choices"], "{budget} {sampling}");
            assert_eq!((cached(&read), Some(cached(&over))), (0, over["usage"]["prompt_tokens"].as_u64()));
        }
        assert_eq!(refused(&servers[1]), 0.0);
    }
}

#[test]
fn a_cache_that_went_on_from_a_mounted_text_is_taken_only_where_that_text_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = "The tower was built in 1931 and painted green. ".repeat(40).trim_end().to_owned();
    std::fs::write(path("doc.txt"), &text).unwrap();
    let args = ["cache", "build", "-m", &model, "-f", &path("doc.txt"), "-o", &path("doc.kv"), "--no-chat-template"];
    let out = chelsea(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mount = ["--mount", &path("doc.kv")];
    // Word for word what a document and a question are, so that a server without it can be asked, too.
    let body = json!({
        "prompt": format!("{text}\n\nWhich colour was it painted, and when?"), "max_tokens": 8, "temperature": 0,
    });
    let with = Server::start(&model, &mount);
    let read = complete(&with, &body);
    let both = pair(folder.path(), "64MiB", &model, [&mount, &mount]);
    let over = handed_over(&both, &body);
    assert_eq!(over["choices"], read["choices"]);
    assert!(cached(&read) > 0 && Some(cached(&over)) == over["usage"]["prompt_tokens"].as_u64(), "{read} {over}");
    // One that has it, and one that has not, in either order.
    let without = complete(&Server::start(&model, &[]), &body);
    for (args, alone) in [([&mount[..], &[]], &without), ([&[], &mount[..]], &read)] {
        let servers = pair(folder.path(), "64MiB", &model, args);
        let over = handed_over(&servers, &body);
        assert_eq!((&over["choices"], cached(&over)), (&alone["choices"], cached(alone)));
        assert_eq!(refused(&servers[1]), 1.0);
    }
}
