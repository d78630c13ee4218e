//! Every verb and flag of the command, and the help that teaches them: the verbs here, what several of them
//! share in `shared`, and each verb's own flags in a file of its name.

mod bench;
#[cfg(feature = "serve")]
mod cluster;
#[cfg(feature = "serve")]
mod config;
#[cfg(test)]
mod documented;
mod eval;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod shared;
mod stored;

pub use bench::{BenchArgs, What};
#[cfg(feature = "serve")]
pub use cluster::ClusterArgs;
#[cfg(feature = "serve")]
pub use config::parse;
pub use eval::{
    ArithmeticArgs, CompareArgs, ContinuationArgs, CopyingArgs, EvalAction, EvalArgs, GenerateArgs, KindArg, LookupArg,
    LookupArgs, NeedlesArgs, OnError, QuickArgs, ReportArgs, RulesArgs, RunFilesArgs, StreamArgs, ValuesArg,
    VariablesArgs, WordsArgs,
};
pub use run::RunArgs;
#[cfg(feature = "serve")]
pub use serve::ServeArgs;
pub use shared::{CacheArgs, DtypeArg, LayoutArgs, ModelArgs, ProductsArg, QualityArg, SampleArgs};
pub use stored::{BuildArgs, CacheAction, CacheCmdArgs, InspectArgs, ModelsAction, ModelsArgs};

use clap::{Parser, Subcommand};

/// What comes after help elsewhere comes before the flags here.
const EXAMPLES_FIRST: &str = "{about-with-newline}\n{usage-heading} {usage}{after-help}\n\n{all-args}";

/// Runs language models over long texts and clusters their KV cache while reading, to a quarter of its memory unless told
/// otherwise.
#[derive(Debug, Parser)]
#[command(name = "chelsea", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr (-v, -vv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer questions about documents, or chat.
    #[command(
        help_template = EXAMPLES_FIRST,
        after_long_help = run::RUN_EXAMPLES,
        after_help = "--help shows all flags, and examples."
    )]
    Run(RunArgs),
    #[cfg(feature = "serve")]
    /// Serve a model over HTTP, to clients of OpenAI's and Anthropic's interfaces.
    #[command(
        help_template = EXAMPLES_FIRST,
        after_long_help = serve::SERVE_EXAMPLES,
        after_help = "--help shows all flags, and examples."
    )]
    Serve(Box<ServeArgs>),
    /// Says that this build cannot.
    #[cfg(not(feature = "serve"))]
    #[command(hide = true, disable_help_flag = true)]
    Serve {
        /// Whatever a server is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        told: Vec<std::ffi::OsString>,
    },
    /// Measure speed and memory: prefill, decode and whole answers at given depths and keep ratios.
    #[command(help_template = EXAMPLES_FIRST, after_long_help = bench::BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Measure what a clustered cache remembers, side by side with the full one.
    #[command(help_template = EXAMPLES_FIRST, after_long_help = eval::EVAL_EXAMPLES)]
    Eval(EvalArgs),
    /// Show what a model or a saved cache holds, and what a budget would.
    #[command(help_template = EXAMPLES_FIRST, after_long_help = stored::INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// List, fetch and remove models.
    Models(ModelsArgs),
    /// Build a cache file from documents, or show one.
    Cache(CacheCmdArgs),
    /// Show every policy that chooses what a cache keeps, with its settings.
    Policies,
    /// Print completions for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for those who make packages.
    #[command(hide = true)]
    Man {
        /// An existing folder.
        folder: std::path::PathBuf,
    },
}

/// The command line. Ends the program where clap does: for help, and for what makes no sense.
#[cfg(not(feature = "serve"))]
pub fn parse() -> Cli {
    Cli::parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[cfg(not(feature = "serve"))]
    #[test]
    fn whatever_a_server_is_told_is_read_without_one() {
        for line in [&["chelsea", "serve"][..], &["chelsea", "serve", "-m", "x", "--port", "1", "--help"]] {
            let cli = Cli::try_parse_from(line).expect("it is read");
            assert!(matches!(cli.command, Command::Serve { .. }));
        }
        assert!(!Cli::command().render_help().to_string().contains("serve"));
    }
}
