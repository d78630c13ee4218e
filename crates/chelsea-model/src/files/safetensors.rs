//! Safetensors models: one file or several shards, beside a `config.json`.
//!
//! The header is checked by the `safetensors` crate (sizes against the file, no overlap, no gap); shard names
//! come from foreign JSON and may only name files of the same folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use chelsea_kv::Mapped;
use chelsea_linear::GgmlType;
use serde::Deserialize;

use super::{FileError, Scales, TensorEntry};

/// Name of a model in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the table of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Ends of the canonical names of MXFP4 tensors' halves, and of their whole.
const BLOCKS: &str = ".blocks";
const SCALES: &str = ".scales";
const WEIGHT: &str = ".weight";

/// The part of the index this reader uses.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The weight files of a model: the one given, or those that the index of the folder names.
pub(crate) fn weight_files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let single = path.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index_path = path.join(INDEX);
    let text = fs::read_to_string(&index_path).map_err(|source| FileError::Io { path: index_path.clone(), source })?;
    let broken = |why: String| FileError::Broken { path: index_path.clone(), why };
    let index: Index = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(broken("the index names no files".into()));
    }
    shards
        .into_iter()
        .map(|shard| {
            let plain = !shard.contains(['/', '\\', ':']) && shard != ".." && shard != ".";
            match plain {
                true => Ok(path.join(shard)),
                false => Err(broken(format!("`{shard}` is not the name of a file in this folder"))),
            }
        })
        .collect()
}

/// A tensor of bytes that are no numbers by themselves: one half of a tensor of blocks.
#[derive(Debug)]
struct Half {
    name: String,
    shape: Vec<usize>,
    file: usize,
    offset: usize,
    bytes: usize,
}

/// Tensors of one or more files, by canonical name.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    whole: Vec<TensorEntry>,
    /// Blocks and scales of MXFP4 tensors.
    halves: BTreeMap<String, Half>,
}

impl Tensors {
    /// Reads the header of file number `file`. `canonical` gives each name the one that this crate knows it by, or none
    /// to pass over it.
    pub(crate) fn read(
        &mut self,
        path: &Path,
        mapped: &Mapped,
        file: usize,
        canonical: impl Fn(&str) -> Option<String>,
    ) -> Result<(), FileError> {
        let broken = |why: String| FileError::Broken { path: path.to_path_buf(), why };
        let (header, metadata) = SafeTensors::read_metadata(mapped).map_err(|error| broken(explain(&error)))?;
        // Eight bytes of length, the header, the data.
        let data_start = 8 + header;
        for (name, info) in metadata.tensors() {
            let Some(canonical) = canonical(&name) else { continue };
            let (start, end) = info.data_offsets;
            let (shape, offset, bytes) = (info.shape.clone(), data_start + start, end - start);
            let ty = match info.dtype {
                Dtype::F32 => GgmlType::F32,
                Dtype::F16 => GgmlType::F16,
                Dtype::BF16 => GgmlType::BF16,
                Dtype::U8 if canonical.ends_with(BLOCKS) || canonical.ends_with(SCALES) => {
                    let half = Half { name, shape, file, offset, bytes };
                    if let Some(twin) = self.halves.insert(canonical, half) {
                        return Err(broken(format!("tensor `{}` appears twice", twin.name)));
                    }
                    continue;
                }
                other => {
                    return Err(broken(format!(
                        "tensor `{name}` has the unsupported type {other:?}; supported: F32, F16, BF16, and MXFP4 as \
                         `_blocks` and `_scales`"
                    )));
                }
            };
            self.whole.push(TensorEntry { canonical, shape, ty, file, offset, bytes, name, scales: None });
        }
        Ok(())
    }

    /// All of them, blocks and scales put together, in order of their names: headers are JSON objects, whose order is
    /// not kept.
    pub(crate) fn finish(mut self, path: &Path) -> Result<Vec<TensorEntry>, FileError> {
        let broken = |why: String| FileError::Broken { path: path.to_path_buf(), why };
        let names: Vec<String> = self.halves.keys().filter(|name| name.ends_with(BLOCKS)).cloned().collect();
        for name in names {
            let stem = name.trim_end_matches(BLOCKS);
            let (Some(blocks), scales) = (self.halves.remove(&name), self.halves.remove(&format!("{stem}{SCALES}")))
            else {
                continue;
            };
            let scales = scales.ok_or_else(|| broken(format!("tensor `{}` has no scales beside it", blocks.name)))?;
            // [.., rows, blocks a row, 16] and [.., rows, blocks a row] are [.., rows, columns].
            let mut shape = scales.shape.clone();
            let fits = blocks.shape.split_last() == Some((&16, &scales.shape[..]));
            match shape.last_mut() {
                Some(columns) if fits => *columns *= 32,
                _ => {
                    return Err(broken(format!(
                        "tensors `{}` {:?} and `{}` {:?} do not belong together",
                        blocks.name, blocks.shape, scales.name, scales.shape
                    )));
                }
            }
            self.whole.push(TensorEntry {
                canonical: format!("{stem}{WEIGHT}"),
                name: blocks.name,
                shape,
                ty: GgmlType::MXFP4,
                bytes: blocks.bytes + scales.bytes,
                file: blocks.file,
                offset: blocks.offset,
                scales: Some(Scales { file: scales.file, offset: scales.offset, bytes: scales.bytes }),
            });
        }
        if let Some(alone) = self.halves.into_values().next() {
            return Err(broken(format!("tensor `{}` has no blocks beside it", alone.name)));
        }
        self.whole.sort_by(|a, b| a.canonical.cmp(&b.canonical));
        Ok(self.whole)
    }
}

/// The crate's errors, with what to do about them.
fn explain(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => {
            format!("the file is truncated or damaged ({error}); fetch it again")
        }
        SafeTensorError::HeaderTooLarge => {
            format!("not a safetensors file: its header would be absurdly long ({error})")
        }
        other => format!("not a valid safetensors file: {other}"),
    }
}
