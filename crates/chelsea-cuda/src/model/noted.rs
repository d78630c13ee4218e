//! Queries that a policy's statistics are made of, on their way to the host.

use super::pass::PassError;
use super::{Layer, Workspace};
use crate::device::{Address, Device, DeviceError};
use chelsea_model::device::Pass;
use rayon::prelude::*;
use std::sync::Arc;

/// Bytes of queries that wait on the device before statistics are made of them.
pub(super) const MOST_QUERIES: usize = 64 << 20;

/// Queries that statistics are made of, gathered over layers: reading them back once costs one wait.
pub(super) struct Noted {
    /// Chunks whose caches want any: which, and their rows.
    wanted: Vec<(usize, std::ops::Range<usize>)>,
    rows: usize,
    /// Layers whose queries wait, and where each begins, in bytes.
    waiting: Vec<(usize, usize)>,
    bytes: usize,
}

impl Noted {
    pub fn new(pass: &Pass<'_, '_>, rows: usize) -> Self {
        let mut row = 0;
        let mut wanted = Vec::new();
        for (i, chunk) in pass.batch.iter().enumerate() {
            if chunk.cache.notes_queries() {
                wanted.push((i, row..row + chunk.tokens.len()));
            }
            row += chunk.tokens.len();
        }
        Noted { wanted, rows, waiting: Vec::new(), bytes: 0 }
    }

    /// Whether all layers' queries wait until the pass is over, so that nothing is read before.
    pub fn waits_to_the_end(&self, layers: &[Layer]) -> bool {
        let bytes = layers.iter().map(|layer| self.rows * layer.q.weight.rows() * 4).sum::<usize>();
        self.wanted.is_empty() || bytes <= MOST_QUERIES
    }

    /// Where the queries of a layer are to be set aside; nowhere, if nobody wants any.
    pub fn place(
        &mut self,
        device: &Arc<dyn Device>,
        workspace: &mut Workspace,
        layers: &[Layer],
        index: usize,
    ) -> Result<Option<Address>, DeviceError> {
        if self.wanted.is_empty() {
            return Ok(None);
        }
        // As much in every layer: what waits there must not be lost.
        let most = layers.iter().map(|layer| self.rows * layer.q.weight.rows() * 4).max().unwrap_or(0);
        let at = workspace.queries.room(device, MOST_QUERIES.min(layers.len() * most) + most)?;
        let place = at + self.bytes as Address;
        self.waiting.push((index, self.bytes));
        self.bytes += self.rows * layers[index].q.weight.rows() * 4;
        Ok(Some(place))
    }

    /// Tells caches of the queries that wait, once they are more than `most` bytes.
    pub fn settle(
        &mut self,
        device: &dyn Device,
        workspace: &mut Workspace,
        layers: &[Layer],
        pass: &mut Pass<'_, '_>,
        most: usize,
    ) -> Result<(), PassError> {
        if self.bytes <= most {
            return Ok(());
        }
        let mut queries = vec![0.0f32; self.bytes / 4];
        let at = workspace.queries.at().unwrap_or_default();
        device.read(at, bytemuck::cast_slice_mut(&mut queries))?;
        let waiting: Vec<_> = self.waiting.drain(..).collect();
        let (wanted, rows) = (&self.wanted, self.rows);
        // In decode this is a good part of what the host does: each cache on a thread.
        pass.batch.par_iter_mut().enumerate().try_for_each(|(i, chunk)| {
            let Some((_, own)) = wanted.iter().find(|(chunk, _)| *chunk == i) else { return Ok(()) };
            waiting.iter().try_for_each(|&(index, from)| {
                let width = layers[index].q.weight.rows();
                let of_layer = &queries[from / 4..][..rows * width];
                chunk.cache.note_queries(index, &of_layer[own.start * width..own.end * width])
            })
        })?;
        self.bytes = 0;
        Ok(())
    }
}
