//! A real server: killed in the middle of its work and started anew on the same folder, and with saved caches mounted.

use crate::small;
use crate::support::{chelsea, error};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

/// The small model with a chat template.
pub fn model(folder: &Path) -> String {
    let model = small::model(folder);
    let config = json!({ "chat_template": TEMPLATE });
    std::fs::write(Path::new(&model).join("tokenizer_config.json"), config.to_string()).unwrap();
    model
}

pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub fn start(model: &str, args: &[&str]) -> Server {
        Server::start_in("64MiB", model, args)
    }

    /// The same with so much memory for caches.
    pub fn start_in(memory: &str, model: &str, args: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chelsea"))
            .args(["serve", "-m", model, "--port", "0", "--kv-memory", memory, "--read-step", "64", "--threads", "1"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut address = None;
        let mut line = String::new();
        while address.is_none() {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server ended");
            address = line.split_once("http://").map(|(_, address)| address.trim().to_owned());
        }
        // Whatever else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Server { child, address: address.unwrap() }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        stream
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut text = String::new();
        self.send(method, path, body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
    }

    fn chat(&self, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn said(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["content"]
}

pub fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

fn chat(messages: &[Value]) -> Value {
    json!({ "messages": messages, "max_tokens": 8, "temperature": 0 })
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

fn opening(round: usize) -> Value {
    user(&format!("The tower of round {round} was built in 19{round:02} and painted green. ").repeat(40))
}

/// A conversation's second turn, after what was answered to the first.
fn second_turn(server: &Server, round: usize) -> Value {
    let first = server.chat(&chat(&[opening(round)]));
    let answer = json!({ "role": "assistant", "content": said(&first) });
    server.chat(&chat(&[opening(round), answer, user("And who painted it?")]))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

#[test]
fn a_server_that_is_killed_at_any_moment_leaves_nothing_broken_behind() {
    const ROUNDS: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let shelf = folder.path().join("shelf");
    let args = ["--shelf", shelf.to_str().unwrap()];
    let plain = Server::start(&model, &[]);
    let (mut found, mut kept, mut moment) = (0, 0, 17u64);
    let mut server = Server::start(&model, &args);
    for round in 0..ROUNDS {
        // Several at once, so that some are being written while others are still read.
        let bodies = [round, round + 50].map(|round| chat(&[opening(round)]).to_string());
        let _asked: Vec<TcpStream> =
            bodies.iter().map(|body| server.send("POST", "/v1/chat/completions", body)).collect();
        let file = json!({ "name": "tower.txt", "text": format!("round {round} ").repeat(20_000) }).to_string();
        let _brought = server.send("POST", "/v1/files", &file);
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((moment >> 33) % 250));
        server.kill();
        std::fs::write(shelf.join("00000000.parked"), "what a killed server left").unwrap();

        server = Server::start(&model, &args);
        assert!(files(&shelf, "part").is_empty() && files(&shelf.join("documents"), "part").is_empty());
        assert!(files(&shelf, "parked").is_empty());
        for path in files(&shelf, "checkpoint") {
            chelsea_kv::snapshot::verify(&path).unwrap();
        }
        let (_, list) = server.ask("GET", "/v1/files", "");
        let list = list["data"].as_array().unwrap();
        assert_eq!(list.len(), files(&shelf.join("documents"), "document").len());
        for file in list {
            let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
            let (status, text) = server.ask("GET", &path, "");
            assert_eq!((status, text.as_str().unwrap().len() as u64), (200, file["bytes"].as_u64().unwrap()));
        }
        kept = kept.max(list.len());
        let second = second_turn(&server, round);
        assert_eq!(said(&second), said(&second_turn(&plain, round)), "round {round}");
        // A conversation of long ago, too, which this server has never read itself.
        let before = server.chat(&chat(&[opening(round / 2)]));
        found += usize::from(cached(&before) > 0);
        assert_eq!(said(&before), said(&plain.chat(&chat(&[opening(round / 2)]))));
    }
    // Else it was killed before it wrote anything, every time.
    assert!(found > 0 && kept > 0, "{found} checkpoints and {kept} documents outlived a server");
}

#[test]
fn a_saved_cache_is_mounted_and_asked_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = "The tower was built in 1931 and painted green. ".repeat(40).trim_end().to_owned();
    std::fs::write(path("doc.txt"), &text).unwrap();
    for (name, flags) in
        [("doc.kv", &[][..]), ("raw.kv", &["--no-chat-template"]), ("told.kv", &["--system", "Be brief."])]
    {
        let args = ["cache", "build", "-m", &model, "-f", &path("doc.txt"), "-o", &path(name)];
        let out = chelsea(&[&args[..], flags].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let mounts = ["--mount", &path("doc.kv"), "--mount", &path("raw.kv"), "--mount", &path("told.kv")];
    let server = Server::start(&model, &mounts);
    let before = format!("<user>{text}\n\n").len() as u64;
    let ask = |id: &str, question: &str| {
        json!({
            "messages": [user(question)], "max_tokens": 8, "temperature": 0, "kv": { "document": id },
        })
    };
    // By its name, by its id, and word for word: not a token of it is read.
    let named = server.chat(&ask("doc.kv", "When?"));
    assert_eq!(cached(&named), before);
    let (_, list) = server.ask("GET", "/v1/files?order=asc", "");
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["filename"]), (3, &json!("doc.kv")));
    let id = list["data"][0]["id"].as_str().unwrap();
    assert_eq!(said(&server.chat(&ask(id, "When?"))), said(&named));
    let typed = server.chat(&chat(&[user(&format!("{text}\n\nWhich colour?"))]));
    assert_eq!(cached(&typed), before);
    assert_eq!(said(&server.chat(&ask("doc.kv", "Which colour?"))), said(&typed));
    // The same words again are the same answer, read or found.
    let told = server.chat(&ask("told.kv", "When?"));
    assert_eq!(cached(&told), before + "<system>Be brief.</system>".len() as u64);
    let raw = json!({ "prompt": "When?", "max_tokens": 4, "temperature": 0, "kv": { "document": "raw.kv" } });
    let (status, raw) = server.ask("POST", "/v1/completions", &raw.to_string());
    assert_eq!((status, cached(&raw)), (200, text.len() as u64 + 2), "{raw}");
    // What does not go together is told.
    let with_system = json!({
        "messages": [{"role": "system", "content": "Be long."}, user("When?")], "kv": { "document": "told.kv" },
    });
    for (path, body, word) in [
        ("/v1/chat/completions", with_system, "another system message"),
        ("/v1/chat/completions", ask("raw.kv", "When?"), "/v1/completions"),
        ("/v1/completions", json!({ "prompt": "When?", "kv": { "document": "doc.kv" } }), "in a chat"),
        (
            "/v1/chat/completions",
            json!({ "messages": [user("When?")], "kv": { "document": "doc.kv", "type": "f32" } }),
            "kv.type",
        ),
    ] {
        let (status, error) = server.ask("POST", path, &body.to_string());
        assert!(status == 400 && error["error"]["message"].as_str().unwrap().contains(word), "{error}");
    }
    assert_eq!(server.ask("DELETE", &format!("/v1/files/{id}"), "").0, 403);
    let (_, metrics) = server.ask("GET", "/metrics", "");
    let mapped = metrics.as_str().unwrap().lines().find(|line| line.starts_with("chelsea:kv_bytes_mapped{")).unwrap();
    assert!(mapped.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0, "{mapped}");
}

#[test]
fn what_cannot_be_mounted_is_told_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("doc.txt"), "The tower was built in 1931. ".repeat(40)).unwrap();
    let out = chelsea(&["cache", "build", "-m", &model, "-f", &path("doc.txt"), "-o", &path("doc.kv")]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let start = |mounts: &[&str]| {
        let mut args = vec!["serve", "-m", &model, "--port", "0", "--kv-memory", "64MiB", "--read-step", "64"];
        mounts.iter().for_each(|file| args.extend(["--mount", file]));
        error(&args)
    };
    std::fs::write(path("text.kv"), "no cache").unwrap();
    let bytes = std::fs::read(path("doc.kv")).unwrap();
    std::fs::write(path("cut.kv"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::copy(path("doc.kv"), path("twin.kv")).unwrap();
    for (files, word) in [
        (vec![path("none.kv")], "none.kv"),
        (vec![path("text.kv")], "not a saved cache"),
        (vec![path("cut.kv")], "cut short"),
        (vec![path("doc.kv"), path("twin.kv")], "same text"),
    ] {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let said = start(&files);
        assert!(said.contains(word), "{said}");
    }
    // Another chat template, and then another model.
    let config = json!({ "chat_template": TEMPLATE.replace("<assistant>", "<bot>") });
    std::fs::write(Path::new(&model).join("tokenizer_config.json"), config.to_string()).unwrap();
    let said = start(&[&path("doc.kv")]);
    assert!(said.contains("another chat template") && said.contains("doc.kv"), "{said}");
}
