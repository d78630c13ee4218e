//! The stages of the check, how long each may take, and the script that runs them where there is no cargo.

use std::fmt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::shown;

/// What a program of tests may take. There are some fifteen, most of which take a second on a GPU.
pub const TESTS: Duration = Duration::from_secs(60);

/// When no other program of tests is begun, counted from the first.
pub const ALL_TESTS: Duration = Duration::from_secs(120);

/// Something that is measured.
pub struct Stage {
    /// What the example is told.
    pub words: &'static [&'static str],
    pub limit: Duration,
}

const fn stage(words: &'static [&'static str], seconds: u64) -> Stage {
    Stage { words, limit: Duration::from_secs(seconds) }
}

const ON_A_GPU: &[Stage] = &[
    stage(&["copy"], 20),
    stage(&["decode", "llama-3.1-8b"], 110),
    stage(&["decode", "qwen2.5-1.5b"], 70),
    stage(&["reading", "llama-3.1-8b"], 30),
    stage(&["reading", "qwen2.5-1.5b"], 20),
    stage(&["compaction", "llama-3.1-8b"], 30),
    stage(&["compaction", "qwen2.5-1.5b"], 20),
];

const EMULATED: &[Stage] = &[
    stage(&["copy"], 60),
    stage(&["decode", "tiny"], 600),
    stage(&["reading", "tiny"], 600),
    stage(&["compaction", "tiny"], 600),
];

impl Stage {
    pub fn on_a_gpu() -> &'static [Stage] {
        ON_A_GPU
    }

    pub fn emulated() -> &'static [Stage] {
        EMULATED
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Well,
    Badly,
    /// It was ended when its time was up.
    Late,
    /// It was not begun, as others before took too long.
    LeftOut,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ended::Well => "ok",
            Ended::Badly => "FAILED",
            Ended::Late => "TOO LONG",
            Ended::LeftOut => "LEFT OUT",
        })
    }
}

/// Runs it with its output on this terminal, for no longer than `limit`.
///
/// # Errors
/// If it cannot be started.
pub fn limited(command: &mut Command, limit: Duration) -> Result<Ended> {
    eprintln!("\n$ {}", shown(command));
    let start = Instant::now();
    let mut child: Child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a stage")? {
            return Ok(if status.success() { Ended::Well } else { Ended::Badly });
        }
        if start.elapsed() > limit {
            child.kill().context("cannot end a stage")?;
            child.wait().context("cannot wait for a stage")?;
            return Ok(Ended::Late);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A script for `sh` that does the same with programs of tests of these names and the example beside it. What a stage prints
/// is kept in `results/`, too.
pub fn script(variable: &str, tests: &[&str]) -> String {
    let mut script = format!(
        "#!/bin/sh\n\
         # sh run.sh [GPU]: the tests on this GPU, and what it reaches. Needs a driver and the C++ library, and no compiler.\n\
         cd \"$(dirname \"$0\")\" || exit 1\n\
         export {variable}=\"${{1:-0}}\" RUST_BACKTRACE=0\n\
         mkdir -p results\n\
         # stage SECONDS NAME COMMAND..: what it prints goes to the terminal and to a file; it is ended when its time is up.\n\
         stage() {{\n\
         \x20 limit=$1 name=$2; shift 2\n\
         \x20 if command -v timeout >/dev/null; then set -- timeout -k 5 \"$limit\" \"$@\"; fi\n\
         \x20 echo \"== $name\"\n\
         \x20 {{ \"$@\" 2>&1; echo \"$?\" >results/ended; }} | tee \"results/$name.txt\"\n\
         \x20 ended=$(cat results/ended)\n\
         \x20 echo \"$name: ended with $ended\" >>results/summary.txt\n\
         \x20 [ \"$ended\" = 0 ] || failed=1\n\
         }}\n\
         : >results/summary.txt\n\
         began=$(date +%s)\n\
         chmod +x gpu_check {}\n",
        tests.join(" ")
    );
    script.push_str("tests=$(date +%s)\n");
    let (each, all) = (TESTS.as_secs(), ALL_TESTS.as_secs());
    for name in tests {
        script.push_str(&format!(
            "if [ $(($(date +%s) - tests)) -lt {all} ]; then stage {each} {name} ./{name} --test-threads=1; \
             else echo \"{name}: left out\" >>results/summary.txt; failed=1; fi\n"
        ));
    }
    for stage in ON_A_GPU {
        let words = stage.words.join(" ");
        let (limit, name) = (stage.limit.as_secs(), stage.words.join("-"));
        script.push_str(&format!("stage {limit} {name} ./gpu_check \"${variable}\" {words}\n"));
    }
    script
        .push_str("echo; cat results/summary.txt; echo \"$(($(date +%s) - began)) seconds\"\nexit \"${failed:-0}\"\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stages_end_within_eight_minutes() {
        let measured: u64 = ON_A_GPU.iter().map(|stage| stage.limit.as_secs()).sum();
        let tests = ALL_TESTS.as_secs() + TESTS.as_secs();
        assert!(measured + tests <= 480, "{measured} seconds, and {tests} for the tests");
    }

    #[cfg(unix)]
    #[test]
    fn a_stage_that_takes_too_long_is_ended_and_one_that_fails_is_told() {
        let limit = Duration::from_millis(200);
        let sh = |script: &str| limited(Command::new("sh").args(["-c", script]), limit).expect("sh starts");
        assert_eq!([sh("exit 0"), sh("exit 3"), sh("exec sleep 60")], [Ended::Well, Ended::Badly, Ended::Late]);
    }

    #[cfg(unix)]
    #[test]
    fn the_script_goes_on_after_a_stage_that_fails_and_keeps_what_was_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it is written");
        write("gpu_check", "#!/bin/sh\necho \"gpu $*\"\n[ \"$2\" != reading ]\n");
        write("some-tests", "#!/bin/sh\necho \"tests on $GPU $*\"\n");
        write("run.sh", &script("GPU", &["some-tests"]));
        let output = Command::new("sh").arg(folder.path().join("run.sh")).arg("2").output().expect("sh starts");
        assert_eq!(output.status.code(), Some(1), "a stage failed");
        let read = |name: &str| std::fs::read_to_string(folder.path().join("results").join(name)).expect(name);
        assert_eq!(read("decode-llama-3.1-8b.txt"), "gpu 2 decode llama-3.1-8b\n");
        assert_eq!(read("some-tests.txt"), "tests on 2 --test-threads=1\n");
        let summary = read("summary.txt");
        assert!(summary.contains("reading-qwen2.5-1.5b: ended with 1\n"), "{summary}");
        assert!(summary.contains("compaction-qwen2.5-1.5b: ended with 0\n"), "{summary}");
    }
}
