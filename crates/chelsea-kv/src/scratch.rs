//! Accounting of memory that is needed for a while only: while a cache is compacted.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes that are held now, and the most that were held at once. Shared by threads.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
    spare: usize,
}

impl Gauge {
    /// A gauge for work that may take up to `spare` bytes in all, even if it could do with fewer.
    pub fn with_spare(spare: usize) -> Self {
        Gauge { spare, ..Gauge::default() }
    }

    /// Bytes that may still be taken to save time.
    pub fn spare(&self) -> usize {
        self.spare.saturating_sub(self.now.load(Ordering::Relaxed))
    }

    /// Counts `bytes` until the returned guard is dropped.
    pub fn hold(&self, bytes: usize) -> Hold<'_> {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Hold { gauge: self, bytes }
    }

    /// Most bytes held at once so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Keeps bytes counted in a [`Gauge`].
#[derive(Debug)]
pub struct Hold<'a> {
    gauge: &'a Gauge,
    bytes: usize,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.gauge.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_is_held_at_the_same_time() {
        let gauge = Gauge::default();
        {
            let _a = gauge.hold(100);
            let _b = gauge.hold(50);
        }
        let _c = gauge.hold(120);
        assert_eq!(gauge.peak(), 150);
    }

    #[test]
    fn what_is_held_is_not_spare() {
        let gauge = Gauge::with_spare(100);
        assert_eq!(gauge.spare(), 100);
        let _a = gauge.hold(70);
        assert_eq!(gauge.spare(), 30);
        let _b = gauge.hold(70);
        assert_eq!(gauge.spare(), 0);
    }
}
