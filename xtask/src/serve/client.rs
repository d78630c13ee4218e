//! A client that notes when each token of a stream came.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// When what came of an answer.
#[derive(Debug, Clone)]
pub struct Timed {
    /// When it was asked for.
    pub asked: Instant,
    /// When each token came.
    pub tokens: Vec<Instant>,
    /// What was answered.
    pub text: String,
    /// Tokens of the prompt that were not read again, where the server tells.
    pub cached: Option<u64>,
}

impl Timed {
    /// Seconds from the request to the first token.
    pub fn first(&self) -> f64 {
        self.tokens.first().map_or(f64::INFINITY, |&at| (at - self.asked).as_secs_f64())
    }
}

/// The longest silence of a server that is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

fn open(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(BufReader::new(stream))
}

fn status(reader: &mut BufReader<TcpStream>) -> Result<u16> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("this is no answer: {line:?}"))
}

/// What a path tells.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut reader = open(address, "GET", path, "")?;
    let status = status(&mut reader)?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    if status != 200 {
        bail!("{path} answers {status}");
    }
    Ok(text)
}

/// Asks for `answer` tokens after a prompt of these words, as a stream.
pub fn complete(address: SocketAddr, prompt: &str, answer: usize) -> Result<Timed> {
    complete_and(address, prompt, answer, |_| ())
}

/// Asks for `answer` tokens, and calls `told` after each with how many there are.
pub fn complete_and(address: SocketAddr, prompt: &str, answer: usize, told: impl FnMut(usize)) -> Result<Timed> {
    let body = json!({
        "prompt": prompt, "max_tokens": answer, "stream": true, "temperature": 0, "ignore_eos": true,
        "model": "default",
    });
    stream(address, "/v1/completions", &body, "/choices/0/text", told)
}

/// Asks for at most `answer` tokens in a conversation, as a stream.
pub fn chat(address: SocketAddr, messages: &[Value], answer: usize) -> Result<Timed> {
    let body = json!({
        "messages": messages, "max_tokens": answer, "stream": true, "temperature": 0, "model": "default",
        "stream_options": {"include_usage": true},
    });
    stream(address, "/v1/chat/completions", &body, "/choices/0/delta/content", |_| ())
}

/// Sends a request whose answer is a stream, with its text at `place` in every event.
fn stream(address: SocketAddr, path: &str, body: &Value, place: &str, mut told_of: impl FnMut(usize)) -> Result<Timed> {
    let asked = Instant::now();
    let mut reader = open(address, "POST", path, &body.to_string())?;
    let status = status(&mut reader)?;
    let mut tokens = Vec::new();
    let (mut answered, mut cached) = (String::new(), None);
    let mut line = String::new();
    let mut told = String::new();
    while reader.read_line(&mut line)? > 0 {
        if let Some(data) = line.trim_end().strip_prefix("data: ") {
            let value: Value = serde_json::from_str(data).unwrap_or(Value::Null);
            if value.get("error").is_some() {
                bail!("{}", value["error"]["message"]);
            }
            if let Some(text) = value.pointer(place).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                answered.push_str(text);
                tokens.push(Instant::now());
                told_of(tokens.len());
            }
            cached = value.pointer("/usage/prompt_tokens_details/cached_tokens").and_then(Value::as_u64).or(cached);
        } else if status != 200 {
            told.push_str(&line);
        }
        line.clear();
    }
    if status != 200 {
        bail!("status {status}: {}", told.lines().last().unwrap_or_default());
    }
    Ok(Timed { asked, tokens, text: answered, cached })
}
