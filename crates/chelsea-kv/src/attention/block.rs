//! Attention of a block of query rows over a range of pages, with the online softmax: what is the same for all number
//! types. Both products of a page are a [`Multiply`]'s.
//!
//! A block leaves unnormalised sums behind, so that those of other pages can be merged with them.

#![allow(unsafe_code)]

use super::Isa;
use super::dots::Four;
use super::floats::Over;
use super::integers::OverIntegers;
use super::job::Job;
#[cfg(target_arch = "x86_64")]
use super::matrix::{self, Operands};
use super::offsets::{self, Offsets};
use super::simd::Simd;
use super::softmax::{Softmax, add_lanes};
use super::sums::Sums;
use crate::page::{Byte, Format, K5V4, K8V4, Page};
use crate::{Dtype, PAGE, TILE};
#[cfg(target_arch = "x86_64")]
use chelsea_simd::Amx;
use core::ops::Range;
use half::{bf16, f16};

/// Buffers of a thread, kept from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    pub queries: Vec<f32>,
    pub scores: Vec<f32>,
    /// Factors of the queries' numbers, and then of a page's weights.
    pub fours: [Vec<Four>; 2],
    /// Of each row: scales of its factors, and what bytes that have no sign add to its sums.
    pub scales: Vec<f32>,
    pub less: Vec<i32>,
    pub factors: Vec<f32>,
    pub weights: Vec<f32>,
    pub offsets: offsets::Room,
    #[cfg(target_arch = "x86_64")]
    pub operands: Operands,
}

/// The first `len` numbers of a buffer that grows if it must.
pub(super) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// A job with the buffers it works in.
pub(super) struct Block<'a> {
    pub job: Job<'a>,
    pub scratch: &'a mut Scratch,
    pub sums: Sums<'a>,
}

impl Block<'_> {
    /// Does the job on an instruction set that this machine has: by its matrix instructions where they suit the head and
    /// there are rows enough, otherwise by its vectors.
    pub fn attend(self, isa: Isa) {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx
            && matrix::suit(self.job.head)
            && self.job.rows.len() >= matrix::ROWS
            && let Some(amx) = Amx::detect()
        {
            return self.by_matrices(amx);
        }
        match self.job.head.dtype() {
            Dtype::F32 => isa.run(Over::<f32>::new(self)),
            Dtype::F16 => isa.run(Over::<f16>::new(self)),
            Dtype::Bf16 => isa.run(Over::<bf16>::new(self)),
            Dtype::Q8 => isa.run_dots(OverIntegers::<Byte>::new(self)),
            Dtype::K8V4 => isa.run_dots(OverIntegers::<K8V4>::new(self)),
            Dtype::K5V4 => isa.run_dots(OverIntegers::<K5V4>::new(self)),
        }
    }
}

/// Some rows of a block, and the entries of a page that they are multiplied with.
pub(super) struct Span {
    /// The first row.
    pub first: usize,
    /// Rows.
    pub len: usize,
    /// Entries that any of the rows sees.
    pub used: Range<usize>,
    /// Bytes from the page's keys to those of the page that will be wanted next; 0 if none is to be asked for.
    pub ahead: isize,
}

impl Span {
    /// Whole tiles with the entries that are used.
    pub fn columns(&self) -> Range<usize> {
        self.used.start / TILE * TILE..self.used.end.next_multiple_of(TILE)
    }
}

/// The two products of attention over entries of one format.
pub(super) trait Multiply<S: Simd> {
    /// How entries are stored.
    type Format: Format;

    /// Scores without biases and without scales of keys, in powers of two, written to `scores`: a row every [`PAGE`] numbers,
    /// whole tiles of which [`Span::columns`] are some.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    unsafe fn scores(&mut self, page: &Page, span: &Span, scores: &mut [f32]);

    /// Adds values by weights, with scales of values in them, to what `factors` leaves of the sums of the span's rows,
    /// `[rows][value_dim]`.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    unsafe fn add_values(&mut self, page: &Page, span: &Span, weights: &[f32], factors: &[f32], sums: &mut [f32]);
}

/// Buffers of [`walk`] that are not the products'.
pub(super) struct Buffers<'a> {
    /// `[rows][PAGE]`.
    pub scores: &'a mut Vec<f32>,
    pub factors: &'a mut Vec<f32>,
    pub weights: &'a mut Vec<f32>,
    /// What scores get back, if keys are stored without an offset.
    pub offsets: Option<Offsets<'a>>,
}

/// Walks the pages of a job.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
pub(super) unsafe fn walk<S: Simd, M: Multiply<S>>(
    job: &Job<'_>,
    mut products: M,
    buffers: Buffers<'_>,
    sums: Sums<'_>,
) {
    let (value_dim, rows) = (job.head.value_dim(), job.rows.len());
    let scores = at_least(buffers.scores, rows * PAGE);
    let factors = at_least(buffers.factors, rows.next_multiple_of(S::LANES));
    let weights = at_least(buffers.weights, rows * S::LANES);
    assert!(sums.values.len() == rows * value_dim && sums.max.len() == rows && sums.weight.len() == rows);
    sums.values.fill(0.0);
    sums.max.fill(f32::MIN);
    weights.fill(0.0);

    let whole = job.whole();
    for p in job.pages.clone() {
        let page = &job.head.pages()[p];
        let bias = page.ln_counts().map(|ln_count| ln_count * core::f32::consts::LOG2_E);
        let offsets = buffers.offsets.map(|offsets| offsets.on::<S>(page));
        // SAFETY: the caller promises the instruction set.
        let mut ahead = unsafe { prefetch_distance::<S, M::Format>(job, p) };

        // Entries of this page that a row sees. Where all rows see all, one product does for the block; on the
        // diagonal, and where windows begin, every few rows have their own limits.
        let seen = |r: usize| job.seen(r, p);
        let all = whole.contains(&p);
        let step = if all { rows } else { S::ROWS };
        for first in (0..rows).step_by(step) {
            let len = step.min(rows - first);
            let used = if all { 0..PAGE } else { seen(first).start..seen(first + len - 1).end };
            if used.is_empty() {
                continue;
            }
            let span = Span { first, len, used, ahead };
            let scores = &mut scores[..len * PAGE];
            let offsets = offsets.as_ref().map(|offsets| (offsets, first));
            let softmax = Softmax { bias: &bias, scales: page.scales::<M::Format>(), offsets, columns: span.columns() };
            // SAFETY: the caller promises the instruction set.
            unsafe {
                products.scores(page, &span, scores);
                softmax.page::<S>(
                    scores,
                    (!all).then_some(|r| seen(first + r)),
                    &mut sums.max[first..],
                    factors,
                    &mut weights[first * S::LANES..],
                );
                let sums = &mut sums.values[first * value_dim..][..len * value_dim];
                products.add_values(page, &span, scores, factors, sums);
            }
            ahead = 0;
        }
    }
    // SAFETY: the caller promises the instruction set.
    unsafe { add_lanes::<S>(weights, sums.weight) };
}

/// Asks for what page `p` will be followed by, apart from its entries, and returns the distance in bytes
/// to the entries of the next page, which the products ask for as they walk this one; 0 at the end.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn prefetch_distance<S: Simd, F: Format>(job: &Job<'_>, p: usize) -> isize {
    let pages = &job.head.pages()[..job.last_page];
    // SAFETY: the caller promises the instruction set; any address may be asked for.
    unsafe {
        if let Some(later) = pages.get(p + 2) {
            S::prefetch(later.start());
        }
        let Some(next) = pages.get(p + 1) else { return 0 };
        for line in next.ln_counts().chunks(16) {
            S::prefetch(line.as_ptr().cast());
        }
        if let Some(scales) = next.scales::<F>() {
            for line in scales.keys.chunks(16).chain(scales.values.chunks(16)) {
                S::prefetch(line.as_ptr().cast());
            }
        }
        next.keys::<F>().as_ptr().addr() as isize - pages[p].keys::<F>().as_ptr().addr() as isize
    }
}
