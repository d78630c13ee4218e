//! Chores of the workspace, as `cargo xtask NAME`.
//!
//! `test` is what continuous integration runs; `demo` is what a newcomer runs. Both fetch what they need and say in
//! a table what they did.

mod cluster;
mod compare;
mod data;
mod demo;
mod dist;
mod document;
mod drawings;
mod fetch;
mod fuzz;
mod gpu_check;
mod kernels;
mod peers;
mod process;
mod python;
mod quality;
mod serve;
mod table;
mod test;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Fetch models and texts, then check format, lints and documentation and run every test and the fuzz targets.
    Test(test::Args),
    /// Build, fetch SmolLM2 and a text, and answer questions over it with the full and with clustered caches.
    Demo(demo::Args),
    /// Feed mutated inputs to the parsers of foreign bytes.
    Fuzz(fuzz::Args),
    /// Compile the kernels for GPUs anew, or compare them with what is committed.
    Kernels(kernels::Args),
    /// Run the tests of kernels on a GPU, and measure what it reaches.
    GpuCheck(gpu_check::Args),
    /// Compare speed with llama.cpp on the same models, lengths and threads.
    BenchPeers(peers::Args),
    /// Measure what a server holds and how long its clients wait, beside llama-server where one is given.
    BenchServe(serve::Args),
    /// Draw the picture of docs/quality.md from the table in docs/results.
    QualityPlot,
    /// Whether two builds of the command answer alike, bit for bit.
    Compare(compare::Args),
    /// Build an archive to install from, with manual pages, completions, licences and checksums.
    Dist(dist::Args),
    /// Build a package of Python's that installs the command.
    Wheel(wheel::Args),
    /// Draw the pictures of docs/method.md anew.
    Drawings,
    /// Make long-context samples for the tokenizer of a model, for `chelsea eval run`.
    Data(data::Args),
    /// Download models or data sets by name into the cache, and print where they are.
    Fetch(fetch::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Kernels(args) => kernels::run(&args),
        Chore::GpuCheck(args) => gpu_check::run(&args),
        Chore::BenchPeers(args) => peers::run(&args),
        Chore::BenchServe(args) => serve::run(&args),
        Chore::QualityPlot => quality::run(),
        Chore::Compare(args) => compare::run(&args),
        Chore::Dist(args) => dist::run(&args),
        Chore::Wheel(args) => wheel::run(&args),
        Chore::Drawings => drawings::run(),
        Chore::Data(args) => data::run(&args),
        Chore::Fetch(args) => fetch::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
