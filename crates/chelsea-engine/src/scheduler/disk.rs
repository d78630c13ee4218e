//! Checkpoints in files: what a server has read survives its end.
//!
//! A thread of its own writes them, each as a snapshot that takes its place whole or not at all, so that a server that is
//! killed leaves nothing half-written behind. They are found again by what names whose they are and how they are kept, and
//! by a hash of their tokens; when one is loaded, its tokens are compared. Their pages are read from the mapped file, which
//! takes no memory of the pool's until they are changed. Files beyond the folder's limit go, the one unused for longest
//! first.

use super::shelf::CheckpointKey;
use crate::{Sequence, SessionOptions};
use chelsea_kv::snapshot::{self, Expected, SnapshotInfo};
use chelsea_kv::{Pool, SequenceCache};
use chelsea_model::Model;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;
use xxhash_rust::xxh3::Xxh3;

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
const ENDING: &str = "checkpoint";

/// What names a checkpoint's file.
type Name = [u8; 16];

/// A checkpoint on its way to its file.
type Written = (Name, SnapshotInfo, SequenceCache);

#[derive(Debug, Clone)]
struct Entry {
    bytes: u64,
    used: SystemTime,
}

/// Checkpoints in a folder.
pub(super) struct Disk {
    folder: PathBuf,
    expected: Expected,
    entries: Arc<Mutex<HashMap<Name, Entry>>>,
    writer: Option<(SyncSender<Written>, JoinHandle<()>)>,
}

impl Disk {
    /// The checkpoints in a folder, as an earlier server left them.
    ///
    /// # Errors
    /// If the folder cannot be read, or nothing can be written there.
    pub(super) fn open(options: &DiskOptions, model: &Model) -> io::Result<Disk> {
        // Also takes away what a killed server left half-written.
        let probe = options.folder.join(file_name(&[0; 16]));
        snapshot::can_save(&probe).map_err(io::Error::other)?;
        let mut found = HashMap::new();
        for entry in fs::read_dir(&options.folder)? {
            let entry = entry?;
            if let Some(name) = parse_name(&entry.path())
                && let Ok(about) = entry.metadata()
            {
                let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(name, Entry { bytes: about.len(), used });
            }
        }
        let entries = Arc::new(Mutex::new(found));
        let (sender, received) = mpsc::sync_channel(WAITING);
        let writing = Writer { folder: options.folder.clone(), limit: options.bytes, entries: entries.clone() };
        let thread = std::thread::Builder::new().name("shelf".into()).spawn(move || {
            writing.keep_within_limit();
            received.iter().for_each(|(name, info, cache)| writing.write(name, &info, &cache));
        })?;
        let expected = Expected { fingerprint: model.fingerprint(), shape: model.cache_shape() };
        Ok(Disk { folder: options.folder.clone(), expected, entries, writer: Some((sender, thread)) })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        lock(&self.entries)
    }

    /// Has a checkpoint written, unless it is there or too many wait already.
    pub(super) fn put(&self, key: &CheckpointKey, sequence: &Sequence) {
        let name = self.name(&key.salt, &key.pieces);
        let Some((writer, _)) = &self.writer else { return };
        if key.tokens() < LEAST || self.entries().contains_key(&name) {
            return;
        }
        let Ok(cache) = sequence.cache().fork() else { return };
        let info = SnapshotInfo {
            fingerprint: self.expected.fingerprint,
            tokens: sequence.history().to_vec(),
            note: note(key),
        };
        if let Err(TrySendError::Full(_)) = writer.try_send((name, info, cache)) {
            tracing::debug!("a checkpoint was not written: others wait");
        }
    }

    /// How many of these pieces the longest checkpoint covers that does not cover all of them: a file holds no logits.
    pub(super) fn covers(&self, salt: &str, pieces: &[Arc<[u32]>]) -> usize {
        let entries = self.entries();
        if entries.is_empty() {
            return 0;
        }
        let longest = (1..pieces.len()).rev();
        longest.into_iter().find(|&n| entries.contains_key(&self.name(salt, &pieces[..n]))).unwrap_or(0)
    }

    /// The checkpoint that covers the first `n` pieces. A file that is damaged or another's is taken away.
    pub(super) fn load(
        &self,
        salt: &Arc<str>,
        pieces: &[Arc<[u32]>],
        pool: &Pool,
        model: &Arc<Model>,
        options: &SessionOptions,
    ) -> Option<Sequence> {
        let name = self.name(salt, pieces);
        let path = self.folder.join(file_name(&name));
        let key = CheckpointKey { salt: salt.clone(), pieces: pieces.to_vec() };
        let policy = Some(options.policy.clone());
        let loaded = snapshot::load_in(pool.clone(), &path, Some(&self.expected), policy);
        let sequence = match loaded {
            Ok((cache, info)) if info.note == note(&key) && info.tokens == pieces.concat() => {
                Sequence::with_cache(model.clone(), options, cache, info.tokens).ok()
            }
            Ok(_) => None,
            Err(snapshot::SnapshotError::Cache(error)) => {
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
            self.entries().remove(&name);
            let _gone = fs::remove_file(&path);
        } else if let Some(entry) = self.entries().get_mut(&name) {
            entry.used = SystemTime::now();
        }
        sequence
    }

    fn name(&self, salt: &str, pieces: &[Arc<[u32]>]) -> Name {
        let mut hash = Xxh3::new();
        hash.update(&self.expected.fingerprint);
        hash.update(&(salt.len() as u64).to_le_bytes());
        hash.update(salt.as_bytes());
        for piece in pieces {
            hash.update(&(piece.len() as u64).to_le_bytes());
            piece.iter().for_each(|token| hash.update(&token.to_le_bytes()));
        }
        hash.digest128().to_le_bytes()
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

/// Writes checkpoints.
struct Writer {
    folder: PathBuf,
    limit: u64,
    entries: Arc<Mutex<HashMap<Name, Entry>>>,
}

impl Writer {
    fn write(&self, name: Name, info: &SnapshotInfo, cache: &SequenceCache) {
        match snapshot::save(&self.folder.join(file_name(&name)), cache, info) {
            Ok(bytes) => {
                lock(&self.entries).insert(name, Entry { bytes, used: SystemTime::now() });
                self.keep_within_limit();
            }
            Err(error) => tracing::warn!("a checkpoint cannot be written: {error}"),
        }
    }

    fn keep_within_limit(&self) {
        let mut entries = lock(&self.entries);
        let mut bytes: u64 = entries.values().map(|entry| entry.bytes).sum();
        while bytes > self.limit {
            let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&name, _)| name) else {
                return;
            };
            bytes -= entries.remove(&oldest).map_or(0, |entry| entry.bytes);
            let _gone = fs::remove_file(self.folder.join(file_name(&oldest)));
        }
    }
}

fn lock(entries: &Mutex<HashMap<Name, Entry>>) -> MutexGuard<'_, HashMap<Name, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
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
