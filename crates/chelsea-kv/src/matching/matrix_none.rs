//! Stands in where the instructions are not known: nothing but `suit` is ever called.

use chelsea_simd::Amx;

/// As where there are matrix instructions.
pub(super) const ROWS: usize = super::kernel::ROWS;
pub(super) const SLACK: f32 = 0.0;

#[derive(Debug, Default)]
pub(super) struct Operands;

impl Operands {
    pub(super) fn suit(_: usize) -> Option<Amx> {
        None
    }

    pub(super) fn bytes(_: usize, _: usize) -> usize {
        0
    }

    pub(super) fn pack(&mut self, _: Amx, _: &[f32], _: usize) {
        unreachable!("no matrix instructions");
    }

    pub(super) fn products(&mut self, _: Amx, _: &[f32], _: usize, _: usize, _: &mut [f32]) {
        unreachable!("no matrix instructions");
    }
}
