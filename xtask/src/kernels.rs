//! `cargo xtask kernels`: compiles the kernels for GPUs, with a compiler from a Python package, and writes their machine
//! code and the table of registers beside them; `--check` compares.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::cluster::Checked;
use crate::process::{root, succeeds};
use crate::{fetch, python};

/// What `kernels` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write nothing: fail where the committed machine code is not what the sources give.
    #[arg(long)]
    check: bool,
}

/// Compiles; false if that failed, or nothing should be written and something differs.
///
/// # Errors
/// If there is no compiler.
pub fn run(args: &Args) -> Result<bool> {
    compile(compiler()?, args.check)
}

/// Compares, where there is a compiler for this machine.
///
/// # Errors
/// If the script cannot be started.
pub fn check() -> Result<Checked> {
    match compiler() {
        Ok(python) => Ok(if compile(python, true)? { Checked::Held } else { Checked::Failed }),
        Err(error) => Ok(Checked::Skipped(format!("{error:#}"))),
    }
}

/// Runs the tests of all kernels in the emulator with sanitizers, where there is GCC.
///
/// # Errors
/// If the script cannot be started.
pub fn sanitized() -> Result<Checked> {
    let gcc = Command::new("g++").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !cfg!(target_os = "linux") || !gcc.is_ok_and(|status| status.success()) {
        return Ok(Checked::Skipped("sanitizers come with GCC on Linux".to_owned()));
    }
    let passed = succeeds(Command::new("sh").current_dir(root()).arg("scripts/kernels/sanitize.sh"))?;
    Ok(if passed { Checked::Held } else { Checked::Failed })
}

/// A Python that has the compiler.
fn compiler() -> Result<PathBuf> {
    let scripts = root().join("scripts").join("kernels");
    python::environment(&fetch::folder("home")?, "kernels", &scripts, &[("packages.txt", true)])
}

fn compile(python: PathBuf, check: bool) -> Result<bool> {
    let mut command = Command::new(python);
    command.current_dir(root()).arg("scripts/kernels/compile.py").arg("crates/chelsea-cuda/kernels");
    succeeds(command.args(check.then_some("--check")))
}
