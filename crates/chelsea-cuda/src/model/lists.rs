//! Which entries the tokens of a batch become, and which they see: what kernels of one layer are told in lists.

use super::kept::Kept;
use crate::cache::{CudaStore, Growth, Row, Tables, reaches};
use crate::device::{Address, Device, DeviceError};
use crate::kernels::{NO_BALANCE, PageType, Run};
use std::ops::Range;
use std::sync::Arc;

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

/// Tokens that become entries of one type: how many runs, and where they lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    pub ty: PageType,
    pub count: usize,
    pub at: Address,
}

/// Single tokens of sequences whose rows follow one another and that are stored alike. Their lists are kept from step to step:
/// these are whole addresses.
#[derive(Debug, Clone)]
pub(super) struct Single {
    pub ty: PageType,
    pub rows: Range<usize>,
    pub parts: (usize, Address),
    pub pages: Address,
    pub firsts: Address,
}

/// Several tokens of one sequence.
#[derive(Debug, Clone)]
pub(super) struct Several {
    pub ty: PageType,
    pub rows: Range<usize>,
    pub pages: Address,
    pub reaches: Address,
}

/// What one layer is told; addresses are counted from where the tables are sent to, but for those of [`Single`].
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub runs: Vec<Runs>,
    pub single: Vec<Single>,
    pub several: Vec<Several>,
    /// Rows of what queries are multiplied by, u32, `[rows][kv_heads]`, where keys of any chunk are stored divided.
    pub balances: Option<Address>,
    /// Most parts of tokens that go together, with those that fill their lists up.
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
    /// Puts the lists of a layer among `tables`, but for those that are kept from step to step.
    pub fn of(
        of: &OfLayer,
        chunks: &[Chunk],
        stores: &[&CudaStore],
        tables: &mut Tables,
        (device, kept): (&Arc<dyn Device>, &mut Vec<Kept>),
    ) -> Result<Self, DeviceError> {
        let heads: Vec<_> = stores.iter().map(|store| store.heads_of(of.heads.clone())).collect();
        let mut lists = Lists::default();
        for ty in PageType::ALL {
            let mut runs: Vec<Run> = Vec::new();
            for (chunk, heads) in chunks.iter().zip(&heads).filter(|(chunk, _)| chunk.ty == ty) {
                // How large keys are may have been found out since room was made.
                let balanced = |run: &Run| Run { balance: heads[run.head as usize].balance_row(), ..*run };
                runs.extend(chunk.growth[of.layer].runs.iter().map(balanced));
            }
            if !runs.is_empty() {
                lists.runs.push(Runs { ty, count: runs.len(), at: tables.put(&runs) });
            }
        }
        let all: Vec<usize> = (0..chunks.len()).collect();
        let alike = |a: &Chunk, b: &Chunk| a.ty == b.ty && a.rows.len() == 1 && b.rows.len() == 1;
        for some in all.chunk_by(|&a, &b| alike(&chunks[a], &chunks[b])) {
            let (first, last) = (&chunks[some[0]], &chunks[some[some.len() - 1]]);
            let (ty, rows) = (first.ty, first.rows.start..last.rows.end);
            if first.rows.len() == 1 {
                let seen: Vec<Row<'_>> = some.iter().map(|&c| Row { heads: heads[c] }).collect();
                if kept.len() == lists.single.len() {
                    kept.push(Kept::default());
                }
                let own = &mut kept[lists.single.len()];
                own.renew(device, &seen, of.group, of.window)?;
                let Kept { parts, pages, firsts, .. } = *own;
                lists.most_parts = lists.most_parts.max(parts.0);
                lists.single.push(Single { ty, rows, parts, pages, firsts });
            } else {
                let (pages, reaches) = reaches(heads[some[0]]);
                lists.several.push(Several { ty, rows, pages: tables.put(&pages), reaches: tables.put(&reaches) });
            }
        }
        let balances = chunks.iter().zip(&heads).flat_map(|(chunk, heads)| {
            let of_row = heads.iter().map(|head| head.balance_row());
            std::iter::repeat_n(of_row, chunk.rows.len()).flatten()
        });
        let balances: Vec<u32> = balances.collect();
        lists.balances = balances.iter().any(|&row| row != NO_BALANCE).then(|| tables.put(&balances));
        Ok(lists)
    }
}
