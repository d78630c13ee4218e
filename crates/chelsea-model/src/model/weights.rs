//! Takes tensors out of a file: checks their shapes and values, packs matrices one by one and releases their pages, so
//! that memory never holds much more than the packed weights.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use chelsea_linear::{GgmlType, Linear, Products, mxfp4_blocks};

use super::scales::{are_finite, exponents_are_finite};
use super::{LoadOptions, PackedTensor, Progress};
use crate::blocks::Projection;
use crate::checkpoint::{ModelFile, OF_CONFIG, decode};
use crate::error::ModelError;
use crate::files::TensorEntry;

/// Takes tensors out of a file.
pub(super) struct Weights<'a, 'p> {
    pub(super) file: &'a ModelFile,
    products: Products,
    progress: &'a mut Progress<'p>,
    /// Canonical names of the tensors that the architecture has a place for.
    used: HashSet<String>,
    pub(super) packed: Vec<PackedTensor>,
    done: u64,
    total: u64,
}

/// How the rows of one matrix lie in a tensor of several.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows {
    /// One after the other, from this one on.
    From(usize),
    /// This one and every second after it.
    EverySecond(usize),
}

impl<'a, 'p> Weights<'a, 'p> {
    pub(super) fn new(file: &'a ModelFile, options: &LoadOptions, progress: &'a mut Progress<'p>) -> Self {
        Weights {
            file,
            products: options.products,
            progress,
            used: OF_CONFIG.map(str::to_owned).into(),
            packed: Vec::new(),
            done: 0,
            total: file.tensors().iter().map(|tensor| tensor.bytes as u64).sum(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// Finds a tensor and checks its shape.
    pub(super) fn find(&mut self, name: &str, expected: &[usize]) -> Result<Option<&'a TensorEntry>, ModelError> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        if tensor.shape != expected {
            return Err(ModelError::Shape {
                name: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.used.insert(name.to_owned());
        Ok(Some(tensor))
    }

    /// The same, of a tensor that must be there; of a matrix, with finite weights.
    pub(super) fn need(&mut self, name: &str, expected: &[usize]) -> Result<&'a TensorEntry, ModelError> {
        let tensor = self.find(name, expected)?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        let finite = match self.file.scales(tensor) {
            Some(scales) => exponents_are_finite(scales),
            None => are_finite(tensor.ty, self.file.data(tensor)),
        };
        if finite { Ok(tensor) } else { Err(ModelError::NotFinite(tensor.name.clone())) }
    }

    /// The bytes of a tensor were read for the last time.
    pub(super) fn finish(&mut self, tensor: &TensorEntry) {
        self.file.release(tensor);
        self.done += tensor.bytes as u64;
        (self.progress)(self.done, self.total);
    }

    /// Packs one matrix. `part` says which of the tensor, where it holds several.
    pub(super) fn pack(
        &mut self,
        tensor: &TensorEntry,
        part: &str,
        data: &[u8],
        (rows, cols): (usize, usize),
        order: Option<&[u32]>,
    ) -> Result<Linear, ModelError> {
        self.pack_as(tensor, part, data, (rows, cols), order, self.products)
    }

    fn pack_as(
        &mut self,
        tensor: &TensorEntry,
        part: &str,
        data: &[u8],
        (rows, cols): (usize, usize),
        order: Option<&[u32]>,
        products: Products,
    ) -> Result<Linear, ModelError> {
        let linear = Linear::new(tensor.ty, data, rows, cols, products, order)
            .map_err(|source| ModelError::Linear { name: tensor.name.clone(), source })?;
        self.packed.push(PackedTensor {
            name: format!("{}{part}", tensor.name),
            rows,
            cols,
            source_type: tensor.ty,
            format: linear.format(),
            bytes: linear.bytes(),
        });
        Ok(linear)
    }

    /// A matrix that is a tensor.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        order: Option<&[u32]>,
    ) -> Result<Linear, ModelError> {
        let tensor = self.need(name, &[rows, cols])?;
        let linear = self.pack(tensor, "", self.file.data(tensor), (rows, cols), order)?;
        self.finish(tensor);
        Ok(linear)
    }

    /// A matrix whose products are computed in f32 whatever the options say.
    pub(super) fn exact_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, ModelError> {
        let tensor = self.need(name, &[rows, cols])?;
        let linear = self.pack_as(tensor, "", self.file.data(tensor), (rows, cols), None, Products::F32)?;
        self.finish(tensor);
        Ok(linear)
    }

    /// Matrices of these numbers of rows that lie under one another in one tensor.
    pub(super) fn stacked<const N: usize>(
        &mut self,
        name: &str,
        rows: [usize; N],
        cols: usize,
    ) -> Result<[Linear; N], ModelError> {
        let total = rows.iter().sum();
        let tensor = self.need(name, &[total, cols])?;
        let data = self.file.data(tensor);
        let row_bytes = data.len() / total;
        let mut start = 0;
        let mut linears = Vec::with_capacity(N);
        for rows in rows {
            let part = format!(" [{start}..{}]", start + rows);
            let range = start * row_bytes..(start + rows) * row_bytes;
            linears.push(self.pack(tensor, &part, &data[range], (rows, cols), None)?);
            start += rows;
        }
        self.finish(tensor);
        // As many were pushed as there are in `rows`.
        linears.try_into().map_err(|_| ModelError::MissingTensor(name.to_owned()))
    }

    pub(super) fn vector(&mut self, name: &str, length: usize) -> Result<Option<Vec<f32>>, ModelError> {
        self.values(name, &[length])
    }

    /// The values of a small tensor.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.find(name, shape)? else { return Ok(None) };
        let values = decode(tensor, self.file.data(tensor))?;
        self.finish(tensor);
        Ok(Some(values))
    }

    pub(super) fn need_vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        self.vector(name, length)?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }

    /// The weight of a norm.
    pub(super) fn norm(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let mut weight = self.need_vector(name, length)?;
        let offset = self.file.config().architecture.norm_offset;
        if offset != 0.0 && self.file.gguf().is_none() {
            weight.iter_mut().for_each(|weight| *weight += offset);
        }
        Ok(weight)
    }

    /// A product with its bias, where the file has one.
    pub(super) fn projection(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        order: Option<&[u32]>,
    ) -> Result<Projection, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols, order)?;
        let bias = self.vector(&format!("{name}.bias"), rows)?.map(|bias| match order {
            Some(order) => order.iter().map(|&row| bias[row as usize]).collect(),
            None => bias,
        });
        Ok(Projection { weight, bias })
    }

    /// The bytes of one expert's matrix in a tensor `[experts, rows of tensor, cols]`, row by row in whole blocks.
    pub(super) fn expert_rows(
        &self,
        tensor: &TensorEntry,
        expert: usize,
        rows: Rows,
        count: usize,
    ) -> Result<Cow<'a, [u8]>, ModelError> {
        let broken = |source| ModelError::Linear { name: tensor.name.clone(), source };
        let (all_rows, cols) = (tensor.shape[1], tensor.shape[2]);
        let data = self.file.data(tensor);
        let scales = self.file.scales(tensor);
        if let (Rows::From(first), None) = (rows, scales) {
            let bytes = cols / tensor.ty.block_len() * tensor.ty.block_bytes();
            let first = expert * all_rows + first;
            return Ok(Cow::Borrowed(&data[first * bytes..(first + count) * bytes]));
        }
        let mut out = Vec::new();
        for i in 0..count {
            let row = expert * all_rows
                + match rows {
                    Rows::From(first) => first + i,
                    Rows::EverySecond(first) => first + 2 * i,
                };
            match scales {
                None => {
                    let bytes = cols / tensor.ty.block_len() * tensor.ty.block_bytes();
                    out.extend_from_slice(&data[row * bytes..][..bytes]);
                }
                Some(scales) => {
                    let blocks = cols / tensor.ty.block_len();
                    let codes = &data[row * blocks * 16..][..blocks * 16];
                    out.extend(mxfp4_blocks(codes, &scales[row * blocks..][..blocks]).map_err(broken)?);
                }
            }
        }
        Ok(Cow::Owned(out))
    }

    /// The bytes of one expert's matrix of floats in a tensor `[experts, cols, rows of tensor]`: turned over.
    pub(super) fn expert_turned(&self, tensor: &TensorEntry, expert: usize, rows: Rows, count: usize) -> Vec<u8> {
        let (cols, all_rows) = (tensor.shape[1], tensor.shape[2]);
        let size = tensor.ty.block_bytes();
        let bytes = cols * all_rows * size;
        let data = &self.file.data(tensor)[expert * bytes..][..bytes];
        let mut out = Vec::with_capacity(count * cols * size);
        for i in 0..count {
            let row = match rows {
                Rows::From(first) => first + i,
                Rows::EverySecond(first) => first + 2 * i,
            };
            for col in 0..cols {
                let at: Range<usize> = (col * all_rows + row) * size..(col * all_rows + row + 1) * size;
                out.extend_from_slice(&data[at]);
            }
        }
        out
    }

    /// Every tensor must have found its place: one that is ignored would make wrong logits.
    pub(super) fn check_all_used(&mut self) -> Result<(), ModelError> {
        let unknown = self.file.tensors().iter().find(|tensor| !self.used.contains(&tensor.canonical));
        if let Some(tensor) = unknown {
            return Err(ModelError::UnknownTensor {
                name: tensor.name.clone(),
                architecture: self.file.config().architecture.name(),
            });
        }
        if self.done < self.total {
            // Tensors that need no packing: rotary divisors, a second copy of the embedding.
            (self.progress)(self.total, self.total);
        }
        Ok(())
    }
}

/// Whether a type can be turned over: whether its blocks are single numbers.
pub(super) fn is_float(ty: GgmlType) -> bool {
    ty.block_len() == 1
}
