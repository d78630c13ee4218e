//! A hub on 127.0.0.1 whose every answer a test decides, and a recorder of progress.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use chelsea_hub::{Options, Progress};
use sha2::{Digest, Sha256};

/// A request as the server saw it; header names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The offset asked for by `Range: bytes=N-`.
    pub fn offset(&self) -> usize {
        let range = self.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |n| n.parse().unwrap())
    }
}

/// An answer. `cut` closes the connection after that many bytes of the body.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub length: Option<usize>,
    pub cut: Option<usize>,
}

impl Answer {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Answer { status: 200, body: body.into(), ..Default::default() }
    }

    pub fn status(status: u16) -> Self {
        Answer { status, ..Default::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    /// `body` as a server with ranges sends it.
    pub fn ranged(request: &Request, body: &[u8]) -> Self {
        let from = request.offset();
        if from == 0 {
            return Answer::ok(body);
        }
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        Answer { status: 206, ..Answer::ok(&body[from..]) }.with("Content-Range", range)
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server on a port of its own until it is dropped.
pub struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped, handler) = (log.clone(), stop.clone(), Arc::new(handler) as Arc<Handler>);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*handler));
            }
        });
        Server { url: format!("http://{address}"), log, stop, thread: Some(thread) }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub fn gets(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == "GET" && r.path.contains(part)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let request = Request { method, path, headers };
    log.lock().unwrap().push(request.clone());
    let answer = handler(&request);
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    // The client may have gone away: that is part of the tests.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let end = answer.cut.unwrap_or(answer.body.len());
        let _ = stream.write_all(&answer.body[..end]);
    }
    let _ = stream.flush();
    let _ = stream.shutdown(Shutdown::Both);
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub fn listing(files: &[&str]) -> Answer {
    let siblings: Vec<String> = files.iter().map(|f| format!("{{\"rfilename\":\"{f}\"}}")).collect();
    Answer::ok(format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}],\"other\":1}}", siblings.join(",")))
}

/// The headers the hub gives for a large file.
pub fn large(answer: Answer, body: &[u8]) -> Answer {
    answer
        .with("X-Repo-Commit", COMMIT)
        .with("X-Linked-Etag", format!("\"{}\"", sha256(body)))
        .with("X-Linked-Size", body.len())
}

/// A well-behaved hub with these files, all of them large ones.
pub fn hub(files: &[(&str, &[u8])]) -> impl Fn(&Request) -> Answer + Send + Sync + use<> {
    let files: Vec<(String, Vec<u8>)> = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
    move |request| {
        if request.path.starts_with("/api/models/org/name/revision/") {
            return listing(&files.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>());
        }
        let start = format!("/org/name/resolve/{COMMIT}/");
        let file = request.path.strip_prefix(&start).and_then(|name| files.iter().find(|(n, _)| n == name));
        match file {
            Some((_, body)) => large(Answer::ranged(request, body), body),
            None => Answer::status(404),
        }
    }
}

pub fn options(dir: &tempfile::TempDir, server: &Server) -> Options {
    Options {
        endpoint: Some(server.url.clone()),
        retries: 3,
        retry_wait: Duration::from_millis(5),
        stall: Duration::from_secs(5),
        ..Options::at(dir.path())
    }
}

/// Remembers what it was told; asks to stop after a number of advances.
#[derive(Debug, Default)]
pub struct Recorder {
    pub stages: Vec<(String, Option<u64>)>,
    pub last: u64,
    pub advances: usize,
    pub notes: Vec<String>,
    pub stop_at_bytes: Option<u64>,
}

impl Progress for Recorder {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        self.stages.push((what.to_owned(), total));
        self.last = 0;
    }
    fn advance(&mut self, done: u64) {
        self.last = done;
        self.advances += 1;
    }
    fn end(&mut self) {}
    fn note(&mut self, message: &str) {
        self.notes.push(message.to_owned());
    }
    fn cancelled(&self) -> bool {
        self.stop_at_bytes.is_some_and(|limit| self.last >= limit)
    }
}
