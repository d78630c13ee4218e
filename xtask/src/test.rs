//! `cargo xtask test`: everything that has to hold before a change is merged.
//!
//! Every step runs even when one before it failed, so that one run shows all that is wrong. Tests that need real
//! models find them through `CHELSEA_TEST_MODELS` (a folder with `NAME.gguf`) and texts through
//! `CHELSEA_TEST_ESSAYS` (a folder with `.txt` files). They are marked as ignored, so that a plain `cargo test` says how
//! many it left out; here they are asked for.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cluster::{self, Checked};
use crate::process::{cargo, succeeds};
use crate::{fetch, fuzz, kernels, table, wheel};

/// What `test` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out the models, the tests that need them, and the package of `chelsea-kv`.
    #[arg(long)]
    quick: bool,
    /// Inputs for each fuzz target.
    #[arg(long, default_value_t = 5_000)]
    fuzz_runs: u64,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
    /// It was not run: this machine lacks what it takes.
    Skipped,
}

struct Steps {
    rows: Vec<(String, Duration, Ended)>,
}

impl Steps {
    /// Runs one step and notes how it went; an error counts as a failure and is shown.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<bool>) -> bool {
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let passed = work().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            false
        });
        self.rows.push((name.to_owned(), start.elapsed(), if passed { Ended::Well } else { Ended::Badly }));
        passed
    }

    /// Runs a check that not every machine can make.
    fn check(&mut self, name: &str, work: impl FnOnce() -> Result<Checked>) {
        let mut skipped = None;
        let ran = self.step(name, || match work()? {
            Checked::Held => Ok(true),
            Checked::Failed => Ok(false),
            Checked::Skipped(why) => {
                skipped = Some(why);
                Ok(true)
            }
        });
        if let (true, Some(why), Some(row)) = (ran, skipped, self.rows.last_mut()) {
            let first = why.lines().next().unwrap_or_default();
            *row = (format!("{name}: {first}"), row.1, Ended::Skipped);
        }
    }

    fn cargo(&mut self, name: &str, args: &[&str], env: &[(&str, String)]) {
        self.step(name, || succeeds(cargo(args).envs(env.iter().map(|(k, v)| (k, v)))));
    }

    /// Prints the table; true if every step passed.
    fn finish(self) -> bool {
        let row = |(name, time, ended): &(String, Duration, Ended)| {
            let said = match ended {
                Ended::Well => "ok",
                Ended::Badly => "FAILED",
                Ended::Skipped => "SKIPPED",
            };
            vec![name.clone(), format!("{:.0} s", time.as_secs_f64()), said.to_owned()]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        println!("\n{}", table::render(&["step", "time", "result"], &rows));
        self.rows.iter().all(|(_, _, ended)| *ended != Ended::Badly)
    }
}

/// Models whose tests run where they were fetched before, and what those tests have in their names: one is too large to be
/// fetched for them, the other comes under terms that only its user can accept.
const OPTIONAL: [(&str, &str); 2] = [("qwen2.5-coder-1.5b", "qwen_15b"), ("gemma3-270m", "gemma3_270m")];

/// What is left out of a plain build for the libraries that it takes: tests are of all there is.
const FEATURES: &str = "chelsea/grpc";

/// In the names of tests that take longer than all others together; they are run by name.
const LONG: &str = "ten_thousand_operations";

/// Tests of the engine that run over an emulated GPU, too, by the variable that their models ask for: sequences, batches,
/// pools, schedulers and what they save, as many as take a few minutes there.
const ON_A_DEVICE: [(&str, &[&str]); 6] = [
    ("batch", &["sessions_stepped_together", "a_session_goes_on_alone"]),
    ("handing", &["nothing_is_kept_of_what_came", "what_was_handed_to_others"]),
    ("mounting", &["a_mounted_text_is_not_read"]),
    ("pool", &["who_finds_no_room"]),
    ("runner", &["a_reading_goes_through_its_states", "a_compaction_that_waits", "that_is_dropped_gives"]),
    ("scheduler", &["a_checkpoint_gives_the_answer", "prompts_that_begin_alike_are_read_once"]),
];

/// The arguments of `cargo` for these.
fn on_a_device() -> Vec<&'static str> {
    let mut arguments = vec!["test", "--package", "chelsea-engine", "--no-fail-fast"];
    arguments.extend(ON_A_DEVICE.iter().flat_map(|(file, _)| ["--test", *file]));
    arguments.push("--");
    arguments.extend(ON_A_DEVICE.iter().flat_map(|(_, names)| *names));
    arguments
}

/// Runs all steps; false if one failed.
pub fn run(args: &Args) -> Result<bool> {
    let mut steps = Steps { rows: Vec::new() };
    let mut env = Vec::new();
    let mut tests = vec!["test", "--workspace", "--no-fail-fast", "--features", FEATURES];
    if !args.quick {
        for name in fetch::TEST_MODELS {
            steps.step(&format!("fetch {name}"), || fetch::one(name).map(|_| true));
        }
        let mut essays = None;
        steps.step(&format!("fetch {}", fetch::TEXTS), || {
            essays = Some(fetch::one(fetch::TEXTS)?);
            Ok(true)
        });
        let models = fetch::folder("models")?;
        tests.extend(["--", "--include-ignored", "--skip", LONG]);
        for (name, tests_with) in OPTIONAL {
            if !models.join(format!("{name}.gguf")).is_file() {
                eprintln!("{name} was not fetched (`cargo xtask fetch {name}`): its tests are left out");
                tests.extend(["--skip", tests_with]);
            }
        }
        env.push(("CHELSEA_TEST_MODELS", models.display().to_string()));
        env.extend(essays.map(|path| ("CHELSEA_TEST_ESSAYS", path.display().to_string())));
    }
    steps.cargo("format", &["fmt", "--all", "--", "--check"], &[]);
    let every = ["clippy", "--workspace", "--all-targets", "--features", FEATURES, "--", "-D", "warnings"];
    steps.cargo("clippy", &every, &[]);
    let without = ["clippy", "--package", "chelsea", "--no-default-features", "--all-targets", "--", "-D", "warnings"];
    steps.cargo("clippy without features", &without, &[]);
    let strict = [("RUSTDOCFLAGS", "-D warnings".to_owned())];
    steps.cargo("documentation", &["doc", "--workspace", "--no-deps", "--features", FEATURES], &strict);
    // As it is built where nobody asks for more.
    steps.cargo("clippy as installed", &["clippy", "--package", "chelsea", "--", "-D", "warnings"], &[]);
    steps.cargo("tests", &tests, &env);
    let device = [("CHELSEA_TEST_DEVICE", "emulated".to_owned())];
    steps.cargo("tests of the engine on an emulated GPU", &on_a_device(), &device);
    steps.check("kernels", kernels::check);
    let fuzz = fuzz::Args { runs: args.fuzz_runs, seed: 0, target: None };
    steps.step("fuzz", || fuzz::run_built(&fuzz));
    if !args.quick {
        steps.check("kernels with sanitizers", kernels::sanitized);
        // Of the program that the tests have built.
        steps.step("wheel", wheel::check);
        for router in ["dynamo", "smg"] {
            // Servers of this build are killed behind it, where it can be installed.
            steps.check(&format!("behind {router}"), || cluster::check(router));
        }
        // It asks the registry for what users of the crate would get. What is committed or not is another question.
        steps.cargo("package", &["publish", "--dry-run", "--allow-dirty", "--quiet", "--package", "chelsea-kv"], &[]);
    }
    Ok(steps.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_run_on_a_device_are_there() {
        for (file, names) in ON_A_DEVICE {
            let path = crate::process::root().join(format!("crates/chelsea-engine/tests/{file}.rs"));
            let text = std::fs::read_to_string(&path).expect("a file of tests");
            for name in names {
                let found = text.lines().filter(|line| line.starts_with("fn ") && line.contains(name)).count();
                assert_eq!(found, 1, "{name} in {file}.rs");
            }
        }
    }
}
