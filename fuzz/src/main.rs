//! Runs targets over mutated inputs, or over the files given.
//!
//! ```text
//! chelsea-fuzz [--runs N] [--seed N] [TARGET]    mutations of the corpus
//! chelsea-fuzz TARGET FILE..                     these files as they are
//! chelsea-fuzz --write-corpus                    the seeds into corpus/
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use chelsea_fuzz::{Limits, TARGETS, memory, run, runner, seeds, targets};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), String> {
    let (mut runs, mut seed, mut target, mut files) = (10_000, 0, None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).ok_or(format!("{arg} needs a number"));
        match arg.as_str() {
            "--runs" => runs = number()?,
            "--seed" => seed = number()?,
            "--write-corpus" => return write_corpus().map_err(|e| e.to_string()),
            _ if target.is_none() => target = Some(targets::by_name(&arg).ok_or(format!("no target {arg:?}"))?),
            _ => files.push(arg),
        }
    }
    if let (Some(target), false) = (target, files.is_empty()) {
        for file in files {
            let bytes = std::fs::read(&file).map_err(|e| format!("{file}: {e}"))?;
            println!("{file}: {}", if (target.run)(&bytes) { "accepted" } else { "refused" });
        }
        return Ok(());
    }
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    for target in TARGETS.iter().filter(|t| target.is_none_or(|wanted| wanted.name == t.name)) {
        let start = Instant::now();
        match run(target, runs, seed, Limits::default(), scratch.path()) {
            Ok(tally) => println!(
                "{:<12} {} inputs, {} of them valid, {:.1} s",
                target.name,
                tally.runs,
                tally.accepted,
                start.elapsed().as_secs_f64()
            ),
            Err(found) => {
                let kept = scratch.keep();
                let path = kept.join(found.path.file_name().unwrap_or_default());
                return Err(format!("{}: {}; the input is {}", target.name, found.what, path.display()));
            }
        }
    }
    Ok(())
}

fn write_corpus() -> std::io::Result<()> {
    for target in TARGETS {
        let dir = runner::corpus_dir(target);
        std::fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds::of(target.name) {
            write(&dir.join(name), &bytes)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    println!("{} ({} bytes)", path.display(), bytes.len());
    std::fs::write(path, bytes)
}
