//! What files say about weights, checked: the number of a type, and the shape of a matrix.

use crate::error::LinearError;
use crate::types::GgmlType;

/// GGML types that files may hold and that have no product here, for messages.
const UNSUPPORTED: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];

impl GgmlType {
    /// The type of GGML's number `id`.
    ///
    /// # Errors
    /// [`LinearError::UnsupportedType`], which names the type.
    pub fn from_id(id: u32) -> Result<GgmlType, LinearError> {
        GgmlType::ALL.into_iter().find(|ty| ty.id() == id).ok_or_else(|| {
            let name = UNSUPPORTED.iter().find(|entry| entry.0 == id).map_or("unknown", |entry| entry.1);
            LinearError::UnsupportedType { id, name }
        })
    }

    /// Bytes of a matrix of `rows` x `cols` weights in a file.
    ///
    /// # Errors
    /// [`LinearError::PartialBlock`] when rows are not whole blocks, [`LinearError::TooLarge`] when
    /// the product overflows.
    pub fn bytes_for(self, rows: usize, cols: usize) -> Result<usize, LinearError> {
        let block = self.block_len();
        if !cols.is_multiple_of(block) {
            return Err(LinearError::PartialBlock { cols, block, ty: self });
        }
        (cols / block)
            .checked_mul(self.block_bytes())
            .and_then(|row| row.checked_mul(rows))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(LinearError::TooLarge { rows, cols })
    }
}
