//! The two products over entries that are integers: queries and weights are rounded to factors of 16 bits, of each row
//! with a scale of its own, and multiplied by dot products of bytes.
//!
//! Rounding leaves a number within 2^-16 of the row's largest. Bytes are stored without a sign, so every sum has the
//! factors' sum times an offset too much, which is known beforehand.

#![allow(unsafe_code)]

use super::block::{Block, Buffers, Multiply, Scratch, Span, at_least, walk};
use super::dots::{DotKernel, Dots, FIVES, Four, LARGEST, WORD};
use super::offsets::Offsets;
use super::simd::Simd;
use super::word_product::{Product, ProductRows, lines};
use crate::form::Form;
use crate::page::{Byte, Columns, Fives, Format, Nibbles, Page, Rows};
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

/// What keys are made of, for dot products.
pub(super) trait Words: Columns {
    /// Words that share their bytes.
    const SHARED: usize;
    /// What is added to stored numbers.
    const OFFSET: i32;
}

impl Words for Byte {
    const SHARED: usize = 1;
    const OFFSET: i32 = Byte::OFFSET;
}

impl Words for Fives {
    const SHARED: usize = FIVES;
    const OFFSET: i32 = Fives::OFFSET;
}

/// Keys and values in integers.
pub(super) trait Integers: Format<Key: Words, Value: Whole> {}

impl<F: Format<Key: Words, Value: Whole>> Integers for F {}

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
        let Scratch {
            queries, scores, factors, weights, fours: [of_queries, of_weights], scales, less, offsets, ..
        } = scratch;
        let shared = F::Key::SHARED;
        let depth = key_dim.div_ceil(WORD * shared) * shared;
        let padded = (depth * WORD).next_multiple_of(TILE);
        let row = at_least(queries, padded);
        let of_queries = at_least(of_queries, rows * (padded / WORD));
        let (scales, less) = (at_least(scales, 2 * rows), at_least(less, 2 * rows));
        // Sums stay within 32 bits: sizes beyond those of any model so far have smaller factors.
        let largest = LARGEST * (512.0 / key_dim as f32).min(1.0);

        let scale = job.scale * core::f32::consts::LOG2_E;
        let form = job.head.form();
        let taken = if shared == 1 { D::TAKEN } else { 0 };
        for r in 0..rows {
            row.fill(0.0);
            row.iter_mut().zip(job.query(r)).for_each(|(to, &x)| *to = x * scale);
            if let Some(form) = form {
                form.query(row);
            }
            let of_row = &mut of_queries[r * (padded / WORD)..][..padded / WORD];
            // SAFETY: the caller promises the instruction set.
            let (scale, total) = unsafe { factors_of::<D>(row, largest, of_row) };
            scales[r] = scale;
            less[r] = (F::Key::OFFSET - taken).wrapping_mul(total);
        }
        let of_weights = at_least(of_weights, rows * PAGE_WORDS);
        let (scales, weight_scales) = scales.split_at_mut(rows);
        let (less, weight_less) = less.split_at_mut(rows);
        let products = Products::<F, D> {
            queries: of_queries,
            query_row: padded / WORD,
            depth,
            tile_bytes: F::Key::stored(key_dim) * TILE,
            scales,
            less,
            weights: of_weights,
            weight_scales,
            weight_less,
            value_dim,
            format: PhantomData,
        };
        // SAFETY: the caller promises the instruction set.
        unsafe {
            let offset = form.and_then(Form::offset);
            let offsets = offset.map(|offset| Offsets::of::<D::S>(&job, offset, scale, offsets));
            walk::<D::S, _>(&job, products, Buffers { scores, factors, weights, offsets }, sums);
        }
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
    /// Words of a key, opened.
    depth: usize,
    /// Bytes of a tile of keys.
    tile_bytes: usize,
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
        assert!(
            keys.len() >= PAGE / TILE * self.tile_bytes && scores.len() == span.len * PAGE,
            "a page is PAGE entries"
        );
        assert!(self.queries.len() >= (first + span.len) * self.query_row && self.less.len() >= first + span.len);
        let product = Product {
            factors: self.queries[first * self.query_row..].as_ptr(),
            factors_row: self.query_row,
            scales: self.scales[first..].as_ptr(),
            less: self.less[first..].as_ptr(),
            words: keys[columns.start / TILE * self.tile_bytes..].as_ptr(),
            step: lines(F::Key::SHARED) * TILE * WORD,
            tile: self.tile_bytes,
            depth: self.depth,
            sums: scores[columns.start..].as_mut_ptr(),
            sums_row: PAGE,
            left: core::ptr::null(),
            ahead: span.ahead,
        };
        // SAFETY: `len` rows of factors begin at `first`, keys hold PAGE / TILE tiles of words, of which the columns are
        // some, and scores have room for `len` rows of PAGE.
        unsafe {
            let (rows, vectors) = (span.len, columns.len() / D::S::LANES);
            match F::Key::SHARED {
                1 => D::run(ProductRows::<1, false> { product, rows, vectors }),
                _ => D::run(ProductRows::<FIVES, false> { product, rows, vectors }),
            }
        }
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
