//! A server over a tiny model of random weights, asked over a real socket.

#![allow(dead_code, clippy::unwrap_used)]

use chelsea_engine::{Scheduler, SchedulerOptions, SessionOptions};
use chelsea_kv::{Budget, Pool};
use chelsea_linear::Products;
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{LoadOptions, RandomModel};
use chelsea_serve::{Engine, Serving, Settings};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

/// As [`TEMPLATE`], with tools in front and calls in their turns.
pub const TOOLS: &str = "{% for t in tools or [] %}<tool>{{ t | tojson }}</tool>{% endfor %}{% for m in messages %}\
                         <{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}\
                         </call>{% endfor %}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A server on a port of its own, for as long as the test lives.
pub struct Server {
    pub address: SocketAddr,
    pub engine: Engine,
    pub end: Option<tokio::sync::oneshot::Sender<()>>,
    pub thread: Option<std::thread::JoinHandle<()>>,
}

/// Every byte is a token of its own.
pub fn tokenizer() -> Tokenizer {
    tokenizer_with(&[])
}

/// Every byte is a token of its own, and so are these texts, from id 256 on.
pub fn tokenizer_with(texts: &[&str]) -> Tokenizer {
    tokenizer_of(texts, false)
}

/// Every byte is a token of its own, and these are control tokens, from id 256 on.
pub fn tokenizer_with_control(texts: &[&str]) -> Tokenizer {
    tokenizer_of(texts, true)
}

fn tokenizer_of(texts: &[&str], special: bool) -> Tokenizer {
    // The printable stand-ins for bytes that byte-level vocabularies use.
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut others = 0;
    let vocab: serde_json::Map<String, Value> = (0..256u32)
        .map(|b| {
            let c = if printable(b) {
                b
            } else {
                others += 1;
                255 + others
            };
            (char::from_u32(c).unwrap().to_string(), b.into())
        })
        .collect();
    let added = |(id, text): (u32, &&str)| {
        json!({
            "id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        })
    };
    let json = json!({
        "added_tokens": (256..).zip(texts).map(added).collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel"},
    });
    Tokenizer::from_json(&json.to_string(), None, None).unwrap()
}

impl Server {
    pub fn start(change: impl FnOnce(&mut Settings, &mut SchedulerOptions)) -> Server {
        Server::start_with(tokenizer(), TEMPLATE, change)
    }

    /// With a vocabulary and a template of one's own.
    pub fn start_with(
        tokenizer: Tokenizer,
        template: &str,
        change: impl FnOnce(&mut Settings, &mut SchedulerOptions),
    ) -> Server {
        let options = LoadOptions { products: Products::Fast };
        let model = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
        let threads = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
        let session = SessionOptions {
            budget: Budget::ByteFraction(0.25),
            window: 16,
            block: 128,
            step: Some(16),
            ..SessionOptions::default()
        };
        let mut settings = Settings { model_name: "tiny".into(), session, ..Settings::default() };
        let mut scheduling = SchedulerOptions { pool: Pool::with_limit(64 << 20), ..SchedulerOptions::default() };
        change(&mut settings, &mut scheduling);
        let tokenizer = Arc::new(tokenizer);
        let template = ChatTemplate::new(template, None, None).unwrap();
        let (engine, _) = Engine::start(Scheduler::new(model.clone(), tokenizer.clone(), threads, scheduling).unwrap());
        let serving = Serving::new(settings, model, tokenizer, Some(template), engine.clone());
        let (end, ending) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let ending = async { drop(ending.await) };
                chelsea_serve::serve(listener, serving, ending).await.unwrap();
            });
        });
        Server { address: told.recv().unwrap(), engine, end: Some(end), thread: Some(thread) }
    }

    /// Sends a request and returns status and body.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        self.ask_bytes(method, path, headers, body.as_bytes())
    }

    pub fn ask_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let mut stream = self.open_bytes(method, path, headers, body);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap();
        let body =
            if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(rest) } else { rest.to_owned() };
        (status, body)
    }

    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        self.open_bytes(method, path, headers, body.as_bytes())
    }

    fn open_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Type") {
            head += "Content-Type: application/json\r\n";
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all(&[format!("{head}\r\n").as_bytes(), body].concat()).unwrap();
        stream
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask("POST", path, &[], &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The events of a stream.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, text) = self.ask("POST", path, &[], &body.to_string());
        assert_eq!(status, 200, "{text}");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

pub fn unchunk(mut rest: &str) -> String {
    let mut out = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    out
}

/// With a template that shows tools.
pub fn start_with_tools() -> Server {
    Server::start_with(tokenizer(), TOOLS, |_, _| ())
}

pub fn start() -> Server {
    Server::start(|_, _| ())
}
