//! Inner products of a few rows with all rows of a packed panel, and the nearest row that they lead to.
//!
//! AVX-512 and AVX2 forms beside a scalar twin; the tests hold them together.
#![allow(unsafe_code)]

use crate::simd::{Level, interleave};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of A that are taken at once.
pub(super) const ROWS: usize = 8;
/// Rows of B that lie side by side in a panel strip.
pub(super) const LANES: usize = 32;

/// The set B of a chunk: `[strip][dim][LANES]`, and the squared length of each row.
#[derive(Debug, Default)]
pub(super) struct Panel {
    packed: Vec<f32>,
    norms: Vec<f32>,
    dim: usize,
}

impl Panel {
    /// Bytes of a packed panel of `rows` rows and the rows that it is multiplied with, without lengths.
    pub(super) fn bytes(dim: usize, rows: usize) -> usize {
        (rows.next_multiple_of(LANES) + ROWS) * dim * 4
    }

    /// Takes the lengths of the even rows of a chunk (`[n][dim]`).
    pub(super) fn measure(&mut self, chunk: &[f32], dim: usize) {
        let rows = (chunk.len() / dim).div_ceil(2);
        self.dim = dim;
        self.norms.clear();
        self.norms.extend((0..rows).map(|b| squared_norm(&chunk[2 * b * dim..][..dim])));
        // Rows that only fill up a strip are infinitely far from everything.
        self.norms.resize(rows.next_multiple_of(LANES), f32::INFINITY);
    }

    /// Packs the even rows of a chunk (`[n][dim]`) that was measured.
    pub(super) fn pack(&mut self, chunk: &[f32], dim: usize) {
        let rows = (chunk.len() / dim).div_ceil(2);
        self.packed.clear();
        self.packed.resize(self.width() * dim, 0.0);
        let row = |b: usize| &chunk[2 * b * dim..][..dim];
        for first in (0..rows).step_by(4) {
            let strip = &mut self.packed[first / LANES * LANES * dim..][..LANES * dim];
            interleave(
                &std::array::from_fn(|i| if first + i < rows { row(first + i) } else { &[] }),
                strip,
                LANES,
                first % LANES,
            );
        }
    }

    /// Rows of the panel, those that fill up the last strip included.
    pub(super) fn width(&self) -> usize {
        self.norms.len()
    }

    /// `out[i][b]` = inner product of row i of A and row b; `a` is `[dim][ROWS]`, `out` `[ROWS][width]`.
    pub(super) fn inner_products(&self, a: &[f32], out: &mut [f32]) {
        let width = self.width();
        assert!(a.len() == ROWS * self.dim && out.len() == ROWS * width);
        match Level::detect() {
            // SAFETY: `detect` found AVX-512 F and FMA on this processor.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { products_avx512(&self.packed, a, width, out) },
            // SAFETY: `detect` found AVX2 and FMA on this processor.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { products_avx2(&self.packed, a, width, out) },
            _ => products_plain(&self.packed, a, width, out),
        }
    }
}

/// Packs rows of A side by side, `[dim][ROWS]`.
pub(super) fn pack_sources(rows: &[&[f32]; ROWS], out: &mut Vec<f32>) {
    out.resize(rows[0].len() * ROWS, 0.0);
    for (group, rows) in rows.chunks_exact(4).enumerate() {
        interleave(&std::array::from_fn(|i| rows[i]), out, ROWS, group * 4);
    }
}

/// All of a strip against all rows of A: 16 sums of 16 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn products_avx512(packed: &[f32], a: &[f32], width: usize, out: &mut [f32]) {
    let dim = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * dim).enumerate() {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
            // SAFETY: a column holds `LANES` = 32 numbers.
            let (low, high) = unsafe { (_mm512_loadu_ps(column.as_ptr()), _mm512_loadu_ps(column[16..].as_ptr())) };
            for i in 0..ROWS {
                let x = _mm512_set1_ps(xs[i]);
                sums[i] = [_mm512_fmadd_ps(x, low, sums[i][0]), _mm512_fmadd_ps(x, high, sums[i][1])];
            }
        }
        for (i, [low, high]) in sums.into_iter().enumerate() {
            let out = &mut out[i * width + s * LANES..][..LANES];
            // SAFETY: `out` holds `LANES` = 32 numbers here.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), low);
                _mm512_storeu_ps(out[16..].as_mut_ptr(), high);
            }
        }
    }
}

/// Half a strip against half of the rows of A: 8 sums of 8 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn products_avx2(packed: &[f32], a: &[f32], width: usize, out: &mut [f32]) {
    let dim = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * dim).enumerate() {
        for (lane, group) in [(0, 0), (0, 4), (16, 0), (16, 4)] {
            let mut sums = [[_mm256_setzero_ps(); 2]; 4];
            for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
                let (column, xs) = (&column[lane..lane + 16], &xs[group..group + 4]);
                // SAFETY: `column` holds 16 numbers here.
                let (low, high) = unsafe { (_mm256_loadu_ps(column.as_ptr()), _mm256_loadu_ps(column[8..].as_ptr())) };
                for i in 0..4 {
                    let x = _mm256_set1_ps(xs[i]);
                    sums[i] = [_mm256_fmadd_ps(x, low, sums[i][0]), _mm256_fmadd_ps(x, high, sums[i][1])];
                }
            }
            for (i, [low, high]) in sums.into_iter().enumerate() {
                let out = &mut out[(group + i) * width + s * LANES + lane..][..16];
                // SAFETY: `out` holds 16 numbers here.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), low);
                    _mm256_storeu_ps(out[8..].as_mut_ptr(), high);
                }
            }
        }
    }
}

/// The scalar twin: one row of A at a time.
fn products_plain(packed: &[f32], a: &[f32], width: usize, out: &mut [f32]) {
    let dim = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * dim).enumerate() {
        for i in 0..ROWS {
            let mut sums = [0.0f32; LANES];
            for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
                sums.iter_mut().zip(column).for_each(|(sum, &y)| *sum += xs[i] * y);
            }
            out[i * width + s * LANES..][..LANES].copy_from_slice(&sums);
        }
    }
}

/// Index of the row nearest to `a` (the first of equally near ones) and its squared distance, given the
/// inner products of `a` with all rows, each off by at most `slack` times both lengths. `chunk` is what the panel was
/// measured from.
pub(super) fn nearest(panel: &Panel, slack: f32, chunk: &[f32], a: &[f32], products: &[f32]) -> (usize, f32) {
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { nearest_avx512(panel, slack, chunk, a, products) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { nearest_avx2(panel, slack, chunk, a, products) },
        _ => nearest_any(panel, slack, chunk, a, products),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn nearest_avx512(panel: &Panel, slack: f32, chunk: &[f32], a: &[f32], products: &[f32]) -> (usize, f32) {
    let dim = a.len();
    let norm = _mm512_set1_ps(squared_norm(a));
    let (low, high) = (_mm512_set1_ps(1.0 - slack), _mm512_set1_ps(1.0 + slack));
    let minus_two = _mm512_set1_ps(-2.0);
    let parts = || products.as_chunks::<16>().0.iter().zip(panel.norms.as_chunks::<16>().0);
    let distances = |products: &[f32; 16], norms: &[f32; 16], factor| {
        // SAFETY: both hold 16 numbers.
        let (products, norms) = unsafe { (_mm512_loadu_ps(products.as_ptr()), _mm512_loadu_ps(norms.as_ptr())) };
        _mm512_fmadd_ps(products, minus_two, _mm512_mul_ps(_mm512_add_ps(norm, norms), factor))
    };
    // The largest that the smallest distance can be.
    let bounds = parts().fold(_mm512_set1_ps(f32::INFINITY), |bounds, (products, norms)| {
        // Of what is no number and a bound, this keeps the bound.
        _mm512_min_ps(distances(products, norms, high), bounds)
    });
    let bound = _mm512_set1_ps(_mm512_reduce_min_ps(bounds));
    let (mut best, mut cost) = (0, f32::INFINITY);
    for (part, (products, norms)) in parts().enumerate() {
        let mut near = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(distances(products, norms, low), bound);
        while near != 0 {
            let b = part * 16 + near.trailing_zeros() as usize;
            near &= near - 1;
            // Rows that fill up a strip are near only where nothing is a number.
            let Some(row) = chunk.get(2 * b * dim..(2 * b + 1) * dim) else { break };
            let exact = squared_distance(a, row);
            if exact < cost {
                (best, cost) = (b, exact);
            }
        }
    }
    (best, cost)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn nearest_avx2(panel: &Panel, slack: f32, chunk: &[f32], a: &[f32], products: &[f32]) -> (usize, f32) {
    nearest_any(panel, slack, chunk, a, products)
}

#[inline(always)]
fn nearest_any(panel: &Panel, slack: f32, chunk: &[f32], a: &[f32], products: &[f32]) -> (usize, f32) {
    const WIDE: usize = 16;
    let dim = a.len();
    let norm = squared_norm(a);
    let (low, high) = (1.0 - slack, 1.0 + slack);
    let parts = || products.chunks_exact(WIDE).zip(panel.norms.chunks_exact(WIDE));
    // The largest that the smallest distance can be.
    let mut bounds = [f32::INFINITY; WIDE];
    for (products, norms) in parts() {
        for i in 0..WIDE {
            let most = (norm + norms[i]) * high - 2.0 * products[i];
            bounds[i] = if most < bounds[i] { most } else { bounds[i] };
        }
    }
    let bound = bounds.iter().copied().fold(f32::INFINITY, f32::min);
    let (mut best, mut cost) = (0, f32::INFINITY);
    for (part, (products, norms)) in parts().enumerate() {
        let near = |i: usize| (norm + norms[i]) * low - 2.0 * products[i] <= bound;
        if (0..WIDE).fold(false, |any, i| any | near(i)) {
            for b in (0..WIDE).filter(|&i| near(i)).map(|i| part * WIDE + i) {
                // Rows that fill up a strip are near only where nothing is a number.
                let Some(row) = chunk.get(2 * b * dim..(2 * b + 1) * dim) else { break };
                let exact = squared_distance(a, row);
                if exact < cost {
                    (best, cost) = (b, exact);
                }
            }
        }
    }
    (best, cost)
}

/// Sum of squares.
#[inline(always)]
fn squared_norm(row: &[f32]) -> f32 {
    summed(row, row, |x, _| x * x)
}

/// Sum of squared differences: exactly zero for equal rows, and the same bits for the same two rows.
#[inline(always)]
fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
    summed(x, y, |x, y| (x - y) * (x - y))
}

/// Sum of `term` over two rows, in eight interleaved partial sums.
#[inline(always)]
fn summed(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (x, x_rest) = x.as_chunks::<8>();
    let (y, y_rest) = y.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (x, y) in x.iter().zip(y) {
        for i in 0..8 {
            sums[i] += term(x[i], y[i]);
        }
    }
    for (sum, (&x, &y)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *sum += term(x, y);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk of `n` rows, and the lengths of its even ones.
    fn measured(n: usize, dim: usize) -> (Vec<f32>, Panel) {
        let chunk: Vec<f32> = (0..n * dim).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect();
        let mut panel = Panel::default();
        panel.measure(&chunk, dim);
        (chunk, panel)
    }

    /// Every level that this processor has gives the scalar form's numbers to rounding.
    #[test]
    fn all_levels_agree() {
        for (n, dim) in [(3, 5), (64, 16), (77, 64), (256, 128)] {
            let (chunk, mut panel) = measured(n, dim);
            panel.pack(&chunk, dim);
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &chunk[(2 * i + 1) % n * dim..][..dim]);
            let mut plain = vec![0.0; ROWS * panel.width()];
            let mut a = Vec::new();
            pack_sources(&rows, &mut a);
            products_plain(&panel.packed, &a, panel.width(), &mut plain);
            for (i, row) in rows.iter().enumerate() {
                for b in 0..n.div_ceil(2) {
                    let direct: f64 =
                        row.iter().zip(&chunk[2 * b * dim..]).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                    assert!((direct - f64::from(plain[i * panel.width() + b])).abs() < 1e-4);
                }
            }
            let agree = |out: &[f32]| out.iter().zip(&plain).all(|(x, y)| (x - y).abs() < 1e-4);
            let mut out = vec![0.0; plain.len()];
            panel.inner_products(&a, &mut out);
            assert!(agree(&out));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                out.fill(0.0);
                // SAFETY: AVX2 and FMA were found.
                unsafe { products_avx2(&panel.packed, &a, panel.width(), &mut out) };
                assert!(agree(&out));
            }
        }
    }

    /// Every level finds the nearest row that the scalar form finds, at the same cost.
    #[test]
    fn the_nearest_is_the_same_on_all_levels() {
        for (n, dim) in [(3, 5), (40, 16), (77, 64), (256, 128)] {
            let (chunk, panel) = measured(n, dim);
            let slack = (dim + 4) as f32 * f32::EPSILON;
            for a in (1..n).step_by(2) {
                let a = &chunk[a * dim..][..dim];
                let product = |b: usize| a.iter().zip(&chunk[2 * b * dim..]).map(|(x, y)| x * y).sum();
                let mut products: Vec<f32> = (0..n.div_ceil(2)).map(product).collect();
                products.resize(panel.width(), 0.0);
                let plain = nearest_any(&panel, slack, &chunk, a, &products);
                assert_eq!(nearest(&panel, slack, &chunk, a, &products), plain);
                products.fill(f32::NAN);
                assert_eq!(nearest(&panel, slack, &chunk, a, &products), (0, f32::INFINITY));
            }
        }
    }
}
