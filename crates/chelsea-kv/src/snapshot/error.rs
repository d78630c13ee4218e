//! What can be wrong with a snapshot.

use crate::policy::PolicyError;
use crate::{CacheError, CacheShape};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A snapshot that cannot be written or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else is where the file should be.
    #[error("{} is not a regular file: choose another name", .0.display())]
    NotAFile(PathBuf),
    /// The bytes are something else.
    #[error("not a saved cache: the file does not begin as one")]
    NotASnapshot,
    /// The format changed since this program was built.
    #[error(
        "the cache was saved in format {found}, and this program knows format {known}: use a program of the same \
         version as the one that saved it, or build the cache again from its documents"
    )]
    Version {
        /// Format of the file.
        found: u32,
        /// Format that can be read.
        known: u32,
    },
    /// The file ends early.
    #[error("the saved cache is cut short: {have} bytes of {need}; copy the file again, or build the cache again")]
    Truncated {
        /// Bytes there.
        have: u64,
        /// Bytes that the file should have.
        need: u64,
    },
    /// The file goes on after its end.
    #[error("the saved cache is {have} bytes long and should be {need}; copy the file again, or build the cache again")]
    TooLong {
        /// Bytes there.
        have: u64,
        /// Bytes that the file should have.
        need: u64,
    },
    /// The checksum of the header is wrong.
    #[error("the header of the saved cache is damaged (wrong checksum); copy the file again, or build the cache again")]
    HeaderCorrupted,
    /// The checksum of a head is wrong.
    #[error(
        "layer {layer}, KV head {head} of the saved cache is damaged (wrong checksum); copy the file again, or build \
         the cache again"
    )]
    HeadCorrupted {
        /// Layer of the head.
        layer: usize,
        /// KV head of the layer.
        head: usize,
    },
    /// The checksum of the statistics is wrong.
    #[error(
        "the statistics of the saved cache are damaged (wrong checksum); copy the file again, or build the cache again"
    )]
    StatisticsCorrupted,
    /// A number in the header is beyond anything a cache can have.
    #[error("the saved cache claims {value} for {field}, and the most that makes sense is {most}")]
    TooLarge {
        /// What the number means.
        field: &'static str,
        /// The number.
        value: u64,
        /// The largest accepted.
        most: u64,
    },
    /// The checksums are right, and still the content makes no sense.
    #[error("the saved cache makes no sense: {0}")]
    Inconsistent(String),
    /// The cache belongs to another model.
    #[error(
        "the cache was saved with another model (fingerprint {}, this one has {}): load the model it was made with, \
         or build the cache again",
        hex(found),
        hex(expected)
    )]
    OtherModel {
        /// Fingerprint in the file.
        found: [u8; 16],
        /// Fingerprint of the model at hand.
        expected: [u8; 16],
    },
    /// The cache has other sizes than the model.
    #[error("the cache was saved with other sizes: it has {found:?}, the model has {expected:?}")]
    OtherShape {
        /// Sizes in the file.
        found: CacheShape,
        /// Sizes of the model at hand.
        expected: CacheShape,
    },
    /// The keys of the cache were turned in another way.
    #[error("the cache was saved with another rotary embedding (frequencies or scale) than the model has")]
    OtherRotary,
    /// A block is on its way through the layers.
    #[error("a cache cannot be saved while a block is on its way through the layers: finish the block first")]
    MidBlock,
    /// The token ids do not belong to the cache.
    #[error("the cache has seen {cache} tokens, and {given} token ids were given: a snapshot keeps them all")]
    Tokens {
        /// Token ids given.
        given: usize,
        /// Tokens of the cache.
        cache: usize,
    },
    /// The policy noted in the file cannot be made.
    #[error("the policy of the saved cache cannot be used")]
    Policy(#[from] PolicyError),
    /// The settings in the file make no cache.
    #[error("the settings of the saved cache cannot be used")]
    Cache(#[from] CacheError),
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
