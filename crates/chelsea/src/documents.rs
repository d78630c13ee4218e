//! Documents as text: from files and standard input, with what is odd about them said in words that help.

mod encoding;

use anyhow::{Context as _, Result, bail};
use chelsea_hub::StandIn;
use encoding::Looks;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longer than what any context holds.
const MAX_BYTES: u64 = 1 << 30;
const BOM: &str = "\u{feff}";

/// The documents' text, none when no file was given. With `lossy`, bytes that are no UTF-8 become U+FFFD.
///
/// # Errors
/// If a file cannot be read, or is no text.
pub fn read(files: &[PathBuf], lossy: bool) -> Result<Option<String>> {
    if files.is_empty() {
        return Ok(None);
    }
    let bad = if lossy { BadBytes::Replace } else { BadBytes::Refuse };
    let texts: Vec<String> = files.iter().map(|file| read_one(file, bad)).collect::<Result<_>>()?;
    let texts: Vec<&str> = texts.iter().map(|text| text.trim_end()).collect();
    Ok(Some(texts.join("\n\n")))
}

/// What happens to bytes that are no UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BadBytes {
    /// They are an error, and --lossy is named as a way out.
    Refuse,
    /// They are an error, of a verb that has no such flag.
    RefuseAlways,
    /// They become U+FFFD.
    Replace,
}

/// The text of one file, for verbs that measure and so take no text with something replaced in it.
///
/// # Errors
/// As [`read`].
pub fn read_whole(file: &Path) -> Result<String> {
    read_one(file, BadBytes::RefuseAlways)
}

/// The text of one document; `-` is standard input.
fn read_one(file: &Path, bad: BadBytes) -> Result<String> {
    let (name, bytes) = if file.as_os_str() == "-" {
        ("standard input".to_owned(), at_most(std::io::stdin().lock()).context("cannot read standard input")?)
    } else {
        let name = file.display().to_string();
        let bytes = std::fs::File::open(file).and_then(at_most);
        let bytes = bytes.with_context(|| format!("cannot read {name}"))?;
        (name, bytes)
    };
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{name} has more than {} GiB: that is no text that fits into a context", MAX_BYTES >> 30);
    }
    match StandIn::of(&bytes) {
        Some(StandIn::LfsPointer) => bail!("{name}: {}", StandIn::LfsPointer),
        // Somebody may well ask about one.
        Some(StandIn::Html) => tracing::warn!("{name} is a web page: it is read with all its markup"),
        None => {}
    }
    let text = decode(bytes, file, &name, bad)?;
    if text.trim().is_empty() {
        tracing::warn!("{name} is empty: there is nothing in it to answer from");
    }
    Ok(text)
}

fn at_most(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(bytes: Vec<u8>, file: &Path, name: &str, how: BadBytes) -> Result<String> {
    let looks = Looks::of(&bytes);
    let text = match looks {
        Looks::Utf8 => String::from_utf8(bytes).context("it was found to be UTF-8")?,
        Looks::Damaged { bad, .. } | Looks::Encoded { bad, .. } if how == BadBytes::Replace => {
            tracing::warn!("{name}: {} of it not UTF-8, read as U+FFFD", encoding::count(bad));
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => {
            let file = (file.as_os_str() != "-").then_some(file);
            bail!("{}", looks.advice(&bytes, name, file, how == BadBytes::Refuse))
        }
    };
    Ok(match text.strip_prefix(BOM) {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8], lossy: bool) -> Result<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a b.txt");
        std::fs::write(&file, bytes).expect("written");
        read_one(&file, if lossy { BadBytes::Replace } else { BadBytes::Refuse })
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(read_bytes(b"\xef\xbb\xbfA text.", false).expect("read"), "A text.");
        assert_eq!(read_bytes("naïve 猫".as_bytes(), false).expect("read"), "naïve 猫");
    }

    #[test]
    fn lossy_replaces_what_is_bad_and_no_more() {
        assert_eq!(read_bytes(b"caf\xe9 au lait", true).expect("read"), "caf\u{fffd} au lait");
        // As text it would be every second letter a NUL.
        assert!(read_bytes(b"\xff\xfea\0b\0", true).is_err());
    }

    #[test]
    fn pointers_are_refused_and_pages_read() {
        let error = read_bytes(b"version https://git-lfs.example/spec/v1\noid", false).expect_err("no document");
        assert!(error.to_string().contains("Git LFS pointer"), "{error}");
        assert_eq!(read_bytes(b"<html>A page", false).expect("read"), "<html>A page");
    }
}
