//! How the numbers of keys and values are stored.

use crate::convert::fives;

/// Sizes of the entries of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Numbers of a key.
    pub key: usize,
    /// Numbers of a value.
    pub value: usize,
}

impl Dims {
    /// Keys and values of one size, as most models have them.
    pub const fn both(head_dim: usize) -> Self {
        Dims { key: head_dim, value: head_dim }
    }
}

impl From<usize> for Dims {
    /// Keys and values of one size.
    fn from(head_dim: usize) -> Self {
        Dims::both(head_dim)
    }
}

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
    /// Keys in 5-bit integers, values in 4: 57% of the bytes of [`Dtype::Q8`]. What the keys of a head have in common is
    /// taken out of them, and the rest is rotated, as values are, so that few bits are enough.
    K5V4,
}

impl Dtype {
    /// All of them, the widest first.
    pub const ALL: [Dtype; 6] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4];

    /// What it is called in options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Q8 => "q8",
            Dtype::K8V4 => "k8v4",
            Dtype::K5V4 => "k5v4",
        }
    }

    /// Bits of a number of a key.
    pub const fn key_bits(self) -> usize {
        match self {
            Dtype::F32 => 32,
            Dtype::F16 | Dtype::Bf16 => 16,
            Dtype::Q8 | Dtype::K8V4 => 8,
            Dtype::K5V4 => 5,
        }
    }

    /// Bits of a number of a value.
    pub const fn value_bits(self) -> usize {
        match self {
            Dtype::K8V4 | Dtype::K5V4 => 4,
            _ => self.key_bits(),
        }
    }

    /// Whether keys are stored less what those of their head have in common, and rotated, and values rotated.
    pub const fn rotated(self) -> bool {
        matches!(self, Dtype::K5V4)
    }

    /// Whether rows of numbers have a scale each.
    pub const fn scaled(self) -> bool {
        matches!(self, Dtype::Q8 | Dtype::K8V4 | Dtype::K5V4)
    }

    /// Bytes of an entry's scales, the key's and the value's together; 0 for types that have none.
    pub const fn scale_bytes(self) -> usize {
        if self.scaled() { 2 * size_of::<f32>() } else { 0 }
    }

    /// Bytes of `entries` keys of `key_dim` numbers, without scales. Keys in 8 bits are whole words of four bytes, those
    /// in 5 bits whole groups of 32 numbers.
    pub const fn key_bytes(self, entries: usize, key_dim: usize) -> usize {
        let key_dim = match self {
            Dtype::K5V4 => key_dim.next_multiple_of(fives::GROUP),
            Dtype::Q8 | Dtype::K8V4 => key_dim.next_multiple_of(4),
            _ => key_dim,
        };
        entries * key_dim * self.key_bits() / 8
    }

    /// Bytes of `entries` values of `value_dim` numbers, without scales.
    pub const fn value_bytes(self, entries: usize, value_dim: usize) -> usize {
        entries * value_dim * self.value_bits() / 8
    }

    /// Bytes of `entries` keys and values of these sizes, scales included.
    pub const fn bytes(self, entries: usize, dims: Dims) -> usize {
        self.key_bytes(entries, dims.key) + self.value_bytes(entries, dims.value) + entries * self.scale_bytes()
    }
}
