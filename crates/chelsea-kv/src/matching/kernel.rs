//! Inner products of a few rows with all rows of a packed panel.
//!
//! One plain loop, compiled for each instruction set: the compiler keeps the block of sums in
//! registers. The scalar form is the same code at the target's own level.
#![allow(unsafe_code)]

use crate::simd::Level;

/// Rows of A that are taken at once.
pub(super) const ROWS: usize = 8;
/// Rows of B that lie side by side in a panel strip.
const LANES: usize = 32;

/// The set B of a chunk: `[strip][dim][LANES]`, and the squared length of each row.
#[derive(Debug, Default)]
pub(super) struct Panel {
    packed: Vec<f32>,
    norms: Vec<f32>,
    dim: usize,
}

impl Panel {
    /// Bytes of a panel of `rows` rows, and of the products taken with it.
    pub(super) fn bytes(dim: usize, rows: usize) -> usize {
        rows.next_multiple_of(LANES) * (dim + 1 + ROWS) * 4
    }

    /// Packs the even rows of a chunk (`[n][dim]`).
    pub(super) fn pack(&mut self, chunk: &[f32], dim: usize) {
        let rows = (chunk.len() / dim).div_ceil(2);
        let width = rows.next_multiple_of(LANES);
        self.dim = dim;
        self.packed.clear();
        self.packed.resize(width * dim, 0.0);
        self.norms.clear();
        for (b, row) in chunk.chunks_exact(dim).step_by(2).enumerate() {
            let strip = &mut self.packed[b / LANES * LANES * dim..][..LANES * dim];
            for (column, &x) in strip.chunks_exact_mut(LANES).zip(row) {
                column[b % LANES] = x;
            }
            self.norms.push(squared_norm(row));
        }
        // Rows that only fill up a strip are infinitely far from everything.
        self.norms.resize(width, f32::INFINITY);
    }

    /// Rows of the panel, those that fill up the last strip included.
    pub(super) fn width(&self) -> usize {
        self.norms.len()
    }

    /// Squared lengths of the rows, `width` of them.
    pub(super) fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// `out[i][b]` = inner product of `rows[i]` and row b; `out` is `[ROWS][width]`.
    pub(super) fn inner_products(&self, rows: &[&[f32]; ROWS], out: &mut [f32]) {
        let width = self.width();
        assert!(rows.iter().all(|r| r.len() == self.dim) && out.len() == ROWS * width);
        match Level::detect() {
            // SAFETY: `detect` found AVX-512 F and FMA on this processor.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { products_avx512(&self.packed, rows, width, out) },
            // SAFETY: `detect` found AVX2 and FMA on this processor.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { products_avx2(&self.packed, rows, width, out) },
            _ => products::<4, 8, false>(&self.packed, rows, width, out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn products_avx512(packed: &[f32], rows: &[&[f32]; ROWS], width: usize, out: &mut [f32]) {
    products::<8, 32, true>(packed, rows, width, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn products_avx2(packed: &[f32], rows: &[&[f32]; ROWS], width: usize, out: &mut [f32]) {
    products::<4, 16, true>(packed, rows, width, out);
}

/// Works on blocks of `R` rows of A by `C` rows of B.
#[inline(always)]
fn products<const R: usize, const C: usize, const FMA: bool>(
    packed: &[f32],
    rows: &[&[f32]; ROWS],
    width: usize,
    out: &mut [f32],
) {
    let dim = rows[0].len();
    for (s, strip) in packed.chunks_exact(LANES * dim).enumerate() {
        for (group, rows) in rows.chunks_exact(R).enumerate() {
            for part in 0..LANES / C {
                let mut sums = [[0.0f32; C]; R];
                for (k, column) in strip.chunks_exact(LANES).enumerate() {
                    let column = &column[part * C..][..C];
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let x = row[k];
                        for (sum, &y) in sums.iter_mut().zip(column) {
                            *sum = if FMA { x.mul_add(y, *sum) } else { *sum + x * y };
                        }
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    out[(group * R + i) * width + s * LANES + part * C..][..C].copy_from_slice(sums);
                }
            }
        }
    }
}

/// Sum of squares, in eight interleaved partial sums.
pub(super) fn squared_norm(row: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for part in row.chunks(8) {
        for (sum, &x) in sums.iter_mut().zip(part) {
            *sum += x * x;
        }
    }
    sums.iter().sum()
}

/// Sum of squared differences: exactly zero for equal rows, and the same bits for the same two rows.
pub(super) fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (xs, ys) in x.chunks(8).zip(y.chunks(8)) {
        for ((sum, &x), &y) in sums.iter_mut().zip(xs).zip(ys) {
            *sum += (x - y) * (x - y);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level that this processor has gives the scalar form's numbers to rounding.
    #[test]
    fn all_levels_agree() {
        for (n, dim) in [(3, 5), (64, 16), (77, 64), (256, 128)] {
            let chunk: Vec<f32> = (0..n * dim).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect();
            let mut panel = Panel::default();
            panel.pack(&chunk, dim);
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &chunk[(2 * i + 1) % n * dim..][..dim]);
            let mut plain = vec![0.0; ROWS * panel.width()];
            products::<4, 8, false>(&panel.packed, &rows, panel.width(), &mut plain);
            for (i, row) in rows.iter().enumerate() {
                for b in 0..n.div_ceil(2) {
                    let direct: f64 =
                        row.iter().zip(&chunk[2 * b * dim..]).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                    assert!((direct - f64::from(plain[i * panel.width() + b])).abs() < 1e-4);
                }
            }
            let agree = |out: &[f32]| out.iter().zip(&plain).all(|(x, y)| (x - y).abs() < 1e-4);
            let mut out = vec![0.0; plain.len()];
            panel.inner_products(&rows, &mut out);
            assert!(agree(&out));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                out.fill(0.0);
                // SAFETY: AVX2 and FMA were found.
                unsafe { products_avx2(&panel.packed, &rows, panel.width(), &mut out) };
                assert!(agree(&out));
            }
        }
    }
}
