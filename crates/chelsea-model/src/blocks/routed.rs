//! What a mixture of experts works with.

use super::buffer::Buffer;

/// A row that goes through an expert.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick {
    pub(super) expert: usize,
    pub(super) row: usize,
    pub(super) weight: f32,
}

/// Buffers of a mixture of experts.
#[derive(Debug, Default)]
pub(super) struct Routed {
    /// `[rows][experts]`.
    pub(super) logits: Buffer,
    /// Of all rows, by expert and then by row.
    pub(super) picks: Vec<Pick>,
    /// Rows of one expert, `[rows of it][hidden]`.
    pub(super) x: Buffer,
    /// Its outputs.
    pub(super) out: Buffer,
    /// Sums, `[rows][hidden]`.
    pub(super) sum: Buffer,
    /// Rows of one expert in each chunk.
    pub(super) chunks: Vec<usize>,
}

impl Routed {
    pub(super) fn bytes(&self) -> usize {
        [&self.logits, &self.x, &self.out, &self.sum].into_iter().map(Buffer::bytes).sum::<usize>()
            + self.picks.capacity() * size_of::<Pick>()
    }
}
