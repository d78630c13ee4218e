//! `chelsea bench`.

use super::shared::{DtypeArg, ModelArgs, parse_budget, parse_keep, parse_policy};
use chelsea_kv::{Budget, Policy};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const BENCH_EXAMPLES: &str = "\
Examples:
  Decode speed at three depths, full cache against a fifth:
    chelsea bench -m smollm2 --depths 0,2048,8000 --keeps 1,0.2

  Where a step's time goes, and how eight sequences together do, with plots:
    chelsea bench -m smollm2 --what split,batch --plots plots

  A book of 8,192 tokens read online into a fifth of its cache, then 256 tokens of answer:
    chelsea bench -m smollm2 --what end-to-end --prompt 8192 --generate 256 --keeps 0.2

  A context of any length in one fixed cache, on a model of random weights (no download):
    chelsea bench -m random:llama-3.2-1b --depths 8192,65536,262144 --kv-budgets 8192 --prefill 0

  Depths are filled with random entries, so that long ones cost no prefill; --real reads tokens instead.
  Models of random weights: random:NAME, where NAME is smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b,
  llama-3.2-1b, llama-3.2-3b, llama-3.1-8b or tiny.";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum What {
    /// Prefill and decode speed, and cache bytes, at each depth.
    Depth,
    /// Decode speed of several sequences that share each pass over the weights.
    Batch,
    /// A chunk of a text read in one pass with sequences that decode, beside what the two take apart.
    Mixed,
    /// A prompt read online, then generation: all of the time, and the cache at its peak.
    EndToEnd,
    /// Attention alone: bytes read and operations per second, beside plain reading of memory.
    Attention,
    /// Clustering alone: time per token, and its share of prefill.
    Matching,
    /// Where a decode step and a prefill block spend their time.
    Split,
}

/// `chelsea bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to measure; several with commas.
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "depth")]
    pub what: Vec<What>,
    /// Trials of each measurement, interleaved over all settings; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: u32,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Also draw what was measured, as SVG files in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,

    /// Cached tokens before anything is timed.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2048, 8000], help_heading = "Settings to compare")]
    pub depths: Vec<usize>,
    /// Keep ratios [default: 1,0.2; none where --kv-budgets is given].
    #[arg(long, value_delimiter = ',', value_parser = parse_keep, help_heading = "Settings to compare")]
    pub keeps: Vec<f32>,
    /// Caches of a size: a share of the full cache's bytes (20%), bytes (512MiB) or entries per head (8192).
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        value_parser = parse_budget,
        help_heading = "Settings to compare"
    )]
    pub kv_budgets: Vec<Budget>,
    /// Sequences decoded together, for --what batch and mixed.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [1, 2, 4, 8],
        value_parser = clap::value_parser!(u32).range(1..=256),
        help_heading = "Settings to compare"
    )]
    pub batches: Vec<u32>,

    /// Tokens of the timed prefill block; 0 leaves prefill out.
    #[arg(long, default_value_t = 512, help_heading = "Lengths")]
    pub prefill: usize,
    /// Tokens decoded in each trial; 0 leaves decode out.
    #[arg(long, default_value_t = 32, help_heading = "Lengths")]
    pub decode: usize,
    /// Tokens of the prompt, for --what end-to-end [default: 2048, or all of --file].
    #[arg(long, value_name = "TOKENS", help_heading = "Lengths")]
    pub prompt: Option<usize>,
    /// Text of the prompt, for --what end-to-end [default: random tokens].
    #[arg(short, long, value_name = "FILE", help_heading = "Lengths")]
    pub file: Option<PathBuf>,
    /// Tokens generated after the prompt, for --what end-to-end.
    #[arg(long, value_name = "TOKENS", default_value_t = 256, help_heading = "Lengths")]
    pub generate: usize,

    /// Read random tokens up to the depth and cluster them, instead of filling caches with random entries; attention
    /// alone and one-shot clustering are always measured on random entries.
    #[arg(long, help_heading = "Caches")]
    pub real: bool,
    /// How entries are chosen when something is clustered.
    #[arg(long, default_value = "chelsea", value_parser = parse_policy, help_heading = "Caches")]
    pub policy: Arc<dyn Policy>,
    /// Number format of cached keys and values [default: for a budget of bytes q8, for shares below
    /// 15% k8v4, below 8% k5v4; else f16, or bf16 for models in bf16].
    #[arg(long, value_enum, help_heading = "Caches")]
    pub kv_type: Option<DtypeArg>,
}

impl BenchArgs {
    /// Every way of keeping the cache that is compared, in the order given.
    pub fn budgets(&self) -> Vec<Budget> {
        let keeps: &[f32] = if self.keeps.is_empty() && self.kv_budgets.is_empty() { &[1.0, 0.2] } else { &self.keeps };
        keeps.iter().map(|&keep| Budget::EntryFraction(keep)).chain(self.kv_budgets.iter().copied()).collect()
    }

    /// What is measured, each once.
    pub fn wanted(&self) -> Vec<What> {
        let mut what = self.what.clone();
        what.sort_unstable();
        what.dedup();
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parse(args: &[&str]) -> Result<BenchArgs, clap::Error> {
        Cli::try_parse_from([&["bench", "-m", "x"], args].concat()).map(|cli| cli.args)
    }

    #[test]
    fn ratios_are_the_default_and_give_way_to_fixed_sizes() {
        assert_eq!(parse(&[]).unwrap().budgets(), [Budget::EntryFraction(1.0), Budget::EntryFraction(0.2)]);
        assert_eq!(parse(&["--kv-budgets", "8192"]).unwrap().budgets(), [Budget::Entries(8192)]);
        let both = parse(&["--keeps", "0.5", "--kv-budgets", "8192,1MiB"]).unwrap().budgets();
        assert_eq!(both, [Budget::EntryFraction(0.5), Budget::Entries(8192), Budget::Bytes(1 << 20)]);
    }

    #[test]
    fn what_is_asked_for_twice_is_measured_once() {
        assert_eq!(parse(&[]).unwrap().wanted(), [What::Depth]);
        assert_eq!(parse(&["--what", "split,depth,split"]).unwrap().wanted(), [What::Depth, What::Split]);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let bad: [&[&str]; 7] = [
            &["--threads", "0"],
            &["--trials", "0"],
            &["--keeps", "1.5"],
            &["--keeps", "0"],
            &["--batches", "0"],
            &["--kv-budgets", "many"],
            &["--depths", "-1"],
        ];
        for args in bad {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
