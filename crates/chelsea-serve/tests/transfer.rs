//! Caches that one server hands to another: the answer is the one that reading gives, whatever happens on the way.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::Server;

const TOKEN: &str = "between the two";

/// What the wire does to bytes from the one who reads, for every connection in turn.
type Wire = fn(usize, Vec<u8>) -> Vec<u8>;

/// A server that reads.
fn reader(change: impl FnOnce(&mut chelsea_serve::Settings)) -> Server {
    Server::start(|settings, _| {
        settings.transfer.token = Some(TOKEN.into());
        settings.transfer.url = "http://127.0.0.1:1".into();
        change(settings);
    })
}

/// A server that answers, and takes caches from this peer.
fn answerer(peer: SocketAddr, change: impl FnOnce(&mut chelsea_serve::Settings)) -> Server {
    Server::start(|settings, _| {
        settings.transfer.token = Some(TOKEN.into());
        settings.transfer.peers = vec![peer.to_string()];
        change(settings);
    })
}

/// Stands between the two, and does to each answer what `wire` does. Counts connections.
fn between(reader: SocketAddr, wire: Wire) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match client.read(&mut buffer) {
                    Ok(n) if n > 0 => asked.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&asked).replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let Ok(mut server) = TcpStream::connect(reader) else { return };
            server.write_all(text.as_bytes()).unwrap();
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).unwrap();
            let _gone = client.write_all(&wire(number, answer));
        }
    });
    (address, connections)
}

/// Where the body of an answer begins.
fn body(answer: &[u8]) -> usize {
    answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4
}

fn prompt() -> String {
    (0..90).map(|i| format!("Line {i} says that {} is next. ", i * 37 % 91)).collect()
}

fn ask(prompt: &str) -> Value {
    json!({"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": true})
}

fn with(mut body: Value, params: Value) -> Value {
    body["kv_transfer_params"] = params;
    body
}

/// Has a prompt read, and says where its cache is, under another address.
fn read(reader: &Server, prompt: &str, at: SocketAddr) -> Value {
    let mut request = with(ask(prompt), json!({"do_remote_decode": true}));
    request["max_tokens"] = 1.into();
    let (status, answer) = reader.post("/v1/completions", &request);
    assert_eq!(status, 200, "{answer}");
    let mut params = answer["kv_transfer_params"].clone();
    let url = params["url"].as_str().unwrap().replace("127.0.0.1:1/", &format!("{at}/"));
    params["url"] = url.into();
    params
}

fn figure(server: &Server, name: &str) -> f64 {
    let (_, text) = server.ask("GET", "/metrics", &[], "");
    let line = text.lines().find(|line| line.starts_with(&format!("chelsea:{name}{{"))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits for what happens beside an answer.
fn until(what: &str, happened: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !happened() {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The answer to a prompt that a server of its own reads.
fn local(prompt: &str) -> Value {
    let (_, answer) = support::start().post("/v1/completions", &ask(prompt));
    answer["choices"].clone()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[test]
fn a_cache_that_was_handed_over_gives_the_answer_that_reading_gives() {
    let (reader, text) = (reader(|_| ()), prompt());
    let (wire, _) = between(reader.address, |_, bytes| bytes);
    let answerer = answerer(wire, |_| ());
    let params = read(&reader, &text, wire);
    let (status, answer) = answerer.post("/v1/completions", &with(ask(&text), params.clone()));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"], local(&text));
    assert_eq!(cached(&answer), text.len() as u64, "nothing was read here");
    assert_eq!(figure(&answerer, "kv_taken_over_total"), 1.0);
    assert_eq!(figure(&answerer, "kv_taken_over_bytes_total"), params["bytes"].as_f64().unwrap());
    // It has arrived, and is not kept any longer.
    until("it was given up", || figure(&reader, "kv_kept_for_peers_bytes") == 0.0);
    let (_, again) = answerer.post("/v1/completions", &with(ask(&text), params));
    assert_eq!(again["choices"], answer["choices"], "what is gone is read");
}

#[test]
fn a_chat_is_handed_over_with_the_cuts_between_its_turns() {
    let reader = reader(|_| ());
    let (wire, _) = between(reader.address, |_, bytes| bytes);
    let answerer = answerer(wire, |_| ());
    let chat = json!({
        "messages": [
            {"role": "system", "content": prompt()},
            {"role": "user", "content": "What is said first? ".repeat(8)},
        ],
        "max_tokens": 16, "temperature": 0, "ignore_eos": true,
    });
    let (_, first) = reader.post("/v1/chat/completions", &with(chat.clone(), json!({"do_remote_decode": true})));
    let mut params = first["kv_transfer_params"].clone();
    params["url"] = params["url"].as_str().unwrap().replace("127.0.0.1:1/", &format!("{wire}/")).into();
    let (status, second) = answerer.post("/v1/chat/completions", &with(chat, params));
    assert_eq!(status, 200, "{second}");
    assert_eq!(second["choices"], first["choices"]);
    assert_eq!(second["usage"]["prompt_tokens"].as_u64(), Some(cached(&second)));
}

#[test]
fn what_breaks_off_is_taken_up_again_where_it_broke() {
    let (reader, text) = (reader(|_| ()), prompt());
    // Each of the first connections brings a third, and then breaks.
    let (wire, connections) = between(reader.address, |number, bytes| match number {
        0 | 1 => bytes[..body(&bytes) + (bytes.len() - body(&bytes)) / 3].to_vec(),
        _ => bytes,
    });
    let answerer = answerer(wire, |_| ());
    let params = read(&reader, &text, wire);
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params));
    assert_eq!(answer["choices"], local(&text));
    assert_eq!(cached(&answer), text.len() as u64);
    assert!(connections.load(Ordering::SeqCst) >= 3);
    let sent = figure(&reader, "kv_handed_over_bytes_total");
    let bytes = figure(&answerer, "kv_taken_over_bytes_total");
    assert!(sent < 3.0 * bytes, "it went on where it was: {sent} of {bytes}");
}

#[test]
fn what_arrives_damaged_or_short_is_refused_and_the_prompt_is_read() {
    let text = prompt();
    let expected = local(&text);
    let damages: [(&str, Wire); 4] = [
        ("a bit in the middle", |_, mut bytes| {
            let at = (body(&bytes) + bytes.len()) / 2;
            bytes[at] ^= 1;
            bytes
        }),
        ("a bit of the logits", |_, mut bytes| {
            let at = bytes.len() - 100;
            bytes[at] ^= 64;
            bytes
        }),
        ("always cut at the same place", |_, bytes| {
            let at = body(&bytes) + 500;
            bytes[..at.min(bytes.len())].to_vec()
        }),
        ("something else", |_, _| {
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_vec()
        }),
    ];
    for (what, wire) in damages {
        let reader = reader(|_| ());
        let (wire, _) = between(reader.address, wire);
        let answerer = answerer(wire, |_| ());
        let params = read(&reader, &text, wire);
        let (status, answer) = answerer.post("/v1/completions", &with(ask(&text), params));
        assert_eq!(status, 200, "{what}: {answer}");
        assert_eq!(answer["choices"], expected, "{what}");
        assert_eq!(cached(&answer), 0, "{what}: it was read");
        assert_eq!(figure(&answerer, "kv_refused_total"), 1.0, "{what}");
    }
}

#[test]
fn a_cache_of_another_prompt_or_of_other_settings_is_not_gone_on_from() {
    let (first, text) = (reader(|_| ()), prompt());
    let (wire, _) = between(first.address, |_, bytes| bytes);
    let answerer = answerer(wire, |_| ());
    let other = text.replacen("Line 3 ", "Lime 3 ", 1);
    let params = read(&first, &other, wire);
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params.clone()));
    assert_eq!((cached(&answer), &answer["choices"]), (0, &local(&text)));
    // The bytes are those that were promised, and the promise is another one.
    let mut promised = read(&first, &text, wire);
    promised["digest"] = params["digest"].clone();
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), promised));
    assert_eq!(cached(&answer), answer["usage"]["prompt_tokens"].as_u64().unwrap(), "its own checkpoint");
    // Another budget.
    let params = read(&first, &format!("{text}!"), wire);
    let mut request = with(ask(&format!("{text}!")), params);
    request["kv"] = json!({"budget": "10%"});
    let (_, answer) = answerer.post("/v1/completions", &request);
    assert_eq!(cached(&answer), 0);
    assert_eq!(figure(&answerer, "kv_refused_total"), 3.0);
}

#[test]
fn nobody_is_asked_but_peers_and_only_they_are_answered() {
    let (reader, text) = (reader(|_| ()), prompt());
    let (wire, connections) = between(reader.address, |_, bytes| bytes);
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answerer = answerer(elsewhere, |_| ());
    let params = read(&reader, &text, wire);
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params.clone()));
    assert_eq!((cached(&answer), &answer["choices"]), (0, &local(&text)));
    assert_eq!(connections.load(Ordering::SeqCst), 0, "a server that is no peer was asked");
    let path = params["url"].as_str().unwrap().split_once(&wire.to_string()).unwrap().1.to_owned();
    for headers in [vec![], vec![("Authorization", "Bearer wrong")]] {
        assert_eq!(reader.ask("GET", &path, &headers, "").0, 401);
        assert_eq!(reader.ask("DELETE", &path, &headers, "").0, 401);
    }
    let known = [("Authorization", "Bearer between the two")];
    for range in ["bytes=999999999-", "bytes=9-5", "lines=1-", "bytes=-5"] {
        assert_eq!(reader.ask("GET", &path, &[known[0], ("Range", range)], "").0, 416, "{range}");
    }
    assert_eq!(reader.ask("DELETE", &path, &known, "").0, 204);
    assert_eq!(reader.ask("GET", &path, &known, "").0, 404);
}

#[test]
fn caches_that_nobody_fetches_are_given_up() {
    let reader = reader(|settings| settings.transfer.keep = std::time::Duration::from_millis(300));
    let params = read(&reader, &prompt(), reader.address);
    assert_eq!(figure(&reader, "kv_kept_for_peers_bytes"), params["bytes"].as_f64().unwrap());
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(figure(&reader, "kv_kept_for_peers_bytes"), 0.0);
    // One that is larger than all may be is not kept at all.
    let small = self::reader(|settings| settings.transfer.bytes = 1000);
    let (status, answer) = small.post("/v1/completions", &with(ask(&prompt()), json!({"do_remote_decode": true})));
    // The answer is not lost for that.
    assert_eq!((status, &answer["choices"]), (200, &local(&prompt())), "{answer}");
    assert_eq!(answer.get("kv_transfer_params"), None);
    assert_eq!(figure(&small, "kv_kept_for_peers_bytes"), 0.0);
}

#[test]
fn what_cannot_be_handed_over_is_refused() {
    let without = support::start();
    let hand = json!({"do_remote_decode": true});
    let (status, answer) = without.post("/v1/completions", &with(ask("a"), hand.clone()));
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("--transfer-token-file"), "{answer}");
    let reader = reader(|_| ());
    for (name, value) in [("stream", json!(true)), ("n", json!(2)), ("kv_transfer_params", json!({"tensors": 1}))] {
        let mut request = with(ask("a"), hand.clone());
        request[name] = value;
        let (status, answer) = reader.post("/v1/completions", &request);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("kv_transfer_params")), "{name}: {answer}");
    }
}

/// Bytes that wait at the one who reads.
fn waiting(reader: &Server) -> f64 {
    figure(reader, "kv_kept_for_peers_bytes")
}

#[test]
fn a_request_that_is_refused_takes_nothing_from_its_peer() {
    let (reader, text) = (reader(|_| ()), prompt());
    let (wire, connections) = between(reader.address, |_, bytes| bytes);
    let answerer = answerer(wire, |_| ());
    let params = read(&reader, &text, wire);
    // More than there is room for, and a server that is ending.
    let mut long = with(ask(&text.repeat(2000)), params.clone());
    long["max_tokens"] = 1.into();
    let (status, answer) = answerer.post("/v1/completions", &long);
    assert_eq!(status, 400, "{answer}");
    let busy = self::answerer(wire, |_| ());
    let endless = json!({"prompt": "a", "max_tokens": 3000, "stream": true, "ignore_eos": true});
    let stream = busy.open("POST", "/v1/completions", &[], &endless.to_string());
    until("it runs", || busy.engine.stats().running == 1);
    busy.engine.drain();
    let (status, answer) = busy.post("/v1/completions", &with(ask(&text), params.clone()));
    assert_eq!(status, 503, "{answer}");
    drop(stream);
    assert_eq!(connections.load(Ordering::SeqCst), 0, "nothing was asked for");
    assert_eq!(waiting(&reader), params["bytes"].as_f64().unwrap());
    // So that another server can take it.
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params));
    assert_eq!(cached(&answer), text.len() as u64);
}

#[test]
fn a_cache_that_arrived_is_gone_on_from_where_no_checkpoints_are_kept() {
    let (reader, text) = (reader(|_| ()), prompt());
    let (wire, _) = between(reader.address, |_, bytes| bytes);
    let answerer = Server::start(|settings, scheduling| {
        settings.transfer.token = Some(TOKEN.into());
        settings.transfer.peers = vec![wire.to_string()];
        scheduling.checkpoints = 0;
    });
    let params = read(&reader, &text, wire);
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params));
    assert_eq!((cached(&answer), &answer["choices"]), (text.len() as u64, &local(&text)));
    assert_eq!(figure(&answerer, "kv_taken_over_total"), 1.0);
    // And all of its memory is free afterwards.
    until("memory is free", || answerer.engine.stats().kv_bytes == 0);
}

/// A peer that answers the beginning of a request and then says nothing for as long as the test lives.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            counted.fetch_add(1, Ordering::SeqCst);
            let _gone = client.write_all(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10000000\r\n\r\nhello");
            open.push(client);
        }
    });
    (address, connections)
}

fn promised_by(peer: SocketAddr) -> Value {
    json!({"url": format!("http://{peer}/v1/kv/{}", "0".repeat(32)), "digest": "0".repeat(64), "bytes": 10_000_000})
}

#[test]
fn a_peer_that_falls_silent_is_given_up_soon() {
    let (peer, _) = silent();
    let patience = std::time::Duration::from_millis(200);
    let answerer = answerer(peer, |settings| settings.transfer.patience = patience);
    let start = std::time::Instant::now();
    let (_, answer) = answerer.post("/v1/completions", &with(ask("Who is there?"), promised_by(peer)));
    assert_eq!((cached(&answer), &answer["choices"]), (0, &local("Who is there?")));
    assert_eq!(figure(&answerer, "kv_refused_total"), 1.0);
    // By what is said of its bytes alone it would be ten seconds.
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn few_caches_are_fetched_at_once_and_none_for_those_who_are_gone() {
    let (peer, connections) = silent();
    let answerer = answerer(peer, |settings| settings.transfer.patience = std::time::Duration::from_secs(2));
    let request = with(ask("Who is there?"), promised_by(peer)).to_string();
    let streams: Vec<_> = (0..12).map(|_| answerer.open("POST", "/v1/completions", &[], &request)).collect();
    until("the first are fetched", || connections.load(Ordering::SeqCst) == 4);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(connections.load(Ordering::SeqCst), 4, "the others wait");
    drop(streams);
    // Those that are under way notice within the patience, and nothing is tried again.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(connections.load(Ordering::SeqCst), 4);
    let (_, answer) = answerer.post("/v1/completions", &ask("Who is there?"));
    assert_eq!(answer["choices"], local("Who is there?"));
}

#[test]
fn a_cache_that_arrived_counts_like_any_other_and_finds_room_among_checkpoints() {
    let (reader, text) = (reader(|_| ()), prompt());
    let (wire, _) = between(reader.address, |_, bytes| bytes);
    // Room for little more than two caches: checkpoints fill it before the cache comes.
    let answerer = Server::start(|settings, scheduling| {
        settings.transfer.token = Some(TOKEN.into());
        settings.transfer.peers = vec![wire.to_string()];
        scheduling.pool = chelsea_kv::Pool::with_limit(8 << 20);
    });
    for i in 0..40 {
        let (status, _) = answerer.post("/v1/completions", &ask(&format!("{i} {text}")));
        assert_eq!(status, 200);
    }
    let params = read(&reader, &text, wire);
    let (_, answer) = answerer.post("/v1/completions", &with(ask(&text), params));
    assert_eq!((cached(&answer), &answer["choices"]), (text.len() as u64, &local(&text)));
    assert_eq!(answerer.engine.stats().kv_bytes_mapped, 0, "it does not lie in a file");
    assert!(answerer.engine.pool().peak() <= 8 << 20);
}
