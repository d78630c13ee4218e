//! Foreign bytes to a cache.

use super::block::Block;
use super::header::{self, Header, PRELUDE, Prelude, ensure};
use super::{Expected, SnapshotError, SnapshotInfo, SnapshotSummary, statistics};
use crate::cache::Statistics;
use crate::page::Source;
use crate::{CacheConfig, CacheError, CacheShape, PAGE, Page, Policy, Pool, Rotary, SequenceCache, policy};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that were found to be a sound snapshot.
#[derive(Debug, Clone)]
pub struct Parsed<'a> {
    bytes: &'a [u8],
    header: Header,
    blocks: Vec<Block>,
    /// What was found out; nothing any more once it was taken.
    pub(super) found: Statistics,
}

/// Reads and checks a whole snapshot: header, checksums, statistics, and every count and position.
///
/// # Errors
/// Whatever keeps the bytes from being a snapshot.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, SnapshotError> {
    parse_for(bytes, None)
}

/// [`parse`], and an error if the snapshot was not made with what is expected; found out from the header,
/// before all the rest is read.
pub(super) fn parse_for<'a>(bytes: &'a [u8], expected: Option<&Expected>) -> Result<Parsed<'a>, SnapshotError> {
    let prelude = Prelude::decode(bytes, bytes.len() as u64)?;
    let header = Header::decode(&bytes[..prelude.header as usize], &prelude)?;
    if let Some(expected) = expected {
        meets(&header, expected)?;
    }
    let blocks = blocks(&header, prelude.header as usize);
    let first_error = blocks.par_iter().map(|block| block.check(&header, bytes));
    first_error.find_first(Result::is_err).unwrap_or(Ok(()))?;
    let found = statistics::read(&header, &bytes[statistics_range(&header, bytes)])?;
    Ok(Parsed { bytes, header, blocks, found })
}

/// Where the blocks of the heads lie in a file whose size was checked.
fn blocks(header: &Header, first: usize) -> Vec<Block> {
    let mut at = first;
    let block = |(g, len): (usize, usize)| {
        let start = at;
        at += header.block_bytes(g, len) as usize;
        Block::new(start..at, g, len)
    };
    header.heads.iter().map(|head| head.len).enumerate().map(block).collect()
}

/// Where the statistics lie in a file whose size was checked: at its end.
fn statistics_range(header: &Header, bytes: &[u8]) -> Range<usize> {
    bytes.len() - header.found_bytes() as usize..bytes.len()
}

fn meets(header: &Header, expected: &Expected) -> Result<(), SnapshotError> {
    if header.fingerprint != expected.fingerprint {
        return Err(SnapshotError::OtherModel { found: header.fingerprint, expected: expected.fingerprint });
    }
    if !same_sizes(&header.shape, &expected.shape) {
        return Err(SnapshotError::OtherShape { found: header.shape.clone(), expected: expected.shape.clone() });
    }
    let mut layers = header.shape.layers().iter().zip(expected.shape.layers());
    let turned_alike = layers.all(|(x, y)| alike(&x.rotary, &y.rotary) && close(x.scale, y.scale));
    if turned_alike { Ok(()) } else { Err(SnapshotError::OtherRotary) }
}

/// Whether two caches have layers of the same sizes and windows.
fn same_sizes(x: &CacheShape, y: &CacheShape) -> bool {
    let sizes = |shape: &CacheShape| -> Vec<_> {
        let layers = shape.layers().iter();
        layers.map(|l| (l.q_heads, l.kv_heads, l.key_dim, l.value_dim, l.window)).collect()
    };
    sizes(x) == sizes(y)
}

/// Whether two numbers are one, up to the rounding of another machine's mathematics library.
fn close(x: f32, y: f32) -> bool {
    (x - y).abs() <= 1e-5 * x.abs().max(y.abs())
}

/// Whether two rotary embeddings are one, up to the rounding of another machine's mathematics library.
fn alike(x: &Rotary, y: &Rotary) -> bool {
    let pairs = x.inv_freq.iter().zip(&y.inv_freq);
    x.inv_freq.len() == y.inv_freq.len() && close(x.scale, y.scale) && pairs.into_iter().all(|(&x, &y)| close(x, y))
}

impl Parsed<'_> {
    /// What the snapshot is.
    pub fn summary(&self) -> SnapshotSummary {
        SnapshotSummary::new(&self.header, self.bytes.len() as u64)
    }

    /// The cache, in memory of its own, and what the caller kept beside it. The policy is the one noted in
    /// the snapshot unless another is given.
    ///
    /// # Errors
    /// If the policy noted is unknown here, or the settings make no cache.
    pub fn cache(&self, policy: Option<Arc<dyn Policy>>) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
        self.cache_in(Pool::unlimited(), policy)
    }

    /// [`Parsed::cache`], with every byte charged to `pool`.
    ///
    /// # Errors
    /// As [`Parsed::cache`], and if the pool has no room.
    pub fn cache_in(
        &self,
        pool: Pool,
        policy: Option<Arc<dyn Policy>>,
    ) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
        self.cache_over(pool, policy, self.found.clone(), |range| Source::Bytes(&self.bytes[range]))
    }

    /// [`Parsed::cache_in`], with the statistics `found` and pages of what `source` makes of bytes of the file.
    pub(super) fn cache_over<'s>(
        &self,
        pool: Pool,
        policy: Option<Arc<dyn Policy>>,
        found: Statistics,
        source: impl Fn(Range<usize>) -> Source<'s>,
    ) -> Result<(SequenceCache, SnapshotInfo), SnapshotError> {
        let header = &self.header;
        let policy = match policy {
            Some(policy) => {
                // What it needs is made by the file's word on the shape, and must not grow far beyond the file.
                let fixed = Statistics::fixed_bytes(&header.shape, policy.needs()) as u64;
                let most = (64 << 20) + 4096 * self.bytes.len() as u64;
                ensure(fixed <= most, || {
                    format!("policy `{}` would take {fixed} bytes for heads so large", policy.name())
                })?;
                policy
            }
            None => {
                let policy = policy::policy(&header.policy)?;
                // Whatever was saved has them: to begin them here would take memory that the file does not have.
                let needs = policy.needs();
                let there = (header.power.is_some() || !needs.query_power) && header.found.serves(needs);
                ensure(there, || format!("the statistics that its policy `{}` needs are missing", policy.name()))?;
                policy
            }
        };
        let beside = Page::META_BYTES + Page::OVERHEAD_BYTES;
        let in_memory = |lines: usize| if matches!(source(0..0), Source::Bytes(_)) { lines + beside } else { beside };
        let pages = header
            .heads
            .iter()
            .enumerate()
            .map(|(g, head)| head.len.div_ceil(PAGE) * in_memory(header.page_bytes(g) as usize));
        let reserved = pool.reserve(pages.sum()).map_err(CacheError::from)?;
        let heads = self.blocks.iter().map(|block| block.head(header, self.bytes, &source, &reserved)).collect();
        drop(reserved);
        let config = CacheConfig { pool, ..header.config(policy) };
        let cache = SequenceCache::restored(config, heads, header.saved(), found)?;
        let (fingerprint, tokens, note) = (header.fingerprint, header.tokens.clone(), header.note.clone());
        Ok((cache, SnapshotInfo { fingerprint, tokens, note }))
    }
}

/// Makes size and checksums of a snapshot right again after its bytes were changed, as far as its header
/// can be read: tests and fuzzing get past the checksums with it, to the checks behind them.
pub fn reseal(bytes: &mut [u8]) {
    if bytes.len() < PRELUDE {
        return;
    }
    header::set_file_size(bytes);
    let Ok(prelude) = Prelude::decode(bytes, bytes.len() as u64) else { return };
    let end = prelude.header as usize;
    header::seal(&mut bytes[..end]);
    let sealed = Prelude::decode(bytes, bytes.len() as u64);
    let Ok(mut header) = sealed.and_then(|prelude| Header::decode(&bytes[..end], &prelude)) else { return };
    let blocks = blocks(&header, end);
    for (record, block) in header.heads.iter_mut().zip(blocks) {
        record.hash = xxh3_64(&bytes[block.range]);
    }
    header.found.hash = xxh3_64(&bytes[statistics_range(&header, bytes)]);
    bytes[..end].copy_from_slice(&header.encode());
}
