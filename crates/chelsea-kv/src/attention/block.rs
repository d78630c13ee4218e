//! Attention of a block of query rows over a range of pages, with the online softmax.
//!
//! A block leaves unnormalised sums behind, so that those of other pages can be merged with them.

#![allow(unsafe_code)]

use super::Isa;
use super::job::Job;
#[cfg(target_arch = "x86_64")]
use super::matrix::{self, Operands};
use super::product::{PANEL, Product, Rows};
use super::simd::{Element, Kernel, Simd, Stored};
use super::softmax::{Softmax, add_lanes};
use super::sums::Sums;
use crate::balance::Balance;
use crate::page::{K8V4, Rows as _};
use crate::{Dtype, PAGE, TILE};
#[cfg(target_arch = "x86_64")]
use chelsea_simd::Amx;
use core::marker::PhantomData;
use half::{bf16, f16};

/// Buffers of a thread, kept from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    pub factors: Vec<f32>,
    pub weights: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    pub operands: Operands,
}

/// The first `len` numbers of a buffer that grows if it must.
pub(super) fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
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
            Dtype::Q8 => isa.run(Over::<i8>::new(self)),
            Dtype::K8V4 => isa.run(Over::<K8V4>::new(self)),
        }
    }
}

/// A block over entries of one format. Each is compiled for itself, which takes a third of the time that one function
/// for all formats does.
struct Over<'a, F> {
    block: Block<'a>,
    format: PhantomData<F>,
}

impl<'a, F: Stored> Over<'a, F> {
    fn new(block: Block<'a>) -> Self {
        Over { block, format: PhantomData }
    }
}

impl<F: Stored> Kernel for Over<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Block { job, scratch, sums } = self.block;
        let (key_dim, value_dim, rows) = (job.head.key_dim(), job.head.value_dim(), job.rows.len());
        let queries = at_least(&mut scratch.queries, rows * key_dim.next_multiple_of(PANEL));
        let scores = at_least(&mut scratch.scores, rows * PAGE);
        let factors = at_least(&mut scratch.factors, rows.next_multiple_of(S::LANES));
        let weights = at_least(&mut scratch.weights, rows * S::LANES);
        assert!(sums.values.len() == rows * value_dim && sums.max.len() == rows && sums.weight.len() == rows);

        // Scores are kept in powers of two: one factor here instead of one in every exponential.
        let scale = job.scale * core::f32::consts::LOG2_E;
        let balance = job.head.balance().map(Balance::sizes);
        for r in 0..rows {
            for (panel, part) in job.query(r).chunks(PANEL).enumerate() {
                let to = &mut queries[(panel * rows + r) * PANEL..][..part.len()];
                for (to, &x) in to.iter_mut().zip(part) {
                    *to = x * scale;
                }
                if let Some(sizes) = balance {
                    to.iter_mut().zip(&sizes[panel * PANEL..]).for_each(|(to, size)| *to *= size);
                }
            }
        }
        sums.values.fill(0.0);
        sums.max.fill(f32::MIN);
        weights.fill(0.0);

        let whole = job.whole();
        for p in job.pages.clone() {
            let page = &job.head.pages()[p];
            let (keys, values) = (page.keys::<F>(), page.values::<F>());
            let shared = F::Value::SHARED;
            assert!(
                keys.len() >= PAGE * key_dim && values.len() * shared >= PAGE * value_dim,
                "a page is PAGE entries"
            );
            let bias = page.ln_counts().map(|ln_count| ln_count * core::f32::consts::LOG2_E);
            // SAFETY: the caller promises the instruction set.
            let mut ahead = unsafe { prefetch_distance::<S, F>(&job, p) };

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
                let columns = used.start / TILE * TILE..used.end.next_multiple_of(TILE);
                let product = Product {
                    a: queries[first * PANEL..].as_ptr(),
                    a_panel: rows * PANEL,
                    b: keys[columns.start * key_dim..].as_ptr(),
                    b_row: TILE,
                    b_tile: TILE * key_dim,
                    depth: key_dim,
                    c: scores[columns.start..].as_mut_ptr(),
                    c_row: PAGE,
                    factors: core::ptr::null(),
                    ahead,
                };
                // SAFETY: queries are `rows` rows in panels of which `len` begin at `first`, keys hold
                // PAGE / TILE tiles of key_dim x TILE, of which the columns are some, and scores have room for `len`
                // rows of PAGE.
                unsafe { S::run(Rows::<_, false> { product, rows: len, vectors: columns.len() / S::LANES }) };

                let softmax = Softmax { bias: &bias, scales: page.scales::<F>(), columns };
                // SAFETY: the caller promises the instruction set.
                unsafe {
                    softmax.page::<S>(
                        &mut scores[..len * PAGE],
                        (!all).then_some(|r| seen(first + r)),
                        &mut sums.max[first..],
                        factors,
                        &mut weights[first * S::LANES..],
                    );
                }

                // From a whole element on: the other entry in it has no weight.
                let used = used.start / shared * shared..used.end;
                let product = Product {
                    a: scores[used.start..].as_ptr(),
                    a_panel: 0,
                    b: values[used.start / shared * value_dim..].as_ptr(),
                    b_row: value_dim,
                    b_tile: TILE,
                    depth: used.len(),
                    c: sums.values[first * value_dim..].as_mut_ptr(),
                    c_row: value_dim,
                    factors: factors.as_ptr(),
                    ahead,
                };
                // SAFETY: scores are `len` rows of one panel, values hold PAGE rows of value_dim, of which those used
                // are some, and the sums have `len` rows of value_dim from `first`.
                unsafe { S::run(Rows::<_, true> { product, rows: len, vectors: value_dim / S::LANES }) };
                // Sizes that are no multiple of the vector: the columns left over.
                for c in value_dim / S::LANES * S::LANES..value_dim {
                    for r in 0..len {
                        let value = |i: usize| values[i / shared * value_dim + c].single(i % shared);
                        let sum: f32 = used.clone().map(|i| scores[r * PAGE + i] * value(i)).sum();
                        let total = &mut sums.values[(first + r) * value_dim + c];
                        *total = *total * factors[r] + sum;
                    }
                }
                ahead = 0;
            }
        }
        // SAFETY: the caller promises the instruction set.
        unsafe { add_lanes::<S>(weights, sums.weight) };
    }
}

/// Asks for what page `p` will be followed by, apart from its entries, and returns the distance in bytes
/// to the entries of the next page, which the products ask for as they walk this one; 0 at the end.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn prefetch_distance<S: Simd, F: Stored>(job: &Job<'_>, p: usize) -> isize {
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
