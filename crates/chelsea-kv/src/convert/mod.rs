//! Stored numbers to `f32` and back, many at a time, and how they lie in columns and rows.

mod bytes;
mod columns;
pub(crate) mod fives;
mod halves;
mod rows;
#[cfg(test)]
mod tests;

pub use bytes::Byte;
pub use columns::Columns;
pub use fives::Fives;
pub use rows::{Nibbles, Rows};

use bytemuck::Pod;

/// A type that keys and values may be stored in.
pub trait Number: Pod {
    /// Numbers that lie side by side where rows run across: dimensions of a key, or values of as many entries.
    const TOGETHER: usize = 1;
    /// Whether a row of these numbers needs a scale to mean anything; 1 serves those that need none.
    const SCALED: bool = false;
    /// The scale of a row: what it is stored with, and read with.
    fn scale(_row: &[f32]) -> f32 {
        1.0
    }
    /// `out[i] = src[i] * scale`; both have the same length.
    fn widen(src: &[Self], scale: f32, out: &mut [f32]);
    /// `out[i] = src[i] / scale`, rounded to nearest even; both have the same length.
    fn narrow(src: &[f32], scale: f32, out: &mut [Self]);
    /// Reads a tile of keys without their scales into `out`, `[key_dim][TILE]`.
    fn widen_tile(src: &[Self], out: &mut [f32]) {
        Self::widen(&src[..out.len()], 1.0, out);
    }
}

impl Number for f32 {
    fn widen(src: &[f32], _: f32, out: &mut [f32]) {
        out.copy_from_slice(src);
    }
    fn narrow(src: &[f32], _: f32, out: &mut [f32]) {
        out.copy_from_slice(src);
    }
}

/// How keys and values of one [`Dtype`](crate::Dtype) are stored. Both have scales where keys do.
pub trait Format {
    /// What keys are made of.
    type Key: Columns;
    /// What rows of values are made of.
    type Value: Rows;
}

impl<T: Number> Format for T {
    type Key = T;
    type Value = T;
}

/// [`Dtype::K8V4`](crate::Dtype::K8V4).
#[derive(Debug, Clone, Copy)]
pub enum K8V4 {}

impl Format for K8V4 {
    type Key = Byte;
    type Value = Nibbles;
}

/// [`Dtype::K5V4`](crate::Dtype::K5V4).
#[derive(Debug, Clone, Copy)]
pub enum K5V4 {}

impl Format for K5V4 {
    type Key = Fives;
    type Value = Nibbles;
}

/// Runs `$body` with `$T` standing for the [`Format`] that `$dtype` is stored in.
macro_rules! with_format {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::Dtype::Q8 => {
                type $T = $crate::convert::Byte;
                $body
            }
            $crate::Dtype::K8V4 => {
                type $T = $crate::convert::K8V4;
                $body
            }
            $crate::Dtype::K5V4 => {
                type $T = $crate::convert::K5V4;
                $body
            }
        }
    };
}
pub(crate) use with_format;
