//! Where packed weights lie: large anonymous mappings that ask for huge pages, shared by many matrices.
//!
//! Decode reads every weight once per token, so the address translation of 4 KiB pages costs a good part
//! of the memory's speed; and the matrices of small models are smaller than a huge page, so they have
//! to share them. A slab is given back when the last matrix in it is dropped.

#![allow(unsafe_code)]

use memmap2::MmapMut;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a slab; a larger run gets a slab of its own.
const SLAB: usize = 64 << 20;
/// Runs start on a cache line.
const ALIGN: usize = 64;

/// One mapping. Runs are handed out from its front to its back, never twice.
#[derive(Debug)]
struct Slab {
    /// Start of the mapping, which lives as long as this.
    start: NonNull<u8>,
    len: usize,
    used: Mutex<usize>,
    _map: MmapMut,
}

// SAFETY: the memory is reached only through runs that do not overlap, each owned by one `Run`.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(len: usize) -> std::io::Result<Slab> {
        let mut map = MmapMut::map_anon(len)?;
        #[cfg(target_os = "linux")]
        if let Err(refused) = map.advise(memmap2::Advice::HugePage) {
            // Slower, not wrong: kernels may be built without huge pages.
            tracing::debug!(%refused, "no huge pages for weights");
        }
        let start = NonNull::new(map.as_mut_ptr()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Slab { start, len, used: Mutex::new(0), _map: map })
    }

    /// The start of `bytes` unused bytes, if there are so many.
    fn take(&self, bytes: usize) -> Option<usize> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let start = used.next_multiple_of(ALIGN);
        let end = start.checked_add(bytes).filter(|&end| end <= self.len)?;
        *used = end;
        Some(start)
    }
}

/// A run of bytes in a slab, zeros at first.
#[derive(Debug)]
pub(crate) struct Run {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

impl Run {
    /// `len` zeros that start on a cache line.
    pub fn zeroed(len: usize) -> std::io::Result<Run> {
        static CURRENT: Mutex<Weak<Slab>> = Mutex::new(Weak::new());
        if len >= SLAB / 2 {
            let slab = Arc::new(Slab::new(len)?);
            return Ok(Run { slab, start: 0, len });
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slab) = current.upgrade()
            && let Some(start) = slab.take(len)
        {
            return Ok(Run { slab, start, len });
        }
        let slab = Arc::new(Slab::new(SLAB)?);
        let start = slab.take(len).ok_or(std::io::ErrorKind::OutOfMemory)?;
        *current = Arc::downgrade(&slab);
        Ok(Run { slab, start, len })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the run lies inside the mapping, which lives as long as `slab`; it is written only
        // through `&mut self`, and no other run overlaps it.
        unsafe { std::slice::from_raw_parts(self.slab.start.as_ptr().add(self.start), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.slab.start.as_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_zeroed_and_do_not_overlap() {
        let mut runs: Vec<Run> = [1, 63, 64, 65, 1000, SLAB / 2 - 1, SLAB / 2 - 1, SLAB]
            .into_iter()
            .map(|len| Run::zeroed(len).expect("memory"))
            .collect();
        for (i, run) in runs.iter_mut().enumerate() {
            assert!(run.bytes().as_ptr().addr().is_multiple_of(ALIGN));
            assert!(run.bytes().iter().all(|&b| b == 0));
            run.bytes_mut().fill(i as u8 + 1);
        }
        for (i, run) in runs.iter().enumerate() {
            assert!(run.bytes().iter().all(|&b| b == i as u8 + 1));
        }
    }

    #[test]
    fn memory_that_does_not_exist_is_an_error() {
        assert!(Run::zeroed(isize::MAX as usize / 2).is_err());
    }
}
