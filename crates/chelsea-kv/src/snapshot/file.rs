//! Snapshots on disk.

use super::header::{Header, MAGIC, PRELUDE, Prelude};
use super::{Expected, Ready, SnapshotError, SnapshotInfo, SnapshotSummary, parse};
use crate::page::{MappedLines, Source};
use crate::{Mapped, Policy, Pool, SequenceCache};
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
        // Through a link, the file it leads to is replaced or made, not the link.
        let target = linked(path).map_err(io_error("follow the link", path))?;
        let before = fs::metadata(&target).ok();
        if before.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Err(SnapshotError::NotAFile(target));
        }
        if target.file_name().is_none() {
            return Err(SnapshotError::NotAFile(target));
        }
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let file = temporary(&folder).map_err(io_error("create a file in", &folder))?;
        Ok(Place { target, folder, before, file })
    }
}

/// Most links that lead from one to the next, as in the system itself.
const MAX_LINKS: usize = 40;

/// The path behind `path` and all links it leads to, whether or not a file is there.
fn linked(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => {
                let to = fs::read_link(&at)?;
                // From the folder of the link, which an absolute path leaves.
                at = at.parent().unwrap_or(Path::new("")).join(to);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(at),
        }
    }
    Err(io::Error::other("too many links lead from one to the next"))
}

const PART_PREFIX: &str = ".chelsea-";
const PART_SUFFIX: &str = ".part";

/// A file in `folder` for what is being written, with the permissions of any new file. It is removed when dropped; of a
/// process that was killed, it is removed by the next one that saves there. Its name says nothing of the one it will get,
/// which may be as long as names can be.
///
/// Whoever writes such a file holds a lock on it, which the system gives up for a process that is gone.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    remove_abandoned(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PART_PREFIX).suffix(PART_SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(folder)?;
        // Where there are no locks there is no cleaning either: it fails to lock.
        if file.as_file().lock().is_err() || file.path().exists() {
            return Ok(file);
        }
        // Between its making and its lock another process took it for abandoned.
    }
}

/// Removes files that a process which is gone was writing.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(PART_PREFIX) || !name.ends_with(PART_SUFFIX) {
            continue;
        }
        let path = entry.path();
        // That it cannot be removed (another user's) is no reason not to save.
        if let Ok(file) = fs::OpenOptions::new().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
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
/// Settings (budget, sinks, window) are those that the cache was saved with. So is the policy,
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

/// [`load_in`], with everything copied into memory and charged to `pool`: the file may be removed afterwards.
///
/// # Errors
/// As [`load_in`].
pub fn read_in(
    pool: Pool,
    path: &Path,
    expected: Option<&Expected>,
    policy: Option<Arc<dyn Policy>>,
) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
    let file = Mapped::open(path).map_err(io_error("read", path))?;
    parse::parse_for(&file, expected)?.cache_in(pool, policy)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("a name").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_one_still_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let abandoned = folder.path().join(".chelsea-abc123.part");
        fs::write(&abandoned, "half").unwrap();
        fs::write(folder.path().join("mine.part"), "kept").unwrap();
        let first = temporary(folder.path()).unwrap();
        assert!(!abandoned.exists());
        let second = temporary(folder.path()).unwrap();
        assert!(first.path().exists() && second.path().exists());
        drop((first, second));
        assert_eq!(names(folder.path()), ["mine.part"]);
    }

    #[test]
    fn links_are_followed_to_where_a_file_is_or_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("two", path("one")).unwrap();
        std::os::unix::fs::symlink(path("nowhere yet"), path("two")).unwrap();
        assert_eq!(linked(&path("one")).unwrap(), path("nowhere yet"));
        assert_eq!(linked(&path("plain")).unwrap(), path("plain"));
        std::os::unix::fs::symlink("ring", path("ring")).unwrap();
        assert!(linked(&path("ring")).is_err());
        let place = Place::take(&path("one")).unwrap();
        place.file.persist(&place.target).unwrap();
        assert!(path("nowhere yet").is_file() && fs::symlink_metadata(path("one")).unwrap().is_symlink());
    }

    #[test]
    fn a_name_may_be_as_long_as_names_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::take(&folder.path().join("x".repeat(255))).unwrap();
        place.file.persist(&place.target).unwrap();
        assert_eq!(names(folder.path()), ["x".repeat(255)]);
    }
}
