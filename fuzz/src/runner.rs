//! Runs a target over its corpus and mutations of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::memory::peak_of;
use crate::mutate::{Random, mutate};
use crate::targets::Target;

/// What one input may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in use at once, beyond those before.
    pub memory: u64,
    /// Wall time.
    pub time: Duration,
}

impl Default for Limits {
    /// Far above what inputs of at most 64 KiB need, far below what a careless parser takes.
    fn default() -> Self {
        Limits { memory: 32 << 20, time: Duration::from_secs(10) }
    }
}

/// An input that a target did not stand.
#[derive(Debug)]
pub struct Found {
    /// What happened.
    pub what: String,
    /// Where the input was written to.
    pub path: PathBuf,
}

/// How many inputs were run, and how many of them the target took for valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs run.
    pub runs: u64,
    /// Inputs accepted.
    pub accepted: u64,
}

/// The folder of the corpus of a target.
pub fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The files of the corpus, in the order of their names.
///
/// # Errors
/// If the folder cannot be read.
pub fn corpus(target: &Target) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus_dir(target))?.flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// Runs the corpus, then `runs` mutations of it.
///
/// The input at work always lies in `scratch`, so that it is there even if the process dies of it.
///
/// # Errors
/// The first input that breaks a limit or makes the target panic, kept under its own name in `scratch`.
///
/// # Panics
/// If the corpus cannot be read or is empty: then nothing would be tested.
pub fn run(target: &Target, runs: u64, seed: u64, limits: Limits, scratch: &Path) -> Result<Tally, Found> {
    // Memory is counted for the whole process: one target at a time.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seeds: Vec<Vec<u8>> = match corpus(target) {
        Ok(files) => files.into_iter().map(|(_, bytes)| bytes).collect(),
        Err(error) => panic!("{}: {error}", corpus_dir(target).display()),
    };
    assert!(!seeds.is_empty(), "no seeds in {}", corpus_dir(target).display());
    let mut tally = Tally::default();
    let mut one = |bytes: &[u8]| -> Result<(), Found> {
        tally.runs += 1;
        tally.accepted += u64::from(check(target, bytes, limits, scratch)?);
        Ok(())
    };
    seeds.iter().try_for_each(|bytes| one(bytes))?;
    let mut random = Random::new(seed);
    for _ in 0..runs {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let other = random.below(seeds.len());
        mutate(&mut bytes, &seeds[other], &mut random);
        one(&bytes)?;
    }
    Ok(tally)
}

/// Runs one input; whether the target took it for valid.
fn check(target: &Target, bytes: &[u8], limits: Limits, scratch: &Path) -> Result<bool, Found> {
    let current = scratch.join(format!("{}.current", target.name));
    // Without the file a crash is harder to find, no more.
    let _ = std::fs::write(&current, bytes);
    let run = || {
        let start = Instant::now();
        let (outcome, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))));
        (outcome, peak, start.elapsed())
    };
    let (outcome, peak, mut time) = run();
    if time > limits.time {
        // A disk or a machine that stood still is no fault of the input.
        time = run().2;
    }
    let what = match outcome {
        Err(payload) => format!("panic: {}", message(payload.as_ref())),
        Ok(_) if peak > limits.memory => format!("{peak} bytes of memory for an input of {} bytes", bytes.len()),
        Ok(_) if time > limits.time => format!("{:.1} s for an input of {} bytes", time.as_secs_f64(), bytes.len()),
        Ok(accepted) => return Ok(accepted),
    };
    let path = scratch.join(format!("{}.found", target.name));
    let kept = std::fs::write(&path, bytes).map_or(current, |()| path);
    Err(Found { what, path: kept })
}

fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
