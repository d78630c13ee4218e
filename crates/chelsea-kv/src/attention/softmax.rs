//! The online softmax: the scores of a page become weights, and what earlier pages left behind shrinks where a page
//! holds a larger score than all before.
//!
//! Scores are kept in powers of two: `2^(score * log2 e)` instead of `e^score`.

#![allow(unsafe_code)]

use super::offsets::OnPage;
use super::simd::Simd;
use crate::page::Scales;
use crate::{PAGE, TILE};
use core::ops::Range;

/// [`PAGE`] times `-inf`, [`PAGE`] zeros, [`PAGE`] times `-inf`: [`PAGE`] numbers of it, added to scores, hide the
/// entries before a limit or those from a limit on.
static HIDE: [f32; 3 * PAGE] = {
    let mut hide = [f32::NEG_INFINITY; 3 * PAGE];
    let mut i = PAGE;
    while i < 2 * PAGE {
        hide[i] = 0.0;
        i += 1;
    }
    hide
};

/// Turns the scores of a page into weights, in two passes over all rows, so that the rows of a pass do not
/// wait for each other.
pub(super) struct Softmax<'a> {
    /// `log2 count` of every entry.
    pub bias: &'a [f32; PAGE],
    /// Scales of stored numbers, if they have any. The keys' belong on what comes out of the first
    /// product, the values' on what goes into the second.
    pub scales: Option<Scales<'a>>,
    /// What scores get back for the offset that keys are stored without, if they are, and which of its rows is the first
    /// here.
    pub offsets: Option<(&'a OnPage<'a>, usize)>,
    /// The part of a row that holds scores: whole tiles.
    pub columns: Range<usize>,
}

impl Softmax<'_> {
    /// Turns the scores of some rows, `[rows][PAGE]`, into weights. Row `r` sees the entries `seen(r)`, or
    /// all without it; its largest score so far is in `max` and the sum of its weights, lane by lane, in `totals`. What is left of
    /// earlier weights is written to `factors`, which has room for whole vectors.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    pub unsafe fn page<S: Simd>(
        &self,
        scores: &mut [f32],
        seen: Option<impl Fn(usize) -> Range<usize>>,
        max: &mut [f32],
        factors: &mut [f32],
        totals: &mut [f32],
    ) {
        let rows = scores.len() / PAGE;
        // SAFETY: the caller promises the instruction set.
        unsafe {
            for (r, (scores, max)) in scores.chunks_exact_mut(PAGE).zip(&mut *max).enumerate() {
                let old = *max;
                *max = old.max(self.largest::<S>(r, scores, seen.as_ref().map(|seen| seen(r))));
                factors[r] = old - *max;
            }
            exponentials::<S>(&mut factors[..rows.next_multiple_of(S::LANES)]);
            for (r, (scores, total)) in scores.chunks_exact_mut(PAGE).zip(totals.chunks_exact_mut(S::LANES)).enumerate()
            {
                self.weigh::<S>(scores, max[r], factors[r], total);
            }
        }
    }

    /// Adds scales, offsets and bias to the scores of row `r`, which sees the entries `seen` or all, and returns the largest: at least
    /// `f32::MIN`, even if none is seen.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    unsafe fn largest<S: Simd>(&self, r: usize, scores: &mut [f32], seen: Option<Range<usize>>) -> f32 {
        assert!(scores.len() == PAGE && self.columns.end <= PAGE);
        // Hidden after scales were multiplied by, which may be negative, or zero.
        let mut hide: [Option<&[f32; PAGE]>; 2] = [None; 2];
        if let Some(seen) = seen {
            if seen.start > self.columns.start {
                hide[0] = HIDE[PAGE - seen.start..].first_chunk();
            }
            if seen.end < self.columns.end {
                hide[1] = HIDE[2 * PAGE - seen.end..].first_chunk();
            }
        }
        let scores = scores.as_mut_ptr();
        // SAFETY: columns are whole vectors of PAGE numbers.
        unsafe {
            let mut largest = S::splat(f32::MIN);
            for v in self.columns.clone().step_by(S::LANES) {
                let (mut score, mut bias) = (S::load(scores.add(v)), S::load(self.bias.as_ptr().add(v)));
                if let Some((offsets, first)) = self.offsets {
                    bias = S::add(bias, offsets.row::<S>(first + r, v));
                }
                score = match self.scales {
                    Some(scales) => S::mul_add(score, S::load(scales.keys.as_ptr().add(v)), bias),
                    None => S::add(score, bias),
                };
                for hide in hide.iter().flatten() {
                    score = S::add(score, S::load(hide.as_ptr().add(v)));
                }
                S::store(scores.add(v), score);
                largest = S::max(largest, score);
            }
            S::reduce_max(largest)
        }
    }

    /// Replaces the scores of a row by their weights, `2^(score - max)`, and adds these to `total`, lane by
    /// lane, of which `factor` is left. What is stored in place of a score is its weight times the scale of
    /// its value; the total knows nothing of scales.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&self, scores: &mut [f32], max: f32, factor: f32, total: &mut [f32]) {
        assert!(scores.len() == PAGE && self.columns.end <= PAGE && total.len() == S::LANES);
        let scores = scores.as_mut_ptr();
        // SAFETY: columns are whole vectors of PAGE numbers, and `total` is one vector.
        unsafe {
            let max = S::splat(max);
            let mut sum = S::mul(S::load(total.as_ptr()), S::splat(factor));
            for v in self.columns.clone().step_by(S::LANES) {
                let weight = S::exp2(S::sub(S::load(scores.add(v)), max));
                sum = S::add(sum, weight);
                let scaled = match self.scales {
                    Some(scales) => S::mul(weight, S::load(scales.values.as_ptr().add(v))),
                    None => weight,
                };
                S::store(scores.add(v), scaled);
            }
            S::store(total.as_mut_ptr(), sum);
        }
    }
}

/// Adds up the lanes of every row.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
pub(super) unsafe fn add_lanes<S: Simd>(lanes: &[f32], totals: &mut [f32]) {
    for (total, lanes) in totals.iter_mut().zip(lanes.chunks_exact(S::LANES)) {
        // SAFETY: the chunk is one vector; the caller promises the instruction set.
        *total = unsafe { S::reduce_add(S::load(lanes.as_ptr())) };
    }
}

/// `x = 2^x` for whole vectors of numbers that are 0 or below; 0 becomes 1 exactly, because a factor near 1
/// would creep in with every page.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
pub(super) unsafe fn exponentials<S: Simd>(numbers: &mut [f32]) {
    if numbers.iter().all(|&x| x == 0.0) {
        return numbers.fill(1.0);
    }
    for vector in numbers.chunks_exact_mut(S::LANES) {
        let mut powers = [0.0; TILE];
        // SAFETY: a vector has at most TILE lanes; the caller promises the instruction set.
        unsafe { S::store(powers.as_mut_ptr(), S::exp2(S::load(vector.as_ptr()))) };
        vector.iter_mut().zip(powers).for_each(|(x, power)| *x = if *x == 0.0 { 1.0 } else { power });
    }
}

const _: () = assert!(PAGE.is_multiple_of(TILE));
