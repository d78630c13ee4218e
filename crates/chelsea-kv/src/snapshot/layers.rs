//! The layers of a snapshot's cache, in its header.
//!
//! First the rotary embeddings that layers have (a number, then for each the factor on cosine and sine and a list of
//! frequencies), then the layers (a number, then for each query heads, KV heads, numbers of a key and of a value, factor on
//! scores, window or 0 for none, and which of the rotary embeddings).

use super::SnapshotError;
use super::fields::{Reader, Writer};
use super::header::{ensure, limit};
use crate::{CacheShape, LayerSpec, Rotary};
use std::sync::Arc;

/// Most numbers that the keys of one token may have over all heads: a hundred times those of the largest
/// models.
const MAX_KEY_NUMBERS: u64 = 1 << 24;
/// Bytes of a layer.
const LAYER: usize = 28;

/// Writes `layers`.
pub(super) fn encode_layers(layers: &[LayerSpec], out: &mut Writer) {
    let mut rotaries: Vec<&Rotary> = Vec::new();
    for layer in layers {
        if !rotaries.contains(&&*layer.rotary) {
            rotaries.push(&layer.rotary);
        }
    }
    out.u32(rotaries.len() as u32);
    for rotary in &rotaries {
        out.f32(rotary.scale);
        out.u32(rotary.inv_freq.len() as u32);
        rotary.inv_freq.iter().for_each(|&x| out.f32(x));
    }
    out.u32(layers.len() as u32);
    for layer in layers {
        let sizes = [layer.q_heads, layer.kv_heads, layer.key_dim, layer.value_dim];
        sizes.iter().for_each(|&n| out.u32(n as u32));
        out.f32(layer.scale);
        out.u32(layer.window.unwrap_or(0) as u32);
        out.u32(rotaries.iter().position(|&rotary| *rotary == *layer.rotary).unwrap_or(0) as u32);
    }
}

/// Reads layers and checks them.
pub(super) fn decode_layers(fields: &mut Reader<'_>) -> Result<CacheShape, SnapshotError> {
    let mut rotaries = Vec::new();
    for _ in 0..fields.size32()? {
        let (scale, inv_freq) = (fields.f32()?, fields.list(4, Reader::f32)?);
        let finite = scale.is_finite() && inv_freq.iter().all(|x| x.is_finite());
        ensure(finite, || "a rotary frequency is not finite".into())?;
        rotaries.push(Arc::new(Rotary { inv_freq, scale }));
    }
    let layers = fields.list(LAYER, |fields| {
        let (q_heads, kv_heads) = (fields.size32()?, fields.size32()?);
        let (key_dim, value_dim, scale) = (fields.size32()?, fields.size32()?, fields.f32()?);
        let (window, rotary) = (fields.size32()?, fields.size32()?);
        let Some(rotary) = rotaries.get(rotary).cloned() else {
            return Err(SnapshotError::Inconsistent(format!("there is no rotary embedding {rotary}")));
        };
        let window = (window > 0).then_some(window);
        Ok(LayerSpec { q_heads, kv_heads, key_dim, value_dim, scale, window, rotary })
    })?;
    check_layers(&layers)?;
    CacheShape::new(layers).map_err(|error| SnapshotError::Inconsistent(error.to_string()))
}

/// Holds layers to sizes that a model could have.
pub(super) fn check_layers(layers: &[LayerSpec]) -> Result<(), SnapshotError> {
    let mut totals = [0u64; 3];
    for layer in layers {
        let numbers = [
            layer.kv_heads as u64 * layer.key_dim as u64,
            layer.kv_heads as u64 * layer.value_dim as u64,
            layer.q_heads as u64 * layer.key_dim as u64,
        ];
        totals.iter_mut().zip(numbers).for_each(|(total, numbers)| *total = total.saturating_add(numbers));
    }
    limit("the numbers of one token's keys", totals[0], MAX_KEY_NUMBERS)?;
    limit("the numbers of one token's values", totals[1], MAX_KEY_NUMBERS)?;
    limit("the numbers of one token's queries", totals[2], MAX_KEY_NUMBERS)
}
