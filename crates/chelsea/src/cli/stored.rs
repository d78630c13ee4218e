//! Verbs about what is kept on disk: `chelsea inspect`, `chelsea models` and `chelsea cache`.

use super::shared::{CacheArgs, DocumentArgs, LayoutArgs, ModelArgs, parse_budget, parse_policy};
use chelsea_kv::{Budget, Policy};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const INSPECT_EXAMPLES: &str = "\
Examples:
  chelsea inspect smollm2
  chelsea inspect qwen2.5-coder-1.5b --kv-budget 20%
  chelsea inspect report.kv
  chelsea inspect --devices";

/// `chelsea inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model (file, folder, short name, hub id) or a saved cache.
    #[arg(required_unless_present = "devices")]
    pub what: Option<OsString>,
    /// Show what there is to compute with, or why it cannot be used.
    #[arg(long, conflicts_with_all = ["what", "kv_budget", "policy", "tensors"])]
    pub devices: bool,
    /// Show what this budget would hold of a model's cache (20%, 512MiB, 20000).
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    pub kv_budget: Option<Budget>,
    /// The policy that the budget is for: its statistics are part of what is held.
    #[arg(long, value_parser = parse_policy, default_value = "chelsea", requires = "kv_budget")]
    pub policy: Arc<dyn Policy>,
    /// List every tensor of a model.
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
        model: OsString,
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
    Build(Box<BuildArgs>),
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
    #[command(flatten)]
    pub document: DocumentArgs,
    /// Where to write the cache.
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    #[command(flatten)]
    pub layout: LayoutArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}
