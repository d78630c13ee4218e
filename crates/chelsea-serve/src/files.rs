//! Documents that clients put on the server once, to ask about them by their ids.
//!
//! Each belongs to the key that brought it, and nobody else sees that it is there. Where the shelf has a folder, documents
//! lie in files of it and outlive the server; else in memory. A file is a line of JSON that describes the document, and
//! then its text; it takes its place whole or not at all.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// How many documents a key may have, and how long they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Documents of a key at most.
    pub files: usize,
    /// Bytes of all documents of a key at most.
    pub bytes: u64,
}

impl Default for FileLimits {
    fn default() -> Self {
        FileLimits { files: 256, bytes: 256 << 20 }
    }
}

/// What is known of a document beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its id, `file-` and 24 hexadecimal digits.
    pub id: String,
    /// The name that it was brought under.
    pub name: String,
    /// What it is for, as OpenAI's clients have to say.
    pub purpose: String,
    /// Bytes of its text.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Whose it is.
    key: u64,
    /// XXH3 of its text.
    hash: u64,
}

/// A document that is not taken, or is not there.
#[derive(Debug, Error)]
pub enum FileError {
    /// The key has none of this id.
    #[error("No such File object: {0}")]
    Unknown(String),
    /// The key has too many.
    #[error("there are {0} files of this key already, which is the most that may be: delete one first")]
    TooMany(usize),
    /// The key's documents would be too long together.
    #[error(
        "with these {new} bytes the files of this key would have more than {limit} bytes together, which is the most that \
         may be: delete one first, or bring a shorter one"
    )]
    TooLong {
        /// Bytes of the new one.
        new: u64,
        /// Bytes that there may be.
        limit: u64,
    },
    /// A name that would not go into the first line of a file.
    #[error("the name of the file is longer than {MAX_NAME} bytes")]
    Name,
    /// The system refuses, or what lies there is not what was written.
    #[error("the file cannot be kept or read: {0}")]
    Io(#[from] io::Error),
}

/// Most bytes of a name.
const MAX_NAME: usize = 512;
/// Most bytes of the line that describes a document.
const MAX_LINE: u64 = 16 << 10;
const ENDING: &str = "document";
const PART: &str = "part";

#[derive(Debug)]
struct Kept {
    info: FileInfo,
    /// The text, unless it lies in a file.
    text: Option<Arc<str>>,
}

/// The documents of all keys.
#[derive(Debug, Default)]
pub struct Files {
    limits: FileLimits,
    folder: Option<PathBuf>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Files {
    /// Documents that are gone when the server ends.
    pub fn in_memory(limits: FileLimits) -> Files {
        Files { limits, ..Files::default() }
    }

    /// Documents in files of a folder, which is made if it is not there. What is no whole document is removed.
    ///
    /// # Errors
    /// If the folder cannot be made, read, or written to.
    pub fn in_folder(folder: &Path, limits: FileLimits) -> io::Result<Files> {
        fs::create_dir_all(folder)?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending {
                // A server that was killed was writing it.
                Some(PART) => fs::remove_file(&path)?,
                Some(ENDING) => match read(&path) {
                    Ok((info, _)) if path.file_stem().is_some_and(|stem| stem == info.id.as_str()) => {
                        kept.insert(info.id.clone(), Kept { info, text: None });
                    }
                    _ => {
                        tracing::warn!("{} is no whole document and is removed", path.display());
                        fs::remove_file(&path)?;
                    }
                },
                _ => {}
            }
        }
        Ok(Files { limits, folder: Some(folder.to_path_buf()), kept: Mutex::new(kept) })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a document in.
    ///
    /// # Errors
    /// If the key has too many or too long ones, or it cannot be written.
    pub fn put(&self, key: u64, name: &str, purpose: &str, text: &str) -> Result<FileInfo, FileError> {
        if name.len() > MAX_NAME {
            return Err(FileError::Name);
        }
        // Held while it is written, so that two at once do not exceed what one alone may not.
        let mut all = self.kept();
        let own = || all.values().filter(|kept| kept.info.key == key);
        if own().count() >= self.limits.files {
            return Err(FileError::TooMany(self.limits.files));
        }
        let (new, limit) = (text.len() as u64, self.limits.bytes);
        if own().map(|kept| kept.info.bytes).sum::<u64>() + new > limit {
            return Err(FileError::TooLong { new, limit });
        }
        let info = FileInfo {
            id: format!("file-{:024x}", rand::random::<u128>() >> 32),
            name: name.to_owned(),
            purpose: purpose.to_owned(),
            bytes: new,
            created: crate::settings::now(),
            key,
            hash: xxh3_64(text.as_bytes()),
        };
        let text = match &self.folder {
            Some(folder) => {
                write(folder, &info, text)?;
                None
            }
            None => Some(text.into()),
        };
        all.insert(info.id.clone(), Kept { info: info.clone(), text });
        Ok(info)
    }

    /// The documents of a key, the oldest first.
    pub fn list(&self, key: u64) -> Vec<FileInfo> {
        let all = self.kept();
        let mut own: Vec<FileInfo> =
            all.values().filter(|kept| kept.info.key == key).map(|kept| kept.info.clone()).collect();
        own.sort_by_key(|info| info.created);
        own
    }

    /// What is known of a document.
    ///
    /// # Errors
    /// If the key has none of this id.
    pub fn info(&self, key: u64, id: &str) -> Result<FileInfo, FileError> {
        let all = self.kept();
        let found = all.get(id).filter(|kept| kept.info.key == key);
        found.map(|kept| kept.info.clone()).ok_or_else(|| FileError::Unknown(id.to_owned()))
    }

    /// The text of a document.
    ///
    /// # Errors
    /// If the key has none of this id, or its file is not what was written.
    pub fn text(&self, key: u64, id: &str) -> Result<Arc<str>, FileError> {
        let info = self.info(key, id)?;
        let in_memory = self.kept().get(id).and_then(|kept| kept.text.clone());
        let (None, Some(folder)) = (&in_memory, &self.folder) else {
            return in_memory.ok_or_else(|| FileError::Unknown(id.to_owned()));
        };
        match read(&folder.join(file_name(id))) {
            Ok((found, text)) if found == info => Ok(text.into()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "another document lies in its place").into()),
            // It was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::Unknown(id.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// If the key has none of this id, or its file cannot be removed.
    pub fn delete(&self, key: u64, id: &str) -> Result<(), FileError> {
        self.info(key, id)?;
        if let Some(folder) = &self.folder {
            match fs::remove_file(folder.join(file_name(id))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        self.kept().remove(id);
        Ok(())
    }
}

fn file_name(id: &str) -> String {
    format!("{id}.{ENDING}")
}

fn write(folder: &Path, info: &FileInfo, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().suffix(&format!(".{PART}")).tempfile_in(folder)?;
    let mut line = serde_json::to_vec(info)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(folder.join(file_name(&info.id)))?;
    Ok(())
}

/// A document, and an error if it is not whole.
fn read(path: &Path) -> io::Result<(FileInfo, String)> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    let info: FileInfo = serde_json::from_slice(&line)?;
    let mut text = Vec::new();
    // One more would be one too many.
    file.take(info.bytes.saturating_add(1)).read_to_end(&mut text)?;
    if text.len() as u64 != info.bytes || xxh3_64(&text) != info.hash {
        return Err(damaged("its text is not what was written"));
    }
    String::from_utf8(text).map(|text| (info, text)).map_err(|_| damaged("its text is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FileLimits = FileLimits { files: 2, bytes: 10 };

    #[test]
    fn a_key_sees_its_own_documents_only() {
        let files = Files::in_memory(LIMITS);
        let mine = files.put(1, "a.txt", "user_data", "hello").unwrap();
        assert_eq!(&*files.text(1, &mine.id).unwrap(), "hello");
        assert_eq!(files.list(1), std::slice::from_ref(&mine));
        assert!(matches!(files.text(2, &mine.id), Err(FileError::Unknown(_))));
        assert!(matches!(files.delete(2, &mine.id), Err(FileError::Unknown(_))));
        assert!(files.list(2).is_empty());
        files.delete(1, &mine.id).unwrap();
        assert!(matches!(files.info(1, &mine.id), Err(FileError::Unknown(_))));
    }

    #[test]
    fn each_key_has_so_many_documents_and_bytes() {
        let files = Files::in_memory(LIMITS);
        files.put(1, "a", "user_data", "1234567").unwrap();
        assert!(matches!(files.put(1, "b", "user_data", "1234"), Err(FileError::TooLong { new: 4, limit: 10 })));
        files.put(1, "b", "user_data", "123").unwrap();
        assert!(matches!(files.put(1, "c", "user_data", ""), Err(FileError::TooMany(2))));
        files.put(2, "c", "user_data", "1234567890").unwrap();
        assert!(matches!(files.put(2, &"n".repeat(600), "user_data", ""), Err(FileError::Name)));
    }

    #[test]
    fn documents_in_a_folder_outlive_the_server_and_broken_ones_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents");
        let first = Files::in_folder(&path, FileLimits::default()).unwrap();
        let kept = first.put(1, "a \"b\"\n.txt", "user_data", "line\nline").unwrap();
        let cut = first.put(1, "cut", "user_data", "will be cut short").unwrap();
        let cut_path = path.join(file_name(&cut.id));
        let bytes = fs::read(&cut_path).unwrap();
        fs::write(&cut_path, &bytes[..bytes.len() - 3]).unwrap();
        fs::write(path.join("abc.part"), "half").unwrap();
        // Another name than its id says: a copy by hand.
        fs::copy(path.join(file_name(&kept.id)), path.join(file_name("file-copy"))).unwrap();
        drop(first);
        let second = Files::in_folder(&path, FileLimits::default()).unwrap();
        assert_eq!(second.list(1), std::slice::from_ref(&kept));
        assert_eq!(&*second.text(1, &kept.id).unwrap(), "line\nline");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        // Changed under the server's feet: an error, not another text.
        fs::write(path.join(file_name(&kept.id)), "nothing").unwrap();
        assert!(matches!(second.text(1, &kept.id), Err(FileError::Io(_))));
        second.delete(1, &kept.id).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
