//! Turning cached keys back to what they were before RoPE.
//!
//! A tile holds [`TILE`] keys, transposed (`[dim][TILE]`), as pages store them: the loops run over
//! lanes, so the compiler makes vectors of them, once for each instruction set.
#![allow(unsafe_code)]

use crate::simd::{Level, interleave};
use crate::{Rotary, TILE};
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

impl Rotary {
    /// Plain RoPE over `head_dim` dimensions with base `theta`.
    pub fn plain(head_dim: usize, theta: f32) -> Self {
        let inv_freq = (0..head_dim / 2).map(|i| theta.powf(-(2.0 * i as f32) / head_dim as f32)).collect();
        Rotary { inv_freq, scale: 1.0 }
    }

    /// Dimensions that are turned; those beyond are left alone.
    pub fn turned_dims(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Turns the key at `position` back in place. [`Rotary::scale`] is left in: costs weigh keys by the
    /// power of queries that carry the same factor.
    pub fn turn_back(&self, key: &mut [f32], position: f32) {
        let half = self.inv_freq.len();
        let (x, rest) = key.split_at_mut(half);
        for ((x, y), f) in x.iter_mut().zip(rest).zip(&self.inv_freq) {
            let (sin, cos) = sin_cos(position * f);
            (*x, *y) = (*x * cos + *y * sin, *y * cos - *x * sin);
        }
    }
}

/// Turns the keys of `tile` (`[dim][TILE]`) at `positions` back and lays them out row by row
/// (`[TILE][dim]`); without a rotary, only lays them out.
pub(crate) fn tile_to_rows(rotary: Option<&Rotary>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { tile_to_rows_avx512(rotary, tile, positions, rows) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { tile_to_rows_avx2(rotary, tile, positions, rows) },
        _ => tile_to_rows_any(rotary, tile, positions, rows),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn tile_to_rows_avx512(rotary: Option<&Rotary>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    tile_to_rows_any(rotary, tile, positions, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_to_rows_avx2(rotary: Option<&Rotary>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    tile_to_rows_any(rotary, tile, positions, rows);
}

#[inline(always)]
fn tile_to_rows_any(rotary: Option<&Rotary>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    if let Some(rotary) = rotary {
        turn_back_tile(rotary, tile, positions);
    }
    let dim = tile.len() / TILE;
    let column = |k: usize| if k < dim { &tile[k * TILE..][..TILE] } else { &[] };
    for k in (0..dim).step_by(4) {
        interleave(&[column(k), column(k + 1), column(k + 2), column(k + 3)], rows, dim, k);
    }
}

#[inline(always)]
fn turn_back_tile(rotary: &Rotary, tile: &mut [f32], positions: &[f32; TILE]) {
    let (xs, ys) = tile.split_at_mut(rotary.inv_freq.len() * TILE);
    for ((xs, ys), &f) in xs.chunks_exact_mut(TILE).zip(ys.chunks_exact_mut(TILE)).zip(&rotary.inv_freq) {
        let mut sins = [0.0; TILE];
        let mut coss = [0.0; TILE];
        for lane in 0..TILE {
            (sins[lane], coss[lane]) = sin_cos(positions[lane] * f);
        }
        for lane in 0..TILE {
            let (x, y) = (xs[lane], ys[lane]);
            xs[lane] = x * coss[lane] + y * sins[lane];
            ys[lane] = y * coss[lane] - x * sins[lane];
        }
    }
}

/// Sine and cosine without branches, within 1.2e-7 of exact up to phases of 2^24: the quadrant is taken
/// off in `f64`, minimax polynomials (those of the Cephes library) do the rest.
#[inline(always)]
fn sin_cos(phase: f32) -> (f32, f32) {
    // Adding and taking off 1.5 * 2^52 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = phase as f64 * FRAC_2_PI + ROUND;
    let quadrant = shifted.to_bits() as u32;
    let r = (phase as f64 - (shifted - ROUND) * FRAC_PI_2) as f32;
    let z = r * r;
    let sin = r + r * z * (-1.666_665_5e-1 + z * (8.332_161e-3 - z * 1.951_529_6e-4));
    let cos = 1.0 - 0.5 * z + z * z * (4.166_664_6e-2 + z * (-1.388_731_6e-3 + z * 2.443_315_7e-5));
    let swap = 0u32.wrapping_sub(quadrant & 1);
    let (s, c) = (sin.to_bits(), cos.to_bits());
    let sin = (s & !swap | c & swap) ^ ((quadrant & 2) << 30);
    let cos = (c & !swap | s & swap) ^ ((quadrant.wrapping_add(1) & 2) << 30);
    (f32::from_bits(sin), f32::from_bits(cos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_cosine_are_exact_to_single_precision() {
        for i in -20_000..20_000 {
            for phase in [i as f32 * 0.01, i as f32 * 1.7, i as f32 * 13.37] {
                let (s, c) = sin_cos(phase);
                let (es, ec) = (phase as f64).sin_cos();
                assert!((s as f64 - es).abs() < 1.2e-7 && (c as f64 - ec).abs() < 1.2e-7, "{phase}: {s} {es} {c} {ec}");
            }
        }
    }

    #[test]
    fn turning_back_undoes_rope() {
        let rotary = Rotary::plain(8, 10_000.0);
        let before: Vec<f32> = (0..8).map(|i| i as f32 - 2.5).collect();
        for position in [0.0f32, 1.0, 77.0, 1000.25, 30_000.0] {
            let mut key = before.clone();
            for i in 0..4 {
                let (s, c) = ((position * rotary.inv_freq[i]) as f64).sin_cos();
                let (x, y) = (before[i] as f64, before[i + 4] as f64);
                key[i] = (x * c - y * s) as f32;
                key[i + 4] = (y * c + x * s) as f32;
            }
            let mut tile = vec![0.0; 8 * TILE];
            for i in 0..8 {
                tile[i * TILE + 3] = key[i];
            }
            let mut rows = vec![0.0; 8 * TILE];
            tile_to_rows(Some(&rotary), &mut tile, &[position; TILE], &mut rows);
            rotary.turn_back(&mut key, position);
            for i in 0..8 {
                assert!((key[i] - before[i]).abs() < 2e-6);
                assert_eq!(key[i], rows[3 * 8 + i]);
            }
        }
    }

    #[test]
    fn dimensions_beyond_a_partial_rotary_are_left_alone() {
        let rotary = Rotary { inv_freq: vec![1.0], scale: 1.0 };
        let mut key = [1.0, 0.0, 5.0, 6.0];
        rotary.turn_back(&mut key, 2.0);
        assert_eq!(key[2..], [5.0, 6.0]);
        assert!((key[0] - 2f32.cos()).abs() < 1e-6 && (key[1] + 2f32.sin()).abs() < 1e-6);
    }
}
