//! Attention of single tokens: which pages each sees, cut into parts.
//!
//! Where the pages of a head are cut follows from how many it has, and from nothing else, so that an answer is the same,
//! bit for bit, beside any other sequences.

use super::head::DeviceHead;
use super::{CudaStore, Shared, Staging};
use crate::device::{Address, DeviceError};
use crate::kernels::{self, Decode, Join, PageLayout, Part, part_numbers};
use chelsea_kv::PAGE;
use chelsea_kv::backend::{Asked, Attention};

/// Parts of a head's pages at most.
const MOST_PARTS: usize = 64;
/// Pages of a part are a multiple of this: each warp of a block has as many.
const WARPS: usize = 4;

/// A token and what it sees: the first `end` entries of each head, and of these the last of its window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The KV heads of its layer.
    pub heads: &'a [DeviceHead],
    /// The entries up to its own, itself included, counted from the back: 0 where it is the last.
    pub later: usize,
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
                plan.add(head, head.len() - row.later, query, window);
                query += group as u32;
            }
        }
        plan.firsts.push(plan.parts.len() as u32);
        plan
    }

    fn add(&mut self, head: &DeviceHead, end: usize, query: u32, window: Option<usize>) {
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

/// Answers one token of each sequence, whose queries lie in host memory.
pub(super) fn attend(
    shared: &Shared,
    stores: &[&CudaStore],
    asked: &mut [Asked<'_>],
    attention: &Attention<'_>,
) -> Result<(), DeviceError> {
    // Sequences may differ in how entries are stored.
    for ty in kernels::PageType::ALL {
        let of_type =
            |&i: &usize| stores[i].heads_of(asked[i].heads.clone()).first().is_some_and(|h| h.layout().ty == ty);
        let some: Vec<usize> = (0..asked.len()).filter(of_type).collect();
        if let Some(&first) = some.first() {
            let layout = stores[first].heads_of(asked[first].heads.clone())[0].layout();
            attend_some(shared, stores, asked, &some, layout, attention)?;
        }
    }
    Ok(())
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
    let rows: Vec<Row<'_>> =
        some.iter().map(|&i| Row { heads: stores[i].heads_of(asked[i].heads.clone()), later: 0 }).collect();
    let plan = Plan::of(&rows, group, window);
    let mut queries = Vec::new();
    for (&i, row) in some.iter().zip(&rows) {
        let of_heads = asked[i].q.chunks_exact(group * dim).zip(row.heads);
        for (q, head) in of_heads {
            match head.sizes() {
                Some(sizes) => {
                    queries.extend(q.chunks_exact(dim).flat_map(|q| q.iter().zip(sizes).map(|(q, size)| q * size)));
                }
                None => queries.extend_from_slice(q),
            }
        }
    }
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
    let join =
        Join { sums, firsts: base + firsts, sinks, out, dim: dim as u32, group: group as u32, q_heads, unused: 0 };
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
