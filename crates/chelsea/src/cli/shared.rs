//! Flags that several verbs share: which model, how its cache is kept, how text is sampled.

use crate::device::{self, DeviceArg, Opened};
use anyhow::Result;
use chelsea_engine::{Compression, Sampling, SessionOptions};
use chelsea_kv::policy::{Chelsea, ChelseaBest, PolicyError};
use chelsea_kv::{Budget, Dtype, Policy, Pool};
use chelsea_model::{Config, LoadOptions, Model};
use clap::{Args, ValueEnum};
use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Which model, and on what it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A file, a folder, a short name, or a hub id `org/name[:file]`.
    #[arg(short, long, value_name = "MODEL")]
    pub model: OsString,
    /// Threads to compute with [default: all cores].
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Where to compute: cpu; auto takes a GPU that can run the model, and else the CPU (-v says why); cuda or cuda:N must be
    /// there.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceArg::Cpu)]
    pub device: DeviceArg,
    /// How weight products are computed: packed integers, or dequantised to 32-bit floats.
    #[arg(long, value_enum, default_value_t = ProductsArg::Fast, hide_short_help = true)]
    pub products: ProductsArg,
}

/// Which text is read first.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Document and question")]
pub struct DocumentArgs {
    /// Documents to read first, `-` for standard input (several files, or the flag several times).
    #[arg(short, long, value_name = "FILE", num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Read documents even if they are not valid UTF-8; bytes that are not are replaced by U+FFFD.
    #[arg(long, hide_short_help = true)]
    pub lossy: bool,
}

/// How documents and questions become a prompt.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Document and question")]
pub struct LayoutArgs {
    /// System message. It goes before the first question if the model's chat template has no place for one.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give documents and prompts to the model as they are.
    #[arg(long, hide_short_help = true)]
    pub no_chat_template: bool,
    /// Read control tokens in prompts, such as <|fim_prefix|>, as what they are; otherwise they are plain text. Documents
    /// and system messages always are.
    #[arg(long, requires = "no_chat_template", hide_short_help = true)]
    pub special: bool,
}

impl ModelArgs {
    /// The model's name, to be shown.
    pub fn name(&self) -> Cow<'_, str> {
        self.model.to_string_lossy()
    }

    /// Takes hold of the device that was asked for, for a model of this configuration; none for the CPU.
    pub fn open_device(&self, config: &Config, weight_bytes: usize) -> Result<Option<Opened>> {
        device::open(self.device, config, weight_bytes, self.products == ProductsArg::F32)
    }

    /// The same as options of loading, for this device.
    pub fn load_options(&self, device: Option<&Opened>) -> LoadOptions {
        LoadOptions {
            products: match self.products {
                _ if device.is_some() => chelsea_linear::Products::Source,
                ProductsArg::Fast => chelsea_linear::Products::Fast,
                ProductsArg::F32 => chelsea_linear::Products::F32,
            },
        }
    }
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
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Size of the cache: a share of the full cache's bytes (20%), bytes (512MiB, 2GB) or entries per head (20000)
    /// [default: 25%; everything for --policy full].
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    pub kv_budget: Option<Budget>,
    /// Most tokens of documents, questions and answers together; 0 is the context that the model was trained for
    /// [default: 0].
    #[arg(short, long, value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// How much work may go into choosing what to keep. `best` stands for `--policy chelsea-best --compress one-shot`: the
    /// document is compressed once, and questions and answers after it are kept whole.
    #[arg(
        long,
        value_enum,
        default_value_t = QualityArg::Good,
        conflicts_with_all = ["policy", "compress"],
        hide_short_help = true
    )]
    pub quality: QualityArg,
    /// How entries are chosen: a name, and settings if any (chelsea:floor=0,chunk=128) [default: chelsea]. `chelsea
    /// policies` lists them all.
    #[arg(long, value_parser = parse_policy, hide_short_help = true)]
    pub policy: Option<Arc<dyn Policy>>,
    /// Share of the cache entries to keep, above 0 and at most 1; 1 is the full cache.
    #[arg(short, long, value_parser = parse_keep, conflicts_with = "kv_budget", hide_short_help = true)]
    pub keep: Option<f32>,
    /// Number format of cached keys and values [default: for a budget of bytes q8, for shares below 15% k8v4, below 8% k5v4;
    /// else f16, or bf16 for models in bf16].
    #[arg(long, value_enum, hide_short_help = true)]
    pub kv_type: Option<DtypeArg>,
    /// When prompts are clustered: block by block while reading, or once after it.
    #[arg(long, value_enum, default_value_t = CompressArg::Online, hide_short_help = true)]
    pub compress: CompressArg,
    /// First entries of every head that are never merged.
    #[arg(long, default_value_t = 4, hide_short_help = true)]
    pub sinks: usize,
    /// Last entries of every head that are never merged, at least: `chelsea` leaves more where much is kept (`recent` in
    /// `chelsea policies`).
    #[arg(long, default_value_t = 64, hide_short_help = true)]
    pub window: usize,
    /// Entries per head that the cache may hold beyond its budget while a text is read: 1024 if not given, and 4096 on a
    /// GPU. An eighth of this many tokens is read at a time, or a quarter where nothing has to be clustered for them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536), hide_short_help = true)]
    pub block: Option<u32>,
}

/// When prompts are clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressArg {
    /// Block by block while reading: memory stays within the budget and one block.
    Online,
    /// Once, after reading, and again as an answer grows: a little closer to the full cache, but reading takes its whole
    /// memory.
    OneShot,
}

/// How much work choosing what to keep may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QualityArg {
    /// One pass over the text, which is clustered while it is read.
    Good,
    /// A second pass, in which the model repeats the text, shows what must stay as it is: more than twice the time,
    /// and reading takes the memory of the full cache.
    Best,
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
    /// 8 bits with a scale for each key and each value.
    Q8,
    /// Keys in 8 bits, values in 4, with a scale for each.
    K8v4,
    /// Keys in 5 bits, without what those of a head have in common and rotated; values in 4.
    K5v4,
}

impl DtypeArg {
    /// The same as the cache calls it.
    pub fn dtype(self) -> Dtype {
        match self {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::F16 => Dtype::F16,
            DtypeArg::Bf16 => Dtype::Bf16,
            DtypeArg::Q8 => Dtype::Q8,
            DtypeArg::K8v4 => Dtype::K8V4,
            DtypeArg::K5v4 => Dtype::K5V4,
        }
    }
}

impl CacheArgs {
    /// The budget that was asked for, if any was.
    pub fn asked_budget(&self) -> Option<Budget> {
        self.kv_budget.or(self.keep.map(Budget::EntryFraction))
    }

    /// The budget that was asked for, or a quarter of the full cache.
    pub fn budget(&self) -> Budget {
        let default =
            if self.policy().keeps_everything() { Budget::EntryFraction(1.0) } else { Budget::ByteFraction(0.25) };
        self.asked_budget().unwrap_or(default)
    }

    /// The policy that was asked for, or the default.
    pub fn policy(&self) -> Arc<dyn Policy> {
        self.policy.clone().unwrap_or_else(|| match self.quality {
            QualityArg::Good => Arc::new(Chelsea::default()),
            QualityArg::Best => Arc::new(ChelseaBest::default()),
        })
    }

    /// When prompts are clustered.
    pub fn compression(&self) -> Compression {
        match (self.compress, self.quality) {
            (CompressArg::Online, QualityArg::Good) => Compression::Online,
            (CompressArg::OneShot, _) | (_, QualityArg::Best) => Compression::OneShot,
        }
    }

    /// The same as options of a session of this model.
    pub fn session(&self, model: &Model) -> SessionOptions {
        let asked = self.block.map(|block| block as usize);
        let block = asked.or_else(|| model.device().map(|device| device.block()));
        SessionOptions {
            budget: self.budget(),
            policy: self.policy(),
            compression: self.compression(),
            sinks: self.sinks,
            window: self.window,
            block: block.unwrap_or(SessionOptions::default().block),
            context: self.ctx.filter(|&tokens| tokens > 0),
            dtype: self.kv_type.map(DtypeArg::dtype),
            step: None,
            squeeze: None,
            pool: Pool::unlimited(),
        }
    }
}

/// How text is generated.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Answer")]
pub struct SampleArgs {
    /// Most tokens of an answer; -1 is as many as fit into the context.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "512",
        value_parser = parse_max_tokens,
        allow_negative_numbers = true
    )]
    max_tokens: MaxTokens,
    /// 0 always takes the most likely token; higher is more varied.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temp: f32,
    /// Seed of the random choices; -1 draws a seed, which is printed [default: -1].
    #[arg(long, value_name = "N", value_parser = parse_seed, allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Choose among this many most likely tokens; 0 is off.
    #[arg(long, default_value_t = 40, hide_short_help = true)]
    pub top_k: usize,
    /// Choose among the tokens that make up this much probability; 1 is off.
    #[arg(long, default_value_t = 0.95, hide_short_help = true)]
    pub top_p: f32,
    /// Leave out tokens this much less likely than the best; 0 is off.
    #[arg(long, default_value_t = 0.05, hide_short_help = true)]
    pub min_p: f32,
    /// Make tokens seen lately less likely; 1 is off.
    #[arg(long, default_value_t = 1.0, hide_short_help = true)]
    pub repeat_penalty: f32,
    /// End an answer at this text (may be given several times).
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub stop: Vec<String>,
}

/// How many tokens an answer may have; none is no bound but the context.
#[derive(Debug, Clone, Copy)]
struct MaxTokens(Option<usize>);

/// A seed; none draws one.
#[derive(Debug, Clone, Copy)]
struct Seed(Option<u64>);

impl SampleArgs {
    /// Most tokens of an answer, if there is a bound but the context.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens.0
    }

    /// The seed that was given, if one was.
    pub fn seed(&self) -> Option<u64> {
        self.seed.and_then(|seed| seed.0)
    }

    /// The same as sampling settings, but for the seed.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            ..Sampling::default()
        }
    }
}

fn parse_max_tokens(text: &str) -> Result<MaxTokens, String> {
    match text.parse() {
        Ok(-1) => Ok(MaxTokens(None)),
        Ok(0) => Err("an answer needs at least one token".into()),
        Ok(n) if n > 0i64 => Ok(MaxTokens(usize::try_from(n).ok())),
        _ => Err("give a number of tokens, or -1 for as many as fit".into()),
    }
}

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text.parse().map(|seed| Seed(Some(seed))).map_err(|_| "give a number from 0 on, or -1 to draw one".into()),
    }
}

pub(super) fn parse_policy(text: &str) -> Result<Arc<dyn Policy>, PolicyError> {
    chelsea_kv::policy(&text.replace('+', ","))
}

pub(super) fn parse_keep(text: &str) -> Result<f32, String> {
    let keep: f32 = text.parse().map_err(|_| "give a number such as 0.25".to_string())?;
    if keep > 0.0 && keep <= 1.0 { Ok(keep) } else { Err("a keep ratio is above 0 and at most 1".into()) }
}

/// `25%` is a share of the bytes, `512MiB` is bytes, `20000` is entries per head.
pub(super) fn parse_budget(text: &str) -> Result<Budget, chelsea_kv::BudgetError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_formats_have_the_names_that_results_have() {
        let named = DtypeArg::value_variants().iter().map(|arg| (arg.to_possible_value(), arg.dtype().name()));
        let named: Vec<_> = named.map(|(value, name)| (value.unwrap().get_name().to_owned(), name)).collect();
        assert!(named.iter().all(|(value, name)| value == name), "{named:?}");
        assert_eq!(named.len(), Dtype::ALL.len());
    }

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        sample: SampleArgs,
        #[command(flatten)]
        document: DocumentArgs,
    }

    #[test]
    fn habits_of_other_programs_are_understood() {
        let parse = |args: &[&str]| <Cli as clap::Parser>::try_parse_from([&["run"], args].concat());
        let given = parse(&["-n", "-1", "--seed", "-1", "--top-k", "0", "-f", "a.txt", "b.txt", "-f", "-"]).unwrap();
        assert_eq!((given.sample.max_tokens(), given.sample.seed(), given.sample.top_k), (None, None, 0));
        assert_eq!(given.document.file, ["a.txt", "b.txt", "-"].map(PathBuf::from));
        let given = parse(&["--seed", "18446744073709551615"]).unwrap();
        assert_eq!((given.sample.max_tokens(), given.sample.seed()), (Some(512), Some(u64::MAX)));
        for bad in [["-n", "0"], ["-n", "-2"], ["-n", "many"], ["--seed", "-2"], ["--seed", "x"]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keep_ratios_out_of_range_are_refused() {
        for bad in ["0", "1.01", "-0.5", "NaN", "a"] {
            assert!(parse_keep(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_keep("0.25"), Ok(0.25));
    }
}
