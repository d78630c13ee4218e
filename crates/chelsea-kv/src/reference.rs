//! The backend by definition: every entry a row of `f32`, every formula as it is written down. Slow, and easy to check; the
//! other backends are held against it.

use crate::attention::Attention;
use crate::backend::{Asked, Backend, Block, Change, Store};
use crate::merge::EVICT;
use crate::pool::{Lease, Reservation};
use crate::scratch::ScratchMeter;
use crate::{Dims, Dtype, Head, LayerSpec};
use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Entries one by one in `f32`, the only number type it has; sums in `f64`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

/// One entry. Forks share it; it is never changed.
#[derive(Debug)]
struct Entry {
    key: Vec<f32>,
    value: Vec<f32>,
    count: u32,
    position: f32,
    /// What it is charged with.
    _lease: Lease,
}

/// One KV head.
#[derive(Debug, Clone)]
struct Entries {
    dims: Dims,
    entries: Vec<Arc<Entry>>,
}

#[derive(Debug, Clone)]
struct ReferenceStore {
    heads: Vec<Entries>,
}

/// Bytes that an entry with a key and a value of these sizes is charged with.
fn entry_bytes(dims: Dims) -> usize {
    size_of::<Entry>() + (dims.key + dims.value) * size_of::<f32>()
}

impl Entries {
    fn entry(&self, key: &[f32], value: &[f32], count: u32, position: f32, reserved: &Reservation) -> Arc<Entry> {
        let lease = reserved.take(entry_bytes(self.dims));
        Arc::new(Entry { key: key.to_vec(), value: value.to_vec(), count, position, _lease: lease })
    }

    /// The mean of `members`, weighted by their counts.
    fn mean(&self, members: &[&Entry], reserved: &Reservation) -> Arc<Entry> {
        let total: u32 = members.iter().map(|entry| entry.count).sum();
        let mean = |number: &dyn Fn(&Entry) -> f32| {
            let sum: f64 = members.iter().map(|entry| f64::from(entry.count) * f64::from(number(entry))).sum();
            (sum / f64::from(total)) as f32
        };
        let key: Vec<f32> = (0..self.dims.key).map(|i| mean(&|entry| entry.key[i])).collect();
        let value: Vec<f32> = (0..self.dims.value).map(|i| mean(&|entry| entry.value[i])).collect();
        self.entry(&key, &value, total, mean(&|entry| entry.position), reserved)
    }

    /// `softmax(scale q . k + ln count) . v` over the entries `seen`, with an optional sink in the denominator.
    fn attend(&self, seen: &[Arc<Entry>], q: &[f32], scale: f32, sink: Option<f32>, out: &mut [f32]) {
        let score = |entry: &Arc<Entry>| {
            let product: f64 = q.iter().zip(&entry.key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            f64::from(scale) * product + f64::from(entry.count).ln()
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let sink = sink.map(f64::from);
        let top = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().copied().chain(sink).map(|score| (score - top).exp()).sum();
        for (i, out) in out.iter_mut().enumerate() {
            let weighted = seen.iter().zip(&scores).map(|(entry, s)| (s - top).exp() * f64::from(entry.value[i]));
            *out = (weighted.sum::<f64>() / total) as f32;
        }
    }
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn supports(&self, dtype: Dtype) -> bool {
        dtype == Dtype::F32
    }

    fn import(&self, heads: Vec<Head>, _reserved: &Reservation) -> Box<dyn Store> {
        let import = |head: &Head| {
            let mut entries = Entries { dims: head.dims(), entries: Vec::new() };
            let (mut key, mut value) = (vec![0.0; head.key_dim()], vec![0.0; head.value_dim()]);
            for i in 0..head.len() {
                head.read_key(i, &mut key);
                head.read_value(i, &mut value);
                let entry = entries.entry(&key, &value, head.count(i), head.position(i), &Reservation::unbound());
                entries.entries.push(entry);
            }
            entries
        };
        Box::new(ReferenceStore { heads: heads.iter().map(import).collect() })
    }

    fn attend(&self, asked: &mut [Asked<'_>], attention: &Attention<'_>) {
        let Attention { group, scale, window, sinks } = *attention;
        for Asked { store, heads, q, n, out } in asked {
            let heads = &own(*store).heads[heads.clone()];
            let dims = heads[0].dims;
            for t in 0..*n {
                for h in 0..heads.len() * group {
                    let head = &heads[h / group];
                    let last = head.entries.len() - *n + t + 1;
                    let first = window.map_or(0, |window| last.saturating_sub(window));
                    let row = t * heads.len() * group + h;
                    let query = &q[row * dims.key..][..dims.key];
                    let sink = sinks.map(|sinks| sinks[h]);
                    let out = &mut out[row * dims.value..][..dims.value];
                    head.attend(&head.entries[first..last], query, scale, sink, out);
                }
            }
        }
    }
}

/// The entries of `store`, which is one of this backend.
fn own(store: &dyn Store) -> &ReferenceStore {
    store.as_any().downcast_ref().expect("a cache asks the backend that made its store")
}

impl Store for ReferenceStore {
    fn heads(&self) -> usize {
        self.heads.len()
    }

    fn len(&self, g: usize) -> usize {
        self.heads[g].entries.len()
    }

    fn bytes(&self, g: usize) -> usize {
        let Entries { dims, entries } = &self.heads[g];
        entries.len() * entry_bytes(*dims)
    }

    fn shared_bytes(&self, g: usize) -> usize {
        let Entries { dims, entries } = &self.heads[g];
        entries.iter().filter(|entry| Arc::strong_count(entry) > 1).count() * entry_bytes(*dims)
    }

    fn bytes_to_append(&self, heads: Range<usize>, n: usize) -> usize {
        self.heads[heads].iter().map(|head| n * entry_bytes(head.dims)).sum()
    }

    fn append(&mut self, heads: Range<usize>, layer: &LayerSpec, block: Block<'_>, reserved: &Reservation) {
        let LayerSpec { kv_heads, key_dim, value_dim, .. } = *layer;
        for (h, head) in self.heads[heads].iter_mut().enumerate() {
            for t in 0..block.n {
                let key = &block.k[(t * kv_heads + h) * key_dim..][..key_dim];
                let value = &block.v[(t * kv_heads + h) * value_dim..][..value_dim];
                let entry = head.entry(key, value, 1, (block.first + t) as f32, reserved);
                head.entries.push(entry);
            }
        }
    }

    fn slide(&mut self, heads: Range<usize>, window: usize) {
        for head in &mut self.heads[heads] {
            head.entries.drain(..head.entries.len().saturating_sub(window - 1));
        }
    }

    fn bytes_to_change(&self, g: usize, _from: usize, candidates: usize) -> (usize, usize) {
        // A mean for at most every second candidate.
        (candidates / 2 * entry_bytes(self.heads[g].dims), 0)
    }

    fn apply(&mut self, changes: &[Change<'_>], _idle: usize, _scratch: &ScratchMeter, reserved: &Reservation) {
        for Change { head, range, roots } in changes {
            let head = &mut self.heads[*head];
            let before = head.entries.clone();
            let candidates = &before[range.clone()];
            let survivors = (0..roots.len()).filter(|&i| roots[i] != EVICT && roots[i] as usize == i);
            let merged = survivors.map(|i| {
                let joined = (0..roots.len()).filter(|&j| roots[j] as usize == i && roots[j] != EVICT);
                let members: Vec<&Entry> = joined.map(|j| &*candidates[j]).collect();
                if members.len() == 1 { candidates[i].clone() } else { head.mean(&members, reserved) }
            });
            let merged: Vec<Arc<Entry>> = merged.collect();
            head.entries.splice(range.clone(), merged);
        }
    }

    fn bytes_to_truncate(&self, _n: usize) -> usize {
        0
    }

    fn truncate(&mut self, n: usize, _reserved: &Reservation) {
        self.heads.iter_mut().for_each(|head| head.entries.truncate(head.entries.len().saturating_sub(n)));
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }

    fn export(&self) -> Cow<'_, [Head]> {
        let export = |entries: &Entries| {
            let mut head = Head::new(entries.dims, Dtype::F32);
            entries.entries.iter().for_each(|e| head.push(&e.key, &e.value, e.count, e.position));
            head
        };
        Cow::Owned(self.heads.iter().map(export).collect())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
