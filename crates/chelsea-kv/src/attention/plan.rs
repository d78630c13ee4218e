//! How the work of a call is cut: every KV head's rows into blocks, every block's pages into parts.
//!
//! Where sums are cut decides how they are rounded. So the cut follows from a request's own shape alone, and its outputs
//! are the same, bit for bit, on any number of threads and beside any other requests. Which thread works on which parts
//! is decided separately, by [`spread`].

use super::job;
use super::sums::sums_len;
use super::{Attention, Isa, Request};
use crate::{Head, PAGE};
use core::f64::consts::SQRT_2;
use core::ops::Range;

/// Least work that is handed to another thread, in nanoseconds: several times what handing it over costs, and no more
/// than a thread waits for the others without falling asleep, from which it takes ten times as long to wake.
const LEAST: f64 = 5_000.0;
/// Least work of a part where a block has more than two, in nanoseconds: beside other sequences shorter ones only cost
/// time.
const LEAST_OF_MANY: f64 = 2.0 * LEAST;
/// Pieces a thread, so that whoever is done early finds something to take over.
const PIECES_A_THREAD: f64 = 8.0;
/// Least work of a part, in units of what the part costs by itself: buffers to be set up and sums to be merged.
const LEAST_OVERHEADS: f64 = 80.0;
/// Most parts of a block.
pub(super) const MOST_PARTS: usize = 64;
/// Parts of a request that are enough for the largest machines.
const ENOUGH_PARTS: usize = 256;
/// Numbers that the sums of a request may take where its blocks are cut.
const MOST_SUMS: usize = 1 << 20;

/// The rows of one KV head that are worked on together.
#[derive(Debug, Clone)]
pub(super) struct RowBlock {
    pub request: usize,
    pub head: usize,
    pub rows: Range<usize>,
    /// Pages that any of the rows sees.
    pub pages: Range<usize>,
    /// Its parts within the plan's.
    pub parts: Range<usize>,
}

/// One piece of work: a block and a range of pages.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub block: usize,
    pub pages: Range<usize>,
    /// Where its sums begin, and how many numbers they are.
    pub sums: Range<usize>,
    /// Cost of the plan's parts up to this one, in nanoseconds.
    pub until: f64,
}

/// Sizes of blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockRows {
    /// Most rows.
    pub most: usize,
    /// What the number of rows is a multiple of where a head has several blocks.
    pub step: usize,
    /// Operations a nanosecond, roughly.
    pub speed: f64,
}

impl BlockRows {
    /// Rows of the blocks of a head with `rows` rows, all but the last.
    fn of(self, rows: usize) -> usize {
        if rows <= self.most { rows } else { rows.div_ceil(rows.div_ceil(self.most)).next_multiple_of(self.step) }
    }
}

/// The work of a call. Kept by each calling thread, so that a decode step allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In the order of request, head, rows.
    pub blocks: Vec<RowBlock>,
    /// In the order of blocks, then pages.
    pub parts: Vec<Part>,
}

impl Plan {
    /// Plans the work of `requests` for `isa`.
    pub fn build(&mut self, requests: &[Request<'_>], layer: &Attention<'_>, isa: Isa) {
        self.blocks.clear();
        self.parts.clear();
        for (at, request) in requests.iter().enumerate() {
            let rows = request.n * layer.group;
            for (index, head) in request.heads.iter().enumerate() {
                let sizes = isa.block_rows(rows, head);
                let step = sizes.of(rows);
                let most = if rows > 0 { most_parts(request, layer.group, step) } else { 1 };
                for first in (0..rows).step_by(step.max(1)) {
                    let rows = first..rows.min(first + step);
                    let tokens = rows.start / layer.group..(rows.end - 1) / layer.group + 1;
                    let pages = job::pages(head.len(), request.n, tokens, layer.window);
                    self.add(RowBlock { request: at, head: index, rows, pages, parts: 0..0 }, head, sizes, most);
                }
            }
        }
    }

    /// Adds a block and its parts, at most so many.
    fn add(&mut self, mut block: RowBlock, head: &Head, sizes: BlockRows, most: usize) {
        let (rows, pages) = (block.rows.len(), block.pages.len());
        let (page, own) = (page_cost(rows, head, sizes.speed), part_cost(rows, head));
        let work = page * pages as f64;
        let parts = work / (own * LEAST_OVERHEADS).max(LEAST_OF_MANY);
        // Two parts pay sooner than more: they are what lets two threads share three heads.
        let parts = if work > 1.5 * LEAST.max(own * LEAST_OVERHEADS / 2.0) { parts.max(2.0) } else { 1.0 };
        // A power of two, the nearest, so that heads of one length leave no thread without work at the end.
        let nearest = ((parts * SQRT_2) as usize).ilog2();
        let parts = 1 << nearest.min(most.clamp(1, pages).ilog2());
        let len = sums_len(rows, head.value_dim());
        block.parts = self.parts.len()..self.parts.len() + parts;
        for i in 0..parts {
            let page_at = |i: usize| block.pages.start + pages * i / parts;
            let here = page_at(i)..page_at(i + 1);
            let (sums, before) = self.parts.last().map_or((0, 0.0), |part| (part.sums.end, part.until));
            let until = before + own + page * here.len() as f64;
            self.parts.push(Part { block: self.blocks.len(), pages: here, sums: sums..sums + len, until });
        }
        self.blocks.push(block);
    }

    /// Numbers that the sums of all parts take.
    pub fn sums_len(&self) -> usize {
        self.parts.last().map_or(0, |part| part.sums.end)
    }
}

/// Most parts of each block of a request, of which a head has one for every `step` rows.
fn most_parts(request: &Request<'_>, group: usize, step: usize) -> usize {
    let rows = request.n * group;
    let blocks = request.heads.len() * rows.div_ceil(step);
    let sums = request.heads.iter().map(|head| sums_len(rows, head.value_dim())).sum::<usize>();
    MOST_PARTS.min(ENOUGH_PARTS.div_ceil(blocks)).min(MOST_SUMS / sums)
}

/// Nanoseconds that a block of `rows` rows takes for a page, roughly: the larger of reading it at 20
/// bytes a nanosecond and computing at `speed` operations a nanosecond.
fn page_cost(rows: usize, head: &Head, speed: f64) -> f64 {
    let dims = head.key_dim() + head.value_dim();
    let operations = (rows * 2 * PAGE * dims) as f64;
    let bits = head.dtype().key_bits() * head.key_dim() + head.dtype().value_bits() * head.value_dim();
    ((PAGE * bits / 8) as f64 / 20.0).max(operations / speed)
}

/// Nanoseconds that a part of `rows` rows takes beside its pages, roughly.
fn part_cost(rows: usize, head: &Head) -> f64 {
    60.0 + 0.15 * (rows * (head.key_dim() + head.value_dim())) as f64
}

/// Works on all parts, which `sums` has room for, by the threads of the current pool: on runs of consecutive parts that
/// cost about the same, the smaller the work the fewer.
pub(super) fn spread(parts: &[Part], sums: &mut [f32], work: impl Fn(&Part, &mut [f32]) + Sync) {
    let threads = rayon::current_num_threads();
    let Some(last) = parts.last() else { return };
    let piece = match threads {
        1 => f64::INFINITY,
        // However little it is, half of it is another thread's, which would fall asleep over all of it.
        _ => (last.until / (threads as f64 * PIECES_A_THREAD)).max(LEAST).min(last.until / 2.0),
    };
    halve(parts, sums, 0.0, piece, &work);
}

/// Halves parts between threads until they cost no more than `piece`; `before` is what all before them cost.
fn halve(parts: &[Part], sums: &mut [f32], before: f64, piece: f64, work: &(impl Fn(&Part, &mut [f32]) + Sync)) {
    let cost = parts.last().map_or(before, |part| part.until) - before;
    if parts.len() < 2 || cost <= piece {
        let mut rest = sums;
        for part in parts {
            let (own, others) = rest.split_at_mut(part.sums.len());
            work(part, own);
            rest = others;
        }
        return;
    }
    // A part goes to the side that most of it belongs to.
    let middle = before + cost / 2.0;
    let past = parts.partition_point(|part| part.until <= middle);
    let start = past.checked_sub(1).map_or(before, |at| parts[at].until);
    let split = if middle - start > parts[past].until - middle { past + 1 } else { past };
    let (left, right) = parts.split_at(split.clamp(1, parts.len() - 1));
    let (left_sums, right_sums) = sums.split_at_mut(right[0].sums.start - left[0].sums.start);
    let left_end = left[left.len() - 1].until;
    rayon::join(|| halve(left, left_sums, before, piece, work), || halve(right, right_sums, left_end, piece, work));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use std::sync::Mutex;

    fn heads(lengths: &[usize]) -> Vec<Head> {
        let fill = |&len: &usize| {
            let mut head = Head::new(64, Dtype::F16);
            (0..len).for_each(|_| head.push(&[0.0; 64], &[0.0; 64], 1, 0.0));
            head
        };
        lengths.iter().map(fill).collect()
    }

    fn plan(heads: &[Head], n: usize, group: usize, window: Option<usize>) -> Plan {
        let mut plan = Plan::default();
        let layer = Attention { window, ..Attention::full(group, 1.0) };
        plan.build(&[Request { heads, q: &[], n, out: &mut [] }], &layer, Isa::Portable);
        plan
    }

    #[test]
    fn every_row_meets_every_page_it_sees_once() {
        let heads = heads(&[9000, 300, 700]);
        for (n, group, window) in
            [(1, 1, None), (1, 7, None), (13, 3, None), (300, 2, None), (1, 7, Some(100)), (300, 2, Some(130))]
        {
            let plan = plan(&heads, n, group, window);
            let (mut rows, mut sums) = (vec![0; heads.len()], 0);
            for block in &plan.blocks {
                let seen = |row: usize| job::visible(heads[block.head].len(), n, row / group, window);
                assert_eq!(rows[block.head], block.rows.start, "blocks of a head follow each other");
                rows[block.head] = block.rows.end;
                let mut next = seen(block.rows.start).start / PAGE;
                for part in &plan.parts[block.parts.clone()] {
                    assert_eq!(part.pages.start, next);
                    assert!(!part.pages.is_empty(), "no part is empty");
                    next = part.pages.end;
                    assert_eq!(part.sums, sums..sums + sums_len(block.rows.len(), 64));
                    sums = part.sums.end;
                }
                assert_eq!(next, seen(block.rows.end - 1).end.div_ceil(PAGE));
            }
            assert_eq!(rows, vec![n * group; heads.len()]);
            assert_eq!(sums, plan.sums_len());
        }
    }

    #[test]
    fn the_cut_of_a_request_knows_nothing_of_the_others() {
        let (one, others) = (heads(&[9000, 300]), heads(&[20_000, 12]));
        for n in [1, 12, 200] {
            let alone = plan(&one, n, 3, None);
            let mut plan = Plan::default();
            let ask = |heads, n| Request { heads, q: &[], n, out: &mut [] };
            let requests = [ask(&others, 1), ask(&one, n), ask(&others, 5)];
            plan.build(&requests, &Attention::full(3, 1.0), Isa::Portable);
            let pages = |plan: &Plan, request: usize| -> Vec<_> {
                let own = plan.blocks.iter().filter(|block| block.request == request);
                own.flat_map(|block| &plan.parts[block.parts.clone()]).map(|part| part.pages.clone()).collect()
            };
            assert_eq!(pages(&plan, 1), pages(&alone, 0));
        }
    }

    /// What the busiest of some threads works at least, as a multiple of an even share, where parts go to the thread
    /// that has least to do.
    fn imbalance(plan: &Plan, threads: usize) -> f64 {
        let mut loads = vec![0.0f64; threads];
        let mut before = 0.0;
        for part in &plan.parts {
            let least = loads.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("a thread");
            *least += part.until - before;
            before = part.until;
        }
        loads.iter().copied().fold(0.0, f64::max) * threads as f64 / before
    }

    #[test]
    fn heads_of_one_length_are_shared_evenly() {
        for count in [1, 2, 3, 8] {
            let plan = plan(&heads(&vec![32_000; count]), 1, 3, None);
            for threads in [2, 4, 8] {
                let imbalance = imbalance(&plan, threads);
                assert!(imbalance < 1.05, "{count} heads, {threads} threads: {imbalance}");
            }
        }
        let plan = plan(&heads(&[32_000; 8]), 1, 3, None);
        assert!(imbalance(&plan, 64) < 1.05);
    }

    #[test]
    fn ragged_heads_are_shared_evenly() {
        let plan = plan(&heads(&[30_000, 2_000, 8_000]), 1, 3, None);
        for threads in [2, 3, 4, 8] {
            let imbalance = imbalance(&plan, threads);
            assert!(imbalance < 1.15, "{threads} threads: {imbalance}");
        }
    }

    #[test]
    fn a_small_cache_stays_on_one_thread() {
        let plan = plan(&heads(&[300]), 1, 3, None);
        assert_eq!(plan.parts.len(), 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a thread pool");
        let three = self::plan(&heads(&[100, 60, 60]), 1, 1, None);
        assert_eq!(three.parts.len(), 3);
        pool.install(|| {
            let threads = Mutex::new(Vec::new());
            spread(&three.parts, &mut vec![0.0; three.sums_len()], |_, _| {
                threads.lock().expect("a lock").push(rayon::current_thread_index());
            });
            let threads = threads.into_inner().expect("a lock");
            assert!(threads.len() == 3 && threads.iter().all(|&thread| thread == threads[0]));
        });
    }

    #[test]
    fn every_part_is_worked_on_once_with_its_own_sums() {
        let plan = plan(&heads(&[30_000, 2_000, 8_000]), 2, 3, None);
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            let mut sums = vec![0.0; plan.sums_len()];
            pool.install(|| {
                spread(&plan.parts, &mut sums, |part, sums| {
                    sums.iter_mut().for_each(|sum| *sum += part.sums.start as f32 + 1.0);
                });
            });
            for part in &plan.parts {
                assert!(sums[part.sums.clone()].iter().all(|&sum| sum == part.sums.start as f32 + 1.0));
            }
        }
    }
}
