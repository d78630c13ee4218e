//! Grouped-query attention over a cache: projections, norms of queries and keys, rotary embedding, output product.

use chelsea_kv::{AttendRequest, SequenceCache};

use super::batch::Chunk;
use super::clock::Phase;
use super::norm::rms_norm_in_place;
use super::product::{Projection, products};
use super::workspace::Workspace;
use crate::error::ModelError;

/// Attention of one layer.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) q: Projection,
    pub(crate) k: Projection,
    pub(crate) v: Projection,
    /// Norms of each head's query and key.
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) output: Projection,
    /// A logit per query head whose exponential joins the softmax's denominator.
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) head_dim: usize,
    /// Which of the workspace's rotary tables turns queries and keys; none in layers that do not know positions.
    pub(crate) rotary: Option<usize>,
    pub(crate) eps: f32,
}

impl Attention {
    /// Numbers of all query heads of a token.
    pub(crate) fn q_width(&self) -> usize {
        self.q.weight.rows()
    }

    /// Attention of layer `index`: normed rows in `ws.y` -> heads' outputs in `ws.attended`. Keys and values go into the
    /// caches of the batch.
    pub(crate) fn attend(&self, index: usize, batch: &mut [Chunk<'_>], ws: &mut Workspace) -> Result<(), ModelError> {
        let rows: usize = ws.chunks.iter().sum();
        let (q_width, kv_width) = (self.q_width(), self.k.weight.rows());
        let (q, k, v) = (ws.q.take(rows * q_width), ws.k.take(rows * kv_width), ws.v.take(rows * kv_width));
        let y = ws.y.take(rows * self.q.weight.cols());
        let parts = &mut [(&self.q.weight, &mut *q), (&self.k.weight, &mut *k), (&self.v.weight, &mut *v)];
        products(parts, y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        for (projection, out) in [(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)] {
            projection.add_bias(out);
        }
        if let Some(norm) = &self.q_norm {
            rms_norm_in_place(q, norm, self.eps);
        }
        if let Some(norm) = &self.k_norm {
            rms_norm_in_place(k, norm, self.eps);
        }
        if let Some(rotary) = self.rotary {
            ws.rotary[rotary].turn(q, q_width, self.head_dim);
            ws.rotary[rotary].turn(k, kv_width, self.head_dim);
        }
        ws.clock.lap(Phase::Rest);

        let (mut q, mut k, mut v) = (&*q, &*k, &*v);
        let mut attended = ws.attended.take(rows * q_width);
        for chunk in batch.iter_mut() {
            let width = chunk.tokens.len() * kv_width;
            chunk.cache.append(index, &k[..width], &v[..width])?;
            (k, v) = (&k[width..], &v[width..]);
        }
        ws.clock.lap(Phase::Append);
        let requests = batch.iter_mut().map(|chunk| {
            let width = chunk.tokens.len() * q_width;
            let (share, out);
            (share, q) = q.split_at(width);
            (out, attended) = std::mem::take(&mut attended).split_at_mut(width);
            AttendRequest { cache: &mut *chunk.cache, q: share, out }
        });
        SequenceCache::attend_many(index, &mut requests.collect::<Vec<_>>(), self.sinks.as_deref())?;
        ws.clock.lap(Phase::Attention);
        Ok(())
    }

    /// The output product of the rows that are left: `ws.attended` -> `ws.y`.
    pub(crate) fn project(&self, ws: &mut Workspace) {
        let rows: usize = ws.chunks.iter().sum();
        let y = ws.y.take(rows * self.output.weight.rows());
        let attended = ws.attended.take(rows * self.q_width());
        ws.clock.lap(Phase::Rest);
        products(&mut [(&self.output.weight, &mut *y)], attended, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        self.output.add_bias(y);
    }

    /// Bytes of the matrices and of the vectors.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let vectors = [&self.q_norm, &self.k_norm, &self.sinks].into_iter().flatten();
        let mut sum = (0, vectors.map(|vector| size_of_val(vector.as_slice())).sum());
        for projection in [&self.q, &self.k, &self.v, &self.output] {
            let (matrix, bias) = projection.bytes();
            sum = (sum.0 + matrix, sum.1 + bias);
        }
        sum
    }
}
