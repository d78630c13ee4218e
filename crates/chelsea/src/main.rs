//! The `chelsea` command: every verb is a file of its own, and none of them computes anything itself.

// First: its macros are for all that follow.
#[macro_use]
mod print;

mod answer;
mod bench;
mod cache;
mod chat;
mod cli;
#[cfg(feature = "serve")]
mod cluster;
mod device;
mod documents;
mod eval;
mod files;
mod holding;
mod inspect;
mod models;
#[cfg(feature = "serve")]
mod mounts;
mod output;
mod policies;
mod reading;
mod run;
mod saved;
#[cfg(feature = "serve")]
mod serve;
mod setup;
mod signals;

use anyhow::Context as _;
use clap::CommandFactory as _;
use cli::{Cli, Command};
use tracing_subscriber::filter::LevelFilter;

fn main() -> std::process::ExitCode {
    // Before the arguments are read, which may name them.
    chelsea_baselines::register();
    let cli = cli::parse();
    let level = match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(output::colours())
        // Said on standard error, too, and in a way that panics where that is closed.
        .log_internal_errors(false)
        .init();
    let result = chelsea_simd::check().map_err(anyhow::Error::from).and_then(|_| match &cli.command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        #[cfg(not(feature = "serve"))]
        Command::Serve { .. } => Err(anyhow::anyhow!(
            "this build of chelsea is without the server: build one that has it with `cargo install --path crates/chelsea`"
        )),
        Command::Bench(args) => bench::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Models(args) => models::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Policies => {
            policies::run();
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "chelsea", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(())
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), folder)
            .with_context(|| format!("cannot write manual pages to {}", folder.display())),
    });
    if let Err(error) = &result {
        eprintln!("error: {}", output::error_text(error));
    }
    std::process::ExitCode::from(signals::exit_code(result.is_ok()))
}
