//! Every verb and flag of the command, and the help that teaches them.

use chelsea_engine::{Compression, Sampling, SessionOptions};
use chelsea_kv::{Budget, Dtype, Schedule};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Long contexts in a fifth of the memory: an LLM engine that clusters its KV cache online.
#[derive(Debug, Parser)]
#[command(name = "chelsea", version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr (-v, -vv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer questions about documents, or chat.
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Measure prefill and decode speed and cache size at given depths and keep ratios.
    #[command(after_long_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Measure what a clustered cache remembers, side by side with the full one.
    #[command(after_long_help = EVAL_EXAMPLES)]
    Eval(EvalArgs),
    /// Show what a model or a saved cache holds, and what a budget would.
    #[command(after_long_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// List, fetch and remove models.
    Models(ModelsArgs),
    /// Build a cache file from documents, or show one.
    Cache(CacheCmdArgs),
    /// Print completions for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  Ask two questions of one document; it is read once, into a quarter of the memory:
    chelsea run -m smollm2 -f report.txt -p 'Who wrote it?' -p 'When?' --keep 0.25

  Never let the cache grow past 512 MiB, however long the text:
    chelsea run -m qwen2.5-coder-1.5b -f book.txt -p 'How does it end?' --kv-budget 512MiB

  Read once, ask again tomorrow:
    chelsea run -m smollm2 -f report.txt -p 'Who?' --keep 0.25 --save-cache report.kv
    chelsea run -m smollm2 --load-cache report.kv -p 'When?'

  Chat (no prompt given), with the cache clustered as the talk goes on:
    chelsea run -m qwen2.5-coder-0.5b --keep 0.5 --temp 0.7

  MODEL is a .gguf or .safetensors file, a folder, a short name (see `chelsea models`), or a hub id
  such as org/name or org/name:file.gguf.";

const BENCH_EXAMPLES: &str = "\
Examples:
  Decode speed at three depths, full cache against a fifth:
    chelsea bench -m smollm2 --depths 0,2048,8000 --keeps 1,0.2

  Depths are filled with random entries, so that long ones cost no prefill; --real reads text instead.";

const EVAL_EXAMPLES: &str = "\
Examples:
  Facts hidden in essays, asked for after compression, three policies at two keep ratios:
    chelsea eval needles -m qwen2.5-coder-0.5b --contexts 4 --keeps 1,0.25,0.2 \\
        --policies chelsea,chelsea-plain,streaming --modes one-shot,online";

const INSPECT_EXAMPLES: &str = "\
Examples:
  chelsea inspect smollm2
  chelsea inspect qwen2.5-coder-1.5b --kv-budget 512MiB
  chelsea inspect report.kv";

/// Which model, and on what it runs.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A file, a folder, a short name, or a hub id `org/name[:file]`.
    #[arg(short, long, value_name = "MODEL")]
    pub model: String,
    /// Threads to compute with [default: all cores].
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How weight products are computed: packed integers, or dequantised to 32-bit floats.
    #[arg(long, value_enum, default_value_t = ProductsArg::Fast)]
    pub products: ProductsArg,
}

/// How weight products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProductsArg {
    /// Packed integer weights and 8-bit activations.
    Fast,
    /// 32-bit floats: slow, large, exact; for comparisons.
    F32,
}

/// How the cache is kept.
#[derive(Debug, Clone, Args)]
pub struct CacheArgs {
    /// Share of the cache entries to keep, above 0 and at most 1 [default: 0.5; 1 for --policy full].
    #[arg(short, long, value_parser = parse_keep, conflicts_with = "kv_budget")]
    pub keep: Option<f32>,
    /// Fixed size of the cache instead: bytes (512MiB, 2GB) or entries a head (20000).
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    pub kv_budget: Option<Budget>,
    /// How entries are chosen: a name, and settings if any (chelsea:floor=0,chunk=128) [default: chelsea].
    #[arg(long, value_parser = parse_policy, long_help = policy_help())]
    pub policy: Option<String>,
    /// When prompts are clustered: block by block while reading, or once after it.
    #[arg(long, value_enum, default_value_t = CompressArg::Online)]
    pub compress: CompressArg,
    /// Whether old centroids are matched again as the text grows [default: measured best].
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleArg>,
    /// First entries of every head that are never merged.
    #[arg(long, default_value_t = 4)]
    pub sinks: usize,
    /// Last entries of every head that are never merged.
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Tokens of a prompt that are read at once.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub block: u32,
    /// Longest sequence, prompt and answer together [default: the trained context].
    #[arg(short, long, value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Number format of cached keys and values [default: f16, bf16 where the model is].
    #[arg(long, value_enum)]
    pub kv_type: Option<DtypeArg>,
}

/// When prompts are clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressArg {
    /// Block by block while reading: memory stays within the budget and one block.
    Online,
    /// Once, after reading: a little closer to the full cache, but reading takes its whole memory.
    OneShot,
}

/// Whether old centroids are matched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    /// Each block is clustered once.
    Once,
    /// Everything is matched again under the running total.
    Remerge,
}

/// Number formats of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers with a scale for each key and value: about half the bytes of f16.
    Q8,
}

impl DtypeArg {
    /// The same as the cache calls it.
    pub fn dtype(self) -> Dtype {
        match self {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::F16 => Dtype::F16,
            DtypeArg::Bf16 => Dtype::Bf16,
            DtypeArg::Q8 => Dtype::Q8,
        }
    }
}

impl CacheArgs {
    /// The budget that was asked for, if any was.
    pub fn asked_budget(&self) -> Option<Budget> {
        self.kv_budget.or(self.keep.map(Budget::Keep))
    }

    /// The budget that was asked for, or half of the full cache.
    pub fn budget(&self) -> Budget {
        let default = if self.policy() == "full" { 1.0 } else { 0.5 };
        self.asked_budget().unwrap_or(Budget::Keep(default))
    }

    /// The policy that was asked for, or the default.
    pub fn policy(&self) -> &str {
        self.policy.as_deref().unwrap_or("chelsea")
    }

    /// The same as options of a session.
    pub fn session(&self) -> SessionOptions {
        SessionOptions {
            budget: self.budget(),
            policy: self.policy().to_string(),
            schedule: schedule(self.schedule),
            compression: match self.compress {
                CompressArg::Online => Compression::Online,
                CompressArg::OneShot => Compression::OneShot,
            },
            sinks: self.sinks,
            window: self.window,
            block: self.block as usize,
            context: self.ctx,
            dtype: self.kv_type.map(DtypeArg::dtype),
        }
    }
}

/// How text is generated.
#[derive(Debug, Clone, Args)]
pub struct SampleArgs {
    /// 0 always takes the most likely token; higher is more varied.
    #[arg(long, default_value_t = 0.0)]
    pub temp: f32,
    /// Choose among this many most likely tokens; 0 is off.
    #[arg(long, default_value_t = 40)]
    pub top_k: usize,
    /// Choose among the tokens that make up this much probability; 1 is off.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Leave out tokens this much less likely than the best; 0 is off.
    #[arg(long, default_value_t = 0.05)]
    pub min_p: f32,
    /// Make tokens seen lately less likely; 1 is off.
    #[arg(long, default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Most tokens of an answer.
    #[arg(short = 'n', long, default_value_t = 512)]
    pub max_tokens: usize,
    /// End an answer at this text (may be given several times).
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SampleArgs {
    /// The same as sampling settings.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// `chelsea run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Document to read first, `-` for standard input (may be given several times).
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Question to answer (may be given several times: the document is read only once). Without one,
    /// a chat begins.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// System message of the chat template.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give documents and prompts to the model as they are.
    #[arg(long)]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Write the cache of the documents to a file.
    #[arg(long, value_name = "FILE")]
    pub save_cache: Option<PathBuf>,
    /// Go on from a cache written before, instead of reading documents.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub load_cache: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

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

fn schedule(arg: Option<ScheduleArg>) -> Schedule {
    match arg {
        None => Schedule::default(),
        Some(ScheduleArg::Once) => Schedule::Once,
        Some(ScheduleArg::Remerge) => Schedule::Remerge,
    }
}

/// `chelsea inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model (file, folder, short name, hub id) or a saved cache.
    pub what: String,
    /// Show what this budget would hold (512MiB, 20000).
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    pub kv_budget: Option<Budget>,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `chelsea models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// What to do; lists when nothing is given.
    #[command(subcommand)]
    pub action: Option<ModelsAction>,
}

/// What `chelsea models` can do.
#[derive(Debug, Subcommand)]
pub enum ModelsAction {
    /// Show the short names and what is on this machine.
    List,
    /// Fetch a model and verify it.
    Pull {
        /// A short name or a hub id.
        model: String,
    },
    /// Delete a fetched model from this machine.
    Remove {
        /// A short name.
        model: String,
    },
}

/// `chelsea cache`.
#[derive(Debug, Args)]
pub struct CacheCmdArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: CacheAction,
}

/// What `chelsea cache` can do.
#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// Read documents and write their cache to a file.
    Build(BuildArgs),
    /// Show what a cache file holds, and check it.
    Show {
        /// The cache file.
        file: PathBuf,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// `chelsea cache build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Document to read, `-` for standard input (may be given several times).
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Where to write the cache.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// System message of the chat template.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give documents to the model as they are.
    #[arg(long)]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub cache: CacheArgs,
}

fn parse_policy(text: &str) -> Result<String, chelsea_kv::policy::PolicyError> {
    let spec = text.replace('+', ",");
    chelsea_kv::policy::policy(&spec).map(|_| spec)
}

/// The registry as help text.
fn policy_help() -> String {
    let mut help = String::from(
        "How entries are chosen: a name, and settings if any (chelsea:floor=0,chunk=128). The default is chelsea.\n",
    );
    for policy in chelsea_kv::policy::registry() {
        help.push_str(&format!("\n- {}: {} [{}]", policy.name, policy.about, policy.source));
        for setting in policy.settings {
            help.push_str(&format!("\n    {}={}: {}", setting.name, setting.default, setting.about));
        }
    }
    help
}

fn parse_keep(text: &str) -> Result<f32, String> {
    let keep: f32 = text.parse().map_err(|_| "give a number such as 0.25".to_string())?;
    if keep > 0.0 && keep <= 1.0 { Ok(keep) } else { Err("a keep ratio is above 0 and at most 1".into()) }
}

/// `512MiB` is bytes, `20000` is entries a head, `25%` a share.
fn parse_budget(text: &str) -> Result<Budget, chelsea_kv::BudgetError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn keep_ratios_out_of_range_are_refused() {
        for bad in ["0", "1.01", "-0.5", "NaN", "a"] {
            assert!(parse_keep(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_keep("0.25"), Ok(0.25));
    }
}
