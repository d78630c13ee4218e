//! Attention over weighted entries: `softmax(q . k * scale + ln count) . v`.
//!
//! # Shapes
//!
//! The caller gives the KV heads of one layer (ragged: each with its own number of entries) and `n`
//! queries that belong to the last `n` entries of every head. Queries and outputs are
//! `[n, heads * group, d]`; query head `h` reads KV head `h / group`. Attention is causal: query `i`
//! sees entries `0 ..= len - n + i`. Several sequences can be attended in one call ([`attend_batch`]).
//!
//! # How it works
//!
//! `plan` cuts the work into items: a block of rows (query heads that share a KV head, times
//! tokens) over a range of pages. `block` runs one item: page by page, scores from the transposed
//! key tiles, an online softmax, and the weighted sum of values, both products by the
//! register-blocked `product`. Decode and prefill differ only in how many rows a block has. Each
//! page is read from memory once for all query heads that share it. Items over different pages of the
//! same rows are merged at the end. The kernel is written once over the vector operations of `simd`
//! and compiled for each [`Isa`]; [`mod@reference`] is the definition it is tested against.
//!
//! Sums are kept in f32. Work is spread over the current rayon pool; a call allocates nothing once
//! the buffers of its threads have grown to the shapes in use.

mod block;
mod isa;
#[cfg(target_arch = "x86_64")]
mod matrix;
mod plan;
mod product;
pub mod reference;
mod simd;

pub use isa::Isa;

use crate::Head;
use block::{Block, Job, Scratch, Sums};
use plan::{Plan, RowBlock};
use rayon::prelude::*;
use std::cell::{Cell, RefCell};

/// One sequence's share of a call: its KV heads of one layer, its queries, and where the outputs go.
#[derive(Debug)]
pub struct Request<'a> {
    /// KV heads of one layer.
    pub heads: &'a [Head],
    /// Queries, `[n, heads * group, d]`.
    pub q: &'a [f32],
    /// Number of queries of each query head; they belong to the last `n` entries.
    pub n: usize,
    /// Outputs, shaped like the queries.
    pub out: &'a mut [f32],
}

/// Attention of `n` queries over the `heads` of one layer.
///
/// `q` and `out` are `[n, heads.len() * group, d]`; scores are multiplied by `scale` (usually
/// `1 / sqrt(d)`) before `ln count` is added.
///
/// # Panics
/// If the lengths of `q` and `out` do not fit the shapes, the heads differ in head size, or a head has
/// fewer than `n` entries.
pub fn attend(heads: &[Head], q: &[f32], n: usize, group: usize, scale: f32, out: &mut [f32]) {
    attend_with(Isa::best(), &mut [Request { heads, q, n, out }], group, scale);
}

/// Attention for several sequences at once, each with its own heads: as many calls of [`attend`], but
/// balanced over the threads together.
///
/// # Panics
/// As [`attend`].
pub fn attend_batch(requests: &mut [Request<'_>], group: usize, scale: f32) {
    attend_with(Isa::best(), requests, group, scale);
}

thread_local! {
    static WORKSPACE: Cell<Workspace> = Cell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a calling thread.
#[derive(Default)]
struct Workspace {
    plan: Plan,
    sums: Vec<f32>,
}

/// [`attend_batch`] on a given instruction set, for tests and benchmarks.
///
/// # Panics
/// As [`attend`], and if this machine does not have `isa`.
pub fn attend_with(isa: Isa, requests: &mut [Request<'_>], group: usize, scale: f32) {
    assert!(isa.is_available(), "{isa:?} is not available on this machine");
    for request in requests.iter() {
        check(request.heads, request.q, request.n, group, request.out);
    }
    let threads = rayon::current_num_threads();
    // Taken, not borrowed: while this thread waits it may be given another call to work on.
    let mut workspace = WORKSPACE.take();
    let Workspace { plan, sums } = &mut workspace;
    let of_blocks = |head: &Head| isa.block_rows(head.dtype(), head.head_dim());
    let block_rows = requests.iter().find_map(|request| request.heads.first()).map(of_blocks);
    plan.build(requests, group, threads, block_rows.unwrap_or((1, 1)));
    let needed = plan.items.len() * plan.sums_len;
    if sums.len() < needed {
        sums.resize(needed, 0.0);
    }
    if needed > 0 {
        let sums = &mut sums[..needed];
        let (plan, shared) = (&*plan, &*requests);
        let work = |index: usize, sums: &mut [f32]| {
            let item = plan.items[index];
            let block = &plan.blocks[item.block];
            let request = &shared[block.request];
            let d = request.heads[block.head].head_dim();
            let job = Job {
                head: &request.heads[block.head],
                queries: request.q,
                token_stride: request.heads.len() * group * d,
                first_query: block.head * group * d,
                group,
                tokens: request.n,
                scale,
                rows: block.rows,
                pages: item.pages,
            };
            let sums = Sums::new(sums, block.rows.1, d);
            SCRATCH.with_borrow_mut(|scratch| isa.run(Block { job, scratch, sums }));
        };
        if threads == 1 || plan.items.len() == 1 {
            sums.chunks_exact_mut(plan.sums_len).enumerate().for_each(|(index, sums)| work(index, sums));
        } else {
            let chunks = sums.par_chunks_exact_mut(plan.sums_len).enumerate().with_max_len(1);
            chunks.for_each(|(index, sums)| work(index, sums));
        }
        let mut blocks = &plan.blocks[..];
        for request in requests.iter_mut() {
            let len = blocks.iter().take_while(|block| block.request == blocks[0].request).count();
            if request.n > 0 && !request.heads.is_empty() {
                finish(plan, &blocks[..len], sums, request, group);
                blocks = &blocks[len..];
            }
        }
    }
    WORKSPACE.set(workspace);
}

/// Tokens above which the outputs are written by all threads.
const MANY_TOKENS: usize = 64;

/// Merges the parts of a request's blocks and writes its outputs.
fn finish(plan: &Plan, blocks: &[RowBlock], sums: &[f32], request: &mut Request<'_>, group: usize) {
    let d = request.heads[0].head_dim();
    let token_len = request.heads.len() * group * d;
    let block_rows = plan.block_rows(request.n * group);
    let blocks_a_head = blocks.len() / request.heads.len();
    let write = |first: usize, out: &mut [f32]| {
        for (query, out) in out.chunks_exact_mut(d).enumerate() {
            let (token, q_head) = (first + query / (token_len / d), query % (token_len / d));
            let row = token * group + q_head % group;
            let block = &blocks[q_head / group * blocks_a_head + row / block_rows];
            let (item, parts) = block.items;
            let parts = sums[item * plan.sums_len..].chunks_exact(plan.sums_len).take(parts);
            merge(parts, row % block_rows, block.rows.1, out);
        }
    };
    if request.n < MANY_TOKENS {
        write(0, request.out);
    } else {
        let some = MANY_TOKENS / 4;
        request.out.par_chunks_mut(some * token_len).enumerate().for_each(|(i, out)| write(i * some, out));
    }
}

/// Adds up what the parts of a block hold for one of its rows, each relative to its own maximum, and
/// divides by the sum of weights.
fn merge<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, row: usize, rows: usize, out: &mut [f32]) {
    let d = out.len();
    let max_of = |part: &[f32]| part[rows * d + row];
    let max = parts.clone().map(max_of).fold(f32::MIN, f32::max);
    let factor_of = |part: &[f32]| if max_of(part) == max { 1.0 } else { (max_of(part) - max).exp2() };
    let weight: f32 = parts.clone().map(|part| part[rows * (d + 1) + row] * factor_of(part)).sum();
    for (index, part) in parts.enumerate() {
        let factor = factor_of(part) / weight;
        let values = out.iter_mut().zip(&part[row * d..][..d]);
        if index == 0 {
            values.for_each(|(out, value)| *out = value * factor);
        } else {
            values.for_each(|(out, value)| *out += value * factor);
        }
    }
}

/// Holds the caller to the shapes that the module's introduction states.
fn check(heads: &[Head], q: &[f32], n: usize, group: usize, out: &[f32]) {
    let d = heads.first().map_or(0, Head::head_dim);
    assert!(heads.iter().all(|head| head.head_dim() == d), "the heads of a layer share one head size");
    assert!(heads.iter().all(|head| head.len() >= n), "every query belongs to an entry of every head");
    assert_eq!(q.len(), n * heads.len() * group * d, "queries are [n, heads * group, d]");
    assert_eq!(out.len(), q.len(), "outputs have the shape of the queries");
}
