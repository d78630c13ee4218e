//! What a cache must know of the model it serves: sizes, storage type and rotary frequencies.

use thiserror::Error;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats: for tests that hold logits against a reference.
    F32,
    /// IEEE half precision, the default.
    F16,
    /// bfloat16, for models whose weights are bfloat16.
    Bf16,
    /// 8-bit integers, with an `f32` scale for each key and one for each value: half the bytes of
    /// [`Dtype::F16`] and a little.
    Q8,
    /// Keys as in [`Dtype::Q8`], values in 4-bit integers: three quarters of its bytes. Attention averages over values,
    /// and the error of their rounding with them; keys decide what it averages over.
    K8V4,
}

impl Dtype {
    /// All of them, the widest first.
    pub const ALL: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::K8V4];

    /// What it is called in options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Q8 => "q8",
            Dtype::K8V4 => "k8v4",
        }
    }

    /// Bits of a number of a key.
    pub const fn key_bits(self) -> usize {
        match self {
            Dtype::F32 => 32,
            Dtype::F16 | Dtype::Bf16 => 16,
            Dtype::Q8 | Dtype::K8V4 => 8,
        }
    }

    /// Bits of a number of a value.
    pub const fn value_bits(self) -> usize {
        match self {
            Dtype::K8V4 => 4,
            _ => self.key_bits(),
        }
    }

    /// Whether rows of numbers have a scale each.
    pub const fn scaled(self) -> bool {
        matches!(self, Dtype::Q8 | Dtype::K8V4)
    }

    /// Bytes of an entry's scales, the key's and the value's together; 0 for types that have none.
    pub const fn scale_bytes(self) -> usize {
        if self.scaled() { 2 * size_of::<f32>() } else { 0 }
    }

    /// Bytes of `entries` keys of `head_dim` numbers, without scales.
    pub const fn key_bytes(self, entries: usize, head_dim: usize) -> usize {
        entries * head_dim * self.key_bits() / 8
    }

    /// Bytes of `entries` values of `head_dim` numbers, without scales.
    pub const fn value_bytes(self, entries: usize, head_dim: usize) -> usize {
        entries * head_dim * self.value_bits() / 8
    }

    /// Bytes of the key and the value of `entries` entries, scales included.
    pub const fn bytes(self, entries: usize, head_dim: usize) -> usize {
        self.key_bytes(entries, head_dim) + self.value_bytes(entries, head_dim) + entries * self.scale_bytes()
    }
}

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Number of transformer layers.
    pub layers: usize,
    /// KV heads of each layer.
    pub kv_heads: usize,
    /// Query heads of each layer, a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Size of one key, and of one value; even.
    pub head_dim: usize,
}

/// A shape no cache can have.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// One of the sizes is zero.
    #[error("a cache needs at least one layer, one KV head and a head size of 2 (got {0:?})")]
    Empty(CacheShape),
    /// Query heads cannot be shared evenly among KV heads.
    #[error("{q_heads} query heads cannot be shared evenly among {kv_heads} KV heads")]
    Grouping {
        /// Query heads of a layer.
        q_heads: usize,
        /// KV heads of a layer.
        kv_heads: usize,
    },
    /// Rotary pairs need an even head size.
    #[error("head size {0} is odd: rotary pairs need an even one")]
    OddHead(usize),
}

impl CacheShape {
    /// Checks that the sizes can make a cache.
    pub fn validate(&self) -> Result<(), ShapeError> {
        if self.layers == 0 || self.kv_heads == 0 || self.q_heads == 0 || self.head_dim < 2 {
            return Err(ShapeError::Empty(*self));
        }
        if !self.q_heads.is_multiple_of(self.kv_heads) {
            return Err(ShapeError::Grouping { q_heads: self.q_heads, kv_heads: self.kv_heads });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ShapeError::OddHead(self.head_dim));
        }
        Ok(())
    }

    /// Number of KV heads over all layers.
    pub fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Bytes that one token's keys and values take over all layers in a cache that keeps everything, scales
    /// included.
    pub fn bytes_per_token(&self, dtype: Dtype) -> usize {
        dtype.bytes(self.heads(), self.head_dim)
    }

    /// Bytes that one token takes in the full cache that reports compare with: everything kept, in 16 bits,
    /// whatever this cache is stored in.
    pub fn full_bytes_per_token(&self) -> usize {
        self.bytes_per_token(Dtype::F16)
    }
}

/// Rotary position embedding in the half-split layout, as the model applies it: pair `i` of a key at
/// position `p` is turned by `p * inv_freq[i]` and scaled by `scale`.
///
/// The cache uses it to turn cached keys back (matching is done on keys before RoPE), so that no
/// second copy of the keys has to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// One frequency a rotary pair; `inv_freq.len() <= head_dim / 2`. Dimensions beyond
    /// `2 * inv_freq.len()` are not turned (partial rotary): then pair `i` is `(i, i + inv_freq.len())`.
    pub inv_freq: Vec<f32>,
    /// Factor on both cosine and sine (YaRN's attention factor); 1 for the others.
    pub scale: f32,
}
