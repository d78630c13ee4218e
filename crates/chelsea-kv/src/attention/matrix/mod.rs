//! Attention of many rows by matrix instructions.

#![allow(unsafe_code)]

mod opened;
mod operands;

pub(super) use operands::Operands;

use super::block::{Block, Scratch, at_least};
use super::offsets::Offsets;
use super::simd::Simd;
use super::simd::avx512::Avx512;
use super::softmax::{Softmax, add_lanes};
use crate::form::Form;
use crate::page::{Byte, Format, K5V4, K8V4};
use crate::{Dtype, Head, PAGE};
use chelsea_simd::{Amx, DEPTH, SIDE};
use half::{bf16, f16};
use opened::{Key, Value};

/// Rows come in pairs of operands; those past the last hold anything, and nothing reads what becomes of them. Fewer
/// rows than this are not worth opening pages for.
pub(super) const ROWS: usize = 2 * SIDE;

/// Whether matrices suit a head: numbers that two in bf16 hold, and sizes that fill whole operands.
pub(super) fn suit(head: &Head) -> bool {
    head.dtype() != Dtype::F32 && head.key_dim().is_multiple_of(DEPTH) && head.value_dim().is_multiple_of(DEPTH)
}

impl Block<'_> {
    /// The block's sums, by matrix instructions, for a head and rows that they [`suit`].
    pub(super) fn by_matrices(self, amx: Amx) {
        // SAFETY: a machine with AMX that was detected has AVX-512 and its BF16.
        unsafe {
            match self.job.head.dtype() {
                Dtype::F32 => unreachable!("two numbers of bf16 do not hold one of f32"),
                Dtype::F16 => self.opened::<f16>(amx),
                Dtype::Bf16 => self.opened::<bf16>(amx),
                Dtype::Q8 => self.opened::<Byte>(amx),
                Dtype::K8V4 => self.opened::<K8V4>(amx),
                Dtype::K5V4 => self.opened::<K5V4>(amx),
            }
        }
    }

    /// # Safety
    /// The machine has the instructions of [`Avx512`] and AVX-512's BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn opened<F: Format<Key: Key, Value: Value>>(self, amx: Amx) {
        type S = Avx512;
        let Block { job, scratch, sums } = self;
        let (key_dim, value_dim, rows) = (job.head.key_dim(), job.head.value_dim(), job.rows.len());
        let Scratch { factors, weights, offsets, operands, .. } = scratch;
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
            let form = job.head.form();
            operands.set_queries(rows, key_dim, scale, form, |r| job.query(r));
            let offsets = form.and_then(Form::offset).map(|offset| Offsets::of::<S>(&job, offset, scale, offsets));
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
                let offsets = offsets.map(|offsets| offsets.on::<S>(page));
                let offsets = offsets.as_ref().map(|offsets| (offsets, 0));
                let softmax = Softmax { bias: &bias, scales: page.scales::<F>(), offsets, columns: 0..PAGE };
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
