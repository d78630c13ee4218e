//! What can be wrong with a tokenizer, in words that say what to do about it.

use thiserror::Error;

use crate::files::gguf::GgufError;

/// A tokenizer that cannot be built or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A metadata key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// `tokenizer.json` is not JSON, or a part of it has the wrong shape.
    #[error("tokenizer.json is damaged: {0}")]
    Json(String),
    /// A kind of tokenizer that is well-formed but not built here.
    #[error("{what} `{found}` is not supported (supported: {supported})")]
    Unsupported {
        /// Which part.
        what: &'static str,
        /// The name found.
        found: String,
        /// The names that are.
        supported: String,
    },
    /// The vocabulary is empty.
    #[error("the vocabulary is empty")]
    Empty,
    /// More tokens, or a longer token, than any real model has.
    #[error("{what} is {found}, more than the limit of {limit}: the file is damaged")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The most allowed.
        limit: u64,
    },
    /// Two arrays that go together differ in length.
    #[error("metadata key `{key}` has {found} elements for {tokens} tokens")]
    Length {
        /// The metadata key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// A token type outside the format's list.
    #[error("token {id} has the unknown type {ty}")]
    TokenType {
        /// The token.
        id: usize,
        /// The type found.
        ty: i64,
    },
    /// A merge that is not two tokens with a space between them, or that names a token that is not there.
    #[error("merge {index} (`{merge}`) is malformed or names a token that the vocabulary does not have")]
    Merge {
        /// Its place in the list, counted from 0.
        index: usize,
        /// The merge as found.
        merge: String,
    },
    /// A special token's id lies outside the vocabulary.
    #[error("`{key}` is {id}, but the vocabulary has {tokens} tokens")]
    IdOutOfRange {
        /// Where it was named.
        key: String,
        /// The id.
        id: u64,
        /// Number of tokens.
        tokens: usize,
    },
    /// The text could not be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
}
