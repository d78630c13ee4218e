//! Weights that are not numbers: found at load, before they become an answer.
//!
//! Of block-quantised weights the scales alone can be wrong, since codes are integers; of floats every number can.

use chelsea_linear::GgmlType;
use rayon::prelude::*;

/// Bytes that one task looks at, about.
const SHARE: usize = 1 << 18;

/// Whether every scale of the blocks in `data`, or every number of floats, is finite. `data` is whole blocks.
pub(super) fn are_finite(ty: GgmlType, data: &[u8]) -> bool {
    let block = ty.block_bytes();
    let fits = |check: fn(&[u8]) -> bool| {
        let share = (SHARE / block).max(1) * block;
        data.par_chunks(share).all(|share| share.chunks_exact(block).all(check))
    };
    match ty {
        GgmlType::F32 => fits(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        GgmlType::BF16 => fits(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7F80 != 0x7F80),
        GgmlType::F16 | GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL | GgmlType::IQ4XS => {
            fits(|b| half(b, 0))
        }
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => fits(|b| half(b, 0) && half(b, 2)),
        GgmlType::Q2K => fits(|b| half(b, 80) && half(b, 82)),
        GgmlType::Q3K => fits(|b| half(b, 108)),
        GgmlType::Q6K => fits(|b| half(b, 208)),
        GgmlType::MXFP4 => fits(|b| b[0] != NOT_A_NUMBER),
    }
}

/// The exponent that stands for no number.
const NOT_A_NUMBER: u8 = 0xFF;

/// Whether the scales that lie beside MXFP4 blocks are numbers.
pub(super) fn exponents_are_finite(scales: &[u8]) -> bool {
    !scales.contains(&NOT_A_NUMBER)
}

/// Whether the half-precision number at `at` is finite.
fn half(block: &[u8], at: usize) -> bool {
    u16::from_le_bytes([block[at], block[at + 1]]) & 0x7C00 != 0x7C00
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_that_open_to_odd_numbers_are_found_and_codes_are_passed_over() {
        for ty in GgmlType::ALL {
            let block = ty.block_bytes();
            let count = 3 * (SHARE / block) + 5;
            // Codes of all ones; scales are those bytes that, changed, make a whole block odd.
            let mut data = vec![0xBF; count * block];
            assert!(are_finite(ty, &data), "{ty}");
            let odd: Vec<usize> = (0..block).filter(|&byte| opens_to_odd_numbers(ty, byte)).collect();
            assert!(!odd.is_empty(), "{ty} has scales");
            for byte in 0..block {
                for at in [byte, (count - 1) * block + byte] {
                    data[at] = 0xFF;
                    assert_eq!(are_finite(ty, &data), !odd.contains(&byte), "{ty}, byte {byte}");
                    data[at] = 0xBF;
                }
            }
        }
    }

    fn opens_to_odd_numbers(ty: GgmlType, byte: usize) -> bool {
        let mut block = vec![0xBF; ty.block_bytes()];
        block[byte] = 0xFF;
        let mut numbers = vec![0.0; ty.block_len()];
        chelsea_linear::dequantize(ty, &block, &mut numbers).unwrap();
        numbers.iter().any(|number| !number.is_finite())
    }
}
