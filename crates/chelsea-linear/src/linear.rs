//! A weight matrix and its products.

use crate::arena::Run;
use crate::blocks::{open_any, round_to_q8, with_quant};
use crate::error::LinearError;
use crate::floats;
use crate::quant::{Codes, Quant};
use crate::tile::{BLOCK, Layout, TILE, dequantize_row, pack};
use crate::types::GgmlType;
use rayon::prelude::*;

/// How the products of a matrix are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Weights in packed integer tiles, activations rounded to bytes in blocks of 32; for many tokens, on machines
    /// with matrix instructions, both rounded to bf16.
    #[default]
    Fast,
    /// Weights opened to f32 strip by strip, without rounding any (float ones stay as they are),
    /// multiplied in f32: slow, and as close to a reference as f32 comes.
    F32,
    /// Weights as they lie in the file, for a device that takes them from there ([`Linear::source`]); here they are
    /// multiplied as by [`Products::F32`], more slowly.
    Source,
}

/// A weight matrix of `rows` output features and `cols` input features: `y = x W^T`.
#[derive(Debug)]
pub struct Linear {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    products: Products,
    weights: Weights,
}

/// The one copy of the weights.
#[derive(Debug)]
pub(crate) enum Weights {
    /// Tiles of a packed type.
    Packed {
        /// Type of the codes: the source type, or [`GgmlType::Q8_0`] for float sources.
        ty: GgmlType,
        /// Bytes of a tile.
        tile_bytes: usize,
        tiles: Run,
    },
    /// Rows of weights as in the file, for [`Products::F32`] where they are floats, and for [`Products::Source`].
    Source { row_bytes: usize, data: Vec<u8> },
}

impl Linear {
    /// Takes over the weights in `data`, `[rows][cols]` in GGML blocks. With `row_order`, output row `i`
    /// is source row `row_order[i]`. Packing runs on the caller's rayon pool.
    ///
    /// # Errors
    /// When the shape is empty, overflows or does not fit the blocks, when `data` has another length
    /// than the shape asks for, when `row_order` is not `rows` rows below `rows`, or when there is no
    /// memory.
    pub fn new(
        ty: GgmlType,
        data: &[u8],
        rows: usize,
        cols: usize,
        products: Products,
        row_order: Option<&[u32]>,
    ) -> Result<Linear, LinearError> {
        if rows == 0 || cols == 0 {
            return Err(LinearError::Empty { rows, cols });
        }
        let expected = ty.bytes_for(rows, cols)?;
        if data.len() != expected {
            return Err(LinearError::Length { ty, expected, found: data.len() });
        }
        if row_order.is_some_and(|order| order.len() != rows || order.iter().any(|&row| row as usize >= rows)) {
            return Err(LinearError::RowOrder { rows });
        }
        let row_bytes = expected / rows;
        let source = |row: usize| {
            let row = row_order.map_or(row, |order| order[row] as usize);
            &data[row * row_bytes..][..row_bytes]
        };
        let kept = match products {
            Products::Fast => false,
            Products::F32 => ty.block_len() == 1,
            Products::Source => true,
        };
        let weights = if kept {
            let mut copy = vec![0; expected];
            copy.par_chunks_exact_mut(row_bytes).enumerate().for_each(|(i, out)| out.copy_from_slice(source(i)));
            Weights::Source { row_bytes, data: copy }
        } else {
            pack_rows(ty, rows, cols, source)?
        };
        Ok(Linear { ty, rows, cols, products, weights })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Type of the weights in the file.
    pub fn source_type(&self) -> GgmlType {
        self.ty
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed { tiles, .. } => tiles.bytes().len(),
            Weights::Source { data, .. } => data.len(),
        }
    }

    /// How the weights lie in memory, in a few words.
    pub fn format(&self) -> &'static str {
        match &self.weights {
            Weights::Packed { ty, .. } => format_name(*ty),
            Weights::Source { .. } if self.ty.block_len() == 1 => "rows of floats",
            Weights::Source { .. } => "rows as in the file",
        }
    }

    /// Writes output row `i` as numbers, as the products see it.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        match &self.weights {
            Weights::Packed { ty, tile_bytes, tiles } => {
                let tile = &tiles.bytes()[i / TILE * tile_bytes..][..*tile_bytes];
                let blocks = self.cols.div_ceil(BLOCK);
                with_quant!(ty, Q => dequantize_row::<Q>(tile, blocks, i % TILE, out), _ => unreachable!("float tiles"));
            }
            Weights::Source { row_bytes, data } => {
                open_any(self.ty, &data[i * row_bytes..][..*row_bytes], out);
            }
        }
    }

    /// The weights as in the file, `[rows][cols]` in blocks of [`Linear::source_type`], where they were kept so.
    pub fn source(&self) -> Option<&[u8]> {
        match &self.weights {
            Weights::Packed { .. } => None,
            Weights::Source { data, .. } => Some(data),
        }
    }

    /// How products are formed.
    pub(crate) fn products(&self) -> Products {
        self.products
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }
}

/// Name of a packed type, for reports: bits of a code and what its scales are.
fn format_name(ty: GgmlType) -> &'static str {
    match ty {
        GgmlType::Q4_0 => "tiles of 4 bits, d per 32",
        GgmlType::Q4_1 => "tiles of 4 bits, d and min per 32",
        GgmlType::Q5_0 => "tiles of 4+1 bits, d per 32",
        GgmlType::Q5_1 => "tiles of 4+1 bits, d and min per 32",
        GgmlType::Q8_0 => "tiles of 8 bits, d per 32",
        GgmlType::Q2K => "tiles of 2 bits, scale and min per 16",
        GgmlType::Q3K => "tiles of 2+1 bits, scale per 16",
        GgmlType::Q4K => "tiles of 4 bits, scale and min per 32",
        GgmlType::Q5K => "tiles of 4+1 bits, scale and min per 32",
        GgmlType::Q6K => "tiles of 4+2 bits, scale per 16",
        GgmlType::IQ4NL => "tiles of 4 bits with a table, d per 32",
        GgmlType::IQ4XS => "tiles of 4 bits with a table, scale per 32",
        GgmlType::MXFP4 => "tiles of 4 bits with a table, exponent per 32",
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => "float",
    }
}

fn pack_rows<'a>(
    ty: GgmlType,
    rows: usize,
    cols: usize,
    source: impl Fn(usize) -> &'a [u8] + Sync,
) -> Result<Weights, LinearError> {
    let packed = if ty.block_len() == 1 { GgmlType::Q8_0 } else { ty };
    let blocks = cols.div_ceil(BLOCK);
    let tile_bytes = with_quant!(packed, Q => Layout::of::<Q>(blocks).bytes, _ => unreachable!("float tiles"));
    let bytes = rows.div_ceil(TILE).checked_mul(tile_bytes).ok_or(LinearError::TooLarge { rows, cols })?;
    let mut tiles = Run::zeroed(bytes).map_err(|e| LinearError::Memory { bytes, message: e.to_string() })?;
    tiles.bytes_mut().par_chunks_exact_mut(tile_bytes).enumerate().for_each(|(t, tile)| {
        let sources: [Option<&[u8]>; TILE] =
            std::array::from_fn(|r| (t * TILE + r < rows).then(|| source(t * TILE + r)));
        if ty == packed {
            with_quant!(ty, Q => pack_quant::<Q>(tile, blocks, &sources), _ => unreachable!("float tiles"));
        } else {
            pack_float(ty, tile, blocks, &sources);
        }
    });
    Ok(Weights::Packed { ty: packed, tile_bytes, tiles })
}

fn pack_quant<Q: Quant>(tile: &mut [u8], blocks: usize, sources: &[Option<&[u8]>; TILE]) {
    pack::<Q>(tile, blocks, |r, b, codes: &mut Codes| {
        let Some(source) = sources[r] else { return false };
        Q::open(&source[b * Q::BYTES..][..Q::BYTES], codes);
        true
    });
}

fn pack_float(ty: GgmlType, tile: &mut [u8], blocks: usize, sources: &[Option<&[u8]>; TILE]) {
    let size = ty.block_bytes();
    pack::<crate::blocks::Q8_0>(tile, blocks, |r, b, codes: &mut Codes| {
        let Some(source) = sources[r] else { return false };
        let bytes = &source[b * BLOCK * size..];
        let bytes = &bytes[..bytes.len().min(BLOCK * size)];
        let mut numbers = [0.0; BLOCK];
        let numbers = &mut numbers[..bytes.len() / size];
        floats::open(ty, bytes, numbers);
        round_to_q8(numbers, codes);
        true
    });
}
