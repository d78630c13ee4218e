//! Stands in for `bf16.rs` on processors that cannot have matrix instructions.

use crate::blocks::Quant;
use chelsea_amx::Amx;

pub(crate) fn pack_tokens(_: Amx, _: &[f32], _: usize, _: &mut [u8]) {
    unreachable!("no matrix instructions");
}

pub(crate) fn open_tile<Q: Quant>(_: Amx, _: &[u8], _: usize, _: usize, _: &mut [u8]) {
    unreachable!("no matrix instructions");
}
