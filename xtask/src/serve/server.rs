//! The servers that are measured: started on a free port, and ended with the measurement.

use super::client;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which server, and how its caches are kept.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Ours.
    Chelsea {
        /// As `--kv-budget` takes it; 100% is the full cache in 16 bits.
        budget: String,
    },
    /// llama.cpp's.
    Llama {
        /// The program.
        program: PathBuf,
        /// The model.
        gguf: PathBuf,
        /// As `-ctk` takes it.
        cache: &'static str,
    },
}

impl Kind {
    /// The name of its rows.
    pub fn name(&self) -> String {
        match self {
            Kind::Chelsea { budget } => format!("chelsea {budget}"),
            Kind::Llama { cache, .. } => format!("llama-server {cache}"),
        }
    }
}

/// What all servers have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model's name.
    pub model: String,
    /// Bytes of all caches.
    pub kv_bytes: usize,
    /// Tokens of the longest sequence.
    pub context: usize,
    /// Threads.
    pub threads: u32,
    /// Folder in which a server of ours keeps what it read.
    pub shelf: Option<PathBuf>,
}

/// A server that runs.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    is_ours: bool,
    slots: usize,
}

/// What other servers read at once, at least.
const OTHERS_STEP: usize = 64;

/// Seconds that loading a model may take.
const PATIENCE: Duration = Duration::from_secs(300);

impl Server {
    /// Starts one and waits until it takes requests.
    pub fn start(chelsea: &Path, kind: &Kind, settings: &Settings) -> Result<Server> {
        // Free now: nobody else asks for ports here.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let threads = settings.threads.to_string();
        let (mut command, slots) = match kind {
            Kind::Chelsea { budget } => {
                let mut command = Command::new(chelsea);
                command.args(["serve", "-m", &settings.model, "-t", &threads, "--port", &port.to_string()]);
                command.args(["--kv-memory", &settings.kv_bytes.to_string()]);
                match budget.as_str() {
                    "100%" => command.args(["--policy", "full"]),
                    budget => command.args(["--kv-budget", budget]),
                };
                if let Some(shelf) = &settings.shelf {
                    command.arg("--shelf").arg(shelf);
                }
                (command, 0)
            }
            Kind::Llama { program, gguf, cache } => {
                let slots = (settings.kv_bytes / (settings.context * token_bytes(chelsea, settings, cache)?)).max(1);
                let mut command = Command::new(program);
                command.arg("-m").arg(gguf).args(["-t", &threads, "--port", &port.to_string(), "--host", "127.0.0.1"]);
                command.args(["-np", &slots.to_string(), "-c", &(slots * settings.context).to_string()]);
                command.args(["-ctk", cache, "-ctv", cache, "-fa", "on", "--no-webui"]);
                (command, slots)
            }
        };
        eprintln!("$ {}", crate::process::shown(&command));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {}", kind.name()))?;
        let mut server = Server { child, address, is_ours: matches!(kind, Kind::Chelsea { .. }), slots };
        let start = Instant::now();
        while client::get(address, "/health").is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("it ended before it took requests: {status}");
            }
            if start.elapsed() > PATIENCE {
                bail!("it takes no requests after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Tokens of a prompt that it reads beside a token of each answer.
    pub fn read_step(&self) -> Result<usize> {
        if !self.is_ours {
            return Ok(OTHERS_STEP);
        }
        let props: Value = body(&client::get(self.address, "/props")?)?;
        Ok(props["read_step"].as_u64().unwrap_or(1).max(1) as usize)
    }

    /// The longest pause that a prompt of another request may make, in seconds, where the server promises one.
    pub fn max_stall(&self) -> Result<Option<f64>> {
        if !self.is_ours {
            return Ok(None);
        }
        let props: Value = body(&client::get(self.address, "/props")?)?;
        Ok(props["max_stall_ms"].as_f64().map(|ms| ms / 1e3))
    }

    /// Conversations of so many tokens that fit, about.
    pub fn room_for(&self, tokens: usize) -> Result<usize> {
        if !self.is_ours {
            return Ok(self.slots);
        }
        let props: Value = body(&client::get(self.address, "/props")?)?;
        let limit = props["kv"]["bytes_limit"].as_u64().unwrap_or(0);
        let each = props["kv"]["bytes_for_4096"].as_u64().unwrap_or(1) * tokens as u64 / 4096;
        Ok((limit / each.max(1)) as usize)
    }
}

/// Bytes of a token in llama.cpp's cache of this type.
fn token_bytes(chelsea: &Path, settings: &Settings, cache: &str) -> Result<usize> {
    let output = Command::new(chelsea).args(["inspect", &settings.model, "--json"]).output()?;
    let told: Value = serde_json::from_slice(&output.stdout).context("`chelsea inspect --json` cannot be read")?;
    let full = told["kv_bytes_per_token"].as_u64().context("`chelsea inspect` tells no bytes of a token")? as usize;
    // Blocks of 32 numbers with a scale of two bytes.
    Ok(if cache == "q8_0" { full * 34 / 64 } else { full })
}

/// The JSON after the head of an answer.
fn body(text: &str) -> Result<Value> {
    let start = text.find('{').context("no JSON was told")?;
    let end = text.rfind('}').context("no JSON was told")?;
    Ok(serde_json::from_str(&text[start..=end])?)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
