//! `chelsea run`.

use super::shared::{CacheArgs, DocumentArgs, LayoutArgs, ModelArgs, SampleArgs};
use clap::{ArgAction, Args};
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
#[command(disable_help_flag = true)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub document: DocumentArgs,
    /// Question to answer (may be given several times: the document is read only once). Without one,
    /// a chat begins.
    #[arg(short, long, value_name = "TEXT", help_heading = "Document and question")]
    pub prompt: Vec<String>,
    #[command(flatten)]
    pub layout: LayoutArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Write the cache of the documents to a file.
    #[arg(long, value_name = "FILE", help_heading = "Cache")]
    pub save_cache: Option<PathBuf>,
    /// Go on from a cache written before, instead of reading documents. It keeps its budget, if no other is given, and
    /// its number format.
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Cache",
        conflicts_with_all = ["file", "kv_type", "sinks", "window"]
    )]
    pub load_cache: Option<PathBuf>,
    /// Go on from a cache even if it was made with another chat template than the model's.
    #[arg(long, requires = "load_cache", help_heading = "Cache", hide_short_help = true)]
    pub any_template: bool,
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Print one JSON object instead of text.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print help: -h shows the flags used most, --help all flags and examples.
    #[arg(short, long, action = ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn help_begins_with_what_people_use() {
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run").expect("a verb");
        let (short, long) = (run.render_help().to_string(), run.render_long_help().to_string());
        let at = |text: &str, what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
        let order = [
            "\nModel:",
            "-m, --model",
            "\nDocument and question:",
            "-f, --file",
            "-p, --prompt",
            "\nCache:",
            "--kv-budget <SIZE>",
            "\nAnswer:",
            "\nOutput:",
        ];
        for text in [&short, &long] {
            assert!(order.is_sorted_by_key(|what| at(text, what)), "{text}");
            assert!(!text.contains("\nOptions:"), "{text}");
        }
        assert!(short.lines().count() < 50, "{short}");
        for rare in ["--sinks", "--products", "--min-p"] {
            assert!(!short.contains(rare) && long.contains(rare), "{rare}");
        }
        assert!(at(&long, "Examples:") < at(&long, "Model:"), "{long}");
    }
}
