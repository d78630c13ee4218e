//! Clients that send a long request where the answer is a refusal: they hear of it, however they go about it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use support::Server;

/// More than a connection holds on its way.
const LONG: usize = 24 << 20;

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn head(method: &str, path: &str, more: &str) -> String {
    let host = if more.contains("Host:") { "" } else { "Host: localhost\r\n" };
    format!("{method} {path} HTTP/1.1\r\n{host}Content-Type: application/json\r\n{more}\r\n")
}

/// The head of an answer, and its body by the length that it tells.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&bytes)));
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn server() -> Server {
    Server::start(|settings, _| {
        settings.api_keys = vec!["secret".into()];
        settings.body = 1000;
    })
}

#[test]
fn whoever_sends_all_of_a_long_request_before_reading_hears_the_refusal_and_goes_on() {
    let server = server();
    let key = "x-api-key: secret\r\n";
    for (method, path, more, status) in [
        ("POST", "/v1/chat/completions", "", "401"),
        ("POST", "/v1/messages", "Host: rebound.example\r\n", "403"),
        ("POST", "/v1/nothing", key, "404"),
        ("PUT", "/v1/files", key, "405"),
        ("POST", "/v1/embeddings", key, "501"),
        ("POST", "/v1/chat/completions", key, "413"),
        ("POST", "/v1/files", key, "413"),
    ] {
        let mut stream = connect(&server);
        let head = head(method, path, &format!("{more}Content-Length: {LONG}\r\n"));
        stream.write_all(head.as_bytes()).unwrap();
        let body = vec![b'x'; LONG];
        stream.write_all(&body).unwrap_or_else(|error| panic!("{path} {status}: {error}"));
        let (told, text) = answer(&mut stream);
        assert!(told.starts_with(&format!("http/1.1 {status} ")) && text.contains("\"error\""), "{told}{text}");
        // The connection is as good as new.
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 200 "), "{path} {status}");
    }
}

#[test]
fn whoever_closes_after_one_request_hears_the_refusal_too() {
    let server = server();
    let mut stream = connect(&server);
    let more = format!("Connection: close\r\nContent-Length: {LONG}\r\n");
    stream.write_all(head("POST", "/v1/completions", &more).as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; LONG]).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 401 ") && text.contains("invalid_api_key"), "{text}");
}

#[test]
fn whoever_asks_before_sending_is_refused_without_being_told_to_go_on() {
    let server = server();
    let mut stream = connect(&server);
    let more = format!("Expect: 100-continue\r\nContent-Length: {LONG}\r\n");
    stream.write_all(head("POST", "/v1/completions", &more).as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("http/1.1 401 "));
    // Whose request is wanted is told so.
    let mut stream = connect(&server);
    let body = "{\"prompt\": \"abc\", \"max_tokens\": 1}";
    let more = format!("Expect: 100-continue\r\nx-api-key: secret\r\nContent-Length: {}\r\n", body.len());
    stream.write_all(head("POST", "/v1/completions", &more).as_bytes()).unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("http/1.1 200 "));
}

#[test]
fn a_refused_request_without_an_end_is_not_read_forever() {
    let server = server();
    let mut stream = connect(&server);
    stream.write_all(head("POST", "/v1/completions", "Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    let (told, _) = answer(&mut stream);
    assert!(told.starts_with("http/1.1 401 "), "{told}");
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
    let taken = (0..2048).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!((64..1024).contains(&taken), "{taken} MiB");
}
