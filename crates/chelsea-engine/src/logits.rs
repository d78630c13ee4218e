//! The logits of the token after a sequence's last one, wherever they are.

use chelsea_model::device::HeldLogits;
use std::sync::Arc;

/// Logits of one token.
#[derive(Debug, Clone, Default)]
pub(crate) enum Logits {
    /// Nobody made any.
    #[default]
    None,
    /// All of them, in host memory.
    Here(Vec<f32>),
    /// On a device. The likeliest are here, and the others come when they are asked for.
    There(Arc<dyn HeldLogits>),
}

impl Logits {
    /// Copies a row, or takes note that there is none.
    pub fn copied(row: &[f32], before: Logits) -> Self {
        if row.is_empty() {
            return Logits::None;
        }
        // Room that is there is used again.
        let mut to = if let Logits::Here(row) = before { row } else { Vec::new() };
        copy(row, &mut to);
        Logits::Here(to)
    }

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        matches!(self, Logits::None)
    }

    /// All of them.
    pub fn all(&self) -> &[f32] {
        match self {
            Logits::None => &[],
            Logits::Here(row) => row,
            Logits::There(held) => held.all(),
        }
    }

    /// All of them in host memory, to be changed for a while.
    pub fn all_mut(&mut self) -> &mut [f32] {
        if let Logits::There(held) = self {
            *self = Logits::Here(held.all().to_vec());
        }
        match self {
            Logits::Here(row) => row,
            Logits::None | Logits::There(_) => &mut [],
        }
    }

    /// The likeliest tokens, where a device found them.
    pub fn likeliest(&self) -> Option<&[(u32, f32)]> {
        match self {
            Logits::There(held) => Some(held.likeliest()),
            Logits::None | Logits::Here(_) => None,
        }
    }
}

/// Copies a row of logits, which may be long, by two threads.
fn copy(from: &[f32], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    let middle = from.len() / 2;
    let (left, right) = to.split_at_mut(middle);
    rayon::join(|| left.copy_from_slice(&from[..middle]), || right.copy_from_slice(&from[middle..]));
}
