//! Products with weight matrices.

use chelsea_linear::{Activations, Linear, forward_many};

/// A product and the bias that is added to it.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) weight: Linear,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Projection {
    /// Bytes of the matrix and of the bias.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.weight.bytes(), self.bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice())))
    }

    /// Adds the bias, where there is one, to every row of `x`.
    pub(crate) fn add_bias(&self, x: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in x.chunks_exact_mut(bias.len()) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        }
    }
}

/// Several products of the same rows, `[rows][in] -> [rows][out]` each; `chunks` are the rows of each sequence.
pub(crate) fn products(
    parts: &mut [(&Linear, &mut [f32])],
    x: &[f32],
    chunks: &[usize],
    activations: &mut Activations,
) {
    forward_many(parts, x, chunks, activations);
}
