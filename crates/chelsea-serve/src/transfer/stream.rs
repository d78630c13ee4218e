//! What is sent: a snapshot, layer after layer, and after it what whoever goes on from the cache needs beside it.
//!
//! | bytes | content |
//! |---|---|
//! | as its header says | the snapshot ([`chelsea_kv::snapshot`]), with a checksum of each head |
//! | | JSON: how the cache is kept and how its prompt was cut ([`About`]) |
//! | 4 each | the logits after the prompt, little-endian `f32` |
//! | 8 | `MAGIC` |
//! | 8 | bytes of the JSON |
//! | 8 | number of the logits |
//! | 8 | XXH3 of everything after the snapshot but these eight bytes |
//!
//! The snapshot comes first, so that it can be mapped where it was written once the rest was cut off. All of it has a digest
//! besides, SHA-256, which reaches the one who fetches it by another way than the bytes do.

use chelsea_engine::Sequence;
use chelsea_kv::snapshot::{self, SnapshotError, SnapshotInfo};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Seek, SeekFrom, Write};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// How the end is known.
const MAGIC: [u8; 8] = *b"CHLHAND1";
/// Bytes of the last four fields.
const FOOT: usize = 32;
/// Bytes at the beginning of a snapshot in which it says how long it is.
const BEGINNING: u64 = 64;
/// Most bytes of what follows the snapshot: logits of a vocabulary of sixteen million tokens.
pub(super) const MOST: u64 = 64 << 20;

/// How a cache is kept, beside what its snapshot says. The cache is of use only to a request of which the same holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Everything that shapes the cache ([`chelsea_engine::scheduler::settings_of`]).
    pub settings: String,
    /// Tokens of the pieces in which the prompt was read.
    pub cuts: Vec<usize>,
}

/// What follows a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Trailer {
    /// How the cache is kept.
    pub about: About,
    /// The logits after the prompt.
    pub logits: Vec<f32>,
}

/// Bytes that are no handed-over cache.
#[derive(Debug, Error)]
pub enum StreamError {
    /// What follows the snapshot is damaged.
    #[error("what follows the cache is damaged: {0}")]
    Trailer(&'static str),
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The snapshot cannot be written or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Writes a cache with what belongs to it.
///
/// # Errors
/// If the cache is in the middle of something, or `out` refuses.
pub fn write(out: &mut impl Write, sequence: &Sequence, about: &About) -> Result<(), StreamError> {
    let info = SnapshotInfo {
        fingerprint: sequence.model().fingerprint(),
        tokens: sequence.history().to_vec(),
        note: "handed over".into(),
    };
    snapshot::write(out, sequence.cache(), &info)?;
    out.write_all(&encode(about, sequence.logits())?)?;
    Ok(())
}

/// What follows a snapshot, in bytes.
///
/// # Errors
/// None: JSON is made of what has a form in it.
pub fn encode(about: &About, logits: &[f32]) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(about)?;
    let json = bytes.len() as u64;
    bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    bytes.extend(MAGIC);
    bytes.extend(json.to_le_bytes());
    bytes.extend((logits.len() as u64).to_le_bytes());
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    Ok(bytes)
}

/// Reads what follows the snapshot in `bytes` bytes, and says how long the snapshot is.
///
/// # Errors
/// If it is damaged, is not as long as the snapshot says, or cannot be read.
pub fn split(from: &mut (impl Read + Seek), bytes: u64) -> Result<(Trailer, u64), StreamError> {
    from.seek(SeekFrom::Start(0))?;
    let mut beginning = Vec::new();
    Read::by_ref(from).take(BEGINNING.min(bytes)).read_to_end(&mut beginning)?;
    let snapshot = snapshot_bytes(&beginning, bytes)?;
    from.seek(SeekFrom::Start(snapshot))?;
    let mut rest = Vec::new();
    Read::by_ref(from).take(bytes - snapshot).read_to_end(&mut rest)?;
    Ok((parse_trailer(&rest)?, snapshot))
}

/// Makes lengths and checksums right, so that what lies behind them can be tried. Leaves what is no handed-over cache as it is.
pub fn reseal(bytes: &mut [u8]) {
    let Some(foot) = bytes.len().checked_sub(FOOT) else { return };
    let [json, logits] = [8, 16].map(|at| little_endian(&bytes[foot + at..foot + at + 8]));
    let fits = logits.checked_mul(4).and_then(|logits| logits.checked_add(json));
    let Some(cut) = fits.and_then(|rest| foot.checked_sub(usize::try_from(rest).ok()?)) else { return };
    snapshot::reseal(&mut bytes[..cut]);
    let hash = foot + 24;
    let sealed = xxh3_64(&bytes[cut..hash]).to_le_bytes();
    bytes[hash..].copy_from_slice(&sealed);
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// Reads what follows a snapshot: all of it, and nothing else.
///
/// # Errors
/// If it is damaged.
pub fn parse_trailer(bytes: &[u8]) -> Result<Trailer, StreamError> {
    let wrong = StreamError::Trailer;
    if bytes.len() < FOOT || bytes.len() as u64 > MOST {
        return Err(wrong("its length is none that it could have"));
    }
    let (rest, foot) = bytes.split_at(bytes.len() - FOOT);
    let number = |at: usize| little_endian(&foot[at..at + 8]);
    if foot[..8] != MAGIC {
        return Err(wrong("it does not end as it should"));
    }
    if xxh3_64(&bytes[..bytes.len() - 8]) != number(24) {
        return Err(wrong("its checksum is wrong"));
    }
    let (json, logits) = (number(8), number(16));
    let fits = logits.checked_mul(4).and_then(|logits| logits.checked_add(json));
    if fits != Some(rest.len() as u64) {
        return Err(wrong("its parts are not as long as it says"));
    }
    let (json, logits) = rest.split_at(json as usize);
    let about = serde_json::from_slice(json).map_err(|_| wrong("it does not say how the cache is kept"))?;
    let logits: Vec<f32> = logits.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if !logits.iter().all(|logit| logit.is_finite()) {
        return Err(wrong("a logit is no number"));
    }
    Ok(Trailer { about, logits })
}

/// Bytes of the snapshot at the beginning of `total` bytes, by what its first bytes say.
///
/// # Errors
/// If there cannot be so many, or so few.
pub fn snapshot_bytes(beginning: &[u8], total: u64) -> Result<u64, StreamError> {
    let size = beginning.get(24..32).ok_or(StreamError::Trailer("there is nothing before it"))?;
    let size = little_endian(size);
    if size < BEGINNING || size > total.saturating_sub(FOOT as u64) || total - size > MOST {
        return Err(StreamError::Trailer("the cache before it is not as long as it says"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailer() -> Trailer {
        let about = About { settings: "chelsea 25%".into(), cuts: vec![64, 7] };
        Trailer { about, logits: vec![0.5, -3.0, 1e9] }
    }

    #[test]
    fn what_was_written_is_read_and_every_change_is_found() {
        let trailer = trailer();
        let bytes = encode(&trailer.about, &trailer.logits).unwrap();
        assert_eq!(parse_trailer(&bytes).unwrap(), trailer);
        for at in 0..bytes.len() {
            for bit in [1, 128] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                assert!(parse_trailer(&changed).is_err(), "byte {at}");
            }
            assert!(parse_trailer(&bytes[..at]).is_err() && parse_trailer(&bytes[at + 1..]).is_err());
        }
    }

    #[test]
    fn foreign_bytes_end_in_an_error_and_never_in_a_panic() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let Trailer { about, logits } = trailer();
        let whole = encode(&about, &logits).unwrap();
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            bytes.truncate(random.random_range(0..=whole.len()));
            for _ in 0..random.random_range(1..8) {
                match bytes.len() {
                    0 => bytes.push(random.random()),
                    length => bytes[random.random_range(0..length)] = random.random(),
                }
            }
            // With its checksum made right, so that what lies behind it is reached.
            if let Some(end) = bytes.len().checked_sub(8) {
                let hash = xxh3_64(&bytes[..end]).to_le_bytes();
                bytes[end..].copy_from_slice(&hash);
            }
            if let Ok(read) = parse_trailer(&bytes) {
                assert!(read.logits.iter().all(|logit| logit.is_finite()));
            }
            let _size = snapshot_bytes(&bytes, random.random_range(0..2000));
        }
    }

    #[test]
    fn bytes_with_right_checksums_and_wrong_content_are_refused() {
        let sealed = |mut bytes: Vec<u8>| {
            let end = bytes.len() - 8;
            let hash = xxh3_64(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&hash);
            parse_trailer(&bytes)
        };
        let Trailer { about, logits } = trailer();
        assert!(sealed(encode(&about, &[f32::NAN]).unwrap()).is_err());
        let mut long = encode(&about, &logits).unwrap();
        let at = long.len() - 16;
        long[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(sealed(long).is_err());
    }

    #[test]
    fn the_snapshot_has_to_be_as_long_as_its_header_says() {
        let mut beginning = [0; 64];
        for (size, fits) in [(64, true), (968, true), (969, false), (63, false), (u64::MAX, false)] {
            beginning[24..32].copy_from_slice(&size.to_le_bytes());
            assert_eq!(snapshot_bytes(&beginning, 1000).is_ok(), fits, "{size}");
        }
        assert!(snapshot_bytes(&beginning[..20], 1000).is_err());
    }
}
