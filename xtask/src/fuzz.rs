//! `cargo xtask fuzz`: a bounded number of mutated inputs for each parser of foreign bytes, on the stable toolchain.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::{cargo, root, succeeds, target_dir};

/// What `fuzz` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Inputs for each target.
    #[arg(long, default_value_t = 100_000)]
    pub runs: u64,
    /// Start of the random numbers; the same seed makes the same inputs.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Only this target.
    #[arg(long)]
    pub target: Option<String>,
}

/// Builds the targets and runs them; false if an input was found that a parser does not stand.
pub fn run(args: &Args) -> Result<bool> {
    let mut command = cargo(&["run", "--quiet", "--package", "chelsea-fuzz", "--"]);
    succeeds(with(&mut command, args))
}

/// The same with the program that `cargo test --workspace` has built. To cargo it is another one than that of
/// `cargo run --package chelsea-fuzz`, since the whole workspace asks for more features of some dependencies, and
/// all crates below it would be compiled again.
pub fn run_built(args: &Args) -> Result<bool> {
    let program = target_dir().join("debug").join(format!("chelsea-fuzz{}", std::env::consts::EXE_SUFFIX));
    ensure!(program.is_file(), "{} was not built", program.display());
    succeeds(with(Command::new(program).current_dir(root()), args))
}

fn with<'a>(command: &'a mut Command, args: &Args) -> &'a mut Command {
    let (runs, seed) = (args.runs.to_string(), args.seed.to_string());
    command.args(["--runs", &runs, "--seed", &seed]).args(&args.target)
}
