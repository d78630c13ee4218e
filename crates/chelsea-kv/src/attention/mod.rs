//! Attention over weighted entries: `softmax(q . k * scale + ln count) . v`.
//!
//! # Shapes
//!
//! The caller gives the KV heads of one layer (ragged: each with its own number of entries) and `n`
//! queries that belong to the last `n` entries of every head. Queries are `[n, heads * group, key_dim]`, outputs
//! `[n, heads * group, value_dim]`; query head `h` reads KV head `h / group`. Attention is causal: query `i`
//! sees entries `0 ..= len - n + i`, and of these the last [`window`](Attention::window) where a layer has a window.
//! Several sequences can be attended in one call.
//!
//! # How it works
//!
//! `plan` cuts the work into parts: a block of rows (query heads that share a KV head, times
//! tokens) over a range of pages. `block` works on one part: page by page, scores from the transposed
//! key tiles, an online softmax, and the weighted sum of values, both products by the
//! register-blocked `product`, or by matrix instructions (`matrix`) where they are many rows. Decode and prefill differ
//! only in how many rows a block has. Each page is read from memory once for all query heads that share it. Parts over
//! different pages of the same rows are merged at the end (`sums`). The kernels are written once over the vector
//! operations of `simd` and compiled for each [`Isa`]; [`mod@reference`] is the definition they are tested against.
//!
//! Sums are kept in f32. Work is spread over the current rayon pool. Where it is cut follows from each request's own
//! shape, so its outputs are the same, bit for bit, on any number of threads and beside any other requests. A call
//! allocates nothing once the buffers of its threads have grown to the shapes in use.

mod block;
mod dots;
mod floats;
mod integers;
mod isa;
mod job;
#[cfg(target_arch = "x86_64")]
mod matrix;
mod offsets;
mod plan;
mod product;
pub mod reference;
mod simd;
mod softmax;
mod sums;
mod word_product;

pub use isa::Isa;

use crate::Head;
use block::{Block, Scratch};
use job::Job;
use plan::{Part, Plan, RowBlock};
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use sums::{Merge, Sums};

/// What attention is in one layer, for all sequences.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Query heads that share a KV head.
    pub group: usize,
    /// Factor on scores before `ln count` is added, usually `1 / sqrt(key_dim)`.
    pub scale: f32,
    /// The most entries that a query sees, its own and those right before it; `None` where it sees all.
    pub window: Option<usize>,
    /// One logit for each query head of the layer, which joins the denominator of the softmax like the score of an
    /// entry whose value is zero (the learned sinks of gpt-oss).
    pub sinks: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Attention to everything before a query, without sinks.
    pub fn full(group: usize, scale: f32) -> Self {
        Attention { group, scale, window: None, sinks: None }
    }
}

/// One sequence's share of a call: its KV heads of one layer, its queries, and where the outputs go.
#[derive(Debug)]
pub struct Request<'a> {
    /// KV heads of one layer.
    pub heads: &'a [Head],
    /// Queries, `[n, heads * group, key_dim]`.
    pub q: &'a [f32],
    /// Number of queries of each query head; they belong to the last `n` entries.
    pub n: usize,
    /// Outputs, `[n, heads * group, value_dim]`.
    pub out: &'a mut [f32],
}

/// Attention of one layer for several sequences at once, each with its own heads, balanced over the threads together.
///
/// # Panics
/// If the lengths of `q`, `out` or the sinks do not fit the shapes, a window is 0, the heads of a request differ in
/// sizes, or a head has fewer than `n` entries.
pub fn attend_batch(requests: &mut [Request<'_>], layer: &Attention<'_>) {
    attend_with(Isa::best(), requests, layer);
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
/// As [`attend_batch`], and if this machine does not have `isa`.
pub fn attend_with(isa: Isa, requests: &mut [Request<'_>], layer: &Attention<'_>) {
    assert!(isa.is_available(), "{isa:?} is not available on this machine");
    requests.iter().for_each(|request| check(request, layer));
    // Taken, not borrowed: while this thread waits it may be given another call to work on.
    let mut workspace = WORKSPACE.take();
    let Workspace { plan, sums } = &mut workspace;
    plan.build(requests, layer, isa);
    let needed = plan.sums_len();
    if sums.len() < needed {
        sums.resize(needed, 0.0);
    }
    let sums = &mut sums[..needed];
    let (plan, shared) = (&*plan, &*requests);
    plan::spread(&plan.parts, sums, |part, sums| {
        let block = &plan.blocks[part.block];
        let request = &shared[block.request];
        let sums = Sums::new(sums, block.rows.len(), request.heads[block.head].value_dim());
        let job = job(request, block, part, layer);
        SCRATCH.with_borrow_mut(|scratch| Block { job, scratch, sums }.attend(isa));
    });
    let mut blocks = &plan.blocks[..];
    for (index, request) in requests.iter_mut().enumerate() {
        let (own, others) = blocks.split_at(blocks.partition_point(|block| block.request <= index));
        if !own.is_empty() {
            finish(isa, plan, own, sums, request, layer);
        }
        blocks = others;
    }
    WORKSPACE.set(workspace);
}

/// The work of one part.
fn job<'a>(request: &'a Request<'_>, block: &RowBlock, part: &Part, layer: &Attention<'_>) -> Job<'a> {
    let head = &request.heads[block.head];
    let of_head = layer.group * head.key_dim();
    Job {
        head,
        queries: request.q,
        token_stride: request.heads.len() * of_head,
        first_query: block.head * of_head,
        group: layer.group,
        tokens: request.n,
        scale: layer.scale,
        window: layer.window,
        rows: block.rows.clone(),
        pages: part.pages.clone(),
        last_page: block.pages.end,
    }
}

/// Tokens above which the outputs are written by all threads.
const MANY_TOKENS: usize = 64;

/// Merges the parts of a request's blocks and writes its outputs.
fn finish(isa: Isa, plan: &Plan, blocks: &[RowBlock], sums: &[f32], request: &mut Request<'_>, layer: &Attention<'_>) {
    let (heads, group, value_dim) = (request.heads.len(), layer.group, request.heads[0].value_dim());
    let rotated = request.heads[0].dtype().rotated();
    let write = |first_token: usize, out: &mut [f32]| {
        isa.run(Merge { plan, blocks, sums, heads, group, value_dim, rotated, sinks: layer.sinks, first_token, out });
    };
    if request.n < MANY_TOKENS {
        write(0, request.out);
    } else {
        let some = MANY_TOKENS / 4;
        let chunks = request.out.par_chunks_mut(some * heads * group * value_dim).enumerate();
        chunks.for_each(|(i, out)| write(i * some, out));
    }
}

/// Holds the caller to the shapes that the module's introduction states.
fn check(request: &Request<'_>, layer: &Attention<'_>) {
    let Request { heads, q, n, out } = request;
    let q_heads = heads.len() * layer.group;
    let sizes = |head: &Head| (head.key_dim(), head.value_dim());
    let (key_dim, value_dim) = heads.first().map_or((0, 0), sizes);
    assert!(heads.iter().all(|head| sizes(head) == (key_dim, value_dim)), "the heads of a layer share their sizes");
    assert!(heads.iter().all(|head| head.len() >= *n), "every query belongs to an entry of every head");
    assert_eq!(q.len(), n * q_heads * key_dim, "queries are [n, heads * group, key_dim]");
    assert_eq!(out.len(), n * q_heads * value_dim, "outputs are [n, heads * group, value_dim]");
    assert!(layer.window != Some(0), "a query sees its own entry at least");
    let fit = |sinks: &[f32]| heads.is_empty() || sinks.len() == q_heads;
    assert!(layer.sinks.is_none_or(fit), "every query head has a sink");
}
