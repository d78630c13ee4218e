//! Caches as files: what `--save-cache` writes and `--load-cache` goes on from.

use crate::cli::{CacheArgs, LayoutArgs};
use crate::holding::Holding;
use crate::setup::Loaded;
use crate::signals;
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
    /// Fingerprint of the vocabulary; none in files of before it was noted.
    #[serde(default)]
    tokenizer: Option<String>,
    /// Fingerprint of the chat template; none where none was used.
    #[serde(default)]
    template: Option<String>,
}

/// A fingerprint as `chelsea inspect` writes it.
pub fn fingerprint_text(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Note {
    fn new(system: Option<&str>, no_template: bool) -> Note {
        Note { chat_template: !no_template, system: system.map(Into::into), tokenizer: None, template: None }
    }

    /// With the fingerprints of what lays prompts out.
    fn of(loaded: &Loaded, system: Option<&str>, no_template: bool) -> Note {
        let template = loaded.template.as_ref().filter(|_| !no_template);
        Note {
            tokenizer: Some(fingerprint_text(&loaded.tokenizer.fingerprint())),
            template: template.map(|template| fingerprint_text(&template.fingerprint())),
            ..Note::new(system, no_template)
        }
    }

    /// Refuses to go on with other words than the text was laid out with.
    fn check(&self, loaded: &Loaded, args: &LayoutArgs, any_template: bool) -> Result<()> {
        if self.chat_template == args.no_chat_template {
            let (was, flag) = if args.no_chat_template { ("with", "without") } else { ("without", "with") };
            bail!("the cache was made {was} the chat template: run {flag} --no-chat-template");
        }
        if args.system.is_some() && self.system != args.system {
            bail!("the cache was made with another system message: leave --system out");
        }
        let now = Note::of(loaded, None, args.no_chat_template);
        match &self.tokenizer {
            None => {
                tracing::warn!(
                    "the cache was saved by an earlier version, which did not note the tokenizer and the chat template: \
                     whether they are those of this model cannot be told"
                );
                return Ok(());
            }
            tokenizer if *tokenizer != now.tokenizer => bail!(
                "the cache was made with another tokenizer than this model's: its tokens mean something else here. Give the \
                 model file that it was made with, or build it again from its documents"
            ),
            Some(_) => {}
        }
        if self.template == now.template {
            return Ok(());
        }
        let differs = "the cache was made with another chat template than this model's";
        if !any_template {
            bail!(
                "{differs}: questions would be laid out in another way than the text before them. Give the model file that \
                 it was made with, or go on all the same with --any-template"
            );
        }
        tracing::warn!("{differs}: answers may suffer");
        Ok(())
    }
}

/// How the text of a cache was laid out that a server is to mount: whether by the chat template, and with which system
/// message.
///
/// # Errors
/// If it was laid out with another tokenizer or chat template than the model has now.
#[cfg(feature = "serve")]
pub fn layout_of(
    note: &str,
    tokenizer: &chelsea_model::tokenizer::Tokenizer,
    template: Option<&chelsea_model::chat::ChatTemplate>,
) -> Result<(bool, Option<String>)> {
    let note: Note = serde_json::from_str(note).context("the cache file was not written by `chelsea cache build`")?;
    if note.tokenizer != Some(fingerprint_text(&tokenizer.fingerprint())) {
        bail!(
            "the cache was made with another tokenizer than this model's: its tokens mean something else here. Build it \
             again from its documents"
        );
    }
    if note.chat_template && note.template != template.map(|template| fingerprint_text(&template.fingerprint())) {
        bail!(
            "the cache was made with another chat template than this model's: questions would be laid out in another way \
             than the text before them. Build it again from its documents"
        );
    }
    // Without a template there was none to use, whatever was asked for.
    Ok((note.chat_template && note.template.is_some(), note.system))
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
    // The fingerprints, which are known once the model is there.
    const REST: usize = 128;
    if serde_json::to_string(&Note::new(system, no_template))?.len() + REST > MAX_NOTE {
        bail!("a saved cache holds system messages of up to {} KiB: make --system a document (-f)", MAX_NOTE >> 10);
    }
    snapshot::can_save(file).with_context(|| format!("the cache could not be saved to {}", file.display()))
}

/// Writes the cache of what `session` has read.
pub fn save(file: &Path, session: &Session, loaded: &Loaded, system: Option<&str>, no_template: bool) -> Result<u64> {
    let info = SnapshotInfo {
        fingerprint: session.model().fingerprint(),
        tokens: session.history().to_vec(),
        note: serde_json::to_string(&Note::of(loaded, system, no_template))?,
    };
    snapshot::save(file, session.cache(), &info).with_context(|| format!("cannot save the cache to {}", file.display()))
}

/// A session that goes on from a saved cache, and the system message that it was made with.
pub fn load(
    file: &Path,
    loaded: &Loaded,
    args: &CacheArgs,
    layout: &LayoutArgs,
    any_template: bool,
    cancel: Arc<AtomicBool>,
) -> Result<(Session, Option<String>)> {
    let expected = Expected { fingerprint: loaded.model.fingerprint(), shape: loaded.model.cache_shape() };
    signals::note_mapped(file);
    let (mut cache, info) =
        snapshot::load(file, Some(&expected), None).with_context(|| format!("cannot go on from {}", file.display()))?;
    let note: Note = serde_json::from_str(&info.note).context("the cache file was not written by this command")?;
    note.check(loaded, layout, any_template)?;
    let saved = cache.config().budget;
    // Both at once: neither need go with what the other was.
    let budget = args.asked_budget().unwrap_or(saved);
    match &args.policy {
        Some(policy) => cache.reconfigure(policy.clone(), budget)?,
        None => cache.set_budget(budget)?,
    }
    let twice = cache.config().policy.needs().repetition.is_some();
    let (model, pool) = (loaded.model.clone(), loaded.pool.clone());
    let options = args.session(&model);
    let mut session = Session::with_cache(model, pool, cancel, &options, cache, info.tokens)?;
    // Once for all questions, and so that what is saved again is of the new size.
    if !twice && !session.cache().is_within_budget() {
        session.compress()?;
    }
    if let Some(warning) = Holding::of(&session).loaded_warning(saved) {
        tracing::warn!("{warning}");
    }
    Ok((session, note.system))
}
