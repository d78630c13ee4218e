//! The section of statistics, at the end of the file: what a cache found out for policies that ask for it, beside the
//! power of queries. The header says what is there, and so how long it is. In this order:
//!
//! - the last queries: for each layer the positions held (two `u32`), then the rings of all layers as they lie in memory;
//! - moments of queries: for each layer how many were seen (`u64`), then for each query head its mean (`f64`) and sums of
//!   products (`f32`, if kept);
//! - the attention that each entry has drawn, and what a second pass found of each, head by head;
//! - zeros up to a multiple of 64.

use super::fields::{Reader, Writer};
use super::header::{Header, ensure};
use super::{ALIGN, SnapshotError, hash_of};
use crate::cache::{Importance, Statistics};
use crate::policy::Needs;
use crate::query::{QueryMoments, RecentQueries};
use crate::{CacheShape, LayerSpec, SequenceCache};
use std::io::{self, Write};
use xxhash_rust::xxh3::xxh3_64;

/// What the header says of the section.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    /// Last queries of each layer that there is room for; 0 when none are kept.
    pub window: usize,
    /// Whether there are moments of queries, and if so, whether with covariances.
    pub moments: Option<bool>,
    /// Whether there is the attention that entries have drawn.
    pub mass: bool,
    /// Entries of each head that a second pass was made over.
    pub importance: Option<Vec<usize>>,
    /// XXH3 of the section.
    pub hash: u64,
}

impl Found {
    /// What is there to be said of `cache`.
    pub(super) fn of(cache: &SequenceCache) -> Self {
        let Statistics { recent, moments, mass, importance, .. } = cache.statistics();
        let known = |importance: &Importance| (0..cache.heads().len()).map(|g| importance.head(g).len()).collect();
        Found {
            window: recent.as_ref().map_or(0, RecentQueries::window),
            moments: moments.as_ref().map(QueryMoments::covariance),
            mass: mass.is_some(),
            importance: importance.as_ref().map(known),
            hash: hash(cache),
        }
    }

    /// Whether everything is there that `needs` asks for; the second pass may still be to come.
    pub(super) fn serves(&self, needs: Needs) -> bool {
        self.window >= needs.recent_queries
            && (self.moments.is_some() || !needs.query_mean)
            && (self.moments == Some(true) || !needs.query_covariance)
            && (self.mass || !needs.attention_mass)
    }

    /// Bytes of the section, of a cache of `entries` entries over all heads. All sizes were checked to be far too small to
    /// overflow.
    pub(super) fn bytes(&self, shape: &CacheShape, entries: u64) -> u64 {
        let layers = shape.layers().len() as u64;
        let recent = match self.window as u64 {
            0 => 0,
            window => layers * 8 + window * shape.all().queries as u64 * 4,
        };
        let moments = match self.moments {
            None => 0,
            Some(covariance) => {
                let head = |dim: u64| dim * (8 + if covariance { dim * 4 } else { 0 });
                let growing = shape.layers().iter().filter(|layer| layer.grows());
                layers * 8 + growing.map(|layer| layer.q_heads as u64 * head(layer.key_dim as u64)).sum::<u64>()
            }
        };
        let mass = if self.mass { entries * 4 } else { 0 };
        let importance = self.importance.iter().flatten().map(|&known| known as u64 * 4).sum::<u64>();
        (recent + moments + mass + importance).next_multiple_of(ALIGN as u64)
    }

    /// Writes its part of the header.
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.window as u32);
        out.u32(self.moments.map_or(0, |covariance| 1 + u32::from(covariance)));
        out.u32(u32::from(self.mass));
        out.u32(u32::from(self.importance.is_some()));
        self.importance.iter().flatten().for_each(|&known| out.u32(known as u32));
        out.u64(self.hash);
    }

    /// Reads its part of the header.
    pub(super) fn decode(fields: &mut Reader<'_>, shape: &CacheShape) -> Result<Self, SnapshotError> {
        let window = fields.size32()?;
        let moments = match fields.u32()? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            other => return Err(SnapshotError::Inconsistent(format!("there are no moments of kind {other}"))),
        };
        let mass = fields.flag()?;
        let known = fields.flag()?;
        let importance = if known { Some(fields.many(shape.heads(), 4, Reader::size32)?) } else { None };
        Ok(Found { window, moments, mass, importance, hash: fields.u64()? })
    }
}

/// Hands the section of `cache` to `take`, piece by piece.
fn pieces(cache: &SequenceCache, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let Statistics { recent, moments, mass, importance, .. } = cache.statistics();
    let mut bytes = 0;
    let mut put = |piece: &[u8]| {
        bytes += piece.len();
        take(piece)
    };
    if let Some(recent) = recent {
        let (rows, held) = recent.parts();
        held.iter().try_for_each(|held| put(bytemuck::cast_slice(&[held.start as u32, held.end as u32])))?;
        put(bytemuck::cast_slice(rows))?;
    }
    if let Some(moments) = moments {
        let (counts, mut heads) = moments.parts();
        put(bytemuck::cast_slice(counts))?;
        heads.try_for_each(|(mean, scatter)| {
            put(bytemuck::cast_slice(mean))?;
            put(bytemuck::cast_slice(scatter))
        })?;
    }
    let heads = cache.heads();
    let heads = heads.iter().zip(cache.config().shape.layer_of_heads());
    for (mass, (head, (_, layer))) in mass.iter().flatten().zip(heads) {
        let len = if layer.grows() { head.len() } else { 0 };
        let known = &mass[..mass.len().min(len)];
        put(bytemuck::cast_slice(known))?;
        put(bytemuck::cast_slice(&vec![0.0f32; len - known.len()]))?;
    }
    if let Some(importance) = importance {
        (0..cache.heads().len()).try_for_each(|g| put(bytemuck::cast_slice(importance.head(g))))?;
    }
    take(&[0; ALIGN][..bytes.next_multiple_of(ALIGN) - bytes])
}

/// XXH3 of the section of `cache`.
fn hash(cache: &SequenceCache) -> u64 {
    hash_of(|take| pieces(cache, take))
}

/// Writes the section of `cache`.
pub(super) fn write(cache: &SequenceCache, out: &mut impl Write) -> io::Result<()> {
    pieces(cache, |piece| out.write_all(piece))
}

/// Reads the section `bytes`, which has the length that `header` says, and checks it.
pub(super) fn read(header: &Header, bytes: &[u8]) -> Result<Statistics, SnapshotError> {
    let (shape, found) = (&header.shape, &header.found);
    if xxh3_64(bytes) != found.hash {
        return Err(SnapshotError::StatisticsCorrupted);
    }
    let layers = shape.layers().len();
    let mut fields = Reader::new(bytes);
    let recent = match found.window {
        0 => None,
        window => {
            let held = fields.many(layers, 8, |f| Ok(f.size32()?..f.size32()?))?;
            let rows = fields.many(window * shape.all().queries, 4, Reader::f32)?;
            Some(RecentQueries::from_parts(shape.clone(), window, rows, held))
        }
    };
    let moments = match found.moments {
        None => None,
        Some(covariance) => {
            let counts = fields.many(layers, 8, Reader::u64)?;
            let mut heads = Vec::new();
            let q_heads = |layer: &LayerSpec| std::iter::repeat_n(layer.key_dim, layer.q_heads);
            for dim in shape.layers().iter().filter(|layer| layer.grows()).flat_map(q_heads) {
                let mean = fields.many(dim, 8, |f| f.u64().map(f64::from_bits))?;
                let products = if covariance { dim * dim } else { 0 };
                heads.push((mean, fields.many(products, 4, Reader::f32)?));
            }
            Some(QueryMoments::from_parts(shape.clone(), counts, heads))
        }
    };
    let mut numbers = |len: usize| fields.many(len, 4, Reader::f32);
    let mass = match found.mass {
        false => None,
        true => Some(header.clustered_lens().map(&mut numbers).collect::<Result<Vec<_>, _>>()?),
    };
    let importance = match &found.importance {
        None => None,
        Some(known) => Some(known.iter().map(|&known| numbers(known)).collect::<Result<Vec<_>, _>>()?),
    };
    ensure(fields.rest().iter().all(|&byte| byte == 0), || "statistics where nothing belongs".into())?;
    let statistics = Statistics::found(recent, moments, mass, importance);
    check(&statistics, header.tokens.len())?;
    Ok(statistics)
}

/// Holds the statistics of a cache of `tokens` tokens to what every snapshot keeps.
pub(super) fn check(statistics: &Statistics, tokens: usize) -> Result<(), SnapshotError> {
    if let Some(recent) = &statistics.recent {
        let (rows, held) = recent.parts();
        for held in held {
            let fits = held.start <= held.end && held.end <= tokens && held.len() <= recent.window();
            ensure(fits, || format!("the last queries are those at {held:?} of {tokens} tokens"))?;
        }
        ensure(rows.iter().all(|x| x.is_finite()), || "a query is not finite".into())?;
    }
    if let Some(moments) = &statistics.moments {
        let (counts, mut heads) = moments.parts();
        ensure(counts.iter().all(|&n| n <= tokens as u64), || format!("moments of more queries than {tokens}"))?;
        let finite = heads.all(|(mean, sums)| mean.iter().all(|x| x.is_finite()) && sums.iter().all(|x| x.is_finite()));
        ensure(finite, || "the moments of queries are not finite".into())?;
    }
    let sane = |numbers: &[f32]| numbers.iter().all(|&x| x.is_finite() && x >= 0.0);
    let drawn = statistics.mass.iter().flatten().all(|mass| sane(mass));
    ensure(drawn, || "an entry has drawn an attention that is not finite, or negative".into())?;
    let second = statistics.importance.iter().flat_map(Importance::heads).all(|found| sane(found));
    ensure(second, || "a second pass found a number that is not finite, or negative".into())
}
