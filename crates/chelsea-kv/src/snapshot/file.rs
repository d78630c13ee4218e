//! Snapshots on disk.

use super::header::{Header, MAGIC, PRELUDE, Prelude};
use super::{Expected, Ready, SnapshotError, SnapshotInfo, SnapshotSummary, parse};
use crate::page::{MappedLines, Source};
use crate::{Mapped, Policy, Pool, SequenceCache};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { action, path: path.to_path_buf(), source }
}

/// Writes `cache` to a file and returns its size in bytes.
///
/// The file is written under another name beside `path`, brought to the disk, and only then renamed:
/// whatever goes wrong, what was under `path` before stays as it was and nothing half-written is left.
/// Saving over the file that the cache itself was loaded from is fine.
///
/// # Errors
/// If a block is on its way through the layers, the token ids in `info` are not as many as the cache has
/// seen, the note is too long, or the system refuses: no such folder, no permission, disk full.
pub fn save(path: &Path, cache: &SequenceCache, info: &SnapshotInfo) -> Result<u64, SnapshotError> {
    let ready = Ready::new(cache, info)?;
    let Place { target, folder, before, file } = Place::take(path)?;
    let refused = || io_error("write", path);
    if let Some(before) = before {
        file.as_file().set_permissions(before.permissions()).map_err(refused())?;
    }
    let mut out = BufWriter::with_capacity(1 << 20, file);
    ready.write(&mut out).map_err(refused())?;
    let file = out.into_inner().map_err(|error| refused()(error.into_error()))?;
    file.as_file().sync_all().map_err(refused())?;
    let bytes = file.as_file().metadata().map_err(refused())?.len();
    file.persist(&target).map_err(|error| refused()(error.error))?;
    sync_folder(&folder);
    Ok(bytes)
}

/// Whether a snapshot could be written to `path` now: to be asked before work that takes long.
///
/// # Errors
/// If something else is there, or the system lets no file be made beside it.
pub fn can_save(path: &Path) -> Result<(), SnapshotError> {
    Place::take(path).map(|_| ())
}

/// Where a snapshot is going to be.
struct Place {
    target: PathBuf,
    folder: PathBuf,
    /// What is there now.
    before: Option<fs::Metadata>,
    /// What will take its place, removed when dropped.
    file: NamedTempFile,
}

impl Place {
    fn take(path: &Path) -> Result<Place, SnapshotError> {
        // Through a link, the file it leads to is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let before = fs::metadata(&target).ok();
        if before.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Err(SnapshotError::NotAFile(target));
        }
        let Some(name) = target.file_name() else { return Err(SnapshotError::NotAFile(target)) };
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let file = temporary(&folder, name).map_err(io_error("create a file in", &folder))?;
        Ok(Place { target, folder, before, file })
    }
}

/// A file beside the one called `name`, removed when dropped, with the permissions of any new file.
fn temporary(folder: &Path, name: &std::ffi::OsStr) -> io::Result<NamedTempFile> {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Brings the new name of a file to the disk too. Where that cannot be done the file is still complete
/// under one of its two names.
fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = folder;
}

/// Whether `path` is a file that begins like a snapshot.
pub fn is_snapshot(path: &Path) -> bool {
    let begins = || -> io::Result<bool> {
        let mut magic = [0; MAGIC.len()];
        if !fs::metadata(path)?.is_file() {
            return Ok(false);
        }
        File::open(path)?.read_exact(&mut magic)?;
        Ok(magic == MAGIC)
    };
    begins().unwrap_or(false)
}

/// Reads what a snapshot is from its header, whose checksum is verified; entries are not looked at.
///
/// # Errors
/// If there is no such file, or it does not begin as a sound snapshot of its length.
pub fn inspect(path: &Path) -> Result<SnapshotSummary, SnapshotError> {
    let refused = || io_error("read", path);
    let meta = fs::metadata(path).map_err(refused())?;
    if !meta.is_file() {
        return Err(SnapshotError::NotAFile(path.to_path_buf()));
    }
    let file = File::open(path).map_err(refused())?;
    let mut bytes = Vec::new();
    (&file).take(PRELUDE as u64).read_to_end(&mut bytes).map_err(refused())?;
    let prelude = Prelude::decode(&bytes, meta.len())?;
    (&file).take(prelude.header - PRELUDE as u64).read_to_end(&mut bytes).map_err(refused())?;
    if (bytes.len() as u64) < prelude.header {
        return Err(SnapshotError::Truncated { have: bytes.len() as u64, need: prelude.header });
    }
    let header = Header::decode(&bytes, &prelude)?;
    Ok(SnapshotSummary::new(&header, meta.len()))
}

/// Reads and checks all of a snapshot, and says what it is.
///
/// # Errors
/// If there is no such file, or it is no sound snapshot.
pub fn verify(path: &Path) -> Result<SnapshotSummary, SnapshotError> {
    let file = Mapped::open(path).map_err(io_error("read", path))?;
    Ok(parse(&file)?.summary())
}

/// Loads a cache, and what its caller kept beside it. Everything is verified once; after that, keys and
/// values are read straight from the mapped file until the cache writes to their page.
///
/// Settings (budget, schedule, sinks, window) are those that the cache was saved with. So is the policy,
/// unless another is given; statistics that the other one needs and the file does not have are gathered from
/// here on.
///
/// The file must not be cut short or written to while the cache lives. [`save`] never does that: it
/// replaces files as a whole.
///
/// # Errors
/// If there is no such file, it is no sound snapshot, it was not made with what is expected, or its
/// settings make no cache.
pub fn load(
    path: &Path,
    expected: Option<&Expected>,
    policy: Option<Arc<dyn Policy>>,
) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
    load_in(Pool::unlimited(), path, expected, policy)
}

/// [`load`], with every byte that does not lie in the file charged to `pool`.
///
/// # Errors
/// As [`load`], and if the pool has no room.
pub fn load_in(
    pool: Pool,
    path: &Path,
    expected: Option<&Expected>,
    policy: Option<Arc<dyn Policy>>,
) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
    let file = Arc::new(Mapped::open(path).map_err(io_error("read", path))?);
    let mut parsed = parse::parse_for(&file, expected)?;
    let found = std::mem::take(&mut parsed.found);
    parsed.cache_over(pool, policy, found, |bytes| Source::Mapped(MappedLines { file: file.clone(), bytes }))
}
