//! The product of rows of factors and words of stored bytes, with its sums in registers.

#![allow(unsafe_code)]

use super::dots::{DotKernel, Dots, FIVES, Four, WORD};
use super::simd::Simd;
use crate::TILE;
use crate::convert::fives;

/// `sums = scale * (factors . words - less)`, or the same added to what `left` leaves of `sums`, all by address. Columns
/// are counted in vectors.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// A row every `factors_row`.
    pub factors: *const Four,
    pub factors_row: usize,
    /// One of each for every row.
    pub scales: *const f32,
    pub less: *const i32,
    /// Words of the columns.
    pub words: *const u8,
    /// Bytes from a step along the depth, or from the steps that share their bytes, to the next.
    pub step: usize,
    /// Bytes from [`TILE`] columns to the next.
    pub tile: usize,
    /// Steps: four factors of a row each.
    pub depth: usize,
    /// A row every `sums_row`.
    pub sums: *mut f32,
    pub sums_row: usize,
    /// One factor a row for what `sums` holds; unused when that is overwritten.
    pub left: *const f32,
    /// Bytes from `words` to those that will be wanted next, which are asked for on the way; 0 for none.
    pub ahead: isize,
}

/// `rows` rows of `vectors` vectors of a product, with `SHARED` steps in the same bytes, as bytes, halves
/// of them or [`FIVES`]; added to the sums if `ADD`.
pub(super) struct ProductRows<const SHARED: usize, const ADD: bool> {
    pub product: Product,
    pub rows: usize,
    pub vectors: usize,
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
                        for line in 0..lines(SHARED) {
                            D::S::prefetch(words.wrapping_offset(self.ahead).wrapping_add(line * TILE * WORD));
                        }
                    }
                }
                macro_rules! step {
                    ($load:expr) => {{
                        let mut step = [D::load(words[0]); N];
                        for n in 0..N {
                            step[n] = $load(words[n]);
                        }
                        for (m, sums) in sums.iter_mut().enumerate() {
                            let four = factors.add(m * self.factors_row);
                            for n in 0..N {
                                sums[n] = D::dot(sums[n], step[n], four);
                            }
                        }
                        factors = factors.add(1);
                    }};
                }
                match SHARED {
                    1 => step!(|at| D::load(at)),
                    2 => {
                        step!(|at| D::load_halves(at, 0));
                        step!(|at| D::load_halves(at, 1));
                    }
                    _ => {
                        step!(|at| D::load_fives::<0>(at));
                        step!(|at| D::load_fives::<1>(at));
                        step!(|at| D::load_fives::<2>(at));
                        step!(|at| D::load_fives::<3>(at));
                        step!(|at| D::load_fives::<4>(at));
                        step!(|at| D::load_fives::<5>(at));
                        step!(|at| D::load_fives::<6>(at));
                        step!(|at| D::load_fives::<7>(at));
                    }
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

/// Lines of words that steps share which lie in the same bytes.
pub(super) const fn lines(shared: usize) -> usize {
    if shared == FIVES { fives::LINES } else { 1 }
}
