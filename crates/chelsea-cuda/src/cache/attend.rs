//! Attention: which pages tokens see. Those of single tokens are cut into parts, so that many blocks share the work.
//!
//! Where the pages of a head are cut follows from how many it has, and from nothing else, so that an answer is the same,
//! bit for bit, beside any other sequences.

use super::head::DeviceHead;
use super::{CudaStore, Shared, Staging};
use crate::device::{Address, DeviceError};
use crate::kernels::{self, Decode, Join, PageLayout, Part, Prefill, Reach, part_numbers};
use chelsea_kv::PAGE;
use chelsea_kv::backend::{Asked, Attention};

/// Parts of a head's pages at most.
const MOST_PARTS: usize = 64;
/// Pages of a part are a multiple of this: each warp of a block has as many.
const WARPS: usize = 4;

/// A token that is the last entry of all heads of its layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The KV heads of its layer.
    pub heads: &'a [DeviceHead],
}

/// Lists for [`kernels::decode`] and [`kernels::join`], of one layer and any number of tokens.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub pages: Vec<u32>,
    pub parts: Vec<Part>,
    pub firsts: Vec<u32>,
}

impl Plan {
    /// The plan for `rows`, of which row `r` has query heads `r * q_heads..`.
    pub fn of(rows: &[Row<'_>], group: usize, window: Option<usize>) -> Self {
        let mut plan = Plan::default();
        let mut query = 0;
        for row in rows {
            for head in row.heads {
                plan.firsts.push(plan.parts.len() as u32);
                plan.add(head, query, window);
                query += group as u32;
            }
        }
        plan.firsts.push(plan.parts.len() as u32);
        plan
    }

    fn add(&mut self, head: &DeviceHead, query: u32, window: Option<usize>) {
        let end = head.len();
        let start = window.map_or(0, |window| end.saturating_sub(window));
        let seen = start / PAGE..end.div_ceil(PAGE);
        let place = self.pages.len();
        self.pages.extend(head.pages().skip(seen.start).take(seen.len()));
        let each = seen.len().div_ceil(MOST_PARTS).next_multiple_of(WARPS);
        for first in (0..seen.len()).step_by(each) {
            self.parts.push(Part {
                query,
                first: (place + first) as u32,
                count: each.min(seen.len() - first) as u32,
                hidden: if first == 0 { (start % PAGE) as u32 } else { 0 },
            });
        }
    }
}

/// The pages of some heads, and how far each reaches: lists for [`kernels::prefill`].
pub(crate) fn reaches(heads: &[DeviceHead]) -> (Vec<u32>, Vec<Reach>) {
    let mut pages = Vec::new();
    let reach = |head: &DeviceHead| {
        let first = pages.len() as u32;
        pages.extend(head.pages());
        Reach { first, entries: head.len() as u32 }
    };
    let reaches = heads.iter().map(reach).collect();
    (pages, reaches)
}

/// Answers sequences whose queries lie in host memory: those with one query together, the others one by one.
pub(super) fn attend(
    shared: &Shared,
    stores: &[&CudaStore],
    asked: &mut [Asked<'_>],
    attention: &Attention<'_>,
) -> Result<(), DeviceError> {
    // Sequences may differ in how entries are stored.
    for ty in kernels::PageType::ALL {
        let heads = |i: usize| stores[i].heads_of(asked[i].heads.clone());
        let of_type = |&i: &usize| heads(i).first().is_some_and(|head| head.layout().ty == ty) && asked[i].n > 0;
        let some: Vec<usize> = (0..asked.len()).filter(of_type).collect();
        let (single, several): (Vec<usize>, Vec<usize>) = some.iter().partition(|&&i| asked[i].n == 1);
        if let Some(&first) = single.first() {
            let layout = heads(first)[0].layout();
            attend_some(shared, stores, asked, &single, layout, attention)?;
        }
        for i in several {
            attend_several(shared, stores[i], &mut asked[i], attention)?;
        }
    }
    Ok(())
}

/// The queries of `asked`, multiplied by what the keys of their heads are stored divided by.
fn balanced(asked: &Asked<'_>, heads: &[DeviceHead], group: usize, queries: &mut Vec<f32>) {
    let Some(dim) = heads.first().map(|head| head.layout().dim) else { return };
    for (i, q) in asked.q.chunks_exact(group * dim).enumerate() {
        match heads[i % heads.len()].sizes() {
            Some(sizes) => {
                queries.extend(q.chunks_exact(dim).flat_map(|q| q.iter().zip(sizes).map(|(q, size)| q * size)))
            }
            None => queries.extend_from_slice(q),
        }
    }
}

fn attend_several(
    shared: &Shared,
    store: &CudaStore,
    asked: &mut Asked<'_>,
    attention: &Attention<'_>,
) -> Result<(), DeviceError> {
    let Attention { group, scale, window, sinks } = *attention;
    let heads = store.heads_of(asked.heads.clone());
    let Some(layout) = heads.first().map(DeviceHead::layout) else { return Ok(()) };
    let mut queries = Vec::new();
    balanced(asked, heads, group, &mut queries);
    let (pages, reaches) = reaches(heads);
    let mut staging = shared.staging();
    let Staging { tables, out, .. } = &mut *staging;
    let device = &shared.device;
    tables.begin();
    let (pages, reaches, q) = (tables.put(&pages), tables.put(&reaches), tables.put(&queries));
    let sinks = sinks.map(|sinks| tables.put(sinks));
    let base = tables.send(device)?;
    let out = out.room(device, queries.len() * 4)?;
    let stride = (heads.len() * group * layout.dim) as u32;
    let prefill = Prefill {
        pool: shared.slab.start(),
        pages: base + pages,
        reaches: base + reaches,
        queries: base + q,
        sinks: sinks.map_or(0, |sinks| base + sinks),
        out,
        dim: layout.dim as u32,
        group: group as u32,
        tokens: asked.n as u32,
        stride,
        out_stride: stride,
        window: window.unwrap_or(0) as u32,
        scale,
        unused: 0,
    };
    kernels::prefill(&**device, layout.ty, heads.len(), &prefill)?;
    device.read(out, bytemuck::cast_slice_mut(asked.out))
}

fn attend_some(
    shared: &Shared,
    stores: &[&CudaStore],
    asked: &mut [Asked<'_>],
    some: &[usize],
    layout: PageLayout,
    attention: &Attention<'_>,
) -> Result<(), DeviceError> {
    let Attention { group, scale, window, sinks } = *attention;
    let dim = layout.dim;
    let rows: Vec<Row<'_>> = some.iter().map(|&i| Row { heads: stores[i].heads_of(asked[i].heads.clone()) }).collect();
    let plan = Plan::of(&rows, group, window);
    let mut queries = Vec::new();
    some.iter().zip(&rows).for_each(|(&i, row)| balanced(&asked[i], row.heads, group, &mut queries));
    let mut staging = shared.staging();
    let Staging { tables, sums, out } = &mut *staging;
    let device = &shared.device;
    tables.begin();
    let [pages, parts] = [tables.put(&plan.pages), tables.put(&plan.parts)];
    let (firsts, q) = (tables.put(&plan.firsts), tables.put(&queries));
    let sinks = sinks.map(|sinks| tables.put(sinks));
    let base = tables.send(device)?;
    let sums = sums.room(device, plan.parts.len() * part_numbers(dim) * 4)?;
    let out = out.room(device, queries.len() * 4)?;
    let decode = Decode {
        pool: shared.slab.start(),
        pages: base + pages,
        parts: base + parts,
        queries: base + q,
        sums,
        dim: dim as u32,
        group: group as u32,
        scale,
        unused: 0,
    };
    kernels::decode(&**device, layout.ty, plan.parts.len(), &decode)?;
    let q_heads = (rows.first().map_or(0, |row| row.heads.len()) * group) as u32;
    let sinks = sinks.map_or(0, |sinks: Address| base + sinks);
    let join = Join {
        sums,
        firsts: base + firsts,
        sinks,
        out,
        bytes: 0,
        scales: 0,
        dim: dim as u32,
        group: group as u32,
        q_heads,
        unused: 0,
    };
    kernels::join(&**device, queries.len() / dim, &join)?;
    let mut answers = vec![0.0f32; queries.len()];
    device.read(out, bytemuck::cast_slice_mut(&mut answers))?;
    let mut answers = &answers[..];
    for &i in some {
        let (own, rest) = answers.split_at(asked[i].out.len());
        asked[i].out.copy_from_slice(own);
        answers = rest;
    }
    Ok(())
}
