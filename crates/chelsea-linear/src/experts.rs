//! Mixtures of experts: matrices of which each row meets a few only.
//!
//! [`Routes`] sorts the choices of a batch by expert. A *slot* is one row with one of its experts; slots lie expert by
//! expert, and within one in the order of rows. A layer with a gated MLP is then
//!
//! ```text
//! routes.set(chunks, experts, choices)                                  which row goes where
//! forward_experts(gate and up, x, Input::Rows, routes, ..)              x [rows][cols] -> [slots][outputs]
//! the activation, and biases by `Routes::experts`, over [slots][outputs]
//! forward_experts(down, gate, Input::Slots, routes, ..)                 [slots][cols] -> [slots][outputs]
//! routes.add_weighted(down, out)                                        [slots][outputs] -> [rows][outputs]
//! ```
//!
//! Rows are gathered where they are rounded, so that nothing is copied, and all experts are one parallel region.
//! Whether matrix instructions serve a slot is decided by the number of rows of its own chunk that its expert gets, so
//! here, too, what a sequence gets does not depend on who is beside it.

use crate::activations::Activations;
use crate::error::LinearError;
use crate::items::{self, Output, Part};
use crate::kernel::Machine;
use crate::linear::{Linear, Products};
use crate::rows::Place;
use crate::types::GgmlType;
use rayon::prelude::*;
use std::ops::Range;

/// The matrices of all experts, `[experts][rows][cols]`.
#[derive(Debug)]
pub struct Experts {
    matrices: Vec<Linear>,
}

impl Experts {
    /// Takes over the weights of a tensor `[experts][rows][cols]` in GGML blocks. With `row_order`, output row `i` of
    /// every expert is its source row `row_order[i]`.
    ///
    /// # Errors
    /// [`LinearError::Empty`] where there is no expert; otherwise as [`Linear::new`].
    pub fn new(
        ty: GgmlType,
        data: &[u8],
        experts: usize,
        rows: usize,
        cols: usize,
        products: Products,
        row_order: Option<&[u32]>,
    ) -> Result<Experts, LinearError> {
        let one = ty.bytes_for(rows, cols)?;
        let expected = one.checked_mul(experts).ok_or(LinearError::TooLarge { rows, cols })?;
        if expected == 0 {
            return Err(LinearError::Empty { rows: rows * experts.min(1), cols });
        }
        if data.len() != expected {
            return Err(LinearError::Length { ty, expected, found: data.len() });
        }
        let matrix = |data| Linear::new(ty, data, rows, cols, products, row_order);
        Ok(Experts { matrices: data.chunks_exact(one).map(matrix).collect::<Result<_, _>>()? })
    }

    /// Experts whose matrices were made one by one, in order: where a file has a tensor for each.
    ///
    /// # Errors
    /// [`LinearError::Empty`] where there is no expert; [`LinearError::Experts`] where they differ in shape.
    pub fn from_matrices(matrices: Vec<Linear>) -> Result<Experts, LinearError> {
        let shape = |linear: &Linear| (linear.rows(), linear.cols());
        let Some(first) = matrices.first().map(shape) else { return Err(LinearError::Empty { rows: 0, cols: 0 }) };
        match matrices.iter().find(|linear| shape(linear) != first) {
            Some(other) => Err(LinearError::Experts { first, other: shape(other) }),
            None => Ok(Experts { matrices }),
        }
    }

    /// The matrices of all experts, in order; at least one.
    pub fn matrices(&self) -> &[Linear] {
        &self.matrices
    }

    /// Number of experts.
    pub fn count(&self) -> usize {
        self.matrices.len()
    }

    /// Output features of every expert.
    pub fn rows(&self) -> usize {
        self.matrices[0].rows()
    }

    /// Input features of every expert.
    pub fn cols(&self) -> usize {
        self.matrices[0].cols()
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(Linear::bytes).sum()
    }
}

/// An expert of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Number of the expert.
    pub expert: u32,
    /// What its output is multiplied by.
    pub weight: f32,
}

/// Where the rows of a batch go, sorted by expert. Kept from call to call: nothing is allocated once it has grown.
#[derive(Debug, Default)]
pub struct Routes {
    /// Experts of a row.
    each: usize,
    /// Rows of the batch.
    rows: usize,
    /// First slot of every expert, and the number of slots.
    starts: Vec<usize>,
    /// Row of every slot.
    sources: Vec<usize>,
    /// Slot of every choice, `[rows][each]`.
    slots: Vec<usize>,
    /// Weight of every choice.
    weights: Vec<f32>,
    /// Number of the chunk of every slot.
    chunk_of: Vec<usize>,
}

/// What [`forward_experts`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `[rows][cols]`: every slot takes its row.
    Rows,
    /// `[slots][cols]`: every slot has numbers of its own.
    Slots,
}

impl Routes {
    /// No rows.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Sorts the choices of a batch, `[rows][each]`. `chunks` holds the number of rows of each sequence, in order.
    ///
    /// # Panics
    /// When the choices are not equally many for every row, or name an expert that does not exist.
    pub fn set(&mut self, chunks: &[usize], experts: usize, choices: &[Choice]) {
        self.rows = chunks.iter().sum();
        self.each = choices.len().checked_div(self.rows).unwrap_or(0);
        assert_eq!(choices.len(), self.rows * self.each, "choices are not equally many for {} rows", self.rows);
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for choice in choices {
            assert!((choice.expert as usize) < experts, "expert {} of {experts}", choice.expert);
            self.starts[choice.expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            self.starts[expert + 1] += self.starts[expert];
        }
        for list in [&mut self.slots, &mut self.sources, &mut self.chunk_of] {
            list.clear();
            list.resize(choices.len(), 0);
        }
        self.weights.clear();
        self.weights.extend(choices.iter().map(|choice| choice.weight));
        // `starts` serves as the next free slot of every expert, and is moved back after.
        let chunk_of = chunks.iter().enumerate().flat_map(|(chunk, &rows)| std::iter::repeat_n(chunk, rows));
        for ((row, chunk), choices) in chunk_of.enumerate().zip(choices.chunks_exact(self.each.max(1))) {
            for (choice, at) in choices.iter().zip(row * self.each..) {
                let slot = &mut self.starts[choice.expert as usize];
                self.slots[at] = *slot;
                self.sources[*slot] = row;
                self.chunk_of[*slot] = chunk;
                *slot += 1;
            }
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    /// Number of slots: rows times experts of a row.
    pub fn slots(&self) -> usize {
        self.sources.len()
    }

    /// The experts that have slots, and these: for what is added expert by expert, such as a bias.
    pub fn experts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let ranges = self.starts.windows(2).map(|ends| ends[0]..ends[1]).enumerate();
        ranges.filter(|(_, slots)| !slots.is_empty())
    }

    /// Adds what the experts of a row came to, `y` `[slots][width]`, each times its weight, to `out`, `[rows][width]`:
    /// in the order of the row's choices.
    ///
    /// # Panics
    /// When `y` or `out` has another length.
    pub fn add_weighted(&self, y: &[f32], out: &mut [f32]) {
        if self.slots() == 0 {
            return;
        }
        let width = out.len() / self.rows;
        assert_eq!(out.len(), self.rows * width, "output is not {} rows", self.rows);
        assert_eq!(y.len(), self.slots() * width, "outputs of experts are not {} x {width}", self.slots());
        let add = |(row, out): (usize, &mut [f32])| {
            let choices = row * self.each..(row + 1) * self.each;
            for (&slot, &weight) in self.slots[choices.clone()].iter().zip(&self.weights[choices]) {
                for (out, y) in out.iter_mut().zip(&y[slot * width..][..width]) {
                    *out += weight * y;
                }
            }
        };
        match self.rows {
            // A few rows are not worth waking threads for.
            0..16 => out.chunks_exact_mut(width).enumerate().for_each(add),
            _ => out.par_chunks_exact_mut(width).enumerate().for_each(add),
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let numbers = [&self.starts, &self.sources, &self.slots, &self.chunk_of];
        numbers.iter().map(|list| size_of_val(&list[..])).sum::<usize>() + size_of_val(&self.weights[..])
    }
}

/// Several products of the same input: `y` of each, `[slots][outputs]`, in one parallel region on the caller's rayon
/// pool. Activations are rounded once, into `workspace`.
///
/// # Panics
/// When a length does not match a shape, or when the experts differ in columns or in number from the routes'.
pub fn forward_experts(
    parts: &mut [(&Experts, &mut [f32])],
    x: &[f32],
    input: Input,
    routes: &Routes,
    workspace: &mut Activations,
) {
    forward_experts_on(Machine::detect(), parts, x, input, routes, workspace);
}

/// See [`forward_experts`].
pub(crate) fn forward_experts_on(
    machine: Machine,
    parts: &mut [(&Experts, &mut [f32])],
    x: &[f32],
    input: Input,
    routes: &Routes,
    workspace: &mut Activations,
) {
    let Some(cols) = parts.first().map(|part| part.0.cols()) else { return };
    let slots = routes.slots();
    let rows = if input == Input::Rows { routes.rows } else { slots };
    assert_eq!(Some(x.len()), rows.checked_mul(cols), "activations are not {rows} x {cols}");
    for (experts, y) in parts.iter() {
        assert_eq!(experts.cols(), cols, "experts of one call differ in columns");
        assert!(slots == 0 || experts.count() + 1 == routes.starts.len(), "routes are of other experts");
        assert_eq!(Some(y.len()), slots.checked_mul(experts.rows()), "output is not {slots} x {}", experts.rows());
    }
    workspace.clear(cols);
    for (_, slots) in routes.experts() {
        // Rows of one chunk follow one another.
        let chunks = routes.chunk_of[slots.clone()].chunk_by(|a, b| a == b).map(<[usize]>::len);
        workspace.push(machine, chunks, |i| {
            let slot = slots.start + i;
            Place { from: if input == Input::Rows { routes.sources[slot] } else { slot }, to: slot }
        });
    }
    if parts.iter().any(|part| part.0.matrices[0].products() == Products::Fast) {
        workspace.fill(machine, x);
    }
    let mut products = Vec::with_capacity(parts.len() * workspace.batches().len());
    for (experts, y) in parts {
        // Every batch has slots of its own, so that the parts that share this output write different rows.
        let output = Output::new(y);
        let of_batch = |(batch, (expert, _))| Part { linear: &experts.matrices[expert], batch, output };
        products.extend(routes.experts().enumerate().map(of_batch));
    }
    items::products(products.into_iter(), x, workspace, machine);
}
