//! Flags of `chelsea serve`.

use super::{CacheArgs, ClusterArgs, ModelArgs};
use chelsea_kv::Budget;
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;

/// What stands before the flags.
pub const SERVE_EXAMPLES: &str = "\
Examples:
  A server that any client of OpenAI's or Anthropic's can use, and a page at http://127.0.0.1:8080:
    chelsea serve -m smollm2

  All conversations together in 4 GiB, each in a quarter of its full cache:
    chelsea serve -m qwen2.5-coder-0.5b --kv-memory 4GiB --kv-budget 25%

  Keep the settings in a file:
    chelsea serve -m qwen2.5-coder-0.5b --kv-memory 4GiB --print-config > chelsea.toml
    chelsea serve --config chelsea.toml

  Ask it:
    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'";

/// Serve a model over HTTP.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// File with settings in TOML: flags without their hyphens, such as `kv-memory = "4GiB"`. Flags given here win.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub config: Option<PathBuf>,
    /// Print all settings as such a file, those that nobody gave as comments, and end.
    #[arg(long, help_heading = "Server", hide_short_help = true)]
    pub print_config: bool,
    /// What is printed then.
    #[arg(skip)]
    pub settings: String,
    /// Bytes that all caches may take together, such as 4GiB [default: half of the memory that is free once the model is
    /// loaded].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Server")]
    pub kv_memory: Option<usize>,
    /// Address to listen on. Others than this machine can only reach it at an address of the network's.
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(short, long, default_value_t = 8080, help_heading = "Server")]
    pub port: u16,
    /// Name by which clients know the model [default: as it was given].
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub served_model_name: Option<String>,
    /// Key that requests must bring (may be given several times). `CHELSEA_API_KEY` is one, too.
    #[arg(long, value_name = "KEY", help_heading = "Server", hide_short_help = true)]
    pub api_key: Vec<String>,
    /// File with a key in each line.
    #[arg(long, value_name = "FILE", help_heading = "Server", hide_short_help = true)]
    pub api_key_file: Option<PathBuf>,
    /// Web pages of this origin may ask, such as `https://example.org` (may be given several times).
    #[arg(long, value_name = "ORIGIN", help_heading = "Server", hide_short_help = true)]
    pub allow_origin: Vec<String>,
    /// Name by which the server may be called, beside addresses and localhost; `*` allows any.
    #[arg(long, value_name = "NAME", help_heading = "Server", hide_short_help = true)]
    pub allow_host: Vec<String>,
    /// Longest pause, in milliseconds, that reading a prompt may make in the answers of others. Shorter ones read slower.
    #[arg(long, value_name = "MS", default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = "Server")]
    pub max_stall: u64,
    /// Tokens of a prompt that are read at once [default: what --max-stall allows on this machine, measured at start].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Server", hide_short_help = true)]
    pub read_step: Option<u32>,
    /// Most answers that are generated together.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Server", hide_short_help = true)]
    pub max_running: u32,
    /// Most requests that wait; further ones are told to try again.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Server", hide_short_help = true)]
    pub max_waiting: u32,
    /// Most prompts that are read in turns.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Server", hide_short_help = true)]
    pub lanes: u32,
    /// Most checkpoints of prompts that are kept to go on from; 0 keeps none.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536), help_heading = "Server", hide_short_help = true)]
    pub checkpoints: u32,
    /// Folder in which what was read is kept, so that it need not be read again after the server was started anew, and the
    /// documents that clients put on the server. Requests that make room for others are parked there. A server has one of
    /// its own.
    #[arg(long, value_name = "FOLDER", help_heading = "Server")]
    pub shelf: Option<PathBuf>,
    /// Most bytes of files in that folder.
    #[arg(long, value_name = "BYTES", default_value = "8GiB", value_parser = parse_bytes, help_heading = "Server", hide_short_help = true)]
    pub shelf_bytes: usize,
    /// Saved cache that is put on the shelf (may be given several times; `chelsea cache build` makes one). Requests name it as
    /// their document, or begin with its text.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub mount: Vec<PathBuf>,
    /// Most documents that clients of a key may put on the server.
    #[arg(long, value_name = "FILES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536), help_heading = "Server", hide_short_help = true)]
    pub max_files: u32,
    /// Most bytes of all documents of a key.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_bytes, help_heading = "Server", hide_short_help = true)]
    pub max_file_bytes: usize,
    /// Most bytes of a request.
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = parse_bytes, help_heading = "Server", hide_short_help = true)]
    pub max_body: usize,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Bytes as budgets have them, `512MiB` or `4GB`; a number alone is bytes here.
pub(super) fn parse_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(Budget::Bytes(0) | Budget::Entries(0)) => Err("give at least one byte".into()),
        Ok(Budget::Bytes(bytes) | Budget::Entries(bytes)) => Ok(bytes),
        Ok(_) | Err(_) => Err("write a number of bytes, such as 512MiB or 4GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_units_that_people_write() {
        for (text, bytes) in [("4GiB", 4 << 30), ("512MiB", 512 << 20), ("1.5g", 3 << 29), ("2kb", 2000), ("77", 77)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "4 furlongs", "0", "-1", "1e400MB", "nan"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
