//! `cargo xtask fetch`: models and data sets into the cache, with a line of progress.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use chelsea_hub::{Options, Progress, catalog};

use crate::table;

/// What `fetch` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Short names of models or data sets; all that tests need if none is given.
    names: Vec<String>,
}

/// The models that tests run.
pub const TEST_MODELS: &[&str] = &["smollm2", "qwen2.5-coder-0.5b"];
/// The texts that tests and the demo read.
pub const TEXTS: &str = "essays";

/// Downloads each name and prints its path on stdout.
pub fn run(args: &Args) -> Result<bool> {
    let default: Vec<String> = TEST_MODELS.iter().chain([&TEXTS]).map(|n| n.to_string()).collect();
    for name in if args.names.is_empty() { &default } else { &args.names } {
        println!("{}", one(name)?.display());
    }
    Ok(true)
}

/// Brings one model or data set into the cache and returns its path.
pub fn one(name: &str) -> Result<PathBuf> {
    let (options, mut line) = (Options::from_env(), Line::default());
    if catalog::data(name).is_some() {
        return Ok(chelsea_hub::fetch_data(name, &options, &mut line)?);
    }
    Ok(chelsea_hub::resolve(name, &options, &mut line)?.path)
}

/// One line on stderr: rewritten on a terminal, repeated now and then in a log.
#[derive(Debug, Default)]
struct Line {
    what: String,
    total: Option<u64>,
    last: Option<Instant>,
}

impl Progress for Line {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        *self = Line { what: what.to_owned(), total, last: None };
    }

    fn advance(&mut self, done: u64) {
        let on_terminal = std::io::stderr().is_terminal();
        let pace = Duration::from_millis(if on_terminal { 200 } else { 10_000 });
        if self.last.is_some_and(|last| last.elapsed() < pace) {
            return;
        }
        self.last = Some(Instant::now());
        let total = self.total.map(|t| format!(" of {}", table::bytes(t))).unwrap_or_default();
        let (start, end) = if on_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{start}{}: {}{total}{end}", self.what, table::bytes(done));
        // Progress that cannot be shown is no reason to stop.
        let _ = std::io::stderr().flush();
    }

    fn end(&mut self) {
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
    }

    fn note(&mut self, message: &str) {
        eprintln!("{message}");
    }
}
