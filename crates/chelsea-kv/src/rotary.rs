//! Turning cached keys back to what they were before RoPE.
//!
//! A tile holds [`TILE`] keys, transposed (`[dim][TILE]`), as pages store them: the loops run over
//! lanes, so the compiler makes vectors of them, once for each instruction set.
#![allow(unsafe_code)]

use crate::TILE;
#[cfg(target_arch = "x86_64")]
use crate::simd::transpose;
use crate::simd::{Level, interleave};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// Rotary position embedding in the half-split layout, as the model applies it: pair `i` of a key at
/// position `p` is turned by `p * inv_freq[i]` and scaled by `scale`.
///
/// The cache uses it to turn cached keys back (matching is done on keys before RoPE), so that no
/// second copy of the keys has to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// One frequency a rotary pair; `inv_freq.len() <= key_dim / 2`. Dimensions beyond
    /// `2 * inv_freq.len()` are not turned (partial rotary): then pair `i` is `(i, i + inv_freq.len())`.
    pub inv_freq: Vec<f32>,
    /// Factor on both cosine and sine (YaRN's attention factor); 1 for the others.
    pub scale: f32,
}

impl Rotary {
    /// No RoPE at all: keys stay as they are.
    pub fn none() -> Self {
        Rotary { inv_freq: Vec::new(), scale: 1.0 }
    }

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

/// Sine and cosine of what each place of a tile is turned beyond the first where positions follow one another, for
/// every frequency; or nothing, to compute them for every place by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps(Vec<[[f32; TILE]; 2]>);

impl Rotary {
    /// The steps that speed up turning back many tiles.
    pub(crate) fn steps(&self) -> Steps {
        let step = |&f: &f32| {
            let turned: [(f32, f32); TILE] = std::array::from_fn(|lane| sin_cos(lane as f32 * f));
            [turned.map(|(sin, _)| sin), turned.map(|(_, cos)| cos)]
        };
        Steps(self.inv_freq.iter().map(step).collect())
    }
}

/// What a key goes through from a tile to a row: turned back by `rotary`, if there is one; then less
/// `centre` and times `scale`, dimension by dimension, unless those are empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyTransform<'a> {
    pub rotary: Option<(&'a Rotary, &'a Steps)>,
    pub centre: &'a [f32],
    pub scale: &'a [f32],
}

/// Takes the keys of `tile` (`[dim][TILE]`) at `positions` through `transform` and lays them out row by row
/// (`[TILE][dim]`).
pub(crate) fn tile_to_rows(transform: KeyTransform<'_>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    assert_eq!(tile.len(), rows.len());
    match Level::detect() {
        // SAFETY: `detect` found AVX-512 F and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { tile_to_rows_avx512(transform, tile, positions, rows) },
        // SAFETY: `detect` found AVX2 and FMA on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { tile_to_rows_avx2(transform, tile, positions, rows) },
        _ => tile_to_rows_any(transform, tile, positions, rows),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn tile_to_rows_avx512(transform: KeyTransform<'_>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    let dim = tile.len() / TILE;
    if !dim.is_multiple_of(TILE) {
        return tile_to_rows_any(transform, tile, positions, rows);
    }
    turn_tile_back(transform, tile, positions);
    for (block, columns) in tile.chunks_exact(TILE * TILE).enumerate() {
        // SAFETY: `columns` holds 16 vectors of 16.
        let columns = std::array::from_fn(|k| unsafe { _mm512_loadu_ps(columns[k * TILE..].as_ptr()) });
        for (row, out) in transpose(columns).into_iter().zip(rows.chunks_exact_mut(dim)) {
            // SAFETY: rows hold `dim` numbers, a multiple of 16.
            unsafe { _mm512_storeu_ps(out[block * TILE..].as_mut_ptr(), row) };
        }
    }
    centre_rows(transform, dim, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tile_to_rows_avx2(transform: KeyTransform<'_>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    tile_to_rows_any(transform, tile, positions, rows);
}

#[inline(always)]
fn tile_to_rows_any(transform: KeyTransform<'_>, tile: &mut [f32], positions: &[f32; TILE], rows: &mut [f32]) {
    turn_tile_back(transform, tile, positions);
    let dim = tile.len() / TILE;
    let column = |k: usize| if k < dim { &tile[k * TILE..][..TILE] } else { &[] };
    for k in (0..dim).step_by(4) {
        interleave(&[column(k), column(k + 1), column(k + 2), column(k + 3)], rows, dim, k);
    }
    centre_rows(transform, dim, rows);
}

/// Row by row and not in the tile, where the compiler would gather a number from each of 16 columns to make a vector.
#[inline(always)]
fn centre_rows(transform: KeyTransform<'_>, dim: usize, rows: &mut [f32]) {
    for row in rows.chunks_exact_mut(dim) {
        for ((x, &centre), &scale) in row.iter_mut().zip(transform.centre).zip(transform.scale) {
            *x = (*x - centre) * scale;
        }
    }
}

#[inline(always)]
fn turn_tile_back(transform: KeyTransform<'_>, tile: &mut [f32], positions: &[f32; TILE]) {
    if let Some((rotary, Steps(steps))) = transform.rotary {
        let (xs, ys) = tile.split_at_mut(rotary.inv_freq.len() * TILE);
        let follow = (0..TILE).all(|lane| positions[lane] == positions[0] + lane as f32);
        if follow && !steps.is_empty() {
            turn_back_run(&rotary.inv_freq, steps, xs, ys, positions);
        } else {
            turn_back_each(&rotary.inv_freq, xs, ys, positions);
        }
    }
}

/// Turns a tile back whose positions may lie anywhere.
#[inline(always)]
fn turn_back_each(inv_freq: &[f32], xs: &mut [f32], ys: &mut [f32], positions: &[f32; TILE]) {
    for ((xs, ys), &f) in xs.as_chunks_mut().0.iter_mut().zip(ys.as_chunks_mut().0).zip(inv_freq) {
        let (mut sins, mut coss) = ([0.0; TILE], [0.0; TILE]);
        for lane in 0..TILE {
            (sins[lane], coss[lane]) = sin_cos(positions[lane] * f);
        }
        turn(xs, ys, &sins, &coss);
    }
}

/// Turns a tile back whose positions follow one another: sines and cosines are those of the first, turned further.
#[inline(always)]
fn turn_back_run(
    inv_freq: &[f32],
    steps: &[[[f32; TILE]; 2]],
    xs: &mut [f32],
    ys: &mut [f32],
    positions: &[f32; TILE],
) {
    let (xs, ys) = (xs.as_chunks_mut::<TILE>().0, ys.as_chunks_mut::<TILE>().0);
    let groups = inv_freq.chunks(TILE).zip(steps.chunks(TILE));
    for ((freqs, steps), (xs, ys)) in groups.zip(xs.chunks_mut(TILE).zip(ys.chunks_mut(TILE))) {
        let mut first = [[0.0; TILE]; 3];
        for i in 0..TILE {
            let phase = positions[0] * if i < freqs.len() { freqs[i] } else { 0.0 };
            first[0][i] = phase;
            (first[1][i], first[2][i]) = sin_cos(phase);
        }
        for (i, (((xs, ys), &f), [step_sin, step_cos])) in xs.iter_mut().zip(ys).zip(freqs).zip(steps).enumerate() {
            let [phase, sin, cos] = [first[0][i], first[1][i], first[2][i]];
            let (mut sins, mut coss) = ([0.0; TILE], [0.0; TILE]);
            for lane in 0..TILE {
                // Keys were turned by phases rounded one by one: what that moved them by is made up for.
                let off = (positions[lane] * f - phase) - lane as f32 * f;
                let half = 0.5 * off;
                let (s, c) = (sin * step_cos[lane] + cos * step_sin[lane], cos * step_cos[lane] - sin * step_sin[lane]);
                sins[lane] = s + off * (c - half * s);
                coss[lane] = c - off * (s + half * c);
            }
            turn(xs, ys, &sins, &coss);
        }
    }
}

// Numbers go through arrays of their own, which the compiler knows to lie apart: otherwise it makes no vectors of them.
#[inline(always)]
fn turn(xs: &mut [f32; TILE], ys: &mut [f32; TILE], sins: &[f32; TILE], coss: &[f32; TILE]) {
    let (x, y) = (*xs, *ys);
    let (mut turned_x, mut turned_y) = ([0.0; TILE], [0.0; TILE]);
    for lane in 0..TILE {
        turned_x[lane] = x[lane] * coss[lane] + y[lane] * sins[lane];
        turned_y[lane] = y[lane] * coss[lane] - x[lane] * sins[lane];
    }
    (*xs, *ys) = (turned_x, turned_y);
}

/// Sine and cosine without branches, within 1.2e-7 of exact up to phases of 2^24.
#[inline(always)]
fn sin_cos(phase: f32) -> (f32, f32) {
    let (quadrant, rest) = quadrant(phase as f64 * FRAC_2_PI);
    sin_cos_of(quadrant, (phase as f64 - rest * FRAC_PI_2) as f32)
}

/// Sine and cosine of so many full turns, as exact as those of phases.
#[inline(always)]
pub(crate) fn sin_cos_of_turns(turns: f64) -> (f32, f32) {
    let quarters = 4.0 * turns;
    let (quadrant, whole) = quadrant(quarters);
    sin_cos_of(quadrant, ((quarters - whole) * FRAC_PI_2) as f32)
}

/// The nearest whole number, whose last bits say in which quadrant a phase of so many quarter turns is.
#[inline(always)]
fn quadrant(quarters: f64) -> (u32, f64) {
    // Adding and taking off 1.5 * 2^52 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = quarters + ROUND;
    (shifted.to_bits() as u32, shifted - ROUND)
}

/// Sine and cosine of a phase that is `r` beyond the middle of a quadrant: minimax polynomials (those of the Cephes
/// library).
#[inline(always)]
fn sin_cos_of(quadrant: u32, r: f32) -> (f32, f32) {
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
                let (s, c) = sin_cos_of_turns(phase as f64 / std::f64::consts::TAU);
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
            let transform = KeyTransform { rotary: Some((&rotary, &Steps::default())), centre: &[], scale: &[] };
            tile_to_rows(transform, &mut tile, &[position; TILE], &mut rows);
            rotary.turn_back(&mut key, position);
            for i in 0..8 {
                assert!((key[i] - before[i]).abs() < 2e-6);
                assert_eq!(key[i], rows[3 * 8 + i]);
            }
        }
    }

    /// Rows of one to three groups of frequencies, at positions near and far.
    #[test]
    fn tiles_in_order_are_turned_as_their_keys_are() {
        for dim in [8, 48, 64, 128] {
            let rotary = Rotary::plain(dim, 1e6);
            let steps = rotary.steps();
            let (centre, scale) = (vec![0.5; dim], vec![2.0; dim]);
            let transform = KeyTransform { rotary: Some((&rotary, &steps)), centre: &centre, scale: &scale };
            for first in [0.0f32, 1.0, 4_001.0, 131_072.0] {
                let positions: [f32; TILE] = std::array::from_fn(|lane| first + lane as f32);
                let tile: Vec<f32> = (0..dim * TILE).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
                let mut rows = vec![0.0; tile.len()];
                tile_to_rows(transform, &mut tile.clone(), &positions, &mut rows);
                for (lane, row) in rows.chunks_exact(dim).enumerate() {
                    let mut key: Vec<f32> = (0..dim).map(|k| tile[k * TILE + lane]).collect();
                    rotary.turn_back(&mut key, positions[lane]);
                    let wanted = key.iter().map(|x| (x - 0.5) * 2.0);
                    assert!(row.iter().zip(wanted).all(|(x, y)| (x - y).abs() < 2e-6), "{dim} {first} {lane}");
                }
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
