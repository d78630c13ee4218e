//! Accounting of memory that is needed for a while only: while a cache is compacted.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes that are held now, and the most that were held at once. Shared by threads.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
    spare: usize,
    bounded: bool,
}

impl Gauge {
    /// A gauge for work that may take up to `spare` bytes in all, even if it could do with fewer.
    pub fn with_spare(spare: usize) -> Self {
        Gauge { spare, ..Gauge::default() }
    }

    /// As [`Gauge::with_spare`], for work whose every further thread has to fit into that, too.
    pub fn bounded(spare: usize) -> Self {
        Gauge { spare, bounded: true, ..Gauge::default() }
    }

    /// Threads that may work at once if each takes `bytes`: at least one, and no more than there are.
    pub fn threads(&self, bytes: usize) -> usize {
        let most = rayon::current_num_threads();
        if self.bounded { (self.spare() / bytes.max(1)).clamp(1, most) } else { most }
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

    #[test]
    fn threads_are_as_many_as_what_is_spare_has_room_for() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
        pool.install(|| {
            let gauge = Gauge::bounded(100);
            assert_eq!([1, 20, 34, 200].map(|bytes| gauge.threads(bytes)), [8, 5, 2, 1]);
            let _a = gauge.hold(50);
            assert_eq!(gauge.threads(20), 2);
            assert_eq!(Gauge::with_spare(100).threads(200), 8);
        });
    }
}
