//! `chelsea eval`.

use super::shared::{DtypeArg, ModelArgs, parse_keep, parse_policy};
use chelsea_eval::metrics::Metric;
use chelsea_eval::{Basis, Mode};
use chelsea_kv::Budget;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

pub(super) const EVAL_EXAMPLES: &str = "\
Examples:
  A first answer for a model, with a page of plots:
    chelsea eval quick -m qwen2.5-coder-0.5b --kv-budgets 100%,25%,10%

  Facts hidden in essays, asked for after compression, three policies in two sizes of the cache:
    chelsea eval needles -m qwen2.5-coder-0.5b --samples 4 --kv-budgets 100%,25%,20% \\
        --policies chelsea,chelsea-plain,streaming --modes one-shot,online

  A map of one needle over depth and length:
    chelsea eval needles -m qwen2.5-coder-0.5b --kind single --depths 0,25,50,75,100 --tokens 1000,2000,4000 \\
        --out needles.jsonl

  RULER, made by `cargo xtask data ruler`, with every policy there is; the same command goes on after Ctrl-C:
    chelsea eval run RULER/*.jsonl -m qwen2.5-coder-0.5b --policies all --kv-budgets 100%,50%,25% --out ruler.jsonl

  Tables and plots of all that was measured:
    chelsea eval report ruler.jsonl needles.jsonl --out report";

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
    /// All of the generated tasks, few of each, with a page of the results: a first answer for a model of yours, in less
    /// than an hour on two cores for a model of 1.5B.
    Quick(QuickArgs),
    /// Facts hidden in a long text, asked for after the text was read.
    Needles(NeedlesArgs),
    /// A passage of the text begins once more after it: is it copied to the letter?
    Copying(CopyingArgs),
    /// Chains of assignments hidden in a long text: which variables hold a value?
    Variables(VariablesArgs),
    /// A long list of words: which are the most common?
    Words(WordsArgs),
    /// Long lists, and several questions about each: the value of a key, a line by its ends, the largest numbers.
    Lookup(LookupArgs),
    /// A system message with rules for every answer, then a long text: are they still kept?
    Rules(RulesArgs),
    /// Worked examples, then problems of several steps: does one wrong number spoil the answer?
    Arithmetic(ArithmeticArgs),
    /// The text that follows: how far do predictions stray from the full cache's?
    Continuation(ContinuationArgs),
    /// Text without end: do predictions become worse as it goes on, while the cache stays as large as it is?
    Stream(StreamArgs),
    /// Samples of files in the format of RULER or LongBench, or documents with many questions each.
    Run(RunFilesArgs),
    /// Tables and plots of results.
    Report(ReportArgs),
}

/// What is compared, and where results go.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Shares of the bytes of a full cache in 16 bits, everything counted, as `run --kv-budget` takes them; 100% is the
    /// full cache [default: 100%,50%,25%,20%, unless --keeps is given].
    #[arg(long, value_delimiter = ',', value_name = "SHARES", value_parser = parse_share)]
    pub kv_budgets: Vec<f32>,
    /// Shares of the entries, in the number format of the full cache; 1 is the full cache.
    #[arg(long, value_delimiter = ',', value_name = "SHARES", value_parser = parse_keep)]
    pub keeps: Vec<f32>,
    /// Policies to compare, or `all`; settings of one are separated by + here (chelsea:floor=0+chunk=128).
    #[arg(long, value_delimiter = ',', default_values_t = [String::from("chelsea")], value_parser = parse_policies)]
    pub policies: Vec<String>,
    /// When the cache is compressed and asked: one-shot, online, aware, aware-online, turns, turns-online,
    /// pieces.
    #[arg(long, value_delimiter = ',', default_values_t = [Mode::OneShot], long_help = modes_help())]
    pub modes: Vec<Mode>,
    /// File that results are added to; what it holds already is not measured again.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What a sample that cannot be used does to the run.
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    pub on_error: OnError,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// First entries of every head that are never merged.
    #[arg(long, default_value_t = 4)]
    pub sinks: usize,
    /// Last entries of every head that are never merged, at least: `chelsea` leaves more where much is kept (`recent` in
    /// `chelsea policies`).
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Most tokens of a document and its answers together [default: the context that the model was trained for].
    #[arg(short, long, value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Number format of cached keys and values [default: f16, or bf16 for models in bf16; for --kv-budgets below 100% q8, or
    /// k8v4 below 15%, k5v4 below 8%].
    #[arg(long, value_enum)]
    pub kv_type: Option<DtypeArg>,
    /// Give documents and questions to the model as they are.
    #[arg(long)]
    pub no_chat_template: bool,
    /// Print JSON lines on stdout (one for each question about needles, one for each sample of other tasks), and the table on stderr.
    #[arg(long)]
    pub json: bool,
}

impl CompareArgs {
    /// What is kept: the full cache and three budgets where nothing was said.
    pub fn shares(&self) -> Vec<(Basis, f32)> {
        let bytes: &[f32] = match (self.kv_budgets.as_slice(), self.keeps.as_slice()) {
            ([], []) => &[1.0, 0.5, 0.25, 0.2],
            (given, _) => given,
        };
        let of = |of: Basis, shares: &[f32]| shares.iter().map(|&share| (of, share)).collect::<Vec<_>>();
        [of(Basis::Bytes, bytes), of(Basis::Entries, &self.keeps)].concat()
    }

    /// The policies, with `all` spelled out.
    pub fn policies(&self) -> Vec<String> {
        let all = || chelsea_kv::policy::registry().iter().map(|info| info.name.to_owned()).collect();
        self.policies.iter().flat_map(|p| if p == "all" { all() } else { vec![p.clone()] }).collect()
    }
}

/// What a bad sample does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Ends it.
    Stop,
    /// Is left out, with a warning.
    Skip,
}

/// What the generators share.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Text to make samples from: a file, or a folder of .txt files [default: essays, fetched].
    #[arg(long, value_name = "PATH")]
    pub haystack: Option<PathBuf>,
    /// Number of samples of each kind and length.
    #[arg(long, alias = "contexts", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub samples: u32,
    /// Number of the first sample.
    #[arg(long, alias = "first-context", default_value_t = 0)]
    pub first_sample: u64,
    /// Tokens of each document; several lengths may be given.
    #[arg(long, value_delimiter = ',', default_values_t = [3000])]
    pub tokens: Vec<usize>,
}

/// `chelsea eval quick`.
#[derive(Debug, Args)]
pub struct QuickArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Folder for report.md and report.html, and for results.jsonl where --out says nothing else.
    #[arg(long, value_name = "DIR", default_value = "chelsea-quick")]
    pub report: PathBuf,
}

/// `chelsea eval needles`.
#[derive(Debug, Args)]
pub struct NeedlesArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// How needles are asked for.
    #[arg(long, value_enum, default_value_t = KindArg::MultiKey)]
    pub kind: KindArg,
    /// What the values are.
    #[arg(long, value_enum, default_value_t = ValuesArg::Digits)]
    pub values: ValuesArg,
    /// Digits of a number.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub digits: u32,
    /// Needles in each context (one for --kind single).
    #[arg(long, default_value_t = 6)]
    pub needles: usize,
    /// Depths of a single needle in percent: each makes a sample of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 25.0, 50.0, 75.0, 100.0])]
    pub depths: Vec<f64>,
}

/// How needles are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// One needle at each of the depths.
    Single,
    /// Needles with different keys, each asked for on its own.
    MultiKey,
    /// Needles with one key; one question asks for all values.
    MultiValue,
    /// Needles with different keys; one question asks for all.
    MultiQuery,
}

/// What the values of needles are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ValuesArg {
    /// Numbers.
    Digits,
    /// Two words.
    Words,
    /// UUIDs.
    Uuids,
}

/// `chelsea eval copying`.
#[derive(Debug, Args)]
pub struct CopyingArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Passages of each document, spread evenly.
    #[arg(long, default_value_t = 4)]
    pub passages: usize,
    /// Tokens of a passage that are given.
    #[arg(long, default_value_t = 16)]
    pub cue: usize,
    /// Tokens of a passage that are scored.
    #[arg(long, default_value_t = 48)]
    pub target: usize,
}

/// `chelsea eval variables`.
#[derive(Debug, Args)]
pub struct VariablesArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Chains of assignments; one is asked for.
    #[arg(long, default_value_t = 2)]
    pub chains: usize,
    /// Assignments of a chain after the first.
    #[arg(long, default_value_t = 4)]
    pub hops: usize,
}

/// `chelsea eval words`.
#[derive(Debug, Args)]
pub struct WordsArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Words that come more often.
    #[arg(long, default_value_t = 10)]
    pub common: usize,
}

/// `chelsea eval lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// What is on the lists.
    #[arg(long, value_delimiter = ',', default_values_t = [LookupArg::Pairs, LookupArg::Ends, LookupArg::Numbers])]
    pub kinds: Vec<LookupArg>,
    /// Questions about each list; with `--modes turns` or `turns-online` they follow each other in one conversation.
    #[arg(long, default_value_t = 5)]
    pub questions: usize,
}

/// What is on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LookupArg {
    /// Keys and values: what is the value of a key?
    Pairs,
    /// Lines of four words: which begins with one word and ends with another?
    Ends,
    /// Numbers: which is the largest, the smallest, the second largest?
    Numbers,
}

impl std::fmt::Display for LookupArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// `chelsea eval rules`.
#[derive(Debug, Args)]
pub struct RulesArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Rules of a system message, 6 at most.
    #[arg(long, default_value_t = 4)]
    pub rules: usize,
}

/// `chelsea eval arithmetic`.
#[derive(Debug, Args)]
pub struct ArithmeticArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Steps of every problem.
    #[arg(long, default_value_t = 4)]
    pub steps: usize,
    /// Problems asked after the examples.
    #[arg(long, default_value_t = 6)]
    pub questions: usize,
}

/// `chelsea eval continuation`.
#[derive(Debug, Args)]
pub struct ContinuationArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Tokens that are scored.
    #[arg(long, default_value_t = 64)]
    pub target: usize,
}

/// `chelsea eval stream`.
#[derive(Debug, Args)]
pub struct StreamArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// Entries per head that the cache may hold, however long the text becomes; several sizes may be given. Shares
    /// (--kv-budgets, --keeps) grow with the text instead [default: a sixth of --tokens, unless there are shares].
    #[arg(long, value_delimiter = ',', value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(1..))]
    pub entries: Vec<u32>,
    /// Pieces of the text that are scored, each by itself.
    #[arg(long, default_value_t = 8)]
    pub pieces: usize,
}

impl StreamArgs {
    /// What is kept of a text of `tokens`: numbers of entries, and shares where they were asked for.
    pub fn shares(&self, tokens: usize) -> Vec<(Basis, f32)> {
        let asked = !(self.compare.kv_budgets.is_empty() && self.compare.keeps.is_empty());
        let mut shares = if asked { self.compare.shares() } else { Vec::new() };
        // As 32-bit floats, shares tell entries of any text apart that a model reads.
        let held = |entries: f64| (Basis::Held, (entries / tokens.max(1) as f64).min(1.0) as f32);
        shares.extend(self.entries.iter().map(|&entries| held(f64::from(entries))));
        if shares.is_empty() {
            shares.push(held((tokens / 6) as f64));
        }
        shares
    }
}

/// `chelsea eval run`.
#[derive(Debug, Args)]
pub struct RunFilesArgs {
    /// Files with one JSON object per line.
    #[arg(required = true, value_name = "FILE.jsonl")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub compare: CompareArgs,
    /// At most this many samples of each file, drawn by the seed [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// How answers are scored [default: as the benchmark does].
    #[arg(long)]
    pub metric: Option<Metric>,
    /// Most tokens of an answer [default: as the benchmark has it].
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_tokens: Option<u32>,
}

/// `chelsea eval report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Files of results, written with --out.
    #[arg(required = true, value_name = "RESULTS.jsonl")]
    pub results: Vec<PathBuf>,
    /// Folder for report.md and report.html.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only these policies, as they are named in the results; settings of one are separated by + here.
    #[arg(long, value_delimiter = ',', value_parser = |text: &str| Ok::<_, std::convert::Infallible>(text.replace('+', ",")))]
    pub policies: Vec<String>,
}

/// A share of the bytes. Budgets of other kinds would mean something else for each length of a sample.
fn parse_share(text: &str) -> Result<f32, String> {
    match text.parse::<Budget>().map_err(|e| e.to_string())? {
        Budget::ByteFraction(share) | Budget::EntryFraction(share) => Ok(share),
        Budget::Entries(_) | Budget::Bytes(_) => Err("what is compared are shares of the full cache: 25%, 20%".into()),
    }
}

fn parse_policies(text: &str) -> Result<String, chelsea_kv::policy::PolicyError> {
    if text == "all" { Ok(text.to_owned()) } else { parse_policy(text).map(|_| text.replace('+', ",")) }
}

fn modes_help() -> &'static str {
    "When the cache is compressed and asked:\n
- one-shot: once after the document was read; each question is asked on its own
- online: block by block while the document is read; each question is asked on its own
- aware: once after the document and the question were read, so that the policy may look at the question
- aware-online: block by block while document and question are read
- turns: once after the document; the questions follow each other in one conversation
- turns-online: block by block while the document is read; the questions follow each other
- pieces: online, with the document in eight pieces, each brought down to its share before the next is read, as a server
  reads the messages of a conversation"
}
