//! Where a cache's bytes are.

use super::statistics::Statistics;
use super::{CacheConfig, SequenceCache};
use crate::balance::Balance;
use crate::policy::Needs;
use crate::query::QueryPower;
use crate::{Head, Page};
use std::sync::Arc;

/// Bytes of a cache, by purpose. They are disjoint, except for `shared` and `scratch_peak`, which
/// [`MemoryReport::total`] leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Keys of entries. Keys before RoPE are not stored: they are turned back when needed.
    pub keys: usize,
    /// Values of entries.
    pub values: usize,
    /// Scales of keys and values, where they are stored in integers.
    pub scales: usize,
    /// Counts of entries.
    pub counts: usize,
    /// Logarithms of counts.
    pub ln_counts: usize,
    /// Mean positions of entries.
    pub positions: usize,
    /// Room in pages that no entry uses yet, whole pages that wait for the next entries, and what pages cost beside
    /// their entries.
    pub slack: usize,
    /// Statistics of queries and of the attention that entries draw, and the heads themselves.
    pub fixed: usize,
    /// The part of all this that lies in pages shared with forks.
    pub shared: usize,
    /// Most that was taken for a while during any one compaction.
    pub scratch_peak: usize,
}

impl MemoryReport {
    /// All bytes held now, pages shared with forks included.
    pub fn total(&self) -> usize {
        let entries = self.keys + self.values + self.scales + self.counts + self.ln_counts + self.positions;
        entries + self.slack + self.fixed
    }
}

/// Bytes that do not depend on the number of entries, of a cache that finds out what `needs` asks for.
pub(super) fn fixed_bytes(config: &CacheConfig, needs: Needs) -> usize {
    let power = if needs.query_power { QueryPower::bytes_for(config.shape) } else { 0 };
    let heads = config.shape.heads() * (size_of::<Head>() + size_of::<f32>() + size_of::<usize>());
    let balance = if config.dtype.scaled() { config.shape.heads() * Balance::bytes(config.shape.head_dim) } else { 0 };
    heads + balance + power + Statistics::fixed_bytes(config.shape, needs)
}

impl SequenceCache {
    /// Where every byte is, now.
    pub fn memory(&self) -> MemoryReport {
        let (entries, dtype, head_dim) = (self.entries(), self.config.dtype, self.config.shape.head_dim);
        let pages: usize = self.heads.iter().map(|head| head.pages().len()).sum();
        let page_bytes = Page::bytes(head_dim, dtype);
        let shared = self.heads.iter().flat_map(Head::pages).filter(|page| Arc::strong_count(page) > 1).count();
        MemoryReport {
            keys: dtype.key_bytes(entries, head_dim),
            values: dtype.value_bytes(entries, head_dim),
            scales: entries * dtype.scale_bytes(),
            counts: entries * 4,
            ln_counts: entries * 4,
            positions: entries * 4,
            slack: (pages + self.idle_pages()) * page_bytes - dtype.bytes(entries, head_dim) - entries * 12,
            fixed: fixed_bytes(&self.config, self.needs) + pages * Statistics::page_bytes(self.needs),
            shared: shared * page_bytes,
            scratch_peak: self.scratch_peak,
        }
    }

    /// Most bytes held at once over the cache's life, what compactions took for a while included.
    pub fn peak(&self) -> usize {
        self.peak.max(self.bytes_held())
    }

    /// Raises the peak to what this cache and `fork`, made of it, hold together: pages that they share count once.
    pub fn count_fork(&mut self, fork: &SequenceCache) {
        let pairs = self.heads.iter().zip(&fork.heads);
        let shared = |(own, other): (&Head, &Head)| {
            own.pages().iter().zip(other.pages()).filter(|(own, other)| Arc::ptr_eq(own, other)).count()
        };
        let shared = pairs.map(shared).sum::<usize>() * Page::bytes(self.config.shape.head_dim, self.config.dtype);
        // A fork that only read has held at most what it holds now.
        self.peak = self.peak.max(self.bytes_held() + fork.bytes_held() - shared);
    }

    /// Pages that wait for entries.
    fn idle_pages(&self) -> usize {
        self.heads.iter().map(Head::idle_pages).sum()
    }

    /// Bytes that the keys and values of all tokens seen would take in a cache that keeps everything in 16
    /// bits: what this cache is compared with, whatever it is stored in.
    pub fn full_bytes(&self) -> usize {
        self.tokens() * self.config.shape.full_bytes_per_token()
    }

    /// Bytes of all pages and of what is fixed: [`MemoryReport::total`], from the count of pages alone.
    pub(super) fn bytes_held(&self) -> usize {
        let page = Page::bytes(self.config.shape.head_dim, self.config.dtype);
        let pages = (self.pages + self.idle_pages()) * page + self.pages * Statistics::page_bytes(self.needs);
        pages + fixed_bytes(&self.config, self.needs)
    }
}
