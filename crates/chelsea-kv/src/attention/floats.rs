//! The two products over entries that are floats.

#![allow(unsafe_code)]

use super::block::{Block, Buffers, Multiply, Scratch, Span, at_least, walk};
use super::product::{PANEL, Product, Rows};
use super::simd::{Element, Kernel, Simd, Stored};
use crate::page::Page;
use crate::{PAGE, TILE};
use core::marker::PhantomData;

/// A block over entries of one format. Each is compiled for itself, which takes a third of the time that one function
/// for all formats does.
pub(super) struct Over<'a, F> {
    block: Block<'a>,
    format: PhantomData<F>,
}

impl<'a, F: Stored> Over<'a, F> {
    pub fn new(block: Block<'a>) -> Self {
        Over { block, format: PhantomData }
    }
}

impl<F: Stored> Kernel for Over<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Block { job, scratch, sums } = self.block;
        let (key_dim, value_dim, rows) = (job.head.key_dim(), job.head.value_dim(), job.rows.len());
        let Scratch { queries, scores, factors, weights, .. } = scratch;
        let queries = at_least(queries, rows * key_dim.next_multiple_of(PANEL));
        // Scores are kept in powers of two: one factor here instead of one in every exponential.
        let scale = job.scale * core::f32::consts::LOG2_E;
        for r in 0..rows {
            for (panel, part) in job.query(r).chunks(PANEL).enumerate() {
                let to = &mut queries[(panel * rows + r) * PANEL..][..part.len()];
                to.iter_mut().zip(part).for_each(|(to, &x)| *to = x * scale);
            }
        }
        let products = Floats::<F> { queries, rows, key_dim, value_dim, format: PhantomData };
        // SAFETY: the caller promises the instruction set.
        unsafe { walk::<S, _>(&job, products, Buffers { scores, factors, weights, offsets: None }, sums) };
    }
}

/// Queries of a block, in panels of [`PANEL`] numbers.
struct Floats<'a, F> {
    queries: &'a [f32],
    rows: usize,
    key_dim: usize,
    value_dim: usize,
    format: PhantomData<F>,
}

impl<S: Simd, F: Stored> Multiply<S> for Floats<'_, F> {
    type Format = F;

    #[inline(always)]
    unsafe fn scores(&mut self, page: &Page, span: &Span, scores: &mut [f32]) {
        let (keys, columns) = (page.keys::<F>(), span.columns());
        assert!(keys.len() >= PAGE * self.key_dim && scores.len() == span.len * PAGE, "a page is PAGE entries");
        let product = Product {
            a: self.queries[span.first * PANEL..].as_ptr(),
            a_panel: self.rows * PANEL,
            b: keys[columns.start * self.key_dim..].as_ptr(),
            b_row: TILE,
            b_tile: TILE * self.key_dim,
            depth: self.key_dim,
            c: scores[columns.start..].as_mut_ptr(),
            c_row: PAGE,
            factors: core::ptr::null(),
            ahead: span.ahead,
        };
        // SAFETY: queries are `rows` rows in panels of which `len` begin at `first`, keys hold PAGE / TILE tiles of
        // key_dim x TILE, of which the columns are some, and scores have room for `len` rows of PAGE.
        unsafe { S::run(Rows::<_, false> { product, rows: span.len, vectors: columns.len() / S::LANES }) };
    }

    #[inline(always)]
    unsafe fn add_values(&mut self, page: &Page, span: &Span, weights: &[f32], factors: &[f32], sums: &mut [f32]) {
        let (values, value_dim, used) = (page.values::<F>(), self.value_dim, span.used.clone());
        assert!(values.len() >= PAGE * value_dim && sums.len() == span.len * value_dim, "a page is PAGE entries");
        let product = Product {
            a: weights[used.start..].as_ptr(),
            a_panel: 0,
            b: values[used.start * value_dim..].as_ptr(),
            b_row: value_dim,
            b_tile: TILE,
            depth: used.len(),
            c: sums.as_mut_ptr(),
            c_row: value_dim,
            factors: factors.as_ptr(),
            ahead: span.ahead,
        };
        // SAFETY: weights are `len` rows of one panel, values hold PAGE rows of value_dim, of which those used are some,
        // and the sums have `len` rows of value_dim.
        unsafe { S::run(Rows::<_, true> { product, rows: span.len, vectors: value_dim / S::LANES }) };
        // Sizes that are no multiple of the vector: the columns left over.
        for c in value_dim / S::LANES * S::LANES..value_dim {
            for (r, factor) in factors[..span.len].iter().enumerate() {
                let term = |i: usize| weights[r * PAGE + i] * values[i * value_dim + c].single();
                let total = &mut sums[r * value_dim + c];
                *total = *total * factor + used.clone().map(term).sum::<f32>();
            }
        }
    }
}
