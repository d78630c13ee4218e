//! What may be wrong with a safetensors file.

use std::io;
use std::path::PathBuf;

/// Why a file could not be read. Becomes a [`ModelError`](crate::ModelError).
#[derive(Debug)]
pub(crate) enum FileError {
    /// It cannot be opened.
    Io { path: PathBuf, source: io::Error },
    /// It is damaged, or holds what is not supported.
    Broken { path: PathBuf, why: String },
}
