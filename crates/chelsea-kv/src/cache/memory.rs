//! Where a cache's bytes are.

use super::statistics::Statistics;
use super::{CacheConfig, SequenceCache};
use crate::LayerSpec;
use crate::form::Form;
use crate::policy::Needs;
use crate::query::QueryPower;
use crate::{Dims, Head, PAGE, Page};

/// Bytes of a cache, by purpose. They are disjoint, except for `shared` and `scratch_peak`, which
/// [`MemoryReport::total`] leaves out. What a budget acts on, the entries of the layers that grow with the text, is told
/// apart from the layers with a sliding window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Keys of entries in layers that grow, as all that follows. Keys before RoPE are not stored: they are turned back when needed.
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
    /// Everything in the pages of layers with a sliding window, which no budget makes smaller.
    pub sliding: usize,
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
        entries + self.slack + self.sliding + self.fixed
    }
}

/// Bytes that do not depend on the number of entries, of a cache that finds out what `needs` asks for.
pub(super) fn fixed_bytes(config: &CacheConfig, needs: Needs) -> usize {
    let shape = &config.shape;
    let power = if needs.query_power { QueryPower::bytes_for(shape) } else { 0 };
    let heads = shape.heads() * (size_of::<Head>() + size_of::<f32>() + size_of::<usize>());
    let of_layer = |(_, layer): (usize, &LayerSpec)| {
        Form::bytes(layer.key_dim, layer.rotary.inv_freq.len(), config.dtype.rotated())
    };
    let forms = if config.dtype.scaled() { shape.layer_of_heads().map(of_layer).sum() } else { 0 };
    heads + forms + power + Statistics::fixed_bytes(shape, needs)
}

impl SequenceCache {
    /// Where every byte is, now.
    pub fn memory(&self) -> MemoryReport {
        let dtype = self.config.dtype;
        let mut report = MemoryReport {
            fixed: fixed_bytes(&self.config, self.needs),
            scratch_peak: self.scratch_peak,
            ..MemoryReport::default()
        };
        for (g, (_, layer)) in self.config.shape.layer_of_heads().enumerate() {
            let (entries, Dims { key, value }) = (self.store.len(g), layer.dims());
            let held = self.store.bytes(g);
            report.shared += self.store.shared_bytes(g);
            if !layer.grows() {
                report.sliding += held;
                continue;
            }
            report.keys += dtype.key_bytes(entries, key);
            report.values += dtype.value_bytes(entries, value);
            report.scales += entries * dtype.scale_bytes();
            report.counts += entries * 4;
            report.ln_counts += entries * 4;
            report.positions += entries * 4;
            report.slack += held.saturating_sub(dtype.bytes(entries, layer.dims()) + entries * 12);
            report.fixed += entries.div_ceil(PAGE) * Statistics::page_bytes(self.needs);
        }
        report
    }

    /// Bytes of [`MemoryReport::fixed`] and of pages that are there for the policy's sake: what it finds out about queries
    /// and about the attention that entries draw.
    pub fn statistics_bytes(&self) -> usize {
        let beside = self.bytes_beside_now();
        beside - fixed_bytes(&self.config, Needs::default())
    }

    /// Most bytes held at once over the cache's life, what compactions took for a while included.
    pub fn peak(&self) -> usize {
        self.peak.max(self.bytes_held())
    }

    /// Raises the peak to what this cache and `fork`, made of it, hold together: pages that they share count once.
    pub fn count_fork(&mut self, fork: &SequenceCache) {
        let (own, forked) = (self.heads(), fork.heads());
        let pairs = own.iter().zip(forked.iter());
        let shared = |(own, other): (&Head, &Head)| {
            let same = own.pages().iter().zip(other.pages()).filter(|(own, other)| own.is_same(other)).count();
            same * Page::bytes(own.dims(), self.config.dtype)
        };
        let shared = pairs.map(shared).sum::<usize>();
        // A fork that only read has held at most what it holds now.
        self.peak = self.peak.max(self.bytes_held() + fork.bytes_held() - shared);
    }

    /// Bytes that the keys and values of all tokens seen would take in a cache that keeps everything in 16
    /// bits: what this cache is compared with, whatever it is stored in.
    pub fn full_bytes(&self) -> usize {
        self.config.shape.full_bytes(self.tokens())
    }

    /// Bytes of all pages and of what is fixed: [`MemoryReport::total`].
    pub(super) fn bytes_held(&self) -> usize {
        (0..self.store.heads()).map(|g| self.store.bytes(g)).sum::<usize>() + self.bytes_beside_now()
    }

    /// Bytes of everything but pages.
    pub(super) fn bytes_beside_now(&self) -> usize {
        self.bytes_beside(|len| len.div_ceil(PAGE))
    }

    /// Bytes of everything but pages, where statistics of entries are kept for so many pages of each head.
    pub(super) fn bytes_beside(&self, pages: impl Fn(usize) -> usize) -> usize {
        let pages: usize = self.growing().map(|g| pages(self.store.len(g))).sum();
        fixed_bytes(&self.config, self.needs) + pages * Statistics::page_bytes(self.needs)
    }

    /// Bytes of everything but pages, if `needs` were what is found out.
    pub(super) fn bytes_beside_for(&self, needs: Needs) -> usize {
        let pages: usize = self.growing().map(|g| self.store.len(g).div_ceil(PAGE)).sum();
        fixed_bytes(&self.config, needs) + pages * Statistics::page_bytes(needs)
    }
}
