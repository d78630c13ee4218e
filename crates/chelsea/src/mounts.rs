//! `chelsea serve --mount`: saved caches that a server is started with.

use crate::{saved, signals};
use anyhow::{Context as _, Result};
use chelsea_engine::Scheduler;
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_serve::{Mount, Mounts};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Puts the files' caches on the shelf.
///
/// # Errors
/// If one cannot be read, is of another model, or was laid out in another way, and if two cannot be told apart.
pub fn mount(
    scheduler: &mut Scheduler,
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Mounts> {
    let one = |file: &PathBuf| {
        mount_one(scheduler, file, tokenizer, template).with_context(|| format!("cannot mount {}", file.display()))
    };
    Ok(Mounts::new(files.iter().map(one).collect::<Result<_>>()?)?)
}

fn mount_one(
    scheduler: &mut Scheduler,
    file: &Path,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Mount> {
    signals::note_mapped(file);
    let digest = chelsea_hub::digest::file(file, &mut chelsea_hub::Silent)?;
    let about = scheduler.mount(file, digest.clone())?;
    let (with_template, system) = saved::layout_of(&about.note, tokenizer, template)?;
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Ok(Mount { name, digest, bytes: file.metadata()?.len(), created, with_template, system, about })
}
