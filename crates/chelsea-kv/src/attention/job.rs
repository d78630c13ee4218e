//! What one piece of work is: some rows of a KV head over some of its pages, and which entries each row sees.
//!
//! A *row* is one query of one query head; the rows of a KV head are counted token by token, the
//! `group` query heads of a token next to each other.

use crate::{Head, PAGE};
use core::ops::Range;

/// Entries that query `token` of `tokens` sees in a head of `len` entries: those up to its own, and of these the last
/// `window` where there is a window.
pub(super) fn visible(len: usize, tokens: usize, token: usize, window: Option<usize>) -> Range<usize> {
    let end = len - tokens + token + 1;
    window.map_or(0, |window| end.saturating_sub(window))..end
}

/// Pages that any of the queries `tokens` of `all` sees in a head of `len` entries.
pub(super) fn pages(len: usize, all: usize, tokens: Range<usize>, window: Option<usize>) -> Range<usize> {
    let first = visible(len, all, tokens.start, window).start;
    let end = visible(len, all, tokens.end - 1, window).end;
    first / PAGE..end.div_ceil(PAGE)
}

/// What a block of rows is to attend to.
#[derive(Clone)]
pub(super) struct Job<'a> {
    /// The KV head, with as many entries as there are tokens or more.
    pub head: &'a Head,
    /// All queries of the request, `[tokens, token_stride / key_dim, key_dim]`.
    pub queries: &'a [f32],
    /// Numbers from a token's queries to the next token's.
    pub token_stride: usize,
    /// Where the KV head's query heads begin within a token's queries.
    pub first_query: usize,
    /// Query heads that share the KV head.
    pub group: usize,
    /// Queries of a query head; the last belongs to the last entry.
    pub tokens: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Entries that a row sees at most.
    pub window: Option<usize>,
    /// Rows of the block.
    pub rows: Range<usize>,
    /// Pages to walk.
    pub pages: Range<usize>,
    /// Page after the last that other parts of the block will walk, and usually this thread: the kernel asks for pages
    /// up to here ahead of their use.
    pub last_page: usize,
}

impl Job<'_> {
    /// Entries of page `p` that row `r` of the block sees, counted from the start of the page.
    #[inline(always)]
    pub fn seen(&self, r: usize, p: usize) -> Range<usize> {
        let token = (self.rows.start + r) / self.group;
        let Range { start, end } = visible(self.head.len(), self.tokens, token, self.window);
        start.saturating_sub(p * PAGE).min(PAGE)..end.saturating_sub(p * PAGE).min(PAGE)
    }

    /// Pages of which all rows of the block see all entries.
    pub fn whole(&self) -> Range<usize> {
        let token = |r: usize| visible(self.head.len(), self.tokens, r / self.group, self.window);
        let (first, last) = (token(self.rows.start), token(self.rows.end - 1));
        last.start.div_ceil(PAGE)..first.end / PAGE
    }

    /// The query of row `r` of the block.
    #[inline(always)]
    pub fn query(&self, r: usize) -> &[f32] {
        let (row, dim) = (self.rows.start + r, self.head.key_dim());
        let at = row / self.group * self.token_stride + self.first_query + row % self.group * dim;
        &self.queries[at..][..dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_the_querys_own_entry() {
        assert_eq!(visible(100, 3, 0, None), 0..98);
        assert_eq!(visible(100, 3, 2, Some(1)), 99..100);
        assert_eq!(visible(100, 3, 0, Some(64)), 34..98);
        assert_eq!(visible(100, 3, 2, Some(1000)), 0..100);
    }

    #[test]
    fn pages_before_every_rows_window_are_left_out() {
        assert_eq!(pages(1000, 1, 0..1, None), 0..16);
        assert_eq!(pages(1000, 1, 0..1, Some(104)), 14..16);
        assert_eq!(pages(1000, 1, 0..1, Some(105)), 13..16);
        assert_eq!(pages(1000, 200, 0..10, Some(1)), 12..13);
        assert_eq!(pages(1000, 200, 0..200, Some(1)), 12..16);
    }
}
