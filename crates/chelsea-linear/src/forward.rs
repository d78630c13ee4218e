//! Products of matrices with the rows of a batch.

use crate::activations::Activations;
use crate::items::{self, Output, Part};
use crate::kernel::Machine;
use crate::linear::{Linear, Products};
use std::cell::Cell;

impl Linear {
    /// `y = x W^T` with `x` `[rows][cols]`, the rows of one chunk, and `y` `[rows][outputs]`, on the caller's rayon
    /// pool.
    ///
    /// # Panics
    /// When `x` or `y` has another length.
    pub fn forward(&self, x: &[f32], rows: usize, y: &mut [f32]) {
        thread_local!(static WORKSPACE: Cell<Option<Activations>> = const { Cell::new(None) });
        // Taken, not borrowed: while this thread waits for others it may run another product.
        let mut workspace = WORKSPACE.take().unwrap_or_default();
        forward_many(&mut [(self, y)], x, &[rows], &mut workspace);
        WORKSPACE.set(Some(workspace));
    }
}

/// Several products of the same `x`, `[rows][cols]`: the activations are rounded once (into `workspace`) and all
/// outputs, `[rows][outputs]` each, are formed in one parallel region on the caller's rayon pool.
///
/// `chunks` says how the rows are made up: the number of rows of each sequence, in order; `&[rows]` where they are all
/// of one. What a row gets depends on its numbers and on the length of its own chunk: not on the other chunks, nor on
/// the number of threads.
///
/// # Panics
/// When a length does not match a shape, or when the matrices differ in columns.
pub fn forward_many(parts: &mut [(&Linear, &mut [f32])], x: &[f32], chunks: &[usize], workspace: &mut Activations) {
    forward_on(Machine::detect(), parts, x, chunks, workspace);
}

/// See [`forward_many`].
pub(crate) fn forward_on(
    machine: Machine,
    parts: &mut [(&Linear, &mut [f32])],
    x: &[f32],
    chunks: &[usize],
    workspace: &mut Activations,
) {
    let Some(cols) = parts.first().map(|part| part.0.cols()) else { return };
    let rows: usize = chunks.iter().sum();
    assert_eq!(Some(x.len()), rows.checked_mul(cols), "activations are not {rows} x {cols}");
    for (linear, y) in parts.iter() {
        assert_eq!(linear.cols(), cols, "matrices of one call differ in columns");
        assert_eq!(Some(y.len()), rows.checked_mul(linear.rows()), "output is not {rows} x {}", linear.rows());
    }
    workspace.arrange(machine, chunks, cols);
    if parts.iter().any(|part| part.0.products() == Products::Fast) {
        workspace.fill(machine, x);
    }
    let parts = parts.iter_mut().map(|(linear, y)| Part { linear, batch: 0, output: Output::new(y) });
    items::products(parts, x, workspace, machine);
}
