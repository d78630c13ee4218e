//! Float weights, and products in f32.

use crate::tile::TILE;
use crate::{GgmlType, dequantize};
use half::{bf16, f16};
use std::cell::Cell;

/// Opens float weights; `data` and `out` hold equally many.
pub(crate) fn open(ty: GgmlType, data: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::F16 => {
            for (out, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
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

/// Calls `write(token, sums)` with the products of 16 rows (fewer at the end), `rows` of GGML blocks,
/// with all tokens of `x`, `[m][cols]`. The rows are opened once into a strip `[column][16]`.
pub(crate) fn strip(
    ty: GgmlType,
    rows: &[u8],
    row_bytes: usize,
    x: &[f32],
    cols: usize,
    mut write: impl FnMut(usize, &[f32; TILE]),
) {
    thread_local!(static STRIP: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    let mut scratch = STRIP.take();
    scratch.clear();
    scratch.resize(cols * (TILE + 1), 0.0);
    let (panel, row) = scratch.split_at_mut(cols * TILE);
    for (r, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        let opened = dequantize(ty, bytes, row);
        debug_assert!(opened.is_ok(), "lengths were checked when the matrix was made");
        for (panel, &w) in panel.chunks_exact_mut(TILE).zip(row.iter()) {
            panel[r] = w;
        }
    }
    for (t, x) in x.chunks_exact(cols).enumerate() {
        let mut sums = [0.0f32; TILE];
        for (w, &x) in panel.chunks_exact(TILE).zip(x) {
            for (sum, &w) in sums.iter_mut().zip(w) {
                *sum += w * x;
            }
        }
        write(t, &sums);
    }
    STRIP.set(scratch);
}
