//! Caches as files: what `--save-cache` writes and `--load-cache` goes on from.

use crate::cli::CacheArgs;
use crate::setup::Loaded;
use anyhow::{Context as _, Result, bail};
use chelsea_engine::Session;
use chelsea_kv::snapshot::{self, Expected, MAX_NOTE, SnapshotInfo};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How the saved text was laid out: a question must go on in the same way.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Note {
    chat_template: bool,
    system: Option<String>,
}

/// A fingerprint as `chelsea inspect` writes it.
pub fn fingerprint_text(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Note {
    fn text(system: Option<&str>, no_template: bool) -> Result<String> {
        Ok(serde_json::to_string(&Note { chat_template: !no_template, system: system.map(Into::into) })?)
    }
}

/// Refuses a file that cannot be written, or a system message that cannot go into it, before any work is done for it.
pub fn check(file: &Path, system: Option<&str>, no_template: bool) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", file.display(), folder.display());
    }
    if file.is_dir() {
        bail!("cannot write {}: it is a folder", file.display());
    }
    if Note::text(system, no_template)?.len() > MAX_NOTE {
        bail!("a saved cache holds system messages of up to {} KiB: make --system a document (-f)", MAX_NOTE >> 10);
    }
    snapshot::can_save(file).with_context(|| format!("the cache could not be saved to {}", file.display()))
}

/// Writes the cache of what `session` has read.
pub fn save(file: &Path, session: &Session, system: Option<&str>, no_template: bool) -> Result<u64> {
    let info = SnapshotInfo {
        fingerprint: session.model().fingerprint(),
        tokens: session.history().to_vec(),
        note: Note::text(system, no_template)?,
    };
    snapshot::save(file, session.cache(), &info).with_context(|| format!("cannot save the cache to {}", file.display()))
}

/// A session that goes on from a saved cache, and the system message that it was made with.
pub fn load(
    file: &Path,
    loaded: &Loaded,
    args: &CacheArgs,
    cancel: Arc<AtomicBool>,
    system: Option<&str>,
    no_template: bool,
) -> Result<(Session, Option<String>)> {
    let expected = Expected { fingerprint: loaded.model.fingerprint(), shape: loaded.model.cache_shape() };
    let (mut cache, info) =
        snapshot::load(file, Some(&expected), None).with_context(|| format!("cannot go on from {}", file.display()))?;
    let note: Note = serde_json::from_str(&info.note).context("the cache file was not written by this command")?;
    if note.chat_template == no_template {
        let (was, flag) = if no_template { ("with", "without") } else { ("without", "with") };
        bail!("the cache was made {was} the chat template: run {flag} --no-chat-template");
    }
    if system.is_some() && note.system.as_deref() != system {
        bail!("the cache was made with another system message: leave --system out");
    }
    // Both at once: neither need go with what the other was.
    let budget = args.asked_budget().unwrap_or(cache.config().budget);
    match &args.policy {
        Some(policy) => cache.reconfigure(policy.clone(), budget)?,
        None => cache.set_budget(budget)?,
    }
    let twice = cache.config().policy.needs().repetition.is_some();
    let (model, pool) = (loaded.model.clone(), loaded.pool.clone());
    let mut session = Session::with_cache(model, pool, cancel, &args.session(), cache, info.tokens)?;
    // Once for all questions, and so that what is saved again is of the new size.
    if !twice && !session.cache().is_within_budget() {
        session.compress()?;
    }
    Ok((session, note.system))
}
