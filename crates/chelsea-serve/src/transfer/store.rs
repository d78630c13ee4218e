//! Caches that wait for a peer to fetch them.
//!
//! They lie in files without names, which the system removes however the process ends. One is given up when it was not fetched
//! in time, and earlier when there is no room for another one: whoever comes for it then reads the prompt.

use super::Offer;
use super::stream::{self, About, StreamError};
use chelsea_engine::Sequence;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A cache that waits.
#[derive(Debug)]
pub(super) struct Kept {
    id: String,
    file: Mutex<File>,
    pub(super) bytes: u64,
    pub(super) digest: String,
    until: Instant,
}

impl Kept {
    /// Bytes from `at` on, at most `most`.
    pub(super) fn read(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; most.min(usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX))];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: Mutex<Vec<Arc<Kept>>>,
    /// Bytes of those that are being written.
    writing: AtomicU64,
    keep: Duration,
    limit: u64,
}

impl Store {
    pub(super) fn new(keep: Duration, limit: u64) -> Store {
        Store { kept: Mutex::default(), writing: AtomicU64::new(0), keep, limit }
    }

    /// Those that are still of use.
    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Kept>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|kept| kept.until > now);
        kept
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.kept().iter().map(|kept| kept.bytes).sum()
    }

    /// Writes a cache into a file and keeps it.
    pub(super) fn keep(&self, url: &str, sequence: &Sequence, about: &About) -> Result<Offer, StreamError> {
        let room = Room { store: self, bytes: 0 };
        let mut out =
            Hashed { out: BufWriter::with_capacity(1 << 20, tempfile::tempfile()?), hash: Sha256::new(), room };
        stream::write(&mut out, sequence, about)?;
        let Hashed { out, hash, room } = out;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let bytes = room.bytes;
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("{:032x}", rand::random::<u128>());
        let offer = Offer { url: format!("{url}/v1/kv/{id}"), digest: digest.clone(), bytes };
        let mut kept = self.kept();
        // From here on its bytes count as those of one that waits.
        drop(room);
        kept.push(Arc::new(Kept { id, file: Mutex::new(file), bytes, digest, until: Instant::now() + self.keep }));
        Ok(offer)
    }

    /// The one of this id.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Kept>> {
        self.kept().iter().find(|kept| kept.id == id).cloned()
    }

    /// Gives one up. Returns whether it was there.
    pub(super) fn give_up(&self, id: &str) -> bool {
        let mut kept = self.kept();
        let before = kept.len();
        kept.retain(|kept| kept.id != id);
        kept.len() < before
    }
}

/// What a file that is being written may take, taken before it does.
struct Room<'s> {
    store: &'s Store,
    bytes: u64,
}

impl Room<'_> {
    /// Takes so many more bytes, and gives up for them what has waited longest.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let Store { writing, limit, .. } = self.store;
        let mut kept = self.store.kept();
        let others = writing.load(Ordering::Relaxed) - self.bytes;
        if self.bytes + others + bytes > *limit {
            let text = format!(
                "it has more than {} bytes, and all that wait or are being written may have {limit} (--transfer-bytes)",
                self.bytes
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        while kept.iter().map(|kept| kept.bytes).sum::<u64>() + others + self.bytes + bytes > *limit {
            kept.remove(0);
        }
        self.bytes += bytes;
        writing.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.store.writing.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Hashes what passes through, and takes room for it.
struct Hashed<'s, W> {
    out: W,
    hash: Sha256,
    room: Room<'s>,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room.grow(bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
