//! Float weights, opened to f32.

use crate::types::GgmlType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Opens float weights; `data` and `out` hold equally many.
#[inline(always)]
pub(crate) fn open(ty: GgmlType, data: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::F16 => {
            for (out, data) in out.chunks_mut(32).zip(data.chunks(64)) {
                let mut halves = [f16::ZERO; 32];
                for (half, b) in halves.iter_mut().zip(data.chunks_exact(2)) {
                    *half = f16::from_le_bytes([b[0], b[1]]);
                }
                halves[..out.len()].convert_to_f32_slice(out);
            }
        }
        GgmlType::BF16 => {
            for (out, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        _ => {
            for (out, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }
}
