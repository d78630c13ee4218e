//! `chelsea run`.

use super::shared::{CacheArgs, ModelArgs, SampleArgs};
use clap::Args;
use std::path::PathBuf;

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  Ask two questions of one document; it is read once, into a quarter of the memory:
    chelsea run -m smollm2 -f report.txt -p 'Who wrote it?' -p 'When?' --kv-budget 25%

  Keep the cache at 512 MiB, and one block more while reading, however long the text:
    chelsea run -m qwen2.5-coder-1.5b -f book.txt -p 'How does it end?' --kv-budget 512MiB

  Read once, ask again tomorrow:
    chelsea run -m smollm2 -f report.txt -p 'Who?' --kv-budget 25% --save-cache report.kv
    chelsea run -m smollm2 --load-cache report.kv -p 'When?'

  Chat (no prompt given), with the cache clustered as the talk goes on:
    chelsea run -m qwen2.5-coder-0.5b --kv-budget 50% --temp 0.7

  MODEL is a .gguf or .safetensors file, a folder, a short name (see `chelsea models`), or a hub id
  such as org/name or org/name:file.gguf.";

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
    /// Go on from a cache written before, instead of reading documents. It keeps its budget, if no other is given, and
    /// its number format.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "kv_type", "sinks", "window", "schedule"])]
    pub load_cache: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}
