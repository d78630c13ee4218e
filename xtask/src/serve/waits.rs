//! How long clients wait for each other's prompts, and for their own a second time.

use super::client::{self, Timed};
use super::load::{Times, words};
use super::server::{Kind, Server, Settings};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Tokens of the long prompt.
pub const LONG: usize = 6144;
/// Tokens of the short one.
pub const SHORT: usize = 200;
/// Tokens of an answer that runs before and while a prompt is read.
const RUNNING: usize = 4000;
/// Tokens of it that come before the prompt does.
const BEFORE: usize = 100;

/// What was measured; all times in seconds.
#[derive(Debug, Serialize)]
pub struct Waits {
    /// Pauses of a running answer with nothing beside it: the median is a decode step.
    pub alone: Times,
    /// Its pauses while a long prompt is read.
    pub beside: Times,
    /// The longest pause that the server promises.
    pub max_stall: Option<f64>,
    /// From a short request that came right after a long one to its first token.
    pub behind: f64,
    /// First turn about a long document, to its first token.
    pub first_turn: f64,
    /// Second turn.
    pub second_turn: f64,
    /// Tokens of the second turn that were not read again.
    pub cached: Option<u64>,
    /// The second turn again, after the server was killed and started anew over the same folder.
    pub after_restart: Option<f64>,
}

/// Measures one kind of server.
pub fn run(chelsea: &Path, kind: &Kind, settings: &Settings, shelf: &Path) -> Result<Waits> {
    // One conversation of the long prompt, an answer that runs beside, and a short one.
    let settings = Settings { context: LONG + RUNNING, ..settings.clone() };
    let server = Server::start(chelsea, kind, &settings)?;
    let (alone, beside) = pauses(&server)?;
    let behind = behind(&server)?;
    let max_stall = server.max_stall()?;
    drop(server);
    let is_ours = matches!(kind, Kind::Chelsea { .. });
    let settings = Settings { shelf: is_ours.then(|| shelf.to_path_buf()), ..settings };
    if shelf.exists() {
        std::fs::remove_dir_all(shelf).with_context(|| format!("cannot empty {}", shelf.display()))?;
    }
    let server = Server::start(chelsea, kind, &settings)?;
    let mut turns = vec![json!({"role": "user", "content": format!("{} What is this about?", words(9, LONG))})];
    let first = client::chat(server.address, &turns, 16)?;
    turns.push(json!({"role": "assistant", "content": first.text}));
    turns.push(json!({"role": "user", "content": "And which word comes most often?"}));
    let second = client::chat(server.address, &turns, 16)?;
    let after_restart = match is_ours {
        true => Some(restarted(chelsea, kind, &settings, server, &turns, &second)?),
        false => None,
    };
    Ok(Waits {
        alone,
        beside,
        max_stall,
        behind,
        first_turn: first.first(),
        second_turn: second.first(),
        cached: second.cached,
        after_restart,
    })
}

/// Pauses of an answer alone, and while a long prompt is read.
fn pauses(server: &Server) -> Result<(Times, Times)> {
    let (send, begin) = mpsc::channel();
    let address = server.address;
    let (running, prompt) = std::thread::scope(|scope| -> Result<(Timed, Timed)> {
        let running = scope.spawn(move || {
            client::complete_and(address, &words(1, SHORT), RUNNING, |count| {
                if count == BEFORE {
                    // Nobody waits any more where the other side gave up; the answer goes on all the same.
                    let _heard = send.send(());
                }
            })
        });
        begin.recv_timeout(Duration::from_secs(300)).context("an answer does not come")?;
        let prompt = client::complete(address, &words(2, LONG), 2)?;
        let running = running.join().map_err(|_| anyhow::anyhow!("a client gave up"))??;
        Ok((running, prompt))
    })?;
    ensure!(running.tokens.len() > BEFORE, "the answer ended before the prompt came");
    let read = prompt.asked..*prompt.tokens.first().context("the long prompt had no answer")?;
    let gaps = |within: &dyn Fn(std::time::Instant) -> bool| {
        let pairs = running.tokens.windows(2).filter(|pair| within(pair[1]));
        Times::new(pairs.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect())
    };
    Ok((gaps(&|at| at < read.start), gaps(&|at| read.contains(&at))))
}

/// The wait of a short request that comes while a long prompt is read.
fn behind(server: &Server) -> Result<f64> {
    let address = server.address;
    std::thread::scope(|scope| {
        let long = scope.spawn(move || client::complete(address, &words(3, LONG), 2));
        std::thread::sleep(Duration::from_millis(200));
        let short = client::complete(address, &words(4, SHORT), 2)?.first();
        long.join().map_err(|_| anyhow::anyhow!("a client gave up"))??;
        Ok(short)
    })
}

/// The second turn at a server that was killed and started again; its answer has to be the same.
fn restarted(
    chelsea: &Path,
    kind: &Kind,
    settings: &Settings,
    server: Server,
    turns: &[Value],
    before: &Timed,
) -> Result<f64> {
    // What is written to the folder is written behind the answer.
    std::thread::sleep(Duration::from_secs(2));
    // Killed, not ended: the destructor sends SIGKILL.
    drop(server);
    let server = Server::start(chelsea, kind, settings)?;
    let again = client::chat(server.address, turns, 16)?;
    ensure!(again.text == before.text, "another answer after the restart: {:?}, {:?}", again.text, before.text);
    Ok(again.first())
}
