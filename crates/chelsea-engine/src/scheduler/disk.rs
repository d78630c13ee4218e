//! Checkpoints in files: what a server has read survives its end.
//!
//! A thread of its own writes them, each as a snapshot that takes its place whole or not at all, so that a server that is
//! killed leaves nothing half-written behind. They are found again by their names ([`prefix`](super::prefix)); when one is
//! loaded, its tokens are compared. Their pages are read from the mapped file, which takes no memory of the pool's until
//! they are changed. Files beyond the folder's limit go, the one unused for longest first.
//!
//! Caches of requests that make room for others ([`Disk::park`]) lie in the same folder and count against the same limit.
//! They are of use to nobody once the server has ended: those that a killed one left are removed by the next.

use super::prefix::{CheckpointKey, Name, Prompt};
use crate::{Sequence, SessionOptions};
use chelsea_kv::SequenceCache;
use chelsea_kv::snapshot::{self, Expected, SnapshotError, SnapshotInfo};
use chelsea_model::Model;
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

/// Where checkpoints are kept, and how much of them.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// An existing folder, of this server alone.
    pub folder: PathBuf,
    /// Bytes of all files at most.
    pub bytes: u64,
}

/// Tokens of a checkpoint that is worth a file.
const LEAST: usize = 256;
/// Checkpoints that wait to be written. Further ones are left out: they only cost reading them again.
const WAITING: usize = 4;
/// How names of checkpoints end.
const ENDING: &str = "checkpoint";
/// How names of parked caches end.
const PARKED: &str = "parked";
/// What a server holds a lock on for as long as it uses the folder.
const LOCK: &str = "in-use";

/// A checkpoint on its way to its file.
type Written = (Name, SnapshotInfo, SequenceCache);

#[derive(Debug, Clone)]
struct Entry {
    bytes: u64,
    used: SystemTime,
}

/// The files of a folder.
struct Folder {
    path: PathBuf,
    limit: u64,
    entries: Mutex<HashMap<Name, Entry>>,
    /// Bytes of parked caches.
    parked: AtomicU64,
}

/// Checkpoints in a folder.
pub(super) struct Disk {
    folder: Arc<Folder>,
    expected: Expected,
    writer: Option<(SyncSender<Written>, JoinHandle<()>)>,
    /// Caches parked so far: the next one's name.
    parks: u64,
    /// Given up by the system when the process ends, however it ends.
    _lock: File,
}

impl Disk {
    /// The checkpoints in a folder, as an earlier server left them.
    ///
    /// # Errors
    /// If the folder cannot be read, nothing can be written there, or another server uses it.
    pub(super) fn open(options: &DiskOptions, model: &Model) -> io::Result<Disk> {
        let lock = lock_folder(&options.folder)?;
        // Also takes away what a killed server left half-written.
        let probe = options.folder.join(file_name(&[0; 16]));
        snapshot::can_save(&probe).map_err(io::Error::other)?;
        let mut found = HashMap::new();
        for entry in fs::read_dir(&options.folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == PARKED) {
                fs::remove_file(&path)?;
            } else if let Some(name) = parse_name(&path)
                && let Ok(about) = entry.metadata()
            {
                let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(name, Entry { bytes: about.len(), used });
            }
        }
        let folder = Arc::new(Folder {
            path: options.folder.clone(),
            limit: options.bytes,
            entries: Mutex::new(found),
            parked: AtomicU64::new(0),
        });
        let (sender, received) = mpsc::sync_channel::<Written>(WAITING);
        let writing = folder.clone();
        let thread = std::thread::Builder::new().name("shelf".into()).spawn(move || {
            writing.keep_within_limit();
            received.iter().for_each(|(name, info, cache)| writing.write(name, &info, &cache));
        })?;
        let expected = Expected { fingerprint: model.fingerprint(), shape: model.cache_shape() };
        Ok(Disk { folder, expected, writer: Some((sender, thread)), parks: 0, _lock: lock })
    }

    /// Has a checkpoint written, unless it is there or too many wait already.
    pub(super) fn put(&self, key: &CheckpointKey, sequence: &Sequence) {
        let Some((writer, _)) = &self.writer else { return };
        if key.tokens() < LEAST || self.folder.entries().contains_key(&key.name) {
            return;
        }
        let Ok(cache) = sequence.cache().fork() else { return };
        let info = SnapshotInfo {
            fingerprint: self.expected.fingerprint,
            tokens: sequence.history().to_vec(),
            note: note(key),
        };
        if let Err(TrySendError::Full(_)) = writer.try_send((key.name, info, cache)) {
            tracing::debug!("a checkpoint was not written: others wait");
        }
    }

    /// How many of these pieces the longest checkpoint covers that does not cover all of them: a file holds no logits.
    pub(super) fn covers(&self, prompt: Prompt<'_>) -> usize {
        let entries = self.folder.entries();
        let longest = (1..prompt.pieces.len()).rev();
        longest.into_iter().find(|&n| entries.contains_key(&prompt.names[n - 1])).unwrap_or(0)
    }

    /// The checkpoint `key`. A file that is damaged or another's is taken away.
    pub(super) fn load(&self, key: &CheckpointKey, model: &Arc<Model>, options: &SessionOptions) -> Option<Sequence> {
        let path = self.folder.path.join(file_name(&key.name));
        let policy = Some(options.policy.clone());
        let loaded = snapshot::load_in(options.pool.clone(), &path, Some(&self.expected), policy);
        let sequence = match loaded {
            Ok((cache, info)) if info.note == note(key) && info.tokens == key.pieces.concat() => {
                Sequence::with_cache(model.clone(), options, cache, info.tokens).ok()
            }
            Ok(_) => None,
            Err(SnapshotError::Cache(error)) => {
                // No room now: it stays for later.
                tracing::debug!("a checkpoint was not loaded: {error}");
                return None;
            }
            Err(error) => {
                tracing::warn!("a checkpoint cannot be gone on from and is removed: {error}");
                None
            }
        };
        if sequence.is_none() {
            self.folder.entries().remove(&key.name);
            let _gone = fs::remove_file(&path);
        } else if let Some(entry) = self.folder.entries().get_mut(&key.name) {
            entry.used = SystemTime::now();
        }
        sequence
    }

    /// Writes the cache of a sequence into a file, from which [`ParkedFile::take_back`] makes it again. Nothing when there
    /// is no room for it within the folder's limit, or the system refuses.
    pub(super) fn park(&mut self, sequence: &Sequence) -> Option<ParkedFile> {
        // What is held in memory is more than what the file takes, but for the tokens' ids.
        let bytes = (sequence.memory().total() + 8 * sequence.history().len()) as u64;
        if self.folder.parked.load(Ordering::Relaxed) + bytes > self.folder.limit {
            tracing::debug!("a request cannot be parked: the folder's limit leaves no room");
            return None;
        }
        let path = self.folder.path.join(format!("{:08}.{PARKED}", self.parks));
        self.parks += 1;
        match self.write_parked(path, sequence) {
            Ok(parked) => {
                self.folder.keep_within_limit();
                Some(parked)
            }
            Err(error) => {
                tracing::warn!("a request cannot be parked: {error}");
                None
            }
        }
    }

    fn write_parked(&self, path: PathBuf, sequence: &Sequence) -> Result<ParkedFile, SnapshotError> {
        let refused = |path: &Path| {
            let path = path.to_path_buf();
            move |source| SnapshotError::Io { action: "write", path, source }
        };
        let file = File::create_new(&path).map_err(refused(&path))?;
        // From here on it is removed, whatever happens. Not brought to the disk: no other process is to read it.
        let expected = self.expected.clone();
        let mut parked = ParkedFile { path, bytes: 0, folder: self.folder.clone(), expected };
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let info = SnapshotInfo {
            fingerprint: parked.expected.fingerprint,
            tokens: sequence.history().to_vec(),
            note: String::new(),
        };
        let bytes = snapshot::write(&mut out, sequence.cache(), &info)?;
        out.flush().map_err(refused(&parked.path))?;
        parked.bytes = bytes;
        self.folder.parked.fetch_add(bytes, Ordering::Relaxed);
        Ok(parked)
    }
}

impl Drop for Disk {
    /// Waits until everything is written.
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.writer.take() {
            drop(sender);
            let _panicked = thread.join();
        }
    }
}

/// A cache that made room for others. Its file goes when this is dropped.
pub(super) struct ParkedFile {
    path: PathBuf,
    bytes: u64,
    folder: Arc<Folder>,
    expected: Expected,
}

impl ParkedFile {
    /// The cache, in memory again, and the tokens that it has seen.
    ///
    /// # Errors
    /// If the pool has no room, or the file is not what was written.
    pub(super) fn take_back(&self, options: &SessionOptions) -> Result<(SequenceCache, Vec<u32>), SnapshotError> {
        let policy = Some(options.policy.clone());
        let (cache, info) = snapshot::read_in(options.pool.clone(), &self.path, Some(&self.expected), policy)?;
        Ok((cache, info.tokens))
    }
}

impl Drop for ParkedFile {
    fn drop(&mut self) {
        self.folder.parked.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl Folder {
    fn entries(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: Name, info: &SnapshotInfo, cache: &SequenceCache) {
        match snapshot::save(&self.path.join(file_name(&name)), cache, info) {
            Ok(bytes) => {
                self.entries().insert(name, Entry { bytes, used: SystemTime::now() });
                self.keep_within_limit();
            }
            Err(error) => tracing::warn!("a checkpoint cannot be written: {error}"),
        }
    }

    fn keep_within_limit(&self) {
        let mut entries = self.entries();
        let mut bytes = entries.values().map(|entry| entry.bytes).sum::<u64>() + self.parked.load(Ordering::Relaxed);
        while bytes > self.limit {
            let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&name, _)| name) else {
                return;
            };
            bytes -= entries.remove(&oldest).map_or(0, |entry| entry.bytes);
            let _gone = fs::remove_file(self.path.join(file_name(&oldest)));
        }
    }
}

/// Makes sure that no other server uses the folder: each would take away what it does not know of.
fn lock_folder(folder: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let text = format!("another server uses the folder {}: each has one of its own", folder.display());
            Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
        }
        // Where there are no locks, whoever starts the server has to see to it.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// What a file says of itself: whose it is, how it is kept, and where it was cut.
fn note(key: &CheckpointKey) -> String {
    let cuts: Vec<String> = key.pieces.iter().map(|piece| piece.len().to_string()).collect();
    format!("checkpoint {}\n{}", cuts.join(" "), key.salt)
}

fn file_name(name: &Name) -> String {
    let hex: String = name.iter().map(|b| format!("{b:02x}")).collect();
    format!("{hex}.{ENDING}")
}

fn parse_name(path: &Path) -> Option<Name> {
    let stem = path.file_stem()?.to_str()?;
    if path.extension()? != ENDING || stem.len() != 32 || !stem.is_ascii() {
        return None;
    }
    let mut name = [0; 16];
    for (i, byte) in name.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&stem[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(name)
}
