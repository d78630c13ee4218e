//! One ledger of bytes for all the caches of an engine.
//!
//! A cache that is made with a [`Pool`] charges it for every page before the page is made, and for what is fixed; what is
//! charged is returned when the page is dropped, wherever that happens. Pages that caches share are charged once, because
//! they are one page. Room that a compaction takes for a while is charged, too, and told apart ([`Pool::scratch`]). Keys
//! and values that lie in a mapped file take no memory of their own: they are counted beside the rest ([`Pool::mapped`]).
//!
//! # Invariant
//!
//! [`Pool::live`] never exceeds [`Pool::limit`]: what would is refused with [`PoolFull`] before anything is allocated, and
//! the cache is as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;

/// The limit of a pool leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{needed} more bytes do not fit: the caches hold {live} of the {limit} bytes that they may take together; end a \
     sequence, or raise the limit"
)]
pub struct PoolFull {
    /// Bytes that were asked for.
    pub needed: usize,
    /// Bytes that were charged at that moment.
    pub live: usize,
    /// Bytes that may be charged.
    pub limit: usize,
}

#[derive(Debug)]
struct Ledger {
    limit: usize,
    live: AtomicUsize,
    peak: AtomicUsize,
    scratch: AtomicUsize,
    mapped: AtomicUsize,
}

impl Ledger {
    fn charge(&self, bytes: usize) -> Result<(), PoolFull> {
        let fits = |live: usize| live.checked_add(bytes).filter(|&live| live <= self.limit);
        match self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(live) => Err(PoolFull { needed: bytes, live, limit: self.limit }),
        }
    }

    fn give_back(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A ledger of bytes that caches share. Clones are the same ledger.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Ledger>);

impl Default for Pool {
    /// A pool without a limit, which counts and refuses nothing.
    fn default() -> Self {
        Pool::unlimited()
    }
}

impl Pool {
    /// A pool without a limit.
    pub fn unlimited() -> Self {
        Pool::with_limit(usize::MAX)
    }

    /// A pool of at most `bytes`.
    pub fn with_limit(bytes: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Pool(Arc::new(Ledger { limit: bytes, live: zero(), peak: zero(), scratch: zero(), mapped: zero() }))
    }

    /// Bytes that may be charged at most; nothing when there is no limit.
    pub fn limit(&self) -> Option<usize> {
        (self.0.limit < usize::MAX).then_some(self.0.limit)
    }

    /// Bytes that are charged now.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Most bytes that were ever charged at once.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Of the bytes charged now, those that compactions take for a while.
    pub fn scratch(&self) -> usize {
        self.0.scratch.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values that are read from mapped files: no part of [`Pool::live`].
    pub fn mapped(&self) -> usize {
        self.0.mapped.load(Ordering::Relaxed)
    }

    /// Bytes that are still free.
    pub fn free(&self) -> usize {
        self.0.limit - self.live()
    }

    /// Charges `bytes` from which leases are taken; what is left of them is returned with the reservation.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, PoolFull> {
        self.0.charge(bytes)?;
        Ok(Reservation { ledger: Some(self.0.clone()), left: AtomicUsize::new(bytes) })
    }

    /// Charges `bytes`, for as long as the lease lives.
    pub fn lease(&self, bytes: usize) -> Result<Lease, PoolFull> {
        self.0.charge(bytes)?;
        Ok(Lease { ledger: Some(self.0.clone()), bytes, mapped: 0 })
    }

    /// Charges `bytes` that are taken for a while.
    pub(crate) fn lease_scratch(&self, bytes: usize) -> Result<ScratchLease, PoolFull> {
        self.0.charge(bytes)?;
        self.0.scratch.fetch_add(bytes, Ordering::Relaxed);
        Ok(ScratchLease { ledger: self.0.clone(), bytes })
    }
}

/// Bytes that were charged for pages to come.
#[derive(Debug)]
pub struct Reservation {
    /// Nothing for heads that belong to no cache.
    ledger: Option<Arc<Ledger>>,
    left: AtomicUsize,
}

impl Reservation {
    /// For heads that belong to no cache: what they take is charged to nobody.
    pub const fn unbound() -> Self {
        Reservation { ledger: None, left: AtomicUsize::new(0) }
    }

    /// Bytes that are left of it.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `bytes` of what was reserved; reserving too few of them is a fault of this crate.
    pub fn take(&self, bytes: usize) -> Lease {
        let Some(ledger) = &self.ledger else { return Lease::default() };
        let enough = |left: usize| left.checked_sub(bytes);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_err() {
            debug_assert!(false, "{bytes} bytes were not reserved");
            ledger.live.fetch_add(bytes, Ordering::Relaxed);
        }
        Lease { ledger: Some(ledger.clone()), bytes, mapped: 0 }
    }

    /// As [`Reservation::take`], of which `mapped` more lie in a mapped file.
    pub fn take_mapped(&self, bytes: usize, mapped: usize) -> Lease {
        let mut lease = self.take(bytes);
        if let Some(ledger) = &lease.ledger {
            ledger.mapped.fetch_add(mapped, Ordering::Relaxed);
            lease.mapped = mapped;
        }
        lease
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.give_back(*self.left.get_mut());
        }
    }
}

/// Bytes charged to a pool, returned when dropped.
#[derive(Debug, Default)]
pub struct Lease {
    ledger: Option<Arc<Ledger>>,
    bytes: usize,
    mapped: usize,
}

impl Lease {
    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges, or returns, what makes the lease one of `bytes`.
    pub fn resize(&mut self, bytes: usize) -> Result<(), PoolFull> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        if bytes > self.bytes {
            ledger.charge(bytes - self.bytes)?;
        } else {
            ledger.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.give_back(self.bytes);
            ledger.mapped.fetch_sub(self.mapped, Ordering::Relaxed);
        }
    }
}

/// Bytes charged to a pool for a while, returned when dropped.
#[derive(Debug)]
pub(crate) struct ScratchLease {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl Drop for ScratchLease {
    fn drop(&mut self) {
        self.ledger.scratch.fetch_sub(self.bytes, Ordering::Relaxed);
        self.ledger.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let pool = Pool::with_limit(100);
        let held = pool.lease(60).unwrap();
        assert_eq!(pool.lease(41).unwrap_err(), PoolFull { needed: 41, live: 60, limit: 100 });
        assert_eq!((pool.live(), pool.free(), pool.limit()), (60, 40, Some(100)));
        drop(held);
        assert_eq!((pool.live(), pool.peak()), (0, 60));
    }

    #[test]
    fn what_is_left_of_a_reservation_comes_back() {
        let pool = Pool::with_limit(100);
        let reserved = pool.reserve(90).unwrap();
        let page = reserved.take(30);
        assert_eq!(pool.live(), 90);
        drop(reserved);
        assert_eq!(pool.live(), 30);
        drop(page);
        assert_eq!(pool.live(), 0);
    }

    #[test]
    fn a_lease_grows_within_the_limit_only() {
        let pool = Pool::with_limit(100);
        let mut lease = pool.lease(50).unwrap();
        assert!(lease.resize(101).is_err());
        lease.resize(100).unwrap();
        lease.resize(10).unwrap();
        assert_eq!(pool.live(), 10);
    }

    #[test]
    fn scratch_and_mapped_bytes_are_told_apart() {
        let pool = Pool::with_limit(100);
        let scratch = pool.lease_scratch(20).unwrap();
        let reserved = pool.reserve(10).unwrap();
        let page = reserved.take_mapped(10, 500);
        assert_eq!((pool.live(), pool.scratch(), pool.mapped()), (30, 20, 500));
        drop((scratch, page));
        assert_eq!((pool.live(), pool.scratch(), pool.mapped()), (0, 0, 0));
    }

    #[test]
    fn threads_that_charge_at_once_never_exceed_the_limit() {
        let pool = Pool::with_limit(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..2000 {
                        let lease = pool.lease(100 + i % 300);
                        assert!(pool.live() <= 1000);
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(pool.live(), 0);
        assert!(pool.peak() <= 1000);
    }
}
