//! `chelsea inspect`: what a model or a saved cache holds, from its headers alone.

use crate::cli::InspectArgs;
use crate::holding::Least;
use crate::output::{self, Table};
use crate::{cache, device, setup, signals};
use anyhow::{Result, bail};
use chelsea_kv::{Budget, CacheConfig, Dtype, Policy};
use chelsea_model::{Config, ModelFile, TensorEntry};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    architecture: &'static str,
    name: Option<&'a str>,
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context_length: usize,
    sliding_window: Option<usize>,
    fingerprint: String,
    weight_bytes: usize,
    types: BTreeMap<&'static str, TypeBytes>,
    /// Of the layers that grow with the text.
    kv_bytes_per_token: usize,
    /// Layers with a sliding window.
    sliding_layers: usize,
    /// Of a full cache of the whole trained context, windows included.
    kv_bytes_of_context: usize,
    /// The part of them that lies in layers with a sliding window, which no budget makes smaller.
    kv_bytes_of_windows: usize,
    kv_budget: Option<Holds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<Tensor<'a>>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: &'a [usize],
    #[serde(rename = "type")]
    ty: &'static str,
    bytes: usize,
}

impl<'a> From<&'a TensorEntry> for Tensor<'a> {
    fn from(t: &'a TensorEntry) -> Self {
        Tensor { name: &t.name, shape: &t.shape, ty: t.ty.name(), bytes: t.bytes }
    }
}

#[derive(Serialize, Default)]
struct TypeBytes {
    tensors: usize,
    bytes: usize,
}

/// What a budget holds.
#[derive(Serialize)]
struct Holds {
    kv_type: &'static str,
    entries_a_head: usize,
    tokens_of_a_full_cache: usize,
    /// What is held of any text, and for a share, from how many tokens on that is no more than was asked for.
    least: Least,
    held_from_tokens: Option<usize>,
}

/// Runs the verb.
pub fn run(args: &InspectArgs) -> Result<()> {
    let quiet = args.json || !std::io::stderr().is_terminal();
    let Some(what) = args.what.as_ref().filter(|_| !args.devices) else { return device::list(args.json) };
    let path = Path::new(what);
    if cache::is_snapshot(path) {
        if args.tensors || args.kv_budget.is_some() {
            bail!("{} is a saved cache: --tensors and --kv-budget are for models", path.display());
        }
        return cache::show(path, &chelsea_kv::snapshot::inspect(path)?, args.json);
    }
    signals::cancel_flag()?;
    let file = ModelFile::open(&setup::resolve(what, quiet)?)?;
    let config = file.config();
    let mut types: BTreeMap<&'static str, TypeBytes> = BTreeMap::new();
    for tensor in file.tensors() {
        let sum = types.entry(tensor.ty.name()).or_default();
        sum.tensors += 1;
        sum.bytes += tensor.bytes;
    }
    let first = &config.layers[0];
    let report = Report {
        path: file.path().display().to_string(),
        architecture: config.architecture.name(),
        name: config.name.as_deref(),
        layers: config.layers.len(),
        hidden: config.hidden,
        feed_forward: first.feed_forward.inner(),
        q_heads: first.q_heads,
        kv_heads: first.kv_heads,
        head_dim: first.head_dim,
        vocab: config.vocab,
        context_length: config.context_length,
        sliding_window: config.smallest_window(),
        fingerprint: crate::saved::fingerprint_text(&file.fingerprint()),
        weight_bytes: file.tensors().iter().map(|t| t.bytes).sum(),
        types,
        kv_bytes_per_token: config.cache_shape().full_bytes_of_growing(1),
        sliding_layers: config.cache_shape().layers().iter().filter(|layer| !layer.grows()).count(),
        kv_bytes_of_context: config.cache_shape().full_bytes(config.context_length),
        kv_bytes_of_windows: config.cache_shape().full_window_bytes(config.context_length),
        kv_budget: args.kv_budget.map(|budget| holds(config, budget, args.policy.clone())).transpose()?,
        tensors: args.tensors.then(|| file.tensors().iter().map(Tensor::from).collect()),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    table(&report).print();
    if let Some(tensors) = &report.tensors {
        let mut table = Table::with_heading(["tensor", "shape", "type", "bytes"]);
        for t in tensors {
            let shape: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
            table.row([t.name.to_owned(), shape.join(" x "), t.ty.into(), output::bytes(t.bytes)]);
        }
        print!("\n{}", table.render());
    }
    Ok(())
}

fn holds(config: &Config, budget: Budget, policy: Arc<dyn Policy>) -> Result<Holds> {
    let dtype = chelsea_engine::dtype_for(budget, Dtype::F16);
    let cache = CacheConfig { budget, dtype, policy, ..CacheConfig::new(config.cache_shape()) };
    cache.validate()?;
    let shape = config.cache_shape();
    // A budget that does not grow with the text holds the same at any length beyond it.
    let tokens = match budget {
        Budget::EntryFraction(_) | Budget::ByteFraction(_) => config.context_length,
        Budget::Entries(_) | Budget::Bytes(_) => chelsea_kv::MAX_TOKENS,
    };
    let bytes = match budget {
        Budget::Bytes(bytes) => bytes,
        Budget::ByteFraction(share) => (f64::from(share) * shape.full_bytes(tokens) as f64) as usize,
        _ => cache.allowed(tokens) * shape.full_bytes_of_growing(1) / shape.growing_heads(),
    };
    let least = Least::of(&cache)?;
    let held_from_tokens = match budget {
        Budget::ByteFraction(share) => {
            Some((least.bytes as f64 / (f64::from(share) * shape.full_bytes_of_growing(1) as f64)).ceil() as usize)
        }
        Budget::EntryFraction(share) if share < 1.0 => {
            Some((least.entries_per_head as f64 / f64::from(share)).ceil() as usize)
        }
        _ => None,
    };
    Ok(Holds {
        least,
        held_from_tokens,
        kv_type: dtype.name(),
        entries_a_head: cache.allowed(tokens) / shape.growing_heads(),
        tokens_of_a_full_cache: bytes / shape.full_bytes_of_growing(1),
    })
}

fn table(r: &Report<'_>) -> Table {
    let mut t = Table::default().left(1);
    t.row(["file".to_string(), r.path.clone()]);
    t.row(["model".to_string(), r.name.unwrap_or("-").to_string()]);
    t.row(["architecture".to_string(), r.architecture.to_string()]);
    t.row(["layers".to_string(), r.layers.to_string()]);
    t.row(["hidden, feed-forward".to_string(), format!("{}, {}", r.hidden, r.feed_forward)]);
    t.row(["query heads, KV heads".to_string(), format!("{}, {} of {} dimensions", r.q_heads, r.kv_heads, r.head_dim)]);
    t.row(["vocabulary".to_string(), r.vocab.to_string()]);
    t.row(["trained context".to_string(), format!("{} tokens", r.context_length)]);
    if let Some(window) = r.sliding_window {
        t.row(["sliding window".to_string(), format!("{window} tokens in {} of the layers", r.sliding_layers)]);
    }
    t.row(["fingerprint".to_string(), r.fingerprint.clone()]);
    t.row(["weights".to_string(), output::bytes(r.weight_bytes)]);
    for (name, sum) in &r.types {
        t.row([format!("  {name}"), format!("{} in {} tensors", output::bytes(sum.bytes), sum.tensors)]);
    }
    t.row(["cache per token".to_string(), format!("{} (f16)", output::bytes(r.kv_bytes_per_token))]);
    t.row(["cache, whole context".to_string(), format!("{} full", output::bytes(r.kv_bytes_of_context))]);
    if r.sliding_layers > 0 {
        let windows = output::bytes(r.kv_bytes_of_windows);
        t.row([String::new(), format!("{windows} of it in sliding windows, which no budget makes smaller")]);
    }
    for share in [50, 25, 20, 10] {
        let bytes = r.kv_bytes_of_context / 100 * share;
        t.row([String::new(), format!("{} with --kv-budget {share}%", output::bytes(bytes))]);
    }
    if let Some(holds) = &r.kv_budget {
        let Holds { kv_type, entries_a_head: entries, tokens_of_a_full_cache: full, least, held_from_tokens } = holds;
        t.row([
            "the budget holds".to_string(),
            format!("{entries} entries per head in {kv_type}, in the memory of a full cache of {full} tokens"),
        ]);
        let statistics = match least.statistics_bytes {
            0 => String::new(),
            bytes => format!(", {} of them statistics", output::bytes(bytes)),
        };
        t.row([
            "held in any case".to_string(),
            format!("{} entries per head: {}{statistics}", least.entries_per_head, output::bytes(least.bytes)),
        ]);
        if let Some(tokens) = held_from_tokens {
            t.row(["the share is met from".to_string(), format!("{tokens} tokens on")]);
        }
    }
    t
}
