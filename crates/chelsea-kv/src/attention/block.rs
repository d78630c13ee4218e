//! Attention of a block of query rows over a range of pages, with the online softmax.
//!
//! A *row* is one query of one query head; the rows of a KV head are counted token by token, the
//! `group` query heads of a token next to each other. A block leaves unnormalised sums behind, so that
//! blocks over different pages of the same rows can be merged.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::matrix::{self, Operands};
use super::product::{PANEL, Product};
#[cfg(target_arch = "x86_64")]
use super::simd::avx512::Matrices;
use super::simd::{Element, Kernel, Simd, Stored};
use crate::balance::Balance;
use crate::page::{K8V4, Rows, Scales};
use crate::{Dtype, Head, PAGE, TILE};
#[cfg(target_arch = "x86_64")]
use chelsea_simd::Amx;
use core::ops::Range;
use half::{bf16, f16};

/// What a block of rows is to attend to.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    /// The KV head, with as many entries as there are tokens or more.
    pub head: &'a Head,
    /// All queries of the request, `[tokens, token_stride / d, d]`.
    pub queries: &'a [f32],
    /// Numbers from a token's queries to the next token's.
    pub token_stride: usize,
    /// Where the KV head's query heads begin within a token's queries.
    pub first_query: usize,
    /// Query heads that share the KV head.
    pub group: usize,
    /// Queries of a query head; the last belongs to the last entry.
    pub tokens: usize,
    /// Factor on scores.
    pub scale: f32,
    /// First row and number of rows.
    pub rows: (usize, usize),
    /// First page and the page after the last.
    pub pages: (usize, usize),
}

impl Job<'_> {
    fn row_range(&self) -> Range<usize> {
        self.rows.0..self.rows.0 + self.rows.1
    }

    /// Number of entries that a row sees.
    fn visible(&self, row: usize) -> usize {
        self.head.len() - self.tokens + row / self.group + 1
    }

    /// Number of entries of page `p` that row `r` of the block sees.
    fn seen(&self, r: usize, p: usize) -> usize {
        self.visible(self.rows.0 + r).saturating_sub(p * PAGE).min(PAGE)
    }

    fn query(&self, row: usize) -> &[f32] {
        let at = row / self.group * self.token_stride + self.first_query + row % self.group * self.head.head_dim();
        &self.queries[at..][..self.head.head_dim()]
    }
}

/// Numbers that the sums of `rows` rows take: see [`Sums`].
pub(super) const fn sums_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

/// What a block leaves behind: for each row the weighted sum of values, the largest score in powers of
/// two, and the sum of weights relative to that score. The weighted sums are to be divided by the sum
/// of weights.
pub(super) struct Sums<'a> {
    /// `[rows, head_dim]`.
    pub values: &'a mut [f32],
    /// Largest score of each row, times `log2 e`; `f32::MIN` if no entry was visible.
    pub max: &'a mut [f32],
    /// Sum of weights of each row.
    pub weight: &'a mut [f32],
}

impl<'a> Sums<'a> {
    /// Sums over a buffer of [`sums_len`] numbers.
    pub fn new(buffer: &'a mut [f32], rows: usize, head_dim: usize) -> Self {
        let (values, rest) = buffer.split_at_mut(rows * head_dim);
        let (max, rest) = rest.split_at_mut(rows);
        Sums { values, max, weight: &mut rest[..rows] }
    }
}

/// Buffers of a thread, kept from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    factors: Vec<f32>,
    weights: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    operands: Operands,
}

fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// [`PAGE`] zeros, then [`PAGE`] times `-inf`: a window of it hides the entries past a limit.
static HIDE: [f32; 2 * PAGE] = {
    let mut hide = [0.0; 2 * PAGE];
    let mut i = PAGE;
    while i < 2 * PAGE {
        hide[i] = f32::NEG_INFINITY;
        i += 1;
    }
    hide
};

/// A job with the buffers it works in.
pub(super) struct Block<'a> {
    pub job: Job<'a>,
    pub scratch: &'a mut Scratch,
    pub sums: Sums<'a>,
}

impl Kernel for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller promises the instruction set.
        unsafe {
            match self.job.head.dtype() {
                Dtype::F32 => self.over::<S, f32>(),
                Dtype::F16 => self.over::<S, f16>(),
                Dtype::Bf16 => self.over::<S, bf16>(),
                Dtype::Q8 => self.over::<S, i8>(),
                Dtype::K8V4 => self.over::<S, K8V4>(),
            }
        }
    }
}

impl Block<'_> {
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    unsafe fn over<S: Simd, F: Stored>(self) {
        #[cfg(target_arch = "x86_64")]
        if S::MATRICES
            && matrix::suit(self.job.head.dtype(), self.job.head.head_dim())
            && self.job.rows.1 >= matrix::ROWS
            && let Some(amx) = Amx::detect()
        {
            // SAFETY: the caller promises the instruction set.
            return unsafe { self.by_matrices::<F>(amx) };
        }
        let Block { job, scratch, sums } = self;
        let d = job.head.head_dim();
        let rows = job.rows.1;
        let queries = at_least(&mut scratch.queries, rows * d.next_multiple_of(PANEL));
        let scores = at_least(&mut scratch.scores, rows * PAGE);
        let factors = at_least(&mut scratch.factors, rows.next_multiple_of(S::LANES));
        let weights = at_least(&mut scratch.weights, rows * S::LANES);
        assert!(sums.values.len() == rows * d && sums.max.len() == rows && sums.weight.len() == rows);

        // Scores are kept in powers of two: one factor here instead of one in every exponential.
        let scale = job.scale * core::f32::consts::LOG2_E;
        let balance = job.head.balance().map(Balance::sizes);
        for (r, row) in job.row_range().enumerate() {
            for (panel, part) in job.query(row).chunks(PANEL).enumerate() {
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

        for p in job.pages.0..job.pages.1 {
            let page = &job.head.pages()[p];
            let (keys, values) = (page.keys::<F>(), page.values::<F>());
            let shared = F::Value::SHARED;
            assert!(keys.len() >= PAGE * d && values.len() * shared >= PAGE * d, "a page holds PAGE keys and values");
            let bias = page.ln_counts().map(|ln_count| ln_count * core::f32::consts::LOG2_E);
            // SAFETY: the caller promises the instruction set.
            let mut ahead = unsafe { prefetch_distance::<S, F>(&job, p) };

            // Entries of this page that a row sees. Where the first row sees all, one product does for
            // the block; on the diagonal every few rows have their own limit.
            let seen = |r: usize| job.seen(r, p);
            let all = seen(0) == PAGE;
            let step = if all { rows } else { S::ROWS };
            for first in (0..rows).step_by(step) {
                let len = step.min(rows - first);
                let used = if all { PAGE } else { seen(first + len - 1) };
                if used == 0 {
                    continue;
                }
                let tiles = used.div_ceil(TILE);
                let product = Product {
                    a: queries[first * PANEL..].as_ptr(),
                    a_panel: rows * PANEL,
                    b: keys.as_ptr(),
                    b_row: TILE,
                    b_tile: TILE * d,
                    depth: d,
                    c: scores.as_mut_ptr(),
                    c_row: PAGE,
                    factors: core::ptr::null(),
                    ahead,
                };
                // SAFETY: queries are `rows` rows in panels of which `len` begin at `first`, keys hold
                // PAGE / TILE tiles of d x TILE, and scores have room for `len` rows of PAGE.
                unsafe { product.run::<S, false>(len, tiles * TILE / S::LANES) };

                let softmax = Softmax { bias: &bias, scales: page.scales::<F>(), vectors: tiles * TILE / S::LANES };
                // SAFETY: the caller promises the instruction set.
                unsafe {
                    softmax.page::<S>(
                        &mut scores[..len * PAGE],
                        |r| if all { PAGE } else { seen(first + r) },
                        &mut sums.max[first..],
                        factors,
                        &mut weights[first * S::LANES..],
                    );
                }

                let product = Product {
                    a: scores.as_ptr(),
                    a_panel: 0,
                    b: values.as_ptr(),
                    b_row: d,
                    b_tile: TILE,
                    depth: used,
                    c: sums.values[first * d..].as_mut_ptr(),
                    c_row: d,
                    factors: factors.as_ptr(),
                    ahead,
                };
                // SAFETY: scores are `len` rows of one panel, values hold PAGE rows of d, and the sums
                // have `len` rows of d from `first`.
                unsafe { product.run::<S, true>(len, d / S::LANES) };
                // Head sizes that are no multiple of the vector: the columns left over.
                for c in d / S::LANES * S::LANES..d {
                    for r in 0..len {
                        let weights = &scores[r * PAGE..][..used];
                        let value = |i: usize| values[i / shared * d + c].single(i % shared);
                        let sum: f32 = weights.iter().enumerate().map(|(i, w)| w * value(i)).sum();
                        let total = &mut sums.values[(first + r) * d + c];
                        *total = *total * factors[r] + sum;
                    }
                }
                ahead = 0;
            }
        }
        // SAFETY: the caller promises the instruction set.
        unsafe { add_lanes::<S>(weights, sums.weight) };
    }

    /// The same with matrix instructions, for many rows.
    ///
    /// # Safety
    /// The instruction set of [`Matrices`] is available.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn by_matrices<F: Stored>(self, amx: Amx) {
        type S = Matrices;
        let Block { job, scratch, sums } = self;
        let (d, rows) = (job.head.head_dim(), job.rows.1);
        let Scratch { factors, weights, operands, .. } = scratch;
        let factors = at_least(factors, rows.next_multiple_of(S::LANES));
        let weights = at_least(weights, rows * S::LANES);
        assert!(sums.values.len() == rows * d && sums.max.len() == rows && sums.weight.len() == rows);
        operands.sums(rows, d).fill(0.0);
        sums.max.fill(f32::MIN);
        weights.fill(0.0);

        let scale = job.scale * core::f32::consts::LOG2_E;
        // SAFETY: the caller promises the instruction set; registers are configured between the first product and
        // the last, and operands were made for these shapes.
        unsafe {
            let balance = job.head.balance().map(Balance::sizes);
            operands.set_queries(rows, d, scale, balance, |r| job.query(job.rows.0 + r));
            amx.configure();
            for p in job.pages.0..job.pages.1 {
                let page = &job.head.pages()[p];
                let used = job.seen(rows - 1, p);
                if used == 0 {
                    continue;
                }
                operands.open::<F>(page.keys::<F>(), page.values::<F>(), d, used);
                let bias = page.ln_counts().map(|ln_count| ln_count * core::f32::consts::LOG2_E);
                let softmax = Softmax { bias: &bias, scales: page.scales::<F>(), vectors: PAGE / S::LANES };
                let scores = operands.scores::<F>(amx, rows, d);
                softmax.page::<S>(scores, |r| job.seen(r, p), sums.max, factors, weights);
                operands.add_values::<F>(amx, rows, d, factors);
            }
            amx.release();
            sums.values.copy_from_slice(operands.sums(rows, d));
            add_lanes::<S>(weights, sums.weight);
        }
    }
}

/// Adds up the lanes of every row.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn add_lanes<S: Simd>(lanes: &[f32], totals: &mut [f32]) {
    for (total, lanes) in totals.iter_mut().zip(lanes.chunks_exact(S::LANES)) {
        // SAFETY: the chunk is one vector; the caller promises the instruction set.
        *total = unsafe { S::reduce_add(S::load(lanes.as_ptr())) };
    }
}

/// Asks for what page `p` will be followed by, apart from its entries, and returns the distance in bytes
/// to the entries of the next page, which the products ask for as they walk this one; 0 at the end.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn prefetch_distance<S: Simd, F: Stored>(job: &Job<'_>, p: usize) -> isize {
    let pages = &job.head.pages()[..job.pages.1];
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

/// Turns the scores of a page into weights, in two passes over all rows, so that the rows of a pass do not
/// wait for each other.
struct Softmax<'a> {
    /// `log2 count` of every entry.
    bias: &'a [f32; PAGE],
    /// Scales of stored numbers, if they have any. The keys' belong on what comes out of the first
    /// product, the values' on what goes into the second.
    scales: Option<Scales<'a>>,
    /// Vectors of a row that hold scores.
    vectors: usize,
}

impl Softmax<'_> {
    /// Turns the scores of some rows, `[rows][PAGE]`, into weights. Row `r` sees the first `seen(r)` entries; its
    /// largest score so far is in `max` and the sum of its weights, lane by lane, in `totals`. What is left of
    /// earlier weights is written to `factors`, which has room for whole vectors.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    unsafe fn page<S: Simd>(
        &self,
        scores: &mut [f32],
        seen: impl Fn(usize) -> usize,
        max: &mut [f32],
        factors: &mut [f32],
        totals: &mut [f32],
    ) {
        let rows = scores.len() / PAGE;
        // SAFETY: the caller promises the instruction set.
        unsafe {
            for (r, (scores, max)) in scores.chunks_exact_mut(PAGE).zip(&mut *max).enumerate() {
                let seen = seen(r);
                let hide = HIDE[PAGE - seen..].first_chunk::<PAGE>().filter(|_| seen < self.vectors * S::LANES);
                factors[r] = self.raise::<S>(scores, hide, max);
            }
            exponentials::<S>(&mut factors[..rows.next_multiple_of(S::LANES)]);
            for (r, (scores, total)) in scores.chunks_exact_mut(PAGE).zip(totals.chunks_exact_mut(S::LANES)).enumerate()
            {
                self.weigh::<S>(scores, max[r], factors[r], total);
            }
        }
    }

    /// Adds the bias to the scores of a row, hides some, raises `max` to the largest, and returns the old
    /// `max` less the new.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    unsafe fn raise<S: Simd>(&self, scores: &mut [f32], hide: Option<&[f32; PAGE]>, max: &mut f32) -> f32 {
        assert!(scores.len() == PAGE && self.vectors * S::LANES <= PAGE);
        let scores = scores.as_mut_ptr();
        // SAFETY: all offsets stay below PAGE numbers.
        unsafe {
            let mut largest = S::splat(*max);
            for v in (0..self.vectors).map(|v| v * S::LANES) {
                let (mut score, bias) = (S::load(scores.add(v)), S::load(self.bias.as_ptr().add(v)));
                score = match self.scales {
                    Some(scales) => S::mul_add(score, S::load(scales.keys.as_ptr().add(v)), bias),
                    None => S::add(score, bias),
                };
                if let Some(hide) = hide {
                    score = S::add(score, S::load(hide.as_ptr().add(v)));
                }
                S::store(scores.add(v), score);
                largest = S::max(largest, score);
            }
            let old = *max;
            *max = S::reduce_max(largest);
            old - *max
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
        assert!(scores.len() == PAGE && self.vectors * S::LANES <= PAGE && total.len() == S::LANES);
        let scores = scores.as_mut_ptr();
        // SAFETY: all offsets stay below PAGE numbers, and `total` is one vector.
        unsafe {
            let max = S::splat(max);
            let mut sum = S::mul(S::load(total.as_ptr()), S::splat(factor));
            for v in (0..self.vectors).map(|v| v * S::LANES) {
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

/// `x = 2^x` for whole vectors of numbers that are 0 or below; 0 becomes 1 exactly, because a factor near 1
/// would creep in with every page.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn exponentials<S: Simd>(numbers: &mut [f32]) {
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
