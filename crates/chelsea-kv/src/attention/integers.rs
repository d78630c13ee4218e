//! The two products over entries that are integers: queries and weights are rounded to factors of 16 bits, of each row
//! with a scale of its own, and multiplied by dot products of bytes.
//!
//! Rounding leaves a number within 2^-16 of the row's largest. Bytes are stored without a sign, so every sum has the
//! factors' sum times an offset too much, which is known beforehand.

#![allow(unsafe_code)]

use super::block::{Block, Buffers, Multiply, Scratch, Span, at_least, walk};
use super::dots::{DotKernel, Dots, Four, LARGEST, WORD};
use super::simd::Simd;
use crate::balance::Balance;
use crate::page::{Byte, Format, Nibbles, Page, Rows};
use crate::{PAGE, TILE};
use core::marker::PhantomData;

/// What rows of values are made of, for dot products.
pub(super) trait Whole: Rows {
    /// What is added to stored numbers.
    const OFFSET: i32;
}

impl Whole for Byte {
    const OFFSET: i32 = Byte::OFFSET;
}

impl Whole for Nibbles {
    const OFFSET: i32 = Nibbles::OFFSET;
}

/// Keys in bytes, and values in bytes or halves of them.
pub(super) trait Integers: Format<Key = Byte, Value: Whole> {}

impl<F: Format<Key = Byte, Value: Whole>> Integers for F {}

/// Below this a row of numbers counts as zeros: the inverse of its scale would be none.
const NOTHING: f32 = 1e-33;

/// Adding 1.5 * 2^23 rounds to a whole number.
const SHIFT: f32 = 12_582_912.0;

/// Words of the weights of a page.
const PAGE_WORDS: usize = PAGE / WORD;

/// A block over entries of one format.
pub(super) struct OverIntegers<'a, F> {
    block: Block<'a>,
    format: PhantomData<F>,
}

impl<'a, F: Integers> OverIntegers<'a, F> {
    pub fn new(block: Block<'a>) -> Self {
        OverIntegers { block, format: PhantomData }
    }
}

impl<F: Integers> DotKernel for OverIntegers<'_, F> {
    #[inline(always)]
    unsafe fn run<D: Dots>(self) {
        let Block { job, scratch, sums } = self.block;
        let (key_dim, value_dim, rows) = (job.head.key_dim(), job.head.value_dim(), job.rows.len());
        let Scratch { queries, scores, factors, weights, fours: [of_queries, of_weights], scales, less, .. } = scratch;
        let depth = key_dim.div_ceil(WORD);
        let padded = key_dim.next_multiple_of(TILE);
        let row = at_least(queries, padded);
        let of_queries = at_least(of_queries, rows * (padded / WORD));
        let (scales, less) = (at_least(scales, 2 * rows), at_least(less, 2 * rows));
        // Sums stay within 32 bits: sizes beyond those of any model so far have smaller factors.
        let largest = LARGEST * (512.0 / key_dim as f32).min(1.0);

        let scale = job.scale * core::f32::consts::LOG2_E;
        let balance = job.head.balance().map(Balance::sizes);
        for r in 0..rows {
            row.fill(0.0);
            row.iter_mut().zip(job.query(r)).for_each(|(to, &x)| *to = x * scale);
            if let Some(sizes) = balance {
                row.iter_mut().zip(sizes).for_each(|(to, size)| *to *= size);
            }
            let of_row = &mut of_queries[r * (padded / WORD)..][..padded / WORD];
            // SAFETY: the caller promises the instruction set.
            let (scale, total) = unsafe { factors_of::<D>(row, largest, of_row) };
            scales[r] = scale;
            less[r] = (Byte::OFFSET - D::TAKEN).wrapping_mul(total);
        }
        let of_weights = at_least(of_weights, rows * PAGE_WORDS);
        let (scales, weight_scales) = scales.split_at_mut(rows);
        let (less, weight_less) = less.split_at_mut(rows);
        let products = Products::<F, D> {
            queries: of_queries,
            query_row: padded / WORD,
            depth,
            scales,
            less,
            weights: of_weights,
            weight_scales,
            weight_less,
            value_dim,
            format: PhantomData,
        };
        // SAFETY: the caller promises the instruction set.
        unsafe { walk::<D::S, _>(&job, products, Buffers { scores, factors, weights }, sums) };
    }
}

/// Rounds whole vectors of numbers to factors of at most `largest`; returns their scale and their sum.
///
/// # Safety
/// `D`'s instruction set is available.
#[inline(always)]
unsafe fn factors_of<D: Dots>(numbers: &[f32], largest: f32, out: &mut [Four]) -> (f32, i32) {
    let lanes = D::S::LANES;
    assert!(numbers.len().is_multiple_of(lanes) && out.len() * WORD >= numbers.len());
    // SAFETY: whole vectors, with room for their factors; the caller promises the instruction set.
    unsafe {
        let zero = D::S::splat(0.0);
        let mut most = zero;
        for at in (0..numbers.len()).step_by(lanes) {
            let x = D::S::load(numbers.as_ptr().add(at));
            most = D::S::max(D::S::max(x, D::S::sub(zero, x)), most);
        }
        let most = D::S::reduce_max(most);
        let inverse = D::S::splat(if most > NOTHING { largest / most } else { 0.0 });
        let (shift, mut total) = (D::S::splat(SHIFT), zero);
        for at in (0..numbers.len()).step_by(lanes) {
            let x = D::S::load(numbers.as_ptr().add(at));
            let whole = D::S::sub(D::S::mul_add(x, inverse, shift), shift);
            total = D::S::add(total, whole);
            D::store(whole, out.as_mut_ptr().add(at / WORD));
        }
        (most / largest, D::S::reduce_add(total) as i32)
    }
}

/// The factors of a block's queries, and room for those of weights.
struct Products<'a, F, D> {
    /// `[rows][query_row]`.
    queries: &'a [Four],
    query_row: usize,
    /// Words of a key.
    depth: usize,
    /// Of each row of queries: its scale, and the offset of its sums.
    scales: &'a [f32],
    less: &'a [i32],
    /// `[rows][PAGE_WORDS]`.
    weights: &'a mut [Four],
    weight_scales: &'a mut [f32],
    weight_less: &'a mut [i32],
    value_dim: usize,
    format: PhantomData<(F, D)>,
}

impl<F: Integers, D: Dots> Multiply<D::S> for Products<'_, F, D> {
    type Format = F;

    #[inline(always)]
    unsafe fn scores(&mut self, page: &Page, span: &Span, scores: &mut [f32]) {
        let keys: &[u8] = bytemuck::cast_slice(page.keys::<F>());
        let (columns, first) = (span.columns(), span.first);
        let deep = self.depth * WORD;
        assert!(keys.len() >= PAGE * deep && scores.len() == span.len * PAGE, "a page is PAGE entries");
        assert!(self.queries.len() >= (first + span.len) * self.query_row && self.less.len() >= first + span.len);
        let product = Product {
            factors: self.queries[first * self.query_row..].as_ptr(),
            factors_row: self.query_row,
            scales: self.scales[first..].as_ptr(),
            less: self.less[first..].as_ptr(),
            words: keys[columns.start * deep..].as_ptr(),
            step: TILE * WORD,
            tile: TILE * deep,
            depth: self.depth,
            sums: scores[columns.start..].as_mut_ptr(),
            sums_row: PAGE,
            left: core::ptr::null(),
            ahead: span.ahead,
        };
        // SAFETY: `len` rows of factors begin at `first`, keys hold PAGE / TILE tiles of words, of which the columns are
        // some, and scores have room for `len` rows of PAGE.
        unsafe { D::run(ProductRows::<1, false> { product, rows: span.len, vectors: columns.len() / D::S::LANES }) };
    }

    #[inline(always)]
    unsafe fn add_values(&mut self, page: &Page, span: &Span, weights: &[f32], factors: &[f32], sums: &mut [f32]) {
        let (columns, value_dim, group) = (span.columns(), self.value_dim, F::Value::GROUP);
        const { assert!(TILE.is_multiple_of(F::Value::GROUP)) };
        let taken = if F::Value::SHARED == 1 { D::TAKEN } else { 0 };
        for (r, weights) in weights.chunks_exact(PAGE).enumerate() {
            let of_row = &mut self.weights[r * PAGE_WORDS..][..PAGE_WORDS];
            // SAFETY: columns are whole vectors; the caller promises the instruction set.
            let (scale, total) = unsafe { factors_of::<D>(&weights[columns.clone()], LARGEST, of_row) };
            self.weight_scales[r] = scale;
            self.weight_less[r] = (F::Value::OFFSET - taken) * total;
        }
        let values: &[u8] = bytemuck::cast_slice(page.values::<F>());
        let step = value_dim * WORD;
        assert!(values.len() >= PAGE / group * step && sums.len() == span.len * value_dim, "a page is PAGE entries");
        assert!(factors.len() >= span.len && self.weights.len() >= span.len * PAGE_WORDS);
        let mut product = Product {
            factors: self.weights.as_ptr(),
            factors_row: PAGE_WORDS,
            scales: self.weight_scales.as_ptr(),
            less: self.weight_less.as_ptr(),
            words: values[columns.start / group * step..].as_ptr(),
            step,
            tile: TILE * WORD,
            depth: columns.len() / WORD,
            sums: sums.as_mut_ptr(),
            sums_row: value_dim,
            left: factors.as_ptr(),
            ahead: span.ahead,
        };
        let (lanes, rows) = (D::S::LANES, span.len);
        // SAFETY: weights are `len` rows of PAGE_WORDS, values hold PAGE / GROUP rows of words, of which the columns are
        // some, and the sums have `len` rows of value_dim.
        unsafe {
            match F::Value::SHARED {
                1 => D::run(ProductRows::<1, true> { product, rows, vectors: value_dim / lanes }),
                _ => D::run(ProductRows::<2, true> { product, rows, vectors: value_dim / lanes }),
            }
        }
        // Sizes that are no multiple of the vector: what is left over, as part of a vector. Its other lanes read on, at the
        // last in the scales behind the values, and are dropped.
        let left = value_dim % lanes;
        if left == 0 {
            return;
        }
        let whole = value_dim - left;
        let mut rest = [0.0f32; TILE];
        // The last vector ends at most so far behind the values, where a page has the scales of its entries.
        const { assert!(2 * PAGE * size_of::<f32>() >= TILE * WORD) };
        for r in 0..rows {
            product.words = page.kv()[page.kv().len() - 2 * PAGE * size_of::<f32>() - values.len()..]
                [columns.start / group * step + whole * WORD..]
                .as_ptr();
            product.factors = self.weights[r * PAGE_WORDS..].as_ptr();
            (product.scales, product.less) = (&self.weight_scales[r], &self.weight_less[r]);
            (product.sums, product.left, product.ahead) = (rest.as_mut_ptr(), core::ptr::null(), 0);
            // SAFETY: as above, for one row, whose words are those of the page's bytes from here on, and with room for
            // a vector of sums.
            unsafe {
                match F::Value::SHARED {
                    1 => D::run(ProductRows::<1, false> { product, rows: 1, vectors: 1 }),
                    _ => D::run(ProductRows::<2, false> { product, rows: 1, vectors: 1 }),
                }
            }
            let sums = &mut sums[r * value_dim..][whole..value_dim];
            sums.iter_mut().zip(rest).for_each(|(sum, rest)| *sum = *sum * factors[r] + rest);
        }
    }
}

/// `sums = scale * (factors . words - less)`, or the same added to what `left` leaves of `sums`, all by address. Columns
/// are counted in vectors.
#[derive(Clone, Copy)]
struct Product {
    /// A row every `factors_row`.
    factors: *const Four,
    factors_row: usize,
    /// One of each for every row.
    scales: *const f32,
    less: *const i32,
    /// Words of the columns.
    words: *const u8,
    /// Bytes from a step along the depth, or from the steps that share their bytes, to the next.
    step: usize,
    /// Bytes from [`TILE`] columns to the next.
    tile: usize,
    /// Steps: four factors of a row each.
    depth: usize,
    /// A row every `sums_row`.
    sums: *mut f32,
    sums_row: usize,
    /// One factor a row for what `sums` holds; unused when that is overwritten.
    left: *const f32,
    /// Bytes from `words` to those that will be wanted next, which are asked for on the way; 0 for none.
    ahead: isize,
}

/// `rows` rows of `vectors` vectors of a product, with `SHARED` steps in the same bytes; added to the sums if `ADD`.
struct ProductRows<const SHARED: usize, const ADD: bool> {
    product: Product,
    rows: usize,
    vectors: usize,
}

impl<const SHARED: usize, const ADD: bool> DotKernel for ProductRows<SHARED, ADD> {
    #[inline(always)]
    unsafe fn run<D: Dots>(self) {
        let ProductRows { mut product, rows, vectors } = self;
        // As many rows at once as there are registers for, in even shares: 13 rows are 7 and 6, not 12 and 1.
        let most = if fits::<D>(12, 1) { 12 } else { 8 };
        let blocks = rows.div_ceil(most);
        for i in 0..blocks {
            let share = rows / blocks + usize::from(i < rows % blocks);
            // SAFETY: the caller's promise; rows are walked in order and add up to `rows`.
            unsafe {
                match share {
                    1 => product.columns::<D, 1, SHARED, ADD>(vectors),
                    2 => product.columns::<D, 2, SHARED, ADD>(vectors),
                    3 => product.columns::<D, 3, SHARED, ADD>(vectors),
                    4 => product.columns::<D, 4, SHARED, ADD>(vectors),
                    5 => product.columns::<D, 5, SHARED, ADD>(vectors),
                    6 => product.columns::<D, 6, SHARED, ADD>(vectors),
                    7 => product.columns::<D, 7, SHARED, ADD>(vectors),
                    8 => product.columns::<D, 8, SHARED, ADD>(vectors),
                    9 => product.columns::<D, 9, SHARED, ADD>(vectors),
                    10 => product.columns::<D, 10, SHARED, ADD>(vectors),
                    11 => product.columns::<D, 11, SHARED, ADD>(vectors),
                    _ => product.columns::<D, 12, SHARED, ADD>(vectors),
                }
                product.factors = product.factors.add(share * product.factors_row);
                product.scales = product.scales.add(share);
                product.less = product.less.add(share);
                product.sums = product.sums.wrapping_add(share * product.sums_row);
                product.left = product.left.wrapping_add(share);
            }
            product.ahead = 0;
        }
    }
}

impl Product {
    /// # Safety
    /// `D`'s instruction set is available, and every matrix has the numbers that the fields promise.
    #[inline(always)]
    unsafe fn columns<D: Dots, const M: usize, const SHARED: usize, const ADD: bool>(&self, vectors: usize) {
        let mut at = 0;
        // SAFETY: the caller's promise; vectors are walked in order up to `vectors`.
        unsafe {
            if const { fits::<D>(M, 4) } {
                at = self.blocks::<D, M, 4, SHARED, ADD>(at, vectors);
            }
            if const { fits::<D>(M, 2) } {
                at = self.blocks::<D, M, 2, SHARED, ADD>(at, vectors);
            }
            self.blocks::<D, M, 1, SHARED, ADD>(at, vectors);
        }
    }

    /// `M` rows of as many blocks of `N` vectors as there are from vector `at` on; returns the first vector that is left.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn blocks<D: Dots, const M: usize, const N: usize, const SHARED: usize, const ADD: bool>(
        &self,
        mut at: usize,
        vectors: usize,
    ) -> usize {
        while at + N <= vectors {
            // SAFETY: the caller's promise.
            unsafe { self.registers::<D, M, N, SHARED, ADD>(at) };
            at += N;
        }
        at
    }

    /// `M` rows of the `N` vectors that begin at vector `at`, summed in registers.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn registers<D: Dots, const M: usize, const N: usize, const SHARED: usize, const ADD: bool>(
        &self,
        at: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut words = [self.words; N];
            for (n, words) in words.iter_mut().enumerate() {
                let first = (at + n) * D::S::LANES;
                *words = words.add(first / TILE * self.tile + first % TILE * WORD);
            }
            let mut sums = [[D::zero(); N]; M];
            let mut factors = self.factors;
            for _ in 0..self.depth / SHARED {
                if self.ahead != 0 {
                    for &words in &words {
                        D::S::prefetch(words.wrapping_offset(self.ahead));
                    }
                }
                for part in 0..SHARED {
                    let mut step = [D::load(words[0]); N];
                    for n in 0..N {
                        step[n] = if SHARED == 1 { D::load(words[n]) } else { D::load_halves(words[n], part) };
                    }
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let four = factors.add(m * self.factors_row);
                        for n in 0..N {
                            sums[n] = D::dot(sums[n], step[n], four);
                        }
                    }
                    factors = factors.add(1);
                }
                for words in &mut words {
                    *words = words.wrapping_add(self.step);
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                let out = self.sums.add(m * self.sums_row + at * D::S::LANES);
                let (less, scale) = (*self.less.add(m), D::S::splat(*self.scales.add(m)));
                for (n, &sum) in sums.iter().enumerate() {
                    let (out, sum) = (out.add(n * D::S::LANES), D::finish(sum, less));
                    if ADD {
                        let left = D::S::splat(*self.left.add(m));
                        D::S::store(out, D::S::mul_add(sum, scale, D::S::mul(D::S::load(out), left)));
                    } else {
                        D::S::store(out, D::S::mul(sum, scale));
                    }
                }
            }
        }
    }
}

/// Whether the sums of `rows` by `vectors` fit in registers, with the words of the vectors, two for factors, and one to
/// spare.
const fn fits<D: Dots>(rows: usize, vectors: usize) -> bool {
    rows * vectors * D::SUM_REGISTERS + vectors * D::WORD_REGISTERS + 2 < D::S::REGISTERS
}
