//! Models from the hub: list the repository, choose the files, bring them into the shared cache.
//!
//! The cache keeps the layout of the hub's other clients, taken from the `hf-hub` crate together with the built-in
//! address. The transfers are this crate's own: that crate neither resumes after an interrupted process, nor checks
//! what it received, nor knows offline mode.

mod cache;
mod client;
mod select;
mod transfer;

use std::path::PathBuf;

pub(crate) use cache::RepoCache;
use client::Client;
use select::Choice;
use transfer::Wanted;

use crate::error::HubError;
use crate::options::Options;
use crate::progress::Progress;
use crate::spec::HubId;
use crate::{Format, ResolvedModel, Source, digest};

/// The model at `id`, downloaded as far as it is not in the cache.
///
/// Offline mode and a hub that cannot be reached both fall back to the cache, the latter with a note.
pub(crate) fn resolve(id: &HubId, options: &Options, progress: &mut dyn Progress) -> Result<ResolvedModel, HubError> {
    let cache = RepoCache::new(&options.hub_cache, &id.repo);
    if options.offline {
        return cached(id, &cache)?
            .ok_or_else(|| HubError::Offline { what: shown(id), cache: options.hub_cache.clone() });
    }
    match online(id, &cache, options, progress) {
        Err(error @ HubError::Unreachable { .. }) => match cached(id, &cache) {
            Ok(Some(model)) => {
                // Another quantisation may be cached than the hub would give: say which.
                progress.note(&format!("using the cached copy of {}: {error}", model.name));
                Ok(model)
            }
            _ => Err(error),
        },
        result => result,
    }
}

fn shown(id: &HubId) -> String {
    match &id.file {
        Some(file) => format!("{}:{file}", id.repo),
        None => id.repo.clone(),
    }
}

fn online(
    id: &HubId,
    cache: &RepoCache,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<ResolvedModel, HubError> {
    let client = Client::new(options)?;
    let listing = client.listing(id)?;
    let choice = select::choose(&id.repo, &listing.files, id.file.as_deref())?;
    let commit = listing.commit.as_str();
    let mut all_here = true;
    let mut get = |file: &str| -> Result<PathBuf, HubError> {
        let pointer = cache.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        all_here = false;
        let wanted = Wanted { repo: &id.repo, commit, file };
        let meta = client.metadata(wanted.repo, commit, file)?;
        transfer::fetch(&client, cache, wanted, &meta, options, progress)?;
        cache.link(commit, file, &meta.etag)
    };
    for file in files_of(&choice) {
        get(file)?;
    }
    if let Choice::Sharded { index, .. } = &choice {
        for shard in read_index(&id.repo, index, &cache.snapshot(commit))? {
            if !listing.files.contains(&shard) {
                let reason = format!("its index names {shard}, which it does not have");
                return Err(HubError::NoModel { repo: id.repo.clone(), reason });
            }
            get(&shard)?;
        }
    }
    // Only now does the branch stand for this commit: an offline start finds all of it.
    match cache.note_commit(&id.revision, commit) {
        // A complete model in a cache that cannot be written to is as good as any.
        Err(error) if all_here => tracing::warn!("{error}"),
        noted => noted?,
    }
    Ok(model(id, cache, commit, &choice))
}

/// The model as far as the cache alone can tell; `None` when something of it is missing.
fn cached(id: &HubId, cache: &RepoCache) -> Result<Option<ResolvedModel>, HubError> {
    let Some(commit) = cache.commit(id) else { return Ok(None) };
    let files = cache.files(&commit);
    let choice = match select::choose(&id.repo, &files, id.file.as_deref()) {
        Err(HubError::NoModel { .. }) => return Ok(None),
        result => result?,
    };
    if let Choice::Sharded { index, .. } = &choice {
        let shards = read_index(&id.repo, index, &cache.snapshot(&commit))?;
        if !shards.iter().all(|shard| files.contains(shard)) {
            return Ok(None);
        }
    }
    Ok(Some(model(id, cache, &commit, &choice)))
}

fn files_of(choice: &Choice) -> Vec<&str> {
    match choice {
        Choice::Gguf(parts) => parts.iter().map(String::as_str).collect(),
        // Small files first: a refusal or a typo shows before the long download.
        Choice::Safetensors { weights, companions, .. } | Choice::Sharded { index: weights, companions } => {
            companions.iter().chain(std::iter::once(weights)).map(String::as_str).collect()
        }
    }
}

fn read_index(repo: &str, index: &str, snapshot: &std::path::Path) -> Result<Vec<String>, HubError> {
    let path = snapshot.join(index);
    let text = std::fs::read_to_string(&path).map_err(HubError::io("read", &path))?;
    select::shards(index, &text).map_err(|detail| HubError::BadAnswer { what: format!("{repo}:{index}"), detail })
}

fn model(id: &HubId, cache: &RepoCache, commit: &str, choice: &Choice) -> ResolvedModel {
    let snapshot = cache.snapshot(commit);
    let (path, format) = match choice {
        Choice::Gguf(parts) => (snapshot.join(&parts[0]), Format::Gguf),
        Choice::Safetensors { weights, whole_folder: false, .. } => (snapshot.join(weights), Format::Safetensors),
        Choice::Safetensors { weights: file, .. } | Choice::Sharded { index: file, .. } => {
            (snapshot.join(select::folder_of(file)), Format::Safetensors)
        }
    };
    let source = Source::Hub { repo: id.repo.clone(), commit: commit.to_owned() };
    let name = match choice {
        // Whatever was asked for, one file of several was taken.
        Choice::Gguf(parts) => format!("{}:{}", id.repo, parts[0]),
        _ => shown(id),
    };
    ResolvedModel { path, format, name, source }
}

/// Hashes every blob of a cached repository whose name is a hash.
pub(crate) fn verify(repo: &str, options: &Options, progress: &mut dyn Progress) -> Result<u64, HubError> {
    let blobs = RepoCache::new(&options.hub_cache, repo).root().join("blobs");
    let mut checked = 0;
    for entry in std::fs::read_dir(&blobs).map_err(HubError::io("list", &blobs))? {
        let path = entry.map_err(HubError::io("list", &blobs))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| digest::is_sha256(n)) else { continue };
        let bytes = std::fs::metadata(&path).map_err(HubError::io("look at", &path))?.len();
        progress.begin(&format!("checking {repo}"), Some(bytes));
        let found = digest::file(&path, progress);
        progress.end();
        let found = found?;
        if found != name {
            let reason = format!("its SHA-256 is {found} and should be {name}");
            return Err(HubError::CacheDamaged { path, name: repo.to_owned(), reason });
        }
        checked += bytes;
    }
    Ok(checked)
}
