//! Where a tensor lies.

use chelsea_linear::GgmlType;

/// A tensor of the model.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Name in this crate (that of GGUF files).
    pub canonical: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Block type of the data.
    pub ty: GgmlType,
    /// Bytes of the data.
    pub bytes: usize,
    /// Which of the model's files holds it.
    pub(crate) file: usize,
    /// Where the data starts in that file.
    pub(crate) offset: usize,
    /// Where its scales lie, if not in the blocks: MXFP4 in safetensors files.
    pub(crate) scales: Option<Scales>,
}

/// Scales beside their blocks, a byte a block, in the order of the blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales {
    pub(crate) file: usize,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl TensorEntry {
    /// Bytes of the data at [`TensorEntry::offset`].
    pub(crate) fn own_bytes(&self) -> usize {
        self.bytes - self.scales.map_or(0, |scales| scales.bytes)
    }
}
