//! A file as bytes, mapped into memory.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

/// A read-only memory map of a whole file.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// Whatever opening or mapping reports; what is no regular file (a folder, a pipe) is
    /// [`io::ErrorKind::InvalidInput`].
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> io::Result<Mapped> {
        // Asked before opening: opening a pipe waits for somebody to write to it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is read-only, and its bytes are only ever read as plain bytes and numbers, each
        // of them valid whatever its value. A file cut short by another process while it is mapped ends
        // this one with SIGBUS: that is the accepted risk of mapping files that are written once and
        // replaced as a whole.
        unsafe { Mmap::map(&file) }.map(Mapped)
    }

    /// Tells the system that the bytes of `range` will not be read again soon, so that they need not stay
    /// in memory. Only a hint: reading them again brings them back.
    pub fn release(&self, range: Range<usize>) {
        release(&self.0, range);
    }
}

/// `MADV_DONTNEED` on a read-only map of a file drops the pages; a later read maps them again.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn release(map: &Mmap, range: Range<usize>) {
    let end = range.end.min(map.len());
    if range.start < end {
        // SAFETY: the map is file-backed, shared and never written, so a dropped page reads the same again.
        // That the hint was not taken changes nothing.
        let _ =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, end - range.start) };
    }
}

#[cfg(not(target_os = "linux"))]
fn release(_map: &Mmap, _range: Range<usize>) {}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
