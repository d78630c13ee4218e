//! Attention of many rows by matrix instructions.

#![allow(unsafe_code)]

mod operands;

pub(super) use operands::Operands;

use super::block::{Block, Scratch, at_least};
use super::simd::avx512::Matrices;
use super::simd::{Simd, Stored};
use super::softmax::{Softmax, add_lanes};
use crate::balance::Balance;
use crate::{Dtype, Head, PAGE};
use chelsea_simd::{Amx, DEPTH, SIDE};

/// Rows come in pairs of operands; those past the last hold anything, and nothing reads what becomes of them. Fewer
/// rows than this are not worth opening pages for.
pub(super) const ROWS: usize = 2 * SIDE;

/// Whether matrices suit a head: numbers that two in bf16 hold, and sizes that fill whole operands.
pub(super) fn suit(head: &Head) -> bool {
    head.dtype() != Dtype::F32 && head.key_dim().is_multiple_of(DEPTH) && head.value_dim().is_multiple_of(DEPTH)
}

impl Block<'_> {
    /// The block's sums, by matrix instructions.
    ///
    /// # Safety
    /// The instruction set of [`Matrices`] is available.
    #[inline(always)]
    pub(super) unsafe fn by_matrices<F: Stored>(self, amx: Amx) {
        type S = Matrices;
        let Block { job, scratch, sums } = self;
        let (key_dim, value_dim, rows) = (job.head.key_dim(), job.head.value_dim(), job.rows.len());
        let Scratch { factors, weights, operands, .. } = scratch;
        let factors = at_least(factors, rows.next_multiple_of(S::LANES));
        let weights = at_least(weights, rows * S::LANES);
        assert!(sums.values.len() == rows * value_dim && sums.max.len() == rows && sums.weight.len() == rows);
        operands.sums(rows, value_dim).fill(0.0);
        sums.max.fill(f32::MIN);
        weights.fill(0.0);

        let scale = job.scale * core::f32::consts::LOG2_E;
        // SAFETY: the caller promises the instruction set; registers are configured between the first product and
        // the last, and operands were made for these shapes.
        unsafe {
            let balance = job.head.balance().map(Balance::sizes);
            operands.set_queries(rows, key_dim, scale, balance, |r| job.query(r));
            amx.configure();
            let whole = job.whole();
            for p in job.pages.clone() {
                let page = &job.head.pages()[p];
                // The first row's window begins first, and the last row sees furthest.
                let used = job.seen(0, p).start..job.seen(rows - 1, p).end;
                if used.is_empty() {
                    continue;
                }
                operands.open_keys::<F>(page.keys::<F>(), key_dim, used.clone());
                operands.open_values::<F>(page.values::<F>(), value_dim, used);
                let bias = page.ln_counts().map(|ln_count| ln_count * core::f32::consts::LOG2_E);
                let softmax = Softmax { bias: &bias, scales: page.scales::<F>(), columns: 0..PAGE };
                let scores = operands.scores::<F>(amx, rows, key_dim);
                softmax.page::<S>(
                    scores,
                    (!whole.contains(&p)).then_some(|r| job.seen(r, p)),
                    sums.max,
                    factors,
                    weights,
                );
                operands.add_values::<F>(amx, rows, value_dim, factors);
            }
            amx.release();
            sums.values.copy_from_slice(operands.sums(rows, value_dim));
            add_lanes::<S>(weights, sums.weight);
        }
    }
}
