//! Accounting of memory that is needed for a while only: while a cache is compacted.

use crate::pool::{Pool, PoolFull, ScratchLease};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes that are held now, and the most that were held at once; charges them to a pool, if there is one. Shared by
/// threads.
#[derive(Debug, Default)]
pub struct ScratchMeter {
    now: AtomicUsize,
    peak: AtomicUsize,
    pool: Option<Pool>,
}

impl ScratchMeter {
    /// The same, with every byte charged to `pool` as well.
    pub(crate) fn charged_to(self, pool: Pool) -> Self {
        ScratchMeter { pool: Some(pool), ..self }
    }

    /// Counts `bytes` until the returned guard is dropped. To be asked before they are allocated.
    ///
    /// # Errors
    /// If the pool has no room for them.
    pub fn reserve(&self, bytes: usize) -> Result<Reserved<'_>, PoolFull> {
        let lease = self.pool.as_ref().map(|pool| pool.lease_scratch(bytes)).transpose()?;
        let mut reserved = self.count(bytes);
        reserved.lease = lease;
        Ok(reserved)
    }

    /// Counts `bytes` that were charged to the pool before.
    pub(crate) fn count(&self, bytes: usize) -> Reserved<'_> {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Reserved { meter: self, bytes, lease: None }
    }

    /// Most bytes held at once so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Keeps bytes counted in a [`ScratchMeter`].
#[derive(Debug)]
pub struct Reserved<'a> {
    meter: &'a ScratchMeter,
    bytes: usize,
    lease: Option<ScratchLease>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_is_held_at_the_same_time() {
        let meter = ScratchMeter::default();
        {
            let _a = meter.reserve(100).unwrap();
            let _b = meter.reserve(50).unwrap();
        }
        let _c = meter.reserve(120).unwrap();
        assert_eq!(meter.peak(), 150);
    }

    #[test]
    fn what_the_pool_has_no_room_for_is_refused() {
        let pool = Pool::with_limit(100);
        let meter = ScratchMeter::default().charged_to(pool.clone());
        let held = meter.reserve(80).unwrap();
        assert!(meter.reserve(30).is_err());
        assert_eq!((meter.peak(), pool.scratch()), (80, 80));
        drop(held);
        assert_eq!((pool.live(), pool.scratch()), (0, 0));
    }
}
