//! Turning cached keys back to what they were before RoPE.
//!
//! A tile holds [`TILE`] keys, transposed (`[dim][TILE]`), as pages store them: the loops run over
//! lanes, so the compiler makes vectors of them, once for each instruction set.
#![allow(unsafe_code)]

use crate::simd::{Level, interleave};
use crate::{Rotary, TILE};
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};
use std::ops::Range;

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

/// Sines and cosines at a run of whole positions. All heads hold the latest tokens at the same positions, and
/// clustering reads them in every round: it looks them up here.
#[derive(Debug)]
pub(crate) struct Turns {
    positions: Range<usize>,
    pairs: usize,
    /// `[positions][pairs]`.
    sins: Vec<f32>,
    coss: Vec<f32>,
}

impl Turns {
    /// Those of `positions`.
    pub(crate) fn new(rotary: &Rotary, positions: Range<usize>) -> Self {
        let pairs = rotary.inv_freq.len();
        let (mut sins, mut coss) = (vec![0.0; positions.len() * pairs], vec![0.0; positions.len() * pairs]);
        let rows = sins.chunks_exact_mut(pairs.max(1)).zip(coss.chunks_exact_mut(pairs.max(1)));
        for (position, (sins, coss)) in positions.clone().zip(rows) {
            for ((sin, cos), &f) in sins.iter_mut().zip(coss).zip(&rotary.inv_freq) {
                (*sin, *cos) = sin_cos(position as f32 * f);
            }
        }
        Turns { positions, pairs, sins, coss }
    }

    /// Bytes taken.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.sins[..]) + size_of_val(&self.coss[..])
    }

    /// Where a tile of tokens at consecutive positions begins; nothing for other tiles.
    fn find(&self, positions: &[f32; TILE]) -> Option<usize> {
        let first = positions[0] as usize;
        let follow = (0..TILE).fold(true, |all, lane| all & (positions[lane] == (first + lane) as f32));
        (follow && self.positions.start <= first && first + TILE <= self.positions.end)
            .then(|| first - self.positions.start)
    }
}

/// How keys of a tile are turned back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turning<'a> {
    pub rotary: &'a Rotary,
    /// Sines and cosines that are there already.
    pub turns: Option<&'a Turns>,
}

/// Turns the keys of `tile` (`[dim][TILE]`) at `positions` back and lays them out row by row
/// (`[TILE][dim]`); without a turning, only lays them out.
pub(crate) fn tile_to_rows(turning: Option<Turning<'_>>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { tile_to_rows_avx512(turning, tile, positions, rows) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { tile_to_rows_avx2(turning, tile, positions, rows) },
        _ => tile_to_rows_any(turning, tile, positions, rows),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn tile_to_rows_avx512(turning: Option<Turning<'_>>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    tile_to_rows_any(turning, tile, positions, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_to_rows_avx2(turning: Option<Turning<'_>>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    tile_to_rows_any(turning, tile, positions, rows);
}

#[inline(always)]
fn tile_to_rows_any(turning: Option<Turning<'_>>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    let known = turning.and_then(|Turning { turns, .. }| Some((turns?, turns?.find(positions)?)));
    if let (Some(Turning { rotary, .. }), None) = (turning, known) {
        turn_back_tile(rotary, tile, positions);
    }
    let dim = tile.len() / TILE;
    let column = |k: usize| if k < dim { &tile[k * TILE..][..TILE] } else { &[] };
    for k in (0..dim).step_by(4) {
        interleave(&[column(k), column(k + 1), column(k + 2), column(k + 3)], rows, dim, k);
    }
    if let Some((turns, first)) = known {
        for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
            let at = (first + i) * turns.pairs;
            let (xs, rest) = row.split_at_mut(turns.pairs);
            let ys = &mut rest[..turns.pairs];
            turn_back(xs, ys, &turns.sins[at..][..turns.pairs], &turns.coss[at..][..turns.pairs]);
        }
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
        turn_back(xs, ys, &sins, &coss);
    }
}

#[inline(always)]
fn turn_back(xs: &mut [f32], ys: &mut [f32], sins: &[f32], coss: &[f32]) {
    for (((x, y), &sin), &cos) in xs.iter_mut().zip(ys).zip(sins).zip(coss) {
        (*x, *y) = (*x * cos + *y * sin, *y * cos - *x * sin);
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
            tile_to_rows(Some(Turning { rotary: &rotary, turns: None }), &mut tile, &[position; TILE], &mut rows);
            rotary.turn_back(&mut key, position);
            for i in 0..8 {
                assert!((key[i] - before[i]).abs() < 2e-6);
                assert_eq!(key[i], rows[3 * 8 + i]);
            }
        }
    }

    #[test]
    fn known_sines_turn_keys_back_to_the_same_bits() {
        let rotary = Rotary { inv_freq: vec![1.0, 0.3, 0.01], scale: 1.0 };
        let turns = Turns::new(&rotary, 100..140);
        let key = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
        let back = |first: f32, turns: Option<&Turns>| {
            let mut tile: Vec<f32> = (0..8 * TILE).map(key).collect();
            let mut rows = vec![0.0; 8 * TILE];
            let positions = std::array::from_fn(|lane| first + lane as f32);
            tile_to_rows(Some(Turning { rotary: &rotary, turns }), &mut tile, &positions, &mut rows);
            rows
        };
        for (first, known) in
            [(100.0, true), (117.0, true), (124.0, true), (99.0, false), (125.0, false), (110.5, false)]
        {
            let positions = std::array::from_fn(|lane| first + lane as f32);
            assert_eq!(turns.find(&positions).is_some(), known, "{first}");
            assert_eq!(back(first, Some(&turns)), back(first, None), "{first}");
        }
        assert!(turns.find(&[110.0; TILE]).is_none(), "positions must follow each other");
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
