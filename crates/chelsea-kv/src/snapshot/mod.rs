//! A cache as a file: a document is read and clustered once, and asked many times.
//!
//! # The file
//!
//! A header (module `header`: settings, token ids, the power of queries, one record per head), one block per head
//! (module `block`: pages, counts, positions), and the other statistics, where there are any (module
//! `statistics`). All numbers are little-endian. Every block begins at a
//! multiple of 64 and pages lie in it as they lie in memory, so a loaded cache reads keys and values
//! straight from the map of the file; a page is copied out of it when the cache writes to it, and the
//! file is never changed. The header, every block and the statistics have a checksum each (XXH3, 64 bits).
//!
//! # Invariants
//!
//! - A loaded cache goes on exactly as the saved one would have, under its own policy: all that was found out
//!   for it is there. Only a second pass in progress is not, and where peaks of memory were.
//! - A file appears under its name only when it is complete; a save that fails leaves what was there.
//! - Foreign bytes end in an error, never in a panic, and never take more memory than they are long, a
//!   small factor aside. Checksums catch accidents; sizes, counts and positions are checked beside them,
//!   because whoever makes a file can make its checksums too.

mod block;
mod error;
mod fields;
mod file;
mod header;
mod layers;
mod parse;
mod statistics;

pub use error::SnapshotError;
pub use file::{can_save, inspect, is_snapshot, load, load_in, read_in, save, verify};
pub use parse::{Parsed, parse, reseal};

use crate::{Budget, CacheShape, Dtype, SequenceCache};
use header::{HeadRecord, Header};
use rayon::prelude::*;
use statistics::Found;
use std::io::{self, Write};
use xxhash_rust::xxh3::Xxh3;

#[cfg(target_endian = "big")]
compile_error!("snapshots are little-endian and are used as they lie: big-endian machines are not supported");

/// Blocks begin at multiples of this, for the sake of vector loads.
const ALIGN: usize = 64;

/// Most bytes of [`SnapshotInfo::note`].
pub const MAX_NOTE: usize = 64 << 10;

/// What a snapshot keeps for its caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Names the model: opaque bytes, compared and nothing else.
    pub fingerprint: [u8; 16],
    /// Ids of all tokens that the cache has seen, in order.
    pub tokens: Vec<u32>,
    /// Anything, JSON by custom; at most [`MAX_NOTE`] bytes.
    pub note: String,
}

/// What a snapshot must have been made with to be of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The fingerprint of the model at hand.
    pub fingerprint: [u8; 16],
    /// Its layers, and how they turn keys.
    pub shape: CacheShape,
}

/// What a snapshot is, from its header alone.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotSummary {
    /// Names the model it was made with.
    pub fingerprint: [u8; 16],
    /// Sizes of the cache.
    pub shape: CacheShape,
    /// How keys and values are stored.
    pub dtype: Dtype,
    /// Tokens that the cache has seen.
    pub tokens: usize,
    /// Entries over all heads that grow with the text.
    pub entries: usize,
    /// Entries of the shortest head.
    pub entries_min: usize,
    /// Entries of the longest head.
    pub entries_max: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// The policy with its settings.
    pub policy: String,
    /// How much may be kept.
    pub budget: Budget,
    /// Attention sinks of every head.
    pub sinks: usize,
    /// Recent window of every head.
    pub window: usize,
    /// What the caller noted.
    pub note: String,
}

impl SnapshotSummary {
    /// Entries of a head on average.
    pub fn entries_mean(&self) -> f64 {
        self.entries as f64 / self.shape.growing_heads().max(1) as f64
    }

    fn new(header: &Header, bytes: u64) -> Self {
        let layers = || header.heads.iter().zip(header.shape.layer_of_heads());
        let lens = || layers().filter(|(_, (_, layer))| layer.grows()).map(|(head, _)| head.len);
        SnapshotSummary {
            fingerprint: header.fingerprint,
            shape: header.shape.clone(),
            dtype: header.dtype,
            tokens: header.tokens.len(),
            entries: lens().sum(),
            entries_min: lens().min().unwrap_or(0),
            entries_max: lens().max().unwrap_or(0),
            bytes,
            policy: header.policy.clone(),
            budget: header.budget,
            sinks: header.sinks,
            window: header.window,
            note: header.note.clone(),
        }
    }
}

/// A cache that is fit to be written.
struct Ready<'a> {
    cache: &'a SequenceCache,
    header: Vec<u8>,
}

/// XXH3 of what `pieces` hands out, one after the other.
fn hash_of(pieces: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>) -> u64 {
    let mut hash = Xxh3::new();
    let infallible = pieces(&mut |piece| {
        hash.update(piece);
        Ok(())
    });
    debug_assert!(infallible.is_ok());
    hash.digest()
}

impl<'a> Ready<'a> {
    fn new(cache: &'a SequenceCache, info: &SnapshotInfo) -> Result<Self, SnapshotError> {
        let saved = cache.saved().ok_or(SnapshotError::MidBlock)?;
        if info.tokens.len() != saved.tokens {
            return Err(SnapshotError::Tokens { given: info.tokens.len(), cache: saved.tokens });
        }
        let config = cache.config();
        let record = |(g, head): (usize, &crate::Head)| HeadRecord {
            len: head.len(),
            frozen: saved.frozen[g],
            value_scale: saved.value_scale[g],
            hash: block::hash(head),
        };
        let power = saved.query_power.as_ref().map(|power| power.parts());
        let header = Header {
            fingerprint: info.fingerprint,
            shape: config.shape.clone(),
            dtype: config.dtype,
            sinks: config.sinks,
            window: config.window,
            budget: config.budget,
            decode_block: config.decode_block,
            policy: config.policy.spec(),
            compacted_at: saved.compacted_at,
            expected_tokens: saved.expected_tokens,
            recent: saved.recent,
            tokens: info.tokens.clone(),
            note: info.note.clone(),
            heads: cache.heads().par_iter().enumerate().map(record).collect(),
            power: power.map(|(sums, samples)| (sums.to_vec(), samples.to_vec())),
            found: Found::of(cache),
            forms: if config.dtype.scaled() {
                cache.heads().iter().map(|head| head.form().cloned()).collect()
            } else {
                Vec::new()
            },
        };
        header.check()?;
        statistics::check(cache.statistics(), saved.tokens)?;
        Ok(Ready { cache, header: header.encode() })
    }

    /// Bytes of all of it, as its header says.
    fn bytes(&self) -> u64 {
        header::file_size(&self.header)
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        self.cache.heads().iter().try_for_each(|head| block::write(head, out))?;
        statistics::write(self.cache, out)
    }
}

/// A snapshot in memory: the bytes that [`save`] puts into a file.
///
/// # Errors
/// As [`save`], less those of the file.
pub fn to_bytes(cache: &SequenceCache, info: &SnapshotInfo) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = Vec::new();
    write_as("memory", &mut bytes, cache, info)?;
    Ok(bytes)
}

/// Hands a snapshot to `out`, piece by piece, and returns its size in bytes: for those who see to it themselves that
/// nobody takes a half-written one for a whole one.
///
/// # Errors
/// As [`save`].
pub fn write(out: &mut impl Write, cache: &SequenceCache, info: &SnapshotInfo) -> Result<u64, SnapshotError> {
    write_as("the file of a snapshot", out, cache, info)
}

fn write_as(
    name: &str,
    out: &mut impl Write,
    cache: &SequenceCache,
    info: &SnapshotInfo,
) -> Result<u64, SnapshotError> {
    let ready = Ready::new(cache, info)?;
    let refused = |source| SnapshotError::Io { action: "write to", path: name.into(), source };
    ready.write(out).map_err(refused)?;
    Ok(ready.bytes())
}
