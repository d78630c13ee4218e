//! SHA-256 over files and folders, and the stamp that says a file was checked.
//!
//! Hashing a gigabyte at every start would be felt, so a file that passed gets a small stamp beside it
//! (`NAME.verified`) with its size, its modification time and its hash. As long as these agree the file is trusted;
//! any other state of the file means hashing it again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::error::HubError;
use crate::progress::Progress;

pub(crate) const BUFFER: usize = 1 << 20;

/// Whether `text` looks like a SHA-256: 64 lower-case hex digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a file, lower-case hex; `progress` is advanced within the stage that the caller began.
///
/// # Errors
/// If the file cannot be read, or `progress` was told to stop.
pub fn file(path: &Path, progress: &mut dyn Progress) -> Result<String, HubError> {
    let mut file = std::fs::File::open(path).map_err(HubError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; BUFFER];
    let mut done = 0u64;
    loop {
        let n = file.read(&mut buffer).map_err(HubError::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress.advance(done);
        if progress.cancelled() {
            return Err(HubError::Cancelled);
        }
    }
}

/// SHA-256 over the files of one folder and their number: for each file in the order of its name, the name, a zero
/// byte, the length as eight little-endian bytes, and the contents.
pub fn folder(path: &Path) -> Result<(usize, String), HubError> {
    let entries = std::fs::read_dir(path).map_err(HubError::io("list", path))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(HubError::io("list", path))?.path());
    }
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let mut hash = Sha256::new();
    for file in &files {
        let bytes = std::fs::read(file).map_err(HubError::io("read", file))?;
        let name = file.file_name().unwrap_or_default();
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok((files.len(), hex(&hash.finalize())))
}

fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".verified");
    path.with_file_name(name)
}

fn stamp_text(path: &Path, sha256: &str) -> Result<String, HubError> {
    let meta = std::fs::metadata(path).map_err(HubError::io("look at", path))?;
    // A file system without modification times only loses the shortcut's precision, not its safety of size and name.
    let nanos = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
    Ok(format!("sha256 {sha256}\nbytes {}\nmodified {nanos}\n", meta.len()))
}

/// Says of `path`, in its present state, that its hash is `sha256`.
pub(crate) fn write_stamp(path: &Path, sha256: &str) -> Result<(), HubError> {
    let stamp = stamp_path(path);
    std::fs::write(&stamp, stamp_text(path, sha256)?).map_err(HubError::io("write", stamp))
}

/// Whether `path` is unchanged since it was found to have the hash `sha256`.
pub(crate) fn stamp_holds(path: &Path, sha256: &str) -> bool {
    let Ok(expected) = stamp_text(path, sha256) else { return false };
    std::fs::read_to_string(stamp_path(path)).is_ok_and(|text| text == expected)
}

/// Removes the stamp of `path`, if it has one.
pub(crate) fn remove_stamp(path: &Path) -> Result<(), HubError> {
    let stamp = stamp_path(path);
    match std::fs::remove_file(&stamp) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", stamp)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_file_hash_is_the_published_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").expect("written");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file(&path, &mut Silent).expect("hashed"), expected);
    }

    #[test]
    fn a_stamp_falls_with_any_change_of_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, "one").expect("written");
        assert!(!stamp_holds(&path, "h"));
        write_stamp(&path, "h").expect("stamped");
        assert!(stamp_holds(&path, "h"));
        assert!(!stamp_holds(&path, "other"));
        std::fs::write(&path, "four").expect("written");
        assert!(!stamp_holds(&path, "h"));
    }

    #[test]
    fn a_folder_hash_sees_names_and_boundaries() {
        let make = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().expect("a folder");
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).expect("written");
            }
            folder(dir.path()).expect("hashed")
        };
        assert_eq!(make(&[("a", "x"), ("b", "y")]), make(&[("b", "y"), ("a", "x")]));
        assert_ne!(make(&[("a", "xy"), ("b", "")]), make(&[("a", "x"), ("b", "y")]));
        assert_ne!(make(&[("a", "x")]), make(&[("c", "x")]));
    }
}
