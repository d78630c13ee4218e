//! The hub's cache on disk, in the layout that other hub clients share:
//!
//! ```text
//! models--org--name/blobs/ETAG                 contents, named by what the hub calls them
//! models--org--name/blobs/ETAG.incomplete      a transfer that is not finished
//! models--org--name/refs/REVISION              the commit that a branch or tag stood for when last asked
//! models--org--name/snapshots/COMMIT/FILE      links to the blobs
//! .locks/models--org--name/ETAG.lock           held while a blob is downloaded
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::HubError;
use crate::spec::HubId;

/// The cache of one repository.
#[derive(Debug)]
pub(crate) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(hub_cache: &Path, repo: &str) -> Self {
        let folder = hf_hub::Repo::model(repo.to_owned()).folder_name();
        RepoCache { root: hub_cache.join(&folder), locks: hub_cache.join(".locks").join(folder) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// The locks of everything that was ever downloaded into this repository, in an order that is the same for all.
    pub(crate) fn known_locks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.locks).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut locks: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "lock")).collect();
        locks.sort();
        locks
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit known for a revision: the noted one, or the revision itself if it is a commit with a snapshot.
    pub(crate) fn commit(&self, id: &HubId) -> Option<String> {
        let commit = self.noted(&id.revision).unwrap_or_else(|| id.revision.clone());
        self.snapshot(&commit).is_dir().then_some(commit)
    }

    /// What is noted for a revision. An empty note is what a full disk or a crash left, and says nothing.
    fn noted(&self, revision: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    /// Notes that `revision` stands for `commit`.
    pub(crate) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        // A note that is right already is left alone: the cache may be one to read only.
        if revision == commit || self.noted(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        make_parent(&path)?;
        let beside = beside(&path);
        let written = std::fs::write(&beside, commit).and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            crate::install::remove_if_there(&beside)?;
        }
        written.map_err(HubError::io("write", path))
    }

    /// The files of a snapshot that are really there, as paths inside the repository.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.snapshot(commit), "", &mut files);
        files.sort();
        files
    }

    /// Makes `file` of a snapshot point at its blob.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(file);
        let blob = self.blob(etag);
        make_parent(&pointer)?;
        // Made beside and renamed: others may be linking the same file, and a copy onto their link would go through
        // it into the blob.
        let beside = beside(&pointer);
        let up = "../".repeat(file.split('/').count() + 1);
        let relative = format!("{up}blobs/{etag}");
        if symlink(Path::new(&relative), &beside).is_err() && std::fs::hard_link(&blob, &beside).is_err() {
            std::fs::copy(&blob, &beside).map_err(HubError::io("write", &beside))?;
        }
        let placed = std::fs::rename(&beside, &pointer);
        // Where both are names of one file already, a rename does nothing and leaves its source.
        crate::install::remove_if_there(&beside)?;
        placed.map_err(HubError::io("replace", &pointer))?;
        Ok(pointer)
    }
}

/// A name beside `path` that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let mut beside = path.to_path_buf().into_os_string();
    beside.push(format!(".{}-{}.new", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(beside)
}

pub(crate) fn make_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(dir) => std::fs::create_dir_all(dir).map_err(HubError::io("create", dir)),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(|n| format!("{prefix}{n}")) else { continue };
        // `metadata` follows links: a link whose blob is gone does not count.
        match std::fs::metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => collect(&entry.path(), &format!("{name}/"), files),
            Ok(_) => files.push(name),
            Err(_) => {}
        }
    }
}
