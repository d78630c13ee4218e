//! MXFP4 weights from files that keep numbers and scales apart, as safetensors of gpt-oss do.

use crate::error::LinearError;
use crate::types::GgmlType;

/// Bytes of a block's codes.
const CODES: usize = 16;

/// GGML blocks of 32 weights each, from their codes, 16 bytes per block, of which each holds two neighbours (the first
/// one in its low half), and one scale per block, an exponent with a bias of 127 (OCP Microscaling Formats, version 1.0).
/// GGML's blocks hold the same codes in another order, behind the same exponent.
///
/// # Errors
/// [`LinearError::Length`] when there are not 16 bytes of codes a scale.
pub fn mxfp4_blocks(codes: &[u8], scales: &[u8]) -> Result<Vec<u8>, LinearError> {
    let expected = scales.len().saturating_mul(CODES);
    if codes.len() != expected {
        return Err(LinearError::Length { ty: GgmlType::MXFP4, expected, found: codes.len() });
    }
    let mut blocks = vec![0; scales.len() * (CODES + 1)];
    for ((block, codes), &scale) in blocks.chunks_exact_mut(CODES + 1).zip(codes.chunks_exact(CODES)).zip(scales) {
        let code = |weight: usize| codes[weight / 2] >> (weight % 2 * 4) & 15;
        block[0] = scale;
        for (i, byte) in block[1..].iter_mut().enumerate() {
            *byte = code(i) | code(i + CODES) << 4;
        }
    }
    Ok(blocks)
}
