//! Float weights, and products in f32.

use crate::kernel::Isa;
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

/// Tokens that meet a strip of weights at once.
const TOKENS: usize = 8;

/// Calls `write(token, sums)` with the products of 16 rows (fewer at the end), `rows` of GGML blocks,
/// with all tokens of `x`, `[m][cols]`. The rows are opened once into a strip `[column][16]`.
pub(crate) fn strip(
    isa: Isa,
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
    let (panel, _) = panel.as_chunks_mut::<TILE>();
    for (r, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        let opened = dequantize(ty, bytes, row);
        debug_assert!(opened.is_ok(), "lengths were checked when the matrix was made");
        for (panel, &w) in panel.iter_mut().zip(row.iter()) {
            panel[r] = w;
        }
    }
    for (i, x) in x.chunks(cols * TOKENS).enumerate() {
        let mut x = x.chunks_exact(cols);
        let tokens = x.len();
        let first = x.next().unwrap_or(&[]);
        // Tokens that do not exist are the first one again.
        let x: [&[f32]; TOKENS] = std::array::from_fn(|t| if t == 0 { first } else { x.next().unwrap_or(first) });
        if tokens == 1 {
            write(i * TOKENS, &multiply(isa, panel, [first])[0]);
            continue;
        }
        for (t, sums) in multiply(isa, panel, x).iter().take(tokens).enumerate() {
            write(i * TOKENS + t, sums);
        }
    }
    STRIP.set(scratch);
}

/// Sums of the products of 16 rows with `T` tokens.
fn multiply<const T: usize>(isa: Isa, panel: &[[f32; TILE]], x: [&[f32]; T]) -> [[f32; TILE]; T] {
    match isa {
        // SAFETY: an `Isa` that exists may be used.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Isa::Avx512 => unsafe { multiply_avx512(panel, x) },
        // SAFETY: an `Isa` that exists may be used.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Isa::Avx2 => unsafe { multiply_avx2(panel, x) },
        // Fused multiply-add is part of every aarch64; elsewhere it may be a slow library call.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => multiply_plain::<T, true>(panel, x),
        Isa::Scalar => multiply_plain::<T, false>(panel, x),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_avx512<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T]) -> [[f32; TILE]; T] {
    multiply_plain::<T, true>(panel, x)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T]) -> [[f32; TILE]; T] {
    multiply_plain::<T, true>(panel, x)
}

/// Written for the compiler to turn into vector instructions of whichever function calls it.
#[inline(always)]
fn multiply_plain<const T: usize, const FUSED: bool>(panel: &[[f32; TILE]], x: [&[f32]; T]) -> [[f32; TILE]; T] {
    let x = x.map(|x| &x[..panel.len()]);
    let mut sums = [[0.0f32; TILE]; T];
    for (k, w) in panel.iter().enumerate() {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, &w) in sums.iter_mut().zip(w) {
                *sum = if FUSED { w.mul_add(x[k], *sum) } else { w * x[k] + *sum };
            }
        }
    }
    sums
}
