//! What is in the caches: list, verify, remove.

use std::path::{Path, PathBuf};

use crate::catalog::{self, DATA, MODELS};
use crate::error::HubError;
use crate::hub::{self, RepoCache};
use crate::install;
use crate::lock::Lock;
use crate::options::Options;
use crate::pip::size_below;
use crate::progress::Progress;
use crate::spec::HubId;

/// What kind of thing an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model with a short name.
    Named,
    /// A repository of the hub.
    Hub,
    /// A data set.
    Data,
}

/// How much of an [`Entry`] is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Complete.
    Installed,
    /// A download was begun and can be taken up again.
    Partial,
    /// Not here; it can be downloaded.
    Available,
}

/// One line of [`list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name to give to [`resolve`](crate::resolve), [`remove`] and [`verify`].
    pub name: String,
    /// What it is.
    pub title: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Whether it is here.
    pub state: State,
    /// Bytes on disk if it is here, whole or in part; otherwise the size once downloaded.
    pub bytes: u64,
    /// Where it is, or would be.
    pub path: PathBuf,
}

/// Everything that has a name here, and every model repository in the hub's cache.
pub fn list(options: &Options) -> Vec<Entry> {
    let mut entries = Vec::new();
    for model in MODELS {
        let path = options.models_dir().join(format!("{}.gguf", model.name));
        let title = format!("{} ({})", model.title, model.licence);
        entries.push(entry(model.name, title, Kind::Named, path, model.bytes, options));
    }
    for data in DATA {
        let path = options.data_dir().join(data.name);
        entries.push(entry(data.name, data.title.to_owned(), Kind::Data, path, data.package.bytes, options));
    }
    entries.extend(hub_entries(&options.hub_cache));
    entries
}

fn entry(name: &str, title: String, kind: Kind, path: PathBuf, full: u64, options: &Options) -> Entry {
    let here = disk_size(&path);
    let parts = size_below(&options.parts_dir(name));
    let (state, bytes) = match (here, parts) {
        (Some(bytes), _) => (State::Installed, bytes),
        (None, 0) => (State::Available, full),
        (None, bytes) => (State::Partial, bytes),
    };
    Entry { name: name.to_owned(), title, kind, state, bytes, path }
}

fn disk_size(path: &Path) -> Option<u64> {
    let meta = std::fs::metadata(path).ok()?;
    Some(if meta.is_dir() { size_below(path) } else { meta.len() })
}

fn hub_entries(hub_cache: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for folder in std::fs::read_dir(hub_cache).into_iter().flatten().flatten() {
        let name = folder.file_name();
        // An organisation's name has no double dash; a model's may.
        let Some((org, name)) = name.to_str().and_then(|n| n.strip_prefix("models--")?.split_once("--")) else {
            continue;
        };
        let path = folder.path();
        let is_partial = std::fs::read_dir(path.join("blobs"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|blob| blob.path().extension().is_some_and(|e| e == "incomplete"));
        entries.push(Entry {
            name: format!("{org}/{name}"),
            title: "from the hub".to_owned(),
            kind: Kind::Hub,
            state: if is_partial { State::Partial } else { State::Installed },
            bytes: size_below(&path),
            path,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// Removes a model or data set from the cache, unfinished parts included. Returns the bytes that became free.
///
/// Waits while another process downloads the same thing, or anything of the same repository, and says so. Models given as files are
/// the user's own and are refused.
pub fn remove(name: &str, options: &Options, progress: &mut dyn Progress) -> Result<u64, HubError> {
    if let Some((name, path)) = named_path(name, options) {
        let _lock = Lock::take(&install::lock_path(options, name), name, progress)?;
        let parts = options.parts_dir(name);
        let free = disk_size(&path).unwrap_or(0) + size_below(&parts);
        install::remove_folder(&parts)?;
        for path in [install::partial_path(&path), path] {
            if path.is_dir() {
                install::remove_folder(&path)?;
            } else {
                install::remove_if_there(&path)?;
                crate::digest::remove_stamp(&path)?;
            }
        }
        return Ok(free);
    }
    let cache = hub_cache_of(name, options)?;
    // Every download into the repository holds one of these.
    let mut locks = Vec::new();
    for lock in cache.known_locks() {
        locks.push(Lock::take(&lock, name, progress)?);
    }
    let free = size_below(cache.root());
    install::remove_folder(cache.root())?;
    Ok(free)
}

/// Hashes what is in the cache under `name`, whatever was found before. Returns the bytes checked.
pub fn verify(name: &str, options: &Options, progress: &mut dyn Progress) -> Result<u64, HubError> {
    if let Some(model) = catalog::model(name) {
        let path = options.models_dir().join(format!("{}.gguf", model.name));
        let bytes = disk_size(&path).ok_or_else(|| unknown(name, options))?;
        if bytes == model.bytes {
            install::rehash(model, &path, progress)?;
        } else {
            install::check(model, &path, progress)?;
        }
        return Ok(bytes);
    }
    if let Some(data) = catalog::data(name) {
        let path = options.data_dir().join(data.name);
        let here = install::check_data(data, &path)?;
        return if here { Ok(size_below(&path)) } else { Err(unknown(name, options)) };
    }
    hub_cache_of(name, options)?;
    hub::verify(name, options, progress)
}

fn named_path(name: &str, options: &Options) -> Option<(&'static str, PathBuf)> {
    let model = catalog::model(name).map(|m| (m.name, options.models_dir().join(format!("{}.gguf", m.name))));
    model.or_else(|| catalog::data(name).map(|d| (d.name, options.data_dir().join(d.name))))
}

fn hub_cache_of(name: &str, options: &Options) -> Result<RepoCache, HubError> {
    let id = HubId::parse(name).filter(|id| id.file.is_none() && id.revision == "main");
    let cache = id.map(|id| RepoCache::new(&options.hub_cache, &id.repo));
    cache.filter(|cache| cache.root().is_dir()).ok_or_else(|| unknown(name, options))
}

fn unknown(name: &str, options: &Options) -> HubError {
    let here = list(options).into_iter().filter(|e| e.state != State::Available).map(|e| e.name);
    let here: Vec<String> = here.collect();
    let known = if here.is_empty() { "nothing is in the cache".to_owned() } else { here.join(", ") };
    HubError::UnknownName { what: "cached model", name: name.to_owned(), known }
}
