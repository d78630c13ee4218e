//! `chelsea cache`: documents read once and kept as a file.

use crate::cli::{BuildArgs, CacheAction, CacheCmdArgs};
use crate::output::{self, Table};
use crate::{run, saved, setup};
use anyhow::{Context as _, Result, bail};
use chelsea_engine::{Layout, Session};
use chelsea_kv::Schedule;
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
    saved::check(&args.output, args.system.as_deref(), args.no_chat_template)?;
    let text = run::documents(&args.file)?.context("no document was given: use -f FILE")?;
    let quiet = !std::io::stderr().is_terminal();
    let cancel = setup::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    let options = args.cache.session();
    setup::warn_long_context(&loaded.model, &options);
    let template = if args.no_chat_template { None } else { loaded.template.as_ref() };
    let layout = Layout::new(&loaded.tokenizer, template, args.system.as_deref());
    let mut session = Session::new(loaded.model.clone(), loaded.pool.clone(), cancel, &options)?;
    let words = run::one_shot(&args.cache, &layout)?;
    let document = layout.document(&text)?;
    run::check_room(&session, document.len(), 0, words.as_ref())?;
    run::read(&mut session, &document, words.as_ref(), quiet)?;
    if session.cancelled() {
        bail!("stopped before the end: nothing was written");
    }
    let bytes = saved::save(&args.output, &session, args.system.as_deref(), args.no_chat_template)?;
    println!("{}: {} tokens in {}", args.output.display(), session.history().len(), output::bytes(bytes as usize));
    Ok(())
}

/// Whether a path is a file that begins like a saved cache.
pub fn is_snapshot(path: &Path) -> bool {
    snapshot::is_snapshot(path)
}

/// Prints what a cache file holds.
pub fn show(path: &Path, s: &SnapshotSummary, json: bool) -> Result<()> {
    let bytes = std::fs::metadata(path)?.len();
    let full = s.shape.full_bytes(s.tokens);
    let schedule = match s.schedule {
        Schedule::Once => "once",
        Schedule::Remerge => "remerge",
    };
    if json {
        let value = serde_json::json!({
            "path": path.display().to_string(), "bytes": bytes, "tokens": s.tokens, "entries": s.entries,
            "layers": s.shape.layers().len(), "kv_heads": s.shape.layer(0).kv_heads, "head_dim": s.shape.layer(0).key_dim,
            "dtype": s.dtype.name(), "policy": s.policy, "kv_budget": s.budget.to_string(), "schedule": schedule,
            "sinks": s.sinks, "window": s.window,
            "entries_mean": s.entries_mean(), "entries_min": s.entries_min, "entries_max": s.entries_max,
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
    t.row(["schedule".to_string(), schedule.to_string()]);
    t.row(["sinks, window".to_string(), format!("{}, {}", s.sinks, s.window)]);
    t.row([
        "layers, KV heads".to_string(),
        format!("{}, {} of {} numbers", s.shape.layers().len(), s.shape.layer(0).kv_heads, s.shape.layer(0).key_dim),
    ]);
    t.row(["stored as".to_string(), s.dtype.name().to_string()]);
    t.row(["tokens".to_string(), s.tokens.to_string()]);
    t.row([
        "entries a head".to_string(),
        format!("{:.1} on average, {} to {}", s.entries_mean(), s.entries_min, s.entries_max),
    ]);
    t.row(["kept".to_string(), output::percent(s.entries, s.tokens * heads)]);
    t.row(["full cache would take".to_string(), output::bytes(full)]);
    print!("{}", t.render());
    Ok(())
}
