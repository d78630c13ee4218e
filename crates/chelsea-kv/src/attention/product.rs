//! The one matrix product of attention: a few rows of f32 numbers times a page of stored numbers.
//!
//! Scores are `rows of q x keys` and outputs are `rows of weights x values`; both walk the page once
//! for each block of rows, with the sums of the block in registers. The same product serves decode,
//! where the rows are the query heads that share a KV head, and prefill, where they are many.

#![allow(unsafe_code)]

use super::simd::{Element, Kernel, Simd};
use crate::TILE;

/// Distance between the rows of the left matrix, which is cut into panels of this many columns.
pub(super) const PANEL: usize = 64;

/// Bytes of a cache line, the least that can be asked for.
const LINE: usize = 64;

/// `c = a . b`, or `c = c * factor + a . b`, all by address. Columns are counted in vectors.
#[derive(Clone, Copy)]
pub(super) struct Product<E> {
    /// Left matrix: panels of [`PANEL`] columns, in each a row every [`PANEL`] numbers.
    pub a: *const f32,
    /// Numbers from a panel to the next.
    pub a_panel: usize,
    /// Right matrix, `depth` rows of stored numbers.
    pub b: *const E,
    /// Numbers from a row of `b` to the next.
    pub b_row: usize,
    /// Numbers from [`TILE`] columns of `b` to the next [`TILE`].
    pub b_tile: usize,
    /// Columns of `a`, rows of `b`.
    pub depth: usize,
    /// Result, a row every `c_row` numbers.
    pub c: *mut f32,
    /// Numbers from a row of `c` to the next.
    pub c_row: usize,
    /// One factor a row for what `c` holds; unused when `c` is overwritten.
    pub factors: *const f32,
    /// Bytes from `b` to the matrix that will be wanted next, which is asked for on the way.
    pub ahead: isize,
}

/// `rows` rows of `vectors` vectors of a product; added to `c` if `ADD`, written over it if not.
///
/// A kernel of its own, so that formats which share their keys or values share the code: every matrix has the numbers
/// that the fields of the product promise, besides the instruction set.
pub(super) struct Rows<E, const ADD: bool> {
    pub product: Product<E>,
    pub rows: usize,
    pub vectors: usize,
}

impl<E: Element, const ADD: bool> Kernel for Rows<E, ADD> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.product.rows::<S, ADD>(self.rows, self.vectors) }
    }
}

impl<E: Element> Product<E> {
    /// # Safety
    /// `S`'s instruction set is available, and every matrix has the numbers that the fields promise.
    #[inline(always)]
    unsafe fn rows<S: Simd, const ADD: bool>(mut self, rows: usize, vectors: usize) {
        let block = if rows.is_multiple_of(S::ROWS) { S::ROWS } else { S::ROWS.min(8) };
        let blocks = rows.div_ceil(block);
        for i in 0..blocks {
            // Even shares: 13 rows are 7 and 6, not 12 and 1.
            let share = rows / blocks + usize::from(i < rows % blocks);
            // SAFETY: the caller's promise; rows are walked in order and add up to `rows`.
            unsafe {
                match share {
                    1 => self.columns::<S, 1, ADD>(vectors),
                    2 => self.columns::<S, 2, ADD>(vectors),
                    3 => self.columns::<S, 3, ADD>(vectors),
                    4 => self.columns::<S, 4, ADD>(vectors),
                    5 => self.columns::<S, 5, ADD>(vectors),
                    6 => self.columns::<S, 6, ADD>(vectors),
                    7 => self.columns::<S, 7, ADD>(vectors),
                    8 => self.columns::<S, 8, ADD>(vectors),
                    _ => self.columns::<S, 12, ADD>(vectors),
                }
                self.a = self.a.add(share * PANEL);
                self.c = self.c.add(share * self.c_row);
                self.factors = self.factors.wrapping_add(share);
            }
            self.ahead = 0;
        }
    }

    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn columns<S: Simd, const M: usize, const ADD: bool>(&self, vectors: usize) {
        if M > S::ROWS {
            unreachable!("blocks have at most S::ROWS rows");
        }
        let mut at = 0;
        // SAFETY: the caller's promise; vectors are walked in order up to `vectors`.
        unsafe {
            // One row is too few sums to hide how long each takes, unless they are many vectors wide.
            if const { M == 1 && fits::<S>(1, 8) } {
                at = self.blocks::<S, M, 8, ADD>(at, vectors);
            }
            if const { fits::<S>(M, 4) } {
                at = self.blocks::<S, M, 4, ADD>(at, vectors);
            } else if const { M == 3 && fits::<S>(M, 3) } {
                at = self.blocks::<S, M, 3, ADD>(at, vectors);
            }
            if const { fits::<S>(M, 2) } {
                at = self.blocks::<S, M, 2, ADD>(at, vectors);
            }
            self.blocks::<S, M, 1, ADD>(at, vectors);
        }
    }

    /// `M` rows of as many blocks of `N` vectors as there are from vector `at` on; returns the first vector
    /// that is left.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn blocks<S: Simd, const M: usize, const N: usize, const ADD: bool>(
        &self,
        mut at: usize,
        vectors: usize,
    ) -> usize {
        while at + N <= vectors {
            // SAFETY: the caller's promise.
            unsafe { self.registers::<S, M, N, ADD>(at) };
            at += N;
        }
        at
    }

    /// `M` rows of the `N` vectors that begin at vector `at`, summed in registers.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn registers<S: Simd, const M: usize, const N: usize, const ADD: bool>(&self, at: usize) {
        let column = |n: usize| {
            let first = (at + n) * S::LANES;
            first / TILE * self.b_tile + first % TILE
        };
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[S::splat(0.0); N]; M];
            let mut b = [self.b; N];
            for (n, b) in b.iter_mut().enumerate() {
                *b = self.b.add(column(n));
            }
            // These vectors' share of the next matrix: as many bytes as they read of this one. Both
            // matrices lie without gaps, so the shares of all vectors are all of it.
            let bytes = N * S::LANES * size_of::<E>();
            let share = at * S::LANES * self.depth * size_of::<E>();
            let next = self.b.cast::<u8>().wrapping_offset(self.ahead).wrapping_add(share);
            let mut panel = self.a;
            let mut left = self.depth;
            let mut asked = 0;
            while left > 0 {
                let end = left.min(PANEL);
                for k in 0..end {
                    if self.ahead != 0 {
                        // A line as soon as its turn comes: asked for several at a time, they would wait for each
                        // other and hold up what this page needs.
                        if asked % LINE < bytes {
                            for line in 0..bytes.div_ceil(LINE) {
                                S::prefetch(next.wrapping_add(asked + line * LINE));
                            }
                        }
                        asked += bytes;
                    }
                    // The shorter side is held in registers, the longer one passes by.
                    if N <= M {
                        let mut row = [S::splat(0.0); N];
                        for n in 0..N {
                            row[n] = E::load::<S>(b[n]);
                        }
                        for (m, sums) in sums.iter_mut().enumerate() {
                            let a = S::splat(*panel.add(m * PANEL + k));
                            for n in 0..N {
                                sums[n] = S::mul_add(a, row[n], sums[n]);
                            }
                        }
                    } else {
                        let mut column = [S::splat(0.0); M];
                        for (m, a) in column.iter_mut().enumerate() {
                            *a = S::splat(*panel.add(m * PANEL + k));
                        }
                        for n in 0..N {
                            let x = E::load::<S>(b[n]);
                            for m in 0..M {
                                sums[m][n] = S::mul_add(column[m], x, sums[m][n]);
                            }
                        }
                    }
                    for b in &mut b {
                        *b = b.wrapping_add(self.b_row);
                    }
                }
                left -= left.min(PANEL);
                panel = panel.wrapping_add(self.a_panel);
            }
            for (m, sums) in sums.iter().enumerate() {
                let c = self.c.add(m * self.c_row + at * S::LANES);
                for (n, &sum) in sums.iter().enumerate() {
                    let c = c.add(n * S::LANES);
                    if ADD {
                        let factor = S::splat(*self.factors.add(m));
                        S::store(c, S::mul_add(S::load(c), factor, sum));
                    } else {
                        S::store(c, sum);
                    }
                }
            }
        }
    }
}

/// Whether a block of `rows` by `vectors` fits in registers: its sums, the shorter of a column of the left
/// matrix and a row of the right one, and a number of the other.
const fn fits<S: Simd>(rows: usize, vectors: usize) -> bool {
    let shorter = if rows < vectors { rows } else { vectors };
    rows * vectors + shorter + 1 < S::REGISTERS
}
