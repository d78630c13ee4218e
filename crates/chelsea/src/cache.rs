//! `chelsea cache`: documents read once and kept as a file.

use crate::cli::{BuildArgs, CacheAction, CacheCmdArgs};
use crate::holding::Holding;
use crate::output::{self, Table};
use crate::{documents, reading, saved, setup, signals};
use anyhow::{Context as _, Result, bail};
use chelsea_engine::Session;
use chelsea_kv::snapshot::{self, SnapshotSummary};
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs the verb.
pub fn run(args: &CacheCmdArgs) -> Result<()> {
    match &args.action {
        CacheAction::Build(args) => build(args),
        CacheAction::Show { file, json } => show(file, &snapshot::verify(file)?, *json),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    let (system, no_template) = (args.layout.system.as_deref(), args.layout.no_chat_template);
    saved::check(&args.output, system, no_template)?;
    let text =
        documents::read(&args.document.file, args.document.lossy)?.context("no document was given: use -f FILE")?;
    let quiet = !std::io::stderr().is_terminal();
    let cancel = signals::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    let options = args.cache.session(&loaded.model);
    setup::warn_long_context(&loaded.model, &options);
    let layout = loaded.layout(&args.layout);
    let mut session = Session::new(loaded.model.clone(), loaded.pool.clone(), cancel, &options)?;
    let words = reading::one_shot(&args.cache, &layout)?;
    let document = reading::tokens(&session, &loaded.tokenizer, &layout, &text)?;
    reading::check_room(&session, document.len(), 0, words.as_ref())?;
    reading::read(&mut session, &document, words.as_ref(), quiet)?;
    if session.cancelled() {
        bail!("stopped before the end: nothing was written");
    }
    if let Some(warning) = Holding::of(&session).warning() {
        tracing::warn!("{warning}");
    }
    let bytes = saved::save(&args.output, &session, &loaded, system, no_template)?;
    println!("{}: {} tokens in {}", args.output.display(), session.history().len(), output::bytes(bytes as usize));
    Ok(())
}

/// Whether a path is a file that begins like a saved cache.
pub fn is_snapshot(path: &Path) -> bool {
    snapshot::is_snapshot(path)
}

/// Bytes of a saved cache's entries: keys and values, and beside them a count, its logarithm and a position of four bytes.
fn entry_bytes(s: &SnapshotSummary) -> usize {
    let layer = |at: usize| s.dtype.bytes(1, s.shape.layer(at).dims()) + 12;
    let all: usize = (0..s.shape.layers().len()).map(|at| layer(at) * s.shape.layer(at).kv_heads).sum();
    // Of which layer an entry is, a summary does not say: the mean is taken.
    s.entries * all / s.shape.heads().max(1)
}

/// Prints what a cache file holds.
pub fn show(path: &Path, s: &SnapshotSummary, json: bool) -> Result<()> {
    let bytes = std::fs::metadata(path)?.len();
    let full = s.shape.full_bytes(s.tokens);
    if json {
        let value = serde_json::json!({
            "path": path.display().to_string(), "bytes": bytes, "tokens": s.tokens, "entries": s.entries,
            "layers": s.shape.layers().len(), "kv_heads": s.shape.layer(0).kv_heads, "head_dim": s.shape.layer(0).key_dim,
            "dtype": s.dtype.name(), "policy": s.policy, "kv_budget": s.budget.to_string(),
            "sinks": s.sinks, "window": s.window,
            "entries_mean": s.entries_mean(), "entries_min": s.entries_min, "entries_max": s.entries_max,
            "kv_bytes": entry_bytes(s), "kv_held_share": entry_bytes(s) as f64 / full.max(1) as f64,
            "fingerprint": saved::fingerprint_text(&s.fingerprint), "kv_bytes_full": full,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let heads = s.shape.heads();
    let mut t = Table::default().left(1);
    t.row(["file".to_string(), path.display().to_string()]);
    t.row(["size".to_string(), output::bytes(bytes as usize)]);
    t.row(["model fingerprint".to_string(), saved::fingerprint_text(&s.fingerprint)]);
    t.row(["policy".to_string(), s.policy.clone()]);
    t.row(["budget".to_string(), s.budget.to_string()]);
    t.row(["sinks, window".to_string(), format!("{}, {}", s.sinks, s.window)]);
    t.row([
        "layers, KV heads".to_string(),
        format!("{}, {} of {} dimensions", s.shape.layers().len(), s.shape.layer(0).kv_heads, s.shape.layer(0).key_dim),
    ]);
    t.row(["stored as".to_string(), s.dtype.name().to_string()]);
    t.row(["tokens".to_string(), s.tokens.to_string()]);
    t.row([
        "entries per head".to_string(),
        format!("{:.1} on average, {} to {}", s.entries_mean(), s.entries_min, s.entries_max),
    ]);
    t.row([
        "held".to_string(),
        format!(
            "{} of the entries, {} of the bytes ({} asked)",
            output::percent(s.entries, s.tokens * heads),
            output::percent(entry_bytes(s), full),
            s.budget
        ),
    ]);
    t.row(["full cache would take".to_string(), output::bytes(full)]);
    t.print();
    Ok(())
}
