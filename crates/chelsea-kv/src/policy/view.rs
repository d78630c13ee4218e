//! What a policy gets to see.

use crate::query::Seen;
use crate::rotary::{KeyTransform, Steps, tile_to_rows};
use crate::scratch::ScratchMeter;
use crate::{Dims, Head, PAGE, PoolFull, Rotary, TILE};
use rayon::prelude::*;
use std::ops::Range;

/// The candidates of all heads of the layers that grow with the text, layer by layer.
#[derive(Debug)]
pub struct View<'a> {
    /// The candidates of each head.
    pub heads: Vec<HeadView<'a>>,
    /// Tokens the sequence has seen.
    pub tokens: usize,
    /// Where a policy counts memory that it takes for a while.
    pub scratch: &'a ScratchMeter,
}

impl View<'_> {
    /// Candidates over all heads.
    pub fn len(&self) -> usize {
        self.heads.iter().map(HeadView::len).sum()
    }

    /// Whether there are no candidates at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Candidates of each head.
    pub fn lens(&self) -> Vec<usize> {
        self.heads.iter().map(HeadView::len).collect()
    }

    /// Which of the heads belong to each layer.
    pub fn layers(&self) -> Vec<Range<usize>> {
        let mut layers: Vec<Range<usize>> = Vec::new();
        for (g, head) in self.heads.iter().enumerate() {
            match layers.last_mut() {
                Some(layer) if self.heads[layer.start].layer() == head.layer() => layer.end = g + 1,
                _ => layers.push(g..g + 1),
            }
        }
        layers
    }

    /// What `f` makes of each head, in parallel.
    ///
    /// # Errors
    /// If `f` finds no room for what it takes for a while.
    pub fn map_heads<T: Send>(
        &self,
        f: impl Fn(&HeadView<'_>) -> Result<T, PoolFull> + Sync + Send,
    ) -> Result<Vec<T>, PoolFull> {
        self.heads.par_iter().map(f).collect()
    }
}

/// The candidates of one head: the entries that may be merged or dropped, numbered from 0 in sequence
/// order.
#[derive(Debug)]
pub struct HeadView<'a> {
    head: &'a Head,
    range: Range<usize>,
    rotary: &'a Rotary,
    query_power: Vec<f32>,
    value_scale: f32,
    seen: Seen<'a>,
}

impl<'a> HeadView<'a> {
    /// The entries `range` of `head`. `query_power` and `value_scale` are as [`super::Needs`] has them,
    /// empty and 1 when nobody asked.
    pub fn new(
        head: &'a Head,
        range: Range<usize>,
        rotary: &'a Rotary,
        query_power: Vec<f32>,
        value_scale: f32,
    ) -> Self {
        assert!(range.end <= head.len(), "candidates are entries of the head");
        HeadView { head, range, rotary, query_power, value_scale, seen: Seen::default() }
    }

    /// The same candidates, with what the cache has seen of queries.
    pub(crate) fn with_seen(self, seen: Seen<'a>) -> Self {
        HeadView { seen, ..self }
    }

    /// All entries of the head as if they were candidates: sinks and window too, for methods whose scores
    /// depend on them. Without query power.
    pub fn whole(&self) -> HeadView<'a> {
        HeadView { range: 0..self.head.len(), query_power: Vec::new(), ..*self }
    }

    /// Which entry of the head candidate 0 is.
    pub fn first(&self) -> usize {
        self.range.start
    }

    /// Entries of the head in all, sinks and window included.
    pub fn entries(&self) -> usize {
        self.head.len()
    }

    /// First entries of the head that are attention sinks.
    pub fn sinks(&self) -> usize {
        self.seen.sinks.min(self.head.len())
    }

    /// The head itself.
    pub(crate) fn head(&self) -> &'a Head {
        self.head
    }

    /// How keys were turned by their positions.
    pub fn rotary(&self) -> &'a Rotary {
        self.rotary
    }

    /// What the cache has seen of queries.
    pub(crate) fn seen(&self) -> &Seen<'a> {
        &self.seen
    }

    /// Number of candidates.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no candidates.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Numbers of a key.
    pub fn key_dim(&self) -> usize {
        self.head.key_dim()
    }

    /// Numbers of a key and of a value.
    pub fn dims(&self) -> Dims {
        self.head.dims()
    }

    /// The layer that the head belongs to.
    pub fn layer(&self) -> usize {
        self.seen.layer
    }

    /// Tokens that candidate `i` stands for.
    pub fn count(&self, i: usize) -> u32 {
        self.head.count(self.range.start + i)
    }

    /// Mean position of candidate `i`.
    pub fn position(&self, i: usize) -> f32 {
        self.head.position(self.range.start + i)
    }

    /// Reads key `i`, after RoPE as it is stored.
    pub fn read_key(&self, i: usize, out: &mut [f32]) {
        self.head.read_key(self.range.start + i, out);
    }

    /// Reads key `i` before RoPE: the stored key turned back by its mean position. For a centroid made
    /// earlier this is not quite the mean of its members' keys before RoPE; clustering in stages loses
    /// nothing by it (`scripts/oracle/turned_back.py` measures that).
    pub fn read_feature(&self, i: usize, out: &mut [f32]) {
        self.read_key(i, out);
        self.rotary.turn_back(out, self.position(i));
    }

    /// Reads value `i`.
    pub fn read_value(&self, i: usize, out: &mut [f32]) {
        self.head.read_value(self.range.start + i, out);
    }

    /// Power of the queries that read this head, one number a dimension: merging x and y changes a
    /// logit by `sum_i w_i (x_i - y_i)^2` in expected square, for keys before RoPE. Empty unless asked
    /// for.
    pub fn query_power(&self) -> &[f32] {
        &self.query_power
    }

    /// Mean of `|value|^2` over the candidates of this head's first compaction; 1 unless asked for.
    pub fn value_scale(&self) -> f32 {
        self.value_scale
    }

    /// Calls `f(i, key)` for every candidate in order, with keys as stored.
    pub fn for_each_key(&self, f: impl FnMut(usize, &[f32])) {
        self.for_each(KeyTransform { rotary: None, centre: &[], scale: &[] }, |_| true, f);
    }

    /// Calls `f(i, key)` for every candidate in order, with keys before RoPE.
    pub fn for_each_feature(&self, f: impl FnMut(usize, &[f32])) {
        self.for_each_scaled(&Steps::default(), &[], &[], |_| true, f);
    }

    /// Calls `f(i, key)` in order for the candidates of every tile that is wanted, with keys before RoPE less `centre`,
    /// each dimension times `scale`. `steps` are those of the rotary, or none.
    pub(super) fn for_each_scaled(
        &self,
        steps: &Steps,
        centre: &[f32],
        scale: &[f32],
        wanted: impl Fn(Range<usize>) -> bool,
        f: impl FnMut(usize, &[f32]),
    ) {
        self.for_each(KeyTransform { rotary: Some((self.rotary, steps)), centre, scale }, wanted, f);
    }

    /// Reads tile by tile: far faster than key by key.
    fn for_each(
        &self,
        transform: KeyTransform<'_>,
        wanted: impl Fn(Range<usize>) -> bool,
        mut f: impl FnMut(usize, &[f32]),
    ) {
        let dim = self.key_dim();
        let mut tile = vec![0.0; TILE * dim];
        let mut rows = vec![0.0; TILE * dim];
        let mut next = self.range.start;
        while next < self.range.end {
            let page = &self.head.pages()[next / PAGE];
            let lane = next % TILE;
            let start = next % PAGE - lane;
            let here = (TILE - lane).min(self.range.end - next);
            let (at, first) = (next, next - self.range.start);
            next += here;
            if !wanted(first..first + here) {
                continue;
            }
            self.head.read_key_tile(at, &mut tile);
            if start + TILE < PAGE {
                page.prefetch_key_tile(start / TILE + 1, self.head.dtype());
            } else if let Some(page) = self.head.pages().get(next / PAGE) {
                page.prefetch_key_tile(0, self.head.dtype());
            }
            let positions = page.positions()[start..].first_chunk().expect("pages are whole tiles");
            tile_to_rows(transform, &mut tile, positions, &mut rows);
            for i in 0..here {
                f(first + i, &rows[(lane + i) * dim..][..dim]);
            }
        }
    }
}
