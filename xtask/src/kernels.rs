//! `cargo xtask kernels`: compiles the kernels for GPUs, with a compiler from a Python package, and writes their machine
//! code and the table of registers beside them; `--check` compares.

use std::path::PathBuf;
use std::process::Command;

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
