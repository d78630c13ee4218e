//! GGUF, the container of quantised models: header, metadata, table of tensors.
//!
//! Versions 2 and 3, little-endian. Nothing here trusts a byte of the file: lengths and counts are
//! checked against what is left before anything is read or allocated, arithmetic is checked, and each
//! mistake has its own [`GgufError`]. Memory taken is bounded by the size of the header itself; tensor
//! data is never copied, only located.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod error;
mod metadata;
mod split;

use std::collections::HashMap;

use chelsea_linear::GgmlType;

use cursor::Cursor;
pub use error::GgufError;
pub use metadata::{Metadata, Numbers, Scalar, Strings, Value};
pub(crate) use split::{Split, is_later_part};

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// The tensor whose rows are the vocabulary.
pub(crate) const EMBEDDING: &str = "token_embd.weight";
/// The format allows four dimensions.
const MAX_DIMS: u32 = 4;

/// Where a tensor lies in the file, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes, innermost first: a matrix of `rows` by `cols` is `[cols, rows]`.
    pub dims: Vec<u64>,
    /// Block type of the data.
    pub ty: GgmlType,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes; `offset + bytes` lies inside the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of weights.
    pub fn elements(&self) -> u64 {
        // The product was checked when the table was read.
        self.dims.iter().product()
    }

    /// The bytes of this tensor in the file it was parsed from (empty in any other, shorter file).
    pub fn data<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        let end = self.offset + self.bytes;
        file.get(self.offset as usize..end as usize).unwrap_or(&[])
    }
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// Version of the container.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Reads the header of a file; `file` is the whole file, so that tensor data can be checked to lie inside.
    ///
    /// # Errors
    /// [`GgufError`] for anything that is not a complete, well-formed file of a supported version.
    pub fn parse(file: &[u8]) -> Result<Gguf, GgufError> {
        let mut cursor = Cursor::new(file);
        if !file.starts_with(MAGIC) {
            return Err(GgufError::Magic { found: file[..file.len().min(4)].to_vec() });
        }
        cursor.take(MAGIC.len() as u64, || "the magic".into())?;
        let version = cursor.u32(|| "the version".into())?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
            _ => return Err(GgufError::Version(version)),
        }
        // Least size of a tensor entry: name length, number of dimensions, type, offset.
        let tensor_count = cursor.count(8 + 4 + 4 + 8, || "the table of tensors".into())?;
        // Least size of a metadata entry: key length, type, one byte of value.
        let key_count = cursor.count(8 + 4 + 1, || "the metadata".into())?;

        let metadata = read_metadata(&mut cursor, key_count)?;
        let alignment = metadata.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(GgufError::Alignment(alignment));
        }

        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for index in 0..tensor_count {
            let tensor = read_tensor(&mut cursor, index)?;
            if by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(GgufError::Duplicate { what: "tensor", name: tensor.name });
            }
            tensors.push(tensor);
        }

        let data_start = (cursor.offset() as u64).next_multiple_of(alignment);
        let file_len = file.len() as u64;
        for tensor in &mut tensors {
            place(tensor, data_start, alignment, file_len)?;
        }
        Ok(Gguf { version, metadata, tensors, by_name })
    }

    /// All tensors, in the order of the file's table.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// Rows of the embedding, if this file has it.
    pub fn embedding_rows(&self) -> Option<usize> {
        self.tensor(EMBEDDING).map(|embedding| embedding.dims.get(1).map_or(0, |&rows| rows as usize))
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = cursor.str(|| format!("metadata key {index} of {count}"))?;
        let id = cursor.u32(|| format!("the type of metadata key `{key}`"))?;
        let value = Value::read(cursor, key, id)?;
        if metadata.values.insert(key.to_owned(), value).is_some() {
            return Err(GgufError::Duplicate { what: "metadata key", name: key.to_owned() });
        }
    }
    Ok(metadata)
}

/// Reads an entry of the table of tensors; `offset` is still relative to the data section.
fn read_tensor(cursor: &mut Cursor<'_>, index: usize) -> Result<TensorInfo, GgufError> {
    let name = cursor.str(|| format!("the name of tensor {index}"))?.to_owned();
    let what = || format!("the entry of tensor `{name}`");
    let shape_error = |dims: &[u64], why: String| GgufError::Shape { tensor: name.clone(), dims: dims.to_vec(), why };

    let dim_count = cursor.u32(what)?;
    if dim_count == 0 || dim_count > MAX_DIMS {
        return Err(shape_error(&[], format!("{dim_count} dimensions, the format allows 1 to {MAX_DIMS}")));
    }
    let mut dims = Vec::with_capacity(dim_count as usize);
    for _ in 0..dim_count {
        dims.push(cursor.u64(what)?);
    }
    let id = cursor.u32(what)?;
    let offset = cursor.u64(what)?;

    let ty = GgmlType::from_id(id).map_err(|source| GgufError::TensorType {
        tensor: name.clone(),
        source,
        supported: GgmlType::ALL.map(GgmlType::name).join(", "),
    })?;
    let elements = dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .filter(|&n| n > 0)
        .ok_or_else(|| shape_error(&dims, "its number of weights is zero or overflows".into()))?;
    let block = ty.block_len() as u64;
    if !dims[0].is_multiple_of(block) {
        return Err(shape_error(&dims, format!("rows of {} must be whole blocks of {block}", ty.name())));
    }
    let bytes = (elements / block)
        .checked_mul(ty.block_bytes() as u64)
        .ok_or_else(|| shape_error(&dims, "its size in bytes overflows".into()))?;
    Ok(TensorInfo { name, dims, ty, offset, bytes })
}

/// Makes the offset of a tensor absolute, and checks that its data lies inside the file.
fn place(tensor: &mut TensorInfo, data_start: u64, alignment: u64, file_len: u64) -> Result<(), GgufError> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(GgufError::Unaligned { tensor: tensor.name.clone(), offset: tensor.offset, alignment });
    }
    let start = data_start.saturating_add(tensor.offset);
    if start.checked_add(tensor.bytes).is_none_or(|end| end > file_len) {
        return Err(GgufError::Truncated {
            what: format!("the data of tensor `{}`", tensor.name),
            offset: start,
            needed: tensor.bytes,
            left: file_len.saturating_sub(start),
        });
    }
    tensor.offset = start;
    Ok(())
}
