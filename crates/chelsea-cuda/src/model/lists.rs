//! Which entries the tokens of a batch become, and which they see: what kernels of one layer are told in lists.
//!
//! The tokens of a chunk go one after the other, since a token sees those before it; the first tokens of all chunks go
//! together, then the second ones, and so on. One such round is a *wave*. In decode there is one.

use crate::cache::{CudaStore, Growth, Plan, Row, Tables};
use crate::device::Address;
use crate::kernels::{PageType, Run};
use std::ops::Range;

/// One chunk of the batch.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Its rows in all buffers.
    pub rows: Range<usize>,
    /// How its entries are stored.
    pub ty: PageType,
    /// Position of its first token.
    pub first: usize,
    /// For each layer, where its tokens go.
    pub growth: Vec<Growth>,
}

/// Rows that follow one another and are stored alike: offsets of their lists.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub ty: PageType,
    pub rows: Range<usize>,
    pub runs: (usize, Address),
    pub parts: (usize, Address),
    pub pages: Address,
    pub firsts: Address,
}

/// What one layer is told.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The pieces of each wave.
    pub waves: Vec<Vec<Piece>>,
    /// What queries are multiplied by, f32, `[rows][kv_heads][dim / 2]`, where keys of any chunk are stored divided.
    pub factors: Option<Address>,
    /// Most parts of a piece.
    pub most_parts: usize,
}

/// A layer, as far as lists are concerned.
#[derive(Debug, Clone)]
pub(super) struct OfLayer {
    pub layer: usize,
    pub heads: Range<usize>,
    pub group: usize,
    pub window: Option<usize>,
}

impl Lists {
    /// Puts the lists of a layer among `tables`.
    pub fn of(of: &OfLayer, chunks: &[Chunk], stores: &[&CudaStore], tables: &mut Tables) -> Self {
        let mut lists = Lists::default();
        let waves = chunks.iter().map(|chunk| chunk.rows.len()).max().unwrap_or(0);
        for t in 0..waves {
            let there: Vec<usize> = (0..chunks.len()).filter(|&c| t < chunks[c].rows.len()).collect();
            let mut pieces: Vec<Piece> = Vec::new();
            for some in there.chunk_by(|&a, &b| follows(chunks, t, a, b)) {
                pieces.push(piece(of, chunks, stores, t, some, tables));
            }
            lists.most_parts = pieces.iter().map(|piece| piece.parts.0).fold(lists.most_parts, usize::max);
            lists.waves.push(pieces);
        }
        lists.factors = factors(of, chunks, stores).map(|factors| tables.put(&factors));
        lists
    }
}

/// Whether token `t` of chunk `b` can go with that of `a`, the one before it in the wave.
fn follows(chunks: &[Chunk], t: usize, a: usize, b: usize) -> bool {
    chunks[a].ty == chunks[b].ty && chunks[a].rows.start + t + 1 == chunks[b].rows.start + t
}

fn piece(
    of: &OfLayer,
    chunks: &[Chunk],
    stores: &[&CudaStore],
    t: usize,
    some: &[usize],
    tables: &mut Tables,
) -> Piece {
    let token = |run: &Run, row: usize| {
        let before = (row as u32).checked_sub(run.row).filter(|&before| before < run.count)?;
        Some(Run { slot: run.slot + before, count: 1, row: row as u32, position: run.position + before, ..*run })
    };
    let runs = some.iter().flat_map(|&c| {
        let (chunk, store) = (&chunks[c], stores[c]);
        let heads = store.heads_of(of.heads.clone());
        let of_token = chunk.growth[of.layer].runs.iter().filter_map(move |run| token(run, chunk.rows.start + t));
        // How large keys are may have been found out since.
        of_token.map(move |run| Run { balance: heads[run.head as usize].balance_row(), ..run })
    });
    let runs: Vec<Run> = runs.collect();
    let seen = |&c: &usize| Row { heads: stores[c].heads_of(of.heads.clone()), later: chunks[c].rows.len() - 1 - t };
    let plan = Plan::of(&some.iter().map(seen).collect::<Vec<_>>(), of.group, of.window);
    let first = chunks[some[0]].rows.start + t;
    Piece {
        ty: chunks[some[0]].ty,
        rows: first..first + some.len(),
        runs: (runs.len(), tables.put(&runs)),
        parts: (plan.parts.len(), tables.put(&plan.parts)),
        pages: tables.put(&plan.pages),
        firsts: tables.put(&plan.firsts),
    }
}

/// What the queries of each row are multiplied by, the halves of a head alike.
fn factors(of: &OfLayer, chunks: &[Chunk], stores: &[&CudaStore]) -> Option<Vec<f32>> {
    let heads: Vec<_> = stores.iter().map(|store| store.heads_of(of.heads.clone())).collect();
    if heads.iter().copied().flatten().all(|head| head.sizes().is_none()) {
        return None;
    }
    let mut factors = Vec::new();
    for (chunk, heads) in chunks.iter().zip(&heads) {
        for _ in chunk.rows.clone() {
            for head in *heads {
                let pairs = head.layout().dim / 2;
                match head.sizes() {
                    Some(sizes) => factors.extend_from_slice(&sizes[..pairs]),
                    None => factors.extend(std::iter::repeat_n(1.0, pairs)),
                }
            }
        }
    }
    Some(factors)
}
