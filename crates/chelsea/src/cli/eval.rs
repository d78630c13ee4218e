//! `chelsea eval`.

use super::shared::{CompressArg, DtypeArg, ModelArgs, ScheduleArg, parse_keep, parse_policy, schedule};
use chelsea_kv::Schedule;
use clap::{Args, Subcommand};
use std::path::PathBuf;

pub(super) const EVAL_EXAMPLES: &str = "\
Examples:
  Facts hidden in essays, asked for after compression, three policies at two keep ratios:
    chelsea eval needles -m qwen2.5-coder-0.5b --contexts 4 --keeps 1,0.25,0.2 \\
        --policies chelsea,chelsea-plain,streaming --modes one-shot,online";

/// `chelsea eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The task.
    #[command(subcommand)]
    pub action: EvalAction,
}

/// Tasks of `chelsea eval`.
#[derive(Debug, Subcommand)]
pub enum EvalAction {
    /// Facts hidden in a long text, asked for one by one after the text was read.
    Needles(NeedlesArgs),
}

/// `chelsea eval needles`.
#[derive(Debug, Args)]
pub struct NeedlesArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to hide needles in: a file, or a folder of .txt files [default: essays, fetched].
    #[arg(long, value_name = "PATH")]
    pub haystack: Option<PathBuf>,
    /// Number of contexts.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub contexts: u32,
    /// Number of the first context.
    #[arg(long, default_value_t = 0)]
    pub first_context: u64,
    /// Tokens of each context.
    #[arg(long, default_value_t = 3000)]
    pub tokens: usize,
    /// Needles in each context.
    #[arg(long, default_value_t = 6)]
    pub needles: usize,
    /// Seed of texts and needles.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Keep ratios; 1 is the full cache.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 0.5, 0.25, 0.2], value_parser = parse_keep)]
    pub keeps: Vec<f32>,
    /// Policies to compare; settings of one are separated by + here (chelsea:floor=0+chunk=128).
    #[arg(long, value_delimiter = ',', default_values_t = [String::from("chelsea")], value_parser = parse_policy)]
    pub policies: Vec<String>,
    /// When the cache is clustered.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [CompressArg::OneShot])]
    pub modes: Vec<CompressArg>,
    /// Whether old centroids are matched again when online.
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleArg>,
    /// First entries of every head that are never merged.
    #[arg(long, default_value_t = 4)]
    pub sinks: usize,
    /// Last entries of every head that are never merged.
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Number format of cached keys and values [default: f16, bf16 where the model is].
    #[arg(long, value_enum)]
    pub kv_type: Option<DtypeArg>,
    /// Print one JSON object a question on stdout, and the table on stderr.
    #[arg(long)]
    pub json: bool,
}

impl NeedlesArgs {
    /// The schedule of online runs.
    pub fn schedule(&self) -> Schedule {
        schedule(self.schedule)
    }
}
