//! Quantised weight matrices and their products on the CPU.
//!
//! A [`Linear`] takes over a matrix as it lies in a GGUF or safetensors file and keeps **one** copy of
//! it, repacked into tiles of 16 rows that take as many bits per weight as the file does. Products
//! round the activations to bytes in blocks of 32 and run on integer dot products; the weights
//! themselves are not rounded again, except float ones (F32, F16, BF16), which become Q8_0. With
//! [`Products::F32`] everything is multiplied in f32 instead.
//!
//! A product is thus exact but for the rounding of activations (half a step of 1/127 of the largest
//! magnitude in each block of 32) and f32 sums. Kernels: AVX-512 VNNI, AVX2, NEON with dot products, and
//! plain code; chosen at run time, see [`instructions`]. Where there are matrix instructions (AMX, so far on
//! Linux only), the rows of chunks of 32 rows and more have weights and activations rounded to bf16 instead, which is
//! both faster and closer.
//!
//! A product depends on its row and on the length of the row's own chunk: not on the other sequences of a batch, nor
//! on the number of threads, bit for bit.
//!
//! Shapes are row-major: weights `[outputs][cols]`, activations `[rows][cols]`, outputs `[rows][outputs]`.
//! Products run on the rayon pool that the caller is in; no pool is built here.

mod activations;
mod arena;
mod bf16;
mod blocks;
mod buffer;
mod byte_block;
mod codes;
mod error;
mod exact;
mod experts;
mod floats;
mod forward;
mod items;
mod kernel;
mod linear;
mod mxfp4;
mod parallel;
mod quant;
mod rows;
mod sizes;
mod tile;
mod types;

#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use blocks::dequantize;
pub use codes::{CodeShape, open_codes};
pub use error::LinearError;
pub use experts::{Choice, Experts, Input, Routes, forward_experts};
pub use forward::forward_many;
pub use linear::{Linear, Products};
pub use mxfp4::mxfp4_blocks;
pub use types::GgmlType;

/// Name of the instructions that products run on here, for reports.
pub fn instructions() -> &'static str {
    if chelsea_simd::Amx::detect().is_some() { "AVX-512 VNNI, AMX" } else { kernel::Isa::detect().name() }
}
