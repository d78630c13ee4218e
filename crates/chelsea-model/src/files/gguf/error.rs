//! What can be wrong with a GGUF file, in words that say what to do about it.

use chelsea_linear::LinearError;
use thiserror::Error;

/// A GGUF file that cannot be read, or a metadata key that is not what the reader needs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GgufError {
    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    Magic {
        /// The first bytes of the file, at most four.
        found: Vec<u8>,
    },
    /// Written for a big-endian machine.
    #[error("this GGUF file is big-endian, which is not supported: convert it to little-endian first")]
    BigEndian,
    /// A version of the container that this reader does not know.
    #[error("GGUF version {0} is not supported (versions 2 and 3 are): convert the model again with a current tool")]
    Version(u32),
    /// The file ends before something that its header announces.
    #[error(
        "the file is truncated or damaged: {what} needs {needed} bytes at offset {offset}, {left} are left; fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts in the file.
        offset: u64,
        /// How long it claims to be.
        needed: u64,
        /// What the file still holds.
        left: u64,
    },
    /// A string that is not UTF-8.
    #[error("{0} is not valid UTF-8: the file is damaged")]
    NotUtf8(String),
    /// A metadata value of a type the format does not define.
    #[error("metadata key `{key}` has the unknown value type {id}: the file is damaged or newer than this reader")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The type found.
        id: u32,
    },
    /// An array whose elements are arrays.
    #[error("metadata key `{0}` holds an array of arrays, which this reader does not support")]
    NestedArray(String),
    /// The same metadata key, or tensor name, twice.
    #[error("{what} `{name}` appears twice: the file is damaged")]
    Duplicate {
        /// `metadata key` or `tensor`.
        what: &'static str,
        /// The repeated name.
        name: String,
    },
    /// `general.alignment` is not a power of two of at least 8.
    #[error("general.alignment is {0}; it must be a power of two between 8 and 1048576")]
    Alignment(u64),
    /// A tensor with a number of dimensions or sizes that cannot be.
    #[error("tensor `{tensor}` has the impossible shape {dims:?}: {why}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Its sizes, innermost first; empty where even their number is absurd.
        dims: Vec<u64>,
        /// What is wrong.
        why: String,
    },
    /// A tensor type that no kernel knows.
    #[error("tensor `{tensor}`: {source}; supported types: {supported}")]
    TensorType {
        /// Name of the tensor.
        tensor: String,
        /// The type found.
        source: LinearError,
        /// The names of those that have one.
        supported: String,
    },
    /// Tensor data that does not start where the format says it must.
    #[error("the data of tensor `{tensor}` starts at {offset}, which is not a multiple of the alignment {alignment}")]
    Unaligned {
        /// Name of the tensor.
        tensor: String,
        /// Offset inside the data section.
        offset: u64,
        /// `general.alignment`.
        alignment: u64,
    },
    /// A metadata key that must be there is not.
    #[error("metadata key `{0}` is missing: the file is incomplete, or not a language model")]
    MissingKey(String),
    /// A metadata value of another type than the reader needs.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The metadata key.
        key: String,
        /// Type (and value where short) found.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// A tensor that must be there is not.
    #[error("tensor `{0}` is missing: the file is incomplete, or of another architecture than it says")]
    MissingTensor(String),
}
