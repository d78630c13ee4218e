//! `cargo xtask fuzz`: a bounded number of mutated inputs for each parser of foreign bytes, on the stable toolchain.

use anyhow::Result;

use crate::process::{cargo, succeeds};

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

/// Runs the targets; false if an input was found that a parser does not stand.
pub fn run(args: &Args) -> Result<bool> {
    let (runs, seed) = (args.runs.to_string(), args.seed.to_string());
    let mut command = cargo(&["run", "--quiet", "--package", "chelsea-fuzz", "--", "--runs", &runs, "--seed", &seed]);
    command.args(&args.target);
    succeeds(&mut command)
}
