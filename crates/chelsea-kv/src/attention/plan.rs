//! How the work of a call is cut: every KV head's rows into blocks, every block's pages into parts, so
//! that threads balance with ragged heads and a small cache stays on one thread.

use super::Request;
use super::block::sums_len;
use crate::{Dims, Dtype, PAGE};

/// Least work of a part, in nanoseconds: several times what handing it to another thread costs, and no more than a
/// thread waits for the others without falling asleep, from which it takes ten times as long to wake.
const LEAST: f64 = 5_000.0;
/// Parts a thread, so that whoever is done early finds something to take over.
const PARTS_A_THREAD: f64 = 4.0;

/// The rows of one KV head that are worked on together.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowBlock {
    pub request: usize,
    pub head: usize,
    /// First row and number of rows.
    pub rows: (usize, usize),
    /// First item and number of items, one for each part of the pages.
    pub items: (usize, usize),
}

/// One piece of work: a block and a range of pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub block: usize,
    /// First page and the page after the last.
    pub pages: (usize, usize),
}

/// The work of a call. Kept by each calling thread, so that a decode step allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In the order of request, head, rows.
    pub blocks: Vec<RowBlock>,
    /// In the order of blocks, then pages.
    pub items: Vec<Item>,
    /// Numbers set aside for the sums of each item.
    pub sums_len: usize,
    /// Most rows of a block, and what their number is a multiple of where there are several.
    block_rows: (usize, usize),
}

/// Nanoseconds that a block of `rows` rows takes for a page, roughly: the larger of reading it at 20
/// bytes a nanosecond and computing at 90 operations a nanosecond.
fn page_cost(rows: usize, head_dim: usize, dtype: Dtype) -> f64 {
    let operations = (rows * 2 * PAGE * head_dim * 2) as f64;
    (dtype.bytes(PAGE, Dims::both(head_dim)) as f64 / 20.0).max(operations / 90.0)
}

impl Plan {
    /// Rows of the blocks of a request of `rows`, all but the last of a head.
    pub fn block_rows(&self, rows: usize) -> usize {
        let (most, step) = self.block_rows;
        if rows <= most { rows } else { rows.div_ceil(rows.div_ceil(most)).next_multiple_of(step) }
    }

    /// Plans the work of `requests` for `threads` threads, in blocks of at most so many rows and of a multiple of so
    /// many.
    pub fn build(&mut self, requests: &[Request<'_>], group: usize, threads: usize, block_rows: (usize, usize)) {
        self.block_rows = block_rows;
        self.blocks.clear();
        self.items.clear();
        self.sums_len = 0;
        let mut total = 0.0;
        for (at, request) in requests.iter().enumerate() {
            let rows = request.n * group;
            for (index, head) in request.heads.iter().enumerate() {
                let step = self.block_rows(rows);
                for first in (0..rows).step_by(step.max(1)) {
                    let len = step.min(rows - first);
                    self.blocks.push(RowBlock { request: at, head: index, rows: (first, len), items: (0, 0) });
                    self.sums_len = self.sums_len.max(sums_len(len, head.head_dim()));
                }
            }
        }
        let cost = |block: &RowBlock| {
            let (pages, head_dim, dtype) = extent(requests, block, group);
            pages as f64 * page_cost(block.rows.1, head_dim, dtype)
        };
        total += self.blocks.iter().map(cost).sum::<f64>();
        let part = (total / (threads as f64 * PARTS_A_THREAD)).max(LEAST);
        for (index, block) in self.blocks.iter_mut().enumerate() {
            let pages = extent(requests, block, group).0;
            let parts = if threads == 1 { 1 } else { parts(cost(block), part, threads).clamp(1, pages) };
            block.items = (self.items.len(), parts);
            for i in 0..parts {
                self.items.push(Item { block: index, pages: (pages * i / parts, pages * (i + 1) / parts) });
            }
        }
    }
}

/// Parts of a block: near `cost / part`, and where that is several, as many for each thread, so that heads of one
/// length leave no thread without work at the end; but none of less than about [`LEAST`].
fn parts(cost: f64, part: f64, threads: usize) -> usize {
    match (cost / part).round() as usize {
        several @ 2.. => several.next_multiple_of(threads).min((cost / LEAST).round() as usize),
        one => one,
    }
}

/// Pages that a block sees, head size and how numbers are stored.
fn extent(requests: &[Request<'_>], block: &RowBlock, group: usize) -> (usize, usize, Dtype) {
    let request = &requests[block.request];
    let head = &request.heads[block.head];
    let last = (block.rows.0 + block.rows.1 - 1) / group;
    let visible = head.len() - request.n + last + 1;
    (visible.div_ceil(PAGE), head.head_dim(), head.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Head;

    fn heads(lengths: &[usize]) -> Vec<Head> {
        let fill = |&len: &usize| {
            let mut head = Head::new(64, Dtype::F16);
            (0..len).for_each(|_| head.push(&[0.0; 64], &[0.0; 64], 1, 0.0));
            head
        };
        lengths.iter().map(fill).collect()
    }

    fn plan(heads: &[Head], n: usize, group: usize, threads: usize) -> Plan {
        let mut plan = Plan::default();
        plan.build(&[Request { heads, q: &[], n, out: &mut [] }], group, threads, (96, 12));
        plan
    }

    #[test]
    fn every_row_meets_every_page_it_sees_once() {
        let heads = heads(&[9000, 300, 700]);
        for (n, group) in [(1, 1), (1, 7), (13, 3), (300, 2)] {
            let plan = plan(&heads, n, group, 4);
            let mut rows = vec![0; heads.len()];
            for block in &plan.blocks {
                assert_eq!(rows[block.head], block.rows.0, "blocks of a head follow each other");
                rows[block.head] += block.rows.1;
                let last = (block.rows.0 + block.rows.1 - 1) / group;
                let pages = (heads[block.head].len() - n + last + 1).div_ceil(PAGE);
                let mut next = 0;
                for item in &plan.items[block.items.0..][..block.items.1] {
                    assert_eq!(item.pages.0, next);
                    assert!(item.pages.1 > item.pages.0, "no item is empty");
                    next = item.pages.1;
                }
                assert_eq!(next, pages);
                assert!(sums_len(block.rows.1, 64) <= plan.sums_len);
            }
            assert_eq!(rows, vec![n * group; heads.len()]);
        }
    }

    #[test]
    fn heads_of_one_length_give_every_thread_as_many_items() {
        for count in 2..=4 {
            let plan = plan(&heads(&vec![16_000; count]), 1, 3, 2);
            assert!(plan.items.len().is_multiple_of(2), "{count} heads: {} items", plan.items.len());
        }
    }

    #[test]
    fn ragged_heads_are_cut_into_even_items() {
        let heads = heads(&[30_000, 2_000, 8_000]);
        let plan = plan(&heads, 1, 3, 2);
        let sizes = plan.items.iter().map(|item| item.pages.1 - item.pages.0);
        let total = sizes.clone().sum::<usize>();
        let largest = sizes.max().unwrap_or(0);
        assert!(largest * 6 <= total, "an item of {largest} pages of {total} leaves a thread waiting");
    }

    #[test]
    fn a_small_cache_is_not_cut() {
        assert_eq!(plan(&heads(&[300]), 1, 3, 8).items.len(), 1);
    }
}
