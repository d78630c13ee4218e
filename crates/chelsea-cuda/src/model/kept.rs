//! Lists of pages that stay on the device from step to step.
//!
//! A head of a long text has thousands of pages, of which a decode step changes none, but for one in 64 steps. So the lists that
//! attention of single tokens goes by are made anew, and sent, only where a head of the layer has other pages than before.

use crate::cache::{Plan, Row, Tables};
use crate::device::{Address, Device, DeviceError};
use std::sync::Arc;

/// Lists for the single tokens of one layer.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What they follow from: stamps of heads, and their entries where a window moves with every token.
    key: Vec<u64>,
    tables: Tables,
    /// Parts, with those that fill the list up, and where they are.
    pub parts: (usize, Address),
    pub pages: Address,
    pub firsts: Address,
}

impl Kept {
    /// Sees to it that the lists are those of `rows`.
    pub fn renew(
        &mut self,
        device: &Arc<dyn Device>,
        rows: &[Row<'_>],
        group: usize,
        window: Option<usize>,
    ) -> Result<(), DeviceError> {
        let heads = || rows.iter().flat_map(|row| row.heads);
        let key: Vec<u64> = match window {
            None => heads().map(|head| head.stamp()).collect(),
            Some(_) => heads().flat_map(|head| [head.stamp(), head.len() as u64]).collect(),
        };
        if key == self.key {
            debug_assert!(self.are_of(&Plan::of(rows, group, window)), "pages changed, and their stamp did not");
            return Ok(());
        }
        let plan = Plan::of(rows, group, window);
        self.key.clear();
        self.tables.begin();
        let (parts, at) = self.tables.put_padded(&plan.parts);
        let (firsts, pages) = (self.tables.put(&plan.firsts), self.tables.put_padded(&plan.pages).1);
        let base = self.tables.send(device)?;
        (self.parts, self.firsts, self.pages) = ((parts, base + at), base + firsts, base + pages);
        self.key = key;
        Ok(())
    }

    /// Whether these lists were sent.
    fn are_of(&self, plan: &Plan) -> bool {
        let mut tables = Tables::default();
        tables.put_padded(&plan.parts);
        tables.put(&plan.firsts);
        tables.put_padded(&plan.pages);
        tables.holds_what(&self.tables)
    }
}
