//! Weights as whole numbers with scales, for a device that lays them out by itself: every type is brought to
//! `scale * code - min`.

use crate::blocks::with_quant;
use crate::error::LinearError;
use crate::floats;
use crate::quant::{Codes, Quant, numbers};
use crate::types::GgmlType;

/// What the codes of a type are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeShape {
    /// Bits of a code.
    pub bits: usize,
    /// Weights that share a scale and a min: 16 or 32.
    pub group: usize,
}

impl GgmlType {
    /// What [`open_codes`] makes of this type. Floats are rounded to 8 bits in groups of 32, as in packed products.
    pub fn code_shape(self) -> CodeShape {
        fn shape<Q: Quant>() -> CodeShape {
            let table = numbers::<Q>().iter().fold(0, |all, &number| all | number);
            let bits = match Q::TABLE {
                Some(_) => (u8::BITS - table.leading_zeros()) as usize,
                None => Q::LOW + Q::HIGH,
            };
            CodeShape { bits, group: Q::GROUP }
        }
        with_quant!(self, Q => shape::<Q>(), _ => shape::<Q8_0>())
    }
}

/// Opens `codes.len()` weights that lie in `data` as in a file: weight `i` is `scale * codes[i] - min` with the scale and
/// the min of its group ([`CodeShape::group`]), of which there are as many as the weights have groups.
///
/// # Errors
/// [`LinearError::PartialBlock`] when there is no whole number of blocks, [`LinearError::Length`] when `data` is not what
/// so many weights take.
///
/// # Panics
/// If there are too few scales or mins.
pub fn open_codes(
    ty: GgmlType,
    data: &[u8],
    codes: &mut [u8],
    scales: &mut [f32],
    mins: &mut [f32],
) -> Result<(), LinearError> {
    let expected = ty.bytes_for(1, codes.len())?;
    if data.len() != expected {
        return Err(LinearError::Length { ty, expected, found: data.len() });
    }
    let groups = codes.len().div_ceil(ty.code_shape().group);
    assert!(scales.len() >= groups && mins.len() >= groups, "a scale and a min for each group");
    let mut block = Codes::new();
    with_quant!(ty, Q => {
        let groups = scales.chunks_mut(Q::LEN / Q::GROUP).zip(mins.chunks_mut(Q::LEN / Q::GROUP));
        for ((data, codes), (scales, mins)) in data.chunks_exact(Q::BYTES).zip(codes.chunks_mut(Q::LEN)).zip(groups) {
            Q::open(data, &mut block);
            put::<Q>(&block, codes, scales, mins);
        }
    }, float => {
        let (size, mut numbers) = (float.block_bytes(), [0.0; 32]);
        let groups = scales.chunks_mut(1).zip(mins.chunks_mut(1));
        for ((data, codes), (scales, mins)) in data.chunks(32 * size).zip(codes.chunks_mut(32)).zip(groups) {
            let numbers = &mut numbers[..codes.len()];
            floats::open(float, data, numbers);
            round_to_q8(numbers, &mut block);
            put::<Q8_0>(&block, codes, scales, mins);
        }
    });
    Ok(())
}

/// The codes, scales and mins of a block.
fn put<Q: Quant>(block: &Codes, codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    codes.iter_mut().zip(&block.q).for_each(|(code, &q)| *code = Q::number(q));
    for (g, (to, off)) in scales.iter_mut().zip(mins).enumerate() {
        let (scale, min) = block.group(Q::SCALES, g);
        (*to, *off) = (scale, min + scale * Q::OFFSET as f32);
    }
}
