//! Caches whose layers differ, and texts without meaning to fill them with.

use chelsea_kv::snapshot::{self, SnapshotInfo};
use chelsea_kv::{CacheError, CacheShape, Dtype, Head, LayerSpec, Rotary, SequenceCache};
use std::sync::Arc;

/// Random numbers that depend on the seed alone.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// Numbers in [-1, 1).
    pub fn row(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// A layer of these heads and sizes.
pub fn layer(q_heads: usize, kv_heads: usize, key_dim: usize, value_dim: usize, window: Option<usize>) -> LayerSpec {
    let rotary = Arc::new(Rotary::plain(key_dim, if window.is_some() { 1e4 } else { 1e6 }));
    LayerSpec { value_dim, window, ..LayerSpec::new(q_heads, kv_heads, key_dim, rotary) }
}

/// Two layers that grow and two with sliding windows, none like another.
pub fn mixed() -> CacheShape {
    CacheShape::new(vec![
        layer(4, 2, 8, 16, None),
        layer(2, 1, 16, 8, Some(20)),
        layer(2, 1, 8, 8, None),
        layer(4, 2, 8, 8, Some(100)),
    ])
    .expect("layers of a cache")
}

/// Keys, values and queries of some tokens of one layer.
#[derive(Debug, Clone)]
pub struct Rows {
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub q: Vec<f32>,
}

/// The rows of tokens `range` in `layer` of text `text`: always the same, however they are cut.
pub fn rows(spec: &LayerSpec, layer: usize, range: std::ops::Range<usize>, text: u64) -> Rows {
    let mut rows = Rows { k: Vec::new(), v: Vec::new(), q: Vec::new() };
    for token in range {
        let mut random = Random(text.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ ((token as u64) << 8) ^ layer as u64);
        rows.k.extend(random.row(spec.key_width()));
        rows.v.extend(random.row(spec.value_width()));
        rows.q.extend(random.row(spec.query_width()));
    }
    rows
}

/// Gives the cache its next `n` tokens, those of `text`, and asks their queries. Returns the outputs of every layer.
pub fn feed(cache: &mut SequenceCache, n: usize, text: u64) -> Result<Vec<Vec<f32>>, CacheError> {
    let shape = cache.config().shape.clone();
    let at = cache.tokens();
    let one = |(index, spec): (usize, &LayerSpec)| {
        let Rows { k, v, q } = rows(spec, index, at..at + n, text);
        cache.append(index, &k, &v)?;
        let mut out = vec![0.0; n * spec.output_width()];
        cache.attend(index, &q, &mut out).expect("queries of the tokens that were just appended");
        Ok(out)
    };
    shape.layers().iter().enumerate().map(one).collect()
}

/// Everything that a cache is, as a snapshot of it.
pub fn state(cache: &SequenceCache) -> Vec<u8> {
    let tokens = vec![7; cache.tokens()];
    snapshot::to_bytes(cache, &SnapshotInfo { tokens, ..SnapshotInfo::default() }).expect("between blocks")
}

/// All entries of a head as bits.
pub fn entries(head: &Head) -> Vec<u32> {
    let (mut key, mut value) = (vec![0.0; head.key_dim()], vec![0.0; head.value_dim()]);
    let one = |i: usize| {
        head.read_key(i, &mut key);
        head.read_value(i, &mut value);
        let numbers = key.iter().chain(&value).map(|x| x.to_bits());
        numbers.chain([head.count(i), head.position(i).to_bits()]).collect::<Vec<u32>>()
    };
    (0..head.len()).flat_map(one).collect()
}

/// How far attention over stored numbers in [-1, 1) may be off.
pub fn error(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 => 2e-3,
        Dtype::Bf16 => 1.5e-2,
        Dtype::Q8 => 2e-2,
        Dtype::K8V4 | Dtype::K5V4 => 0.2,
    }
}
