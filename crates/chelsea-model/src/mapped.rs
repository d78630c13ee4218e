//! A file as bytes, mapped into memory: the one place of this crate with `unsafe`.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A read-only memory map of a whole file.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// Whatever opening or mapping reports; a folder is [`io::ErrorKind::IsADirectory`].
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> io::Result<Mapped> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // SAFETY: the map is read-only, and its bytes are only ever read as plain bytes, each of them valid
        // whatever its value. A file cut short by another process while it is mapped ends this one with
        // SIGBUS; that is the accepted risk of mapping model files, which are written once.
        unsafe { Mmap::map(&file) }.map(Mapped)
    }

    /// Tells the system that the bytes of `range` will not be read again, so that pages of a large model
    /// do not add to the memory of this process while the rest is loaded. Only a hint.
    pub fn release(&self, range: std::ops::Range<usize>) {
        release(&self.0, range);
    }
}

/// `MADV_DONTNEED` on a read-only map of a file drops the pages; a later read maps them again from the file.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn release(map: &Mmap, range: std::ops::Range<usize>) {
    use memmap2::UncheckedAdvice;
    let end = range.end.min(map.len());
    if range.start < end {
        // SAFETY: the map is file-backed, shared and never written, so a dropped page reads the same again.
        let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, end - range.start) };
        if let Err(error) = advised {
            tracing::debug!(%error, "pages of the model file were not released");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn release(_map: &Mmap, _range: std::ops::Range<usize>) {}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
