//! Stands in for [`super::amx`] where there are no such instructions: nothing here can ever be called.

use crate::blocks::Quant;
use crate::tile::TILE;

pub(crate) const TOKENS: usize = 16;
pub(crate) const BLOCK_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Amx {}

impl Amx {
    pub fn detect() -> Option<Amx> {
        None
    }

    pub fn pack_tokens(self, _: &[f32], _: usize, _: &mut [u8]) {
        match self {}
    }

    pub fn open<Q: Quant>(self, _: &[u8], _: usize, _: usize, _: &mut [u8]) {
        match self {}
    }

    pub fn multiply(self, _: [&[u8]; 2], _: [&[u8]; 2], _: [&mut [[f32; TILE]; TOKENS]; 4], _: bool) {
        match self {}
    }

    pub fn release(self) {
        match self {}
    }
}
