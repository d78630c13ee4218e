//! What the keys of a head have in common before RoPE.
//!
//! Models with a bias on keys, and others, have heads whose keys differ little beside what is the same in all of them. After
//! RoPE that part is turned with the position, so it is no constant any more. But positions can be taken together: over
//! [`STEP`] tokens only the fast pairs turn by much, and of those less is taken out, by as much as turning blurs them. So a
//! key is stored without the offset as it is in the middle of its step, its *anchor*, and a score gets back one number for
//! each anchor and query.
//!
//! The anchor follows from an entry's own position alone, so entries can be moved without being rounded again.

use crate::Rotary;
use crate::rotary::sin_cos_of_turns;
use chelsea_simd::vectorized;
use std::f64::consts::TAU;

/// Tokens whose keys have the offset turned alike.
pub(crate) const STEP: usize = 64;

/// The anchor of a key at `position`, which is no less than 0. By way of few bits, so that many are found at once.
#[inline(always)]
pub(crate) fn anchor(position: f32) -> usize {
    (position * (1.0 / STEP as f32)) as i32 as usize
}

/// The offset of a head's keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offset {
    /// `[key_dim]`, before RoPE.
    mean: Box<[f32]>,
    /// Of each rotary pair, the part of a full turn that it makes from an anchor to the next.
    turns: Box<[f64]>,
    /// The mean turned to [`Offset::now`].
    turned: Box<[f32]>,
    now: usize,
}

impl Offset {
    /// What `keys` at `positions` have in common.
    pub fn of(keys: &[f32], positions: &[f32], key_dim: usize, rotary: &Rotary) -> Self {
        let mut sums = vec![0.0f64; key_dim];
        let mut row = vec![0.0f32; key_dim];
        for (key, &position) in keys.chunks_exact(key_dim).zip(positions) {
            row.copy_from_slice(key);
            rotary.turn_back(&mut row, position);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let count = positions.len().max(1) as f64;
        let mut mean: Box<[f32]> = sums.iter().map(|sum| (sum / count) as f32).collect();
        // The mean of what a pair is turned to over a step is shorter than the pair.
        let pairs = rotary.inv_freq.len();
        for (i, f) in rotary.inv_freq.iter().enumerate() {
            let half = f64::from(*f) * STEP as f64 / 2.0;
            let blur = if half < 1e-3 { 1.0 } else { (half.sin() / half).max(0.0) };
            let left = if half < std::f64::consts::PI { blur as f32 } else { 0.0 };
            mean[i] *= left;
            mean[pairs + i] *= left;
        }
        Self::from_mean(mean, rotary)
    }

    /// The offset `mean`, before RoPE.
    pub fn from_mean(mean: Box<[f32]>, rotary: &Rotary) -> Self {
        let turns = rotary.inv_freq.iter().map(|f| f64::from(*f) * STEP as f64 / TAU).collect();
        let mut offset = Offset { turned: mean.clone(), mean, turns, now: usize::MAX };
        offset.at(0);
        offset
    }

    /// Whether it is of numbers that can be reckoned with.
    pub fn is_sane(&self) -> bool {
        self.mean.iter().all(|x| x.abs() < 1e18)
    }

    /// Bytes of the offset of keys of `key_dim` numbers with `pairs` rotary pairs.
    pub const fn bytes(key_dim: usize, pairs: usize) -> usize {
        2 * key_dim * size_of::<f32>() + pairs * size_of::<f64>()
    }

    /// `[key_dim]`, before RoPE.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Of each rotary pair, the part of a full turn that it makes from an anchor to the next.
    pub fn turns(&self) -> &[f64] {
        &self.turns
    }

    /// The offset as it is at `anchor`.
    pub fn at(&mut self, anchor: usize) -> &[f32] {
        if self.now != anchor {
            turn(&self.mean, &self.turns, anchor, &mut self.turned);
            self.now = anchor;
        }
        &self.turned
    }

    /// Adds the offset at `anchor` to a key.
    pub fn add(&self, key: &mut [f32], anchor: usize) {
        self.with(anchor, |common| key.iter_mut().zip(common).for_each(|(x, common)| *x += common));
    }

    /// Adds the offset at each column's anchor to the columns of `[key_dim][LANES]`.
    pub fn add_rows<const LANES: usize>(&self, rows: &mut [[f32; LANES]], anchors: &[usize; LANES]) {
        if anchors.iter().all(|anchor| *anchor == anchors[0]) {
            let add = |row: &mut [f32; LANES], common: &f32| row.iter_mut().for_each(|x| *x += common);
            return self.with(anchors[0], |common| rows.iter_mut().zip(common).for_each(|(row, x)| add(row, x)));
        }
        let mut lane = 0;
        while lane < LANES {
            let same = anchors[lane..].iter().take_while(|anchor| **anchor == anchors[lane]).count();
            let lanes = lane..lane + same;
            self.with(anchors[lane], |common| {
                for (row, common) in rows.iter_mut().zip(common) {
                    row[lanes.clone()].iter_mut().for_each(|x| *x += common);
                }
            });
            lane += same;
        }
    }

    /// Calls `f` with the offset as it is at `anchor`.
    fn with(&self, anchor: usize, f: impl FnOnce(&[f32])) {
        if anchor == self.now {
            return f(&self.turned);
        }
        const MOST: usize = 256;
        let dim = self.mean.len();
        if dim <= MOST {
            let mut turned = [0.0; MOST];
            turn(&self.mean, &self.turns, anchor, &mut turned[..dim]);
            f(&turned[..dim]);
        } else {
            let mut turned = vec![0.0; dim];
            turn(&self.mean, &self.turns, anchor, &mut turned);
            f(&turned);
        }
    }
}

/// Where in the full turns of its pairs the middle of an anchor's step is.
#[inline(always)]
pub(crate) fn middle(anchor: usize) -> f64 {
    anchor as f64 + 0.5
}

/// `mean`, turned to where it is in the middle of an anchor's step.
fn turn(mean: &[f32], turns: &[f64], anchor: usize, out: &mut [f32]) {
    out.copy_from_slice(mean);
    let (x, rest) = out.split_at_mut(turns.len());
    let at = middle(anchor);
    vectorized(
        #[inline(always)]
        || {
            for ((x, y), turns) in x.iter_mut().zip(rest).zip(turns) {
                let (sin, cos) = sin_cos_of_turns(at * turns);
                (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_before_rope_is_taken_out_of_slow_pairs_whole_and_of_fast_ones_not_at_all() {
        let (dim, rotary) = (64, Rotary::plain(64, 1e6));
        let turned = |position: f32| {
            let mut key = vec![3.0f32; dim];
            // Turning back by the negative position turns on.
            rotary.turn_back(&mut key, -position);
            key
        };
        let positions: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let keys: Vec<f32> = positions.iter().flat_map(|&p| turned(p)).collect();
        let mut offset = Offset::of(&keys, &positions, dim, &rotary);
        for position in [0.0, 100.0, 5000.0, 100_000.0] {
            let (key, common) = (turned(position), offset.at(anchor(position)));
            let left = |i: usize| (key[i] - common[i]).hypot(key[32 + i] - common[32 + i]);
            assert!((16..32).all(|i| left(i) < 0.15), "at {position}");
            assert!(left(0) > 4.2 && left(0) < 4.3, "{}", left(0));
        }
    }

    #[test]
    fn adding_to_rows_is_adding_to_every_column() {
        let (dim, rotary) = (10, Rotary { inv_freq: vec![0.01, 0.001, 1e-4], scale: 1.0 });
        let mean: Box<[f32]> = (0..dim).map(|i| i as f32 - 3.0).collect();
        let offset = Offset::from_mean(mean, &rotary);
        let anchors = [0, 0, 1, 1, 5, 900, 900, 2];
        let mut rows = vec![[0.5f32; 8]; dim];
        offset.add_rows(&mut rows, &anchors);
        for (lane, &anchor) in anchors.iter().enumerate() {
            let mut key = vec![0.5; dim];
            offset.add(&mut key, anchor);
            assert!(key.iter().zip(&rows).all(|(x, row)| *x == row[lane]), "lane {lane}");
        }
    }
}
