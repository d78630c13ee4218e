//! The backend on CPUs: heads in pages, and the attention kernels over them.

use crate::attention::{self, Attention, Request};
use crate::backend::{Asked, Backend, Block, Change, Store};
use crate::merge::{merge_from, scratch_bytes};
use crate::pool::Reservation;
use crate::scratch::ScratchMeter;
use crate::{Dtype, Head, LayerSpec, PAGE};
use rayon::prelude::*;
use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;

/// Tokens of a block from which a layer's heads are filled in parallel.
const PARALLEL_TOKENS: usize = 64;

/// Entries in pages of host memory, attention by the fastest kernels of this processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn supports(&self, _dtype: Dtype) -> bool {
        true
    }

    fn import(&self, heads: Vec<Head>, _reserved: &Reservation) -> Box<dyn Store> {
        Box::new(CpuStore { heads })
    }

    fn attend(&self, asked: &mut [Asked<'_>], attention: &Attention<'_>) {
        // A store of this backend lends its heads; one of another would be copied out, slowly, and give the same.
        let heads: Vec<Cow<'_, [Head]>> = asked.iter().map(|one| one.store.export()).collect();
        let requests = asked.iter_mut().zip(&heads);
        let mut requests: Vec<Request<'_>> = requests
            .map(|(one, heads)| Request { heads: &heads[one.heads.clone()], q: one.q, n: one.n, out: one.out })
            .collect();
        attention::attend_batch(&mut requests, attention);
    }
}

#[derive(Debug)]
struct CpuStore {
    heads: Vec<Head>,
}

impl Store for CpuStore {
    fn heads(&self) -> usize {
        self.heads.len()
    }

    fn len(&self, g: usize) -> usize {
        self.heads[g].len()
    }

    fn bytes(&self, g: usize) -> usize {
        let head = &self.heads[g];
        head.pages_held() * head.page_bytes()
    }

    fn shared_bytes(&self, g: usize) -> usize {
        let head = &self.heads[g];
        head.pages().iter().filter(|page| page.is_shared()).count() * head.page_bytes()
    }

    fn bytes_to_append(&self, heads: Range<usize>, n: usize) -> usize {
        self.heads[heads].iter().map(|head| head.bytes_to_extend(n)).sum()
    }

    fn append(&mut self, heads: Range<usize>, layer: &LayerSpec, block: Block<'_>, reserved: &Reservation) {
        let Block { k, v, n, first } = block;
        let strides = layer.widths();
        let extend = |(h, head): (usize, &mut Head)| {
            let keys = &k[(h * layer.key_dim).min(k.len())..];
            let values = &v[(h * layer.value_dim).min(v.len())..];
            if Head::weighs(head.dtype(), first) {
                head.weigh(keys, strides.key, n, first, &layer.rotary, reserved);
            }
            head.extend_from(keys, values, strides, n, first, reserved);
        };
        let heads = &mut self.heads[heads];
        if n >= PARALLEL_TOKENS {
            heads.par_iter_mut().enumerate().for_each(extend);
        } else {
            heads.iter_mut().enumerate().for_each(extend);
        }
    }

    fn slide(&mut self, heads: Range<usize>, window: usize) {
        self.heads[heads].iter_mut().for_each(|head| head.slide(window));
    }

    fn bytes_to_change(&self, g: usize, from: usize, candidates: usize) -> (usize, usize) {
        let head = &self.heads[g];
        (head.bytes_to_rewrite(from), scratch_bytes(candidates, head.dims()))
    }

    fn apply(&mut self, changes: &[Change<'_>], idle: usize, scratch: &ScratchMeter, reserved: &Reservation) {
        self.heads.iter_mut().for_each(|head| head.limit_idle_pages(idle / PAGE));
        let mut of_heads: Vec<Option<&Change<'_>>> = vec![None; self.heads.len()];
        changes.iter().for_each(|change| of_heads[change.head] = Some(change));
        self.heads.par_iter_mut().zip(of_heads).for_each(|(head, change)| {
            if let Some(Change { range, roots, .. }) = change {
                merge_from(head, range.clone(), roots, scratch, reserved);
            }
        });
    }

    fn bytes_to_truncate(&self, n: usize) -> usize {
        self.heads.iter().map(|head| head.bytes_to_truncate(head.len().saturating_sub(n))).sum()
    }

    fn truncate(&mut self, n: usize, reserved: &Reservation) {
        for head in &mut self.heads {
            head.truncate_from(head.len().saturating_sub(n), reserved);
            if head.is_empty() {
                // How large keys are is found out anew.
                head.set_form(None);
            }
        }
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(CpuStore { heads: self.heads.clone() })
    }

    fn export(&self) -> Cow<'_, [Head]> {
        Cow::Borrowed(&self.heads)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
