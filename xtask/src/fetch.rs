//! `cargo xtask fetch`: models and data sets into the cache.
//!
//! The example `fetch` of `chelsea-hub` does the work. It is a program apart because what downloads takes longer to
//! compile than all chores together, and only some of them download.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, root, shown, target_dir};

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
    let mut fetch = program();
    fetch.args(if args.names.is_empty() { &default } else { &args.names });
    Ok(fetch.status().with_context(|| format!("cannot start `{}`", shown(&fetch)))?.success())
}

/// Brings one model or data set into the cache and returns its path.
pub fn one(name: &str) -> Result<PathBuf> {
    path(program().arg(name))
}

/// [`one`], with the program that `build_demo` has built.
pub fn one_by_demo(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("release").join("examples");
    path(Command::new(folder.join(format!("fetch{}", std::env::consts::EXE_SUFFIX))).arg(name))
}

/// Where Chelsea keeps its files: `home`, or the `models` or `data` in it.
pub fn folder(name: &str) -> Result<PathBuf> {
    path(program().args(["--folder", name]))
}

/// The example, built first if need be. It runs where this program was called, as relative paths are meant.
fn program() -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "chelsea-hub", "--example", "fetch", "--manifest-path"]);
    command.arg(root().join("Cargo.toml")).arg("--").current_dir(".");
    command
}

fn path(fetch: &mut Command) -> Result<PathBuf> {
    let output = fetch.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(fetch)))?;
    ensure!(output.status.success(), "`{}` failed: {}", shown(fetch), output.status);
    let text = String::from_utf8(output.stdout).context("the path is no UTF-8")?;
    Ok(text.trim_end_matches(['\r', '\n']).into())
}
