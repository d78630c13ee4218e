//! Activations as bytes: what a packed product multiplies.
//!
//! Each block of 32 columns of each token is rounded to symmetric signed bytes under one f32 scale.
//! Tokens lie in groups of up to [`GROUP`], block by block, so that a kernel reads one stream:
//!
//! ```text
//! [group][block] { q [T][32] i8, scale [T] f32, -sums(first 16 of q) [T][2] i16, -sums(last 16 of q) [T][2] i16 }
//! ```
//!
//! Both sums of 16 columns are split in two, columns `4 k` and `4 k + 1` apart from `4 k + 2` and
//! `4 k + 3`, which is how kernels that add in 16 bits begin.
//!
//! `T` is [`GROUP`] for all groups but the last, which is as wide as the narrowest kernel that takes
//! the tokens left; tokens that do not exist are zeros. A block that holds a NaN or an infinity gets
//! a scale that is one, so the products of that token are not finite either.
//!
//! On machines with matrix instructions, many tokens are rounded to bf16 instead, in runs of 16 tokens: see
//! [`crate::kernel::bf16`].

use crate::buffer::Buffer;
use crate::kernel::{self, Isa};
use crate::tile::BLOCK;
use crate::{bf16, parallel};
use chelsea_amx::{Amx, BLOCK_BYTES, SIDE as TOKENS};

/// Tokens of a full group.
pub(crate) const GROUP: usize = 8;
/// Group widths that have a kernel.
pub(crate) const WIDTHS: [usize; 4] = [1, 2, 4, GROUP];
/// Blocks with no number above this count as zeros: the inverse of their scale would overflow.
pub(crate) const SMALLEST: f32 = 1e-35;
/// Bytes of one token's block.
pub(crate) const TOKEN_BYTES: usize = BLOCK + 12;

/// A reusable workspace: activations, quantised once and shared by several products.
#[derive(Debug, Default)]
pub struct Activations {
    buffer: Buffer,
    shape: Shape,
    form: Form,
}

/// What activations are rounded to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) enum Form {
    /// Bytes with scales.
    #[default]
    Bytes,
    /// bf16, for matrix instructions.
    Bf16(Amx),
}

impl Form {
    /// What suits `m` tokens on this machine.
    pub fn of(m: usize) -> Form {
        Amx::detect().filter(|_| m >= bf16::MIN_TOKENS).map_or(Form::Bytes, Form::Bf16)
    }
}

/// Where groups lie.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tokens.
    pub m: usize,
    /// Columns.
    pub cols: usize,
}

impl Shape {
    /// Blocks of a row; the last one may be padded with zeros.
    pub fn blocks(self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    pub fn groups(self) -> usize {
        self.m.div_ceil(GROUP)
    }

    /// First token, tokens and width of group `g`.
    pub fn group(self, g: usize) -> (usize, usize, usize) {
        let first = g * GROUP;
        let tokens = (self.m - first).min(GROUP);
        let width = WIDTHS.into_iter().find(|&w| w >= tokens).unwrap_or(GROUP);
        (first, tokens, width)
    }

    fn group_bytes(self, g: usize) -> usize {
        self.group(g).2 * self.blocks() * TOKEN_BYTES
    }

    fn group_start(self, g: usize) -> usize {
        g * GROUP * self.blocks() * TOKEN_BYTES
    }
}

impl Activations {
    /// An empty workspace.
    pub fn new() -> Activations {
        Activations::default()
    }

    /// Rounds `x`, `[m][cols]`, in parallel where that pays.
    ///
    /// # Panics
    /// When `x` does not hold `m * cols` numbers.
    pub fn set(&mut self, x: &[f32], m: usize, cols: usize) {
        self.set_form(Form::of(m), x, m, cols);
    }

    pub(crate) fn set_form(&mut self, form: Form, x: &[f32], m: usize, cols: usize) {
        assert_eq!(Some(x.len()), m.checked_mul(cols), "activations are not {m} x {cols}");
        (self.shape, self.form) = (Shape { m, cols }, form);
        if m == 0 {
            return;
        }
        match form {
            Form::Bytes => self.set_bytes(x),
            Form::Bf16(amx) => {
                let (runs, stride) = (m.div_ceil(TOKENS), self.shape.blocks() * BLOCK_BYTES);
                self.buffer.reserve(runs * stride);
                parallel::for_each_chunk(self.buffer.bytes_mut(), stride, runs, |run, out| {
                    let first = run * TOKENS;
                    let tokens = &x[first * cols..(first + TOKENS).min(m) * cols];
                    kernel::bf16::pack_tokens(amx, tokens, cols, &mut out[..stride]);
                });
            }
        }
    }

    fn set_bytes(&mut self, x: &[f32]) {
        let cols = self.shape.cols;
        let shape = self.shape;
        let Some(last) = shape.groups().checked_sub(1) else { return };
        self.buffer.reserve(shape.group_start(last) + shape.group_bytes(last));
        let isa = Isa::detect();
        let quantize = |g: usize, out: &mut [u8]| {
            let (first, tokens, width) = shape.group(g);
            kernel::quantize_group(isa, &x[first * cols..(first + tokens) * cols], cols, width, out);
        };
        let stride = shape.group_start(1).max(1);
        parallel::for_each_chunk(self.buffer.bytes_mut(), stride, shape.groups(), |g, chunk| {
            let bytes = shape.group_bytes(g);
            quantize(g, &mut chunk[..bytes]);
        });
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Tokens `16 run..` in bf16, block by block.
    pub(crate) fn run(&self, run: usize) -> &[u8] {
        let stride = self.shape.blocks() * BLOCK_BYTES;
        &self.buffer.bytes()[run * stride..][..stride]
    }

    /// Bytes of group `g`.
    pub(crate) fn group(&self, g: usize) -> &[u8] {
        &self.buffer.bytes()[self.shape.group_start(g)..][..self.shape.group_bytes(g)]
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// Token `t` as the numbers that the products really multiply.
    pub fn dequantize(&self, t: usize, out: &mut [f32]) {
        if let Form::Bf16(_) = self.form {
            let blocks = self.run(t / TOKENS).chunks_exact(BLOCK_BYTES);
            for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
                for (out, b) in out.iter_mut().zip(block[t % TOKENS * 2 * BLOCK..].chunks_exact(2)) {
                    *out = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            return;
        }
        let (g, t) = (t / GROUP, t % GROUP);
        let width = self.shape.group(g).2;
        let group = self.group(g);
        for (b, out) in out.chunks_mut(BLOCK).enumerate() {
            let block = Block::of(&group[b * width * TOKEN_BYTES..][..width * TOKEN_BYTES], width);
            for (out, &q) in out.iter_mut().zip(block.q(t)) {
                *out = block.scale(t) * f32::from(q);
            }
        }
    }
}

/// One block of a group, read plainly.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Block<'a> {
    #[inline(always)]
    pub fn of(bytes: &'a [u8], width: usize) -> Block<'a> {
        Block { bytes, width }
    }

    /// The bytes of token `t`.
    #[inline(always)]
    pub fn q(self, t: usize) -> &'a [i8] {
        bytemuck::cast_slice(&self.bytes[t * BLOCK..][..BLOCK])
    }

    /// The scale of token `t`.
    #[inline(always)]
    pub fn scale(self, t: usize) -> f32 {
        f32::from_ne_bytes(self.word(self.width * BLOCK + t * 4))
    }

    #[cfg(target_arch = "aarch64")]
    /// Minus the sum of the bytes of token `t`: of all 32, or of the first or last 16 (`half`).
    #[inline(always)]
    pub fn minus_sum(self, t: usize, half: Option<usize>) -> i32 {
        let sum = |half: usize| {
            let word = self.word(self.width * (BLOCK + 4 + 4 * half) + t * 4);
            i32::from(i16::from_ne_bytes([word[0], word[1]])) + i32::from(i16::from_ne_bytes([word[2], word[3]]))
        };
        half.map_or_else(|| sum(0) + sum(1), sum)
    }

    #[inline(always)]
    fn word(self, at: usize) -> [u8; 4] {
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]
    }
}
