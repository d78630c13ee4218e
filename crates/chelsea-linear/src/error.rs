//! What can be wrong with the bytes of a weight matrix.

use crate::types::GgmlType;

/// Why bytes are not a weight matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinearError {
    /// A GGML type that exists but has no product here, or a number no type has.
    #[error("weights of GGML type {name} (id {id}) are not supported")]
    UnsupportedType {
        /// The number in the file.
        id: u32,
        /// The type's name, `unknown` where the number means nothing.
        name: &'static str,
    },
    /// A matrix without rows or columns.
    #[error("a weight matrix of {rows} x {cols} is empty")]
    Empty {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
    /// Rows that do not consist of whole blocks.
    #[error("rows of {cols} weights are not a whole number of {ty} blocks of {block}")]
    PartialBlock {
        /// Weights a row.
        cols: usize,
        /// Weights a block.
        block: usize,
        /// Type of the blocks.
        ty: GgmlType,
    },
    /// More weights than memory can address.
    #[error("a weight matrix of {rows} x {cols} is larger than memory can be")]
    TooLarge {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
    /// Fewer or more bytes than the shape asks for.
    #[error("{ty} weights take {expected} bytes here, not {found}")]
    Length {
        /// Type of the blocks.
        ty: GgmlType,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row order that has the wrong length or names a row that does not exist.
    #[error("the row order is not a list of {rows} rows below {rows}")]
    RowOrder {
        /// Output features.
        rows: usize,
    },
    /// Experts of one layer whose matrices differ in shape.
    #[error("one expert has {} x {} weights, another {} x {}", first.0, first.1, other.0, other.1)]
    Experts {
        /// Rows and columns of the first.
        first: (usize, usize),
        /// Rows and columns of another.
        other: (usize, usize),
    },
    /// No memory for the packed weights.
    #[error("no memory for {bytes} bytes of weights: {message}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What the system answered.
        message: String,
    },
}
