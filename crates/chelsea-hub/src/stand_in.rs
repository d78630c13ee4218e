//! Files that came in place of the one that was wanted: what a clone without Git LFS leaves, what a download of the page
//! about a file brings.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// What lies there instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    /// The three lines that Git keeps for a file of Git LFS.
    LfsPointer,
    /// A web page.
    Html,
}

/// Bytes that are looked at.
const HEAD: u64 = 512;

impl StandIn {
    /// What the first bytes of a file say, if they say one of these.
    pub fn of(head: &[u8]) -> Option<StandIn> {
        let head = &head[..head.len().min(HEAD as usize)];
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        let begins = |words: &str| head.get(..words.len()).is_some_and(|h| h.eq_ignore_ascii_case(words.as_bytes()));
        if begins("version https://git-lfs") {
            Some(StandIn::LfsPointer)
        } else if begins("<!doctype html") || begins("<html") {
            Some(StandIn::Html)
        } else {
            None
        }
    }

    /// The same of a file; nothing where it cannot be read.
    pub fn of_file(path: &Path) -> Option<StandIn> {
        if !path.is_file() {
            return None;
        }
        let mut head = Vec::new();
        std::fs::File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
        StandIn::of(&head)
    }
}

impl fmt::Display for StandIn {
    /// What it is, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StandIn::LfsPointer => {
                "this is a Git LFS pointer and not the file itself: fetch the file (`git lfs pull` in its repository)"
            }
            StandIn::Html => "this is a web page and not the file itself: download the file, not the page about it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_known_by_their_first_bytes() {
        let pointer = b"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 9\n";
        assert_eq!(StandIn::of(pointer), Some(StandIn::LfsPointer));
        for page in ["<!DOCTYPE html>\n<html>", "\n <html lang=en>", "\u{feff}<!doctype HTML>"] {
            assert_eq!(StandIn::of(page.as_bytes()), Some(StandIn::Html), "{page}");
        }
        for other in ["", "GGUF", "version 2", "<htm", "A <html> page", "{}"] {
            assert_eq!(StandIn::of(other.as_bytes()), None, "{other}");
        }
    }
}
