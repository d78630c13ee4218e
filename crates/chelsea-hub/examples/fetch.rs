//! Brings models and data sets into the cache and prints where they are, a path in each line: `fetch NAME...`. With
//! `--folder home`, `--folder models` or `--folder data` it prints where Chelsea keeps its files.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chelsea_hub::{HubError, Options, Progress, catalog};

fn main() -> ExitCode {
    let (args, options) = (std::env::args().skip(1).collect::<Vec<_>>(), Options::from_env());
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--folder", "home"] => println!("{}", options.home.display()),
        ["--folder", "models"] => println!("{}", options.models_dir().display()),
        ["--folder", "data"] => println!("{}", options.data_dir().display()),
        [] | ["--folder", ..] => {
            eprintln!("usage: fetch NAME..., or fetch --folder home|models|data");
            return ExitCode::from(2);
        }
        names => {
            for name in names {
                match one(name, &options) {
                    Ok(path) => println!("{}", path.display()),
                    Err(error) => {
                        eprintln!("error: {error}");
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// A data set of that name, or a model.
fn one(name: &str, options: &Options) -> Result<PathBuf, HubError> {
    let mut line = Line::default();
    match catalog::data(name) {
        Some(_) => chelsea_hub::fetch_data(name, options, &mut line),
        None => Ok(chelsea_hub::resolve(name, options, &mut line)?.path),
    }
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
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        let total = self.total.map(|total| format!(" of {}", mib(total))).unwrap_or_default();
        let (start, end) = if on_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{start}{}: {}{total}{end}", self.what, mib(done));
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
