//! `chelsea bench`.

use super::shared::{ModelArgs, parse_keep, parse_policy};
use clap::Args;

pub(super) const BENCH_EXAMPLES: &str = "\
Examples:
  Decode speed at three depths, full cache against a fifth:
    chelsea bench -m smollm2 --depths 0,2048,8000 --keeps 1,0.2

  Depths are filled with random entries, so that long ones cost no prefill; --real reads text instead.";

/// `chelsea bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Cached tokens before decode is timed.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2048, 8000])]
    pub depths: Vec<usize>,
    /// Keep ratios to compare.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 0.2], value_parser = parse_keep)]
    pub keeps: Vec<f32>,
    /// Tokens of the timed prompt; 0 leaves prefill out.
    #[arg(long, default_value_t = 512)]
    pub prefill: usize,
    /// Tokens decoded in each trial; 0 leaves decode out.
    #[arg(long, default_value_t = 32)]
    pub decode: usize,
    /// Trials of each measurement; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: u32,
    /// Read random text up to the depth and cluster it, instead of filling the cache with random entries.
    #[arg(long)]
    pub real: bool,
    /// How entries are chosen, with --real.
    #[arg(long, default_value = "chelsea", value_parser = parse_policy)]
    pub policy: String,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
