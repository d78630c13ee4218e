//! Buffers of a forward pass.

use std::fmt::Debug;
use std::sync::Arc;

use chelsea_linear::{Activations, Choice, Routes};

use super::buffer::Buffer;
use super::clock::{Clock, Spent};
use super::rope::RotaryTable;

/// Logits of one row that stay on a device, of which the likeliest are here: most tokens are sampled from those.
pub trait HeldLogits: Debug + Send + Sync {
    /// The likeliest tokens with their logits, the likeliest first and of equal ones the one with the lower number
    /// ([`f32::total_cmp`]): all of the vocabulary, or some hundreds. What is no finite number comes first.
    fn likeliest(&self) -> &[(u32, f32)];

    /// The logits of the whole vocabulary, which are copied when somebody first asks for them. Where the device fails to,
    /// they are no numbers, and its next pass says why.
    fn all(&self) -> &[f32];
}

/// Buffers of a forward pass, kept from call to call: nothing is allocated once they have grown to the
/// largest batch.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Residual stream, `[rows][hidden]`.
    pub(crate) x: Buffer,
    /// Normed rows, then outputs of the products that go back into the residual stream, `[rows][hidden]`.
    pub(crate) y: Buffer,
    /// `[rows][q_heads * head_dim]`.
    pub(super) q: Buffer,
    /// `[rows][kv_heads * head_dim]`.
    pub(super) k: Buffer,
    /// `[rows][kv_heads * head_dim]`.
    pub(super) v: Buffer,
    /// Output of attention, `[rows][q_heads * head_dim]`.
    pub(crate) attended: Buffer,
    /// `[rows][feed_forward]`.
    pub(super) gate: Buffer,
    /// `[rows][feed_forward]`.
    pub(super) up: Buffer,
    /// `[wanted rows][vocab]`.
    pub(crate) logits: Buffer,
    /// Numbers of `logits` that the last call filled.
    pub(crate) filled: usize,
    /// Logits that the last call left on a device.
    pub(crate) held: Vec<Arc<dyn HeldLogits>>,
    /// Rows of each chunk of the batch.
    pub(crate) chunks: Vec<usize>,
    /// Rows whose logits are wanted, ascending, and how many of each chunk.
    pub(crate) wanted: Vec<usize>,
    pub(crate) wanted_of_chunks: Vec<usize>,
    /// For each wanted row, whether its logits may stay on a device.
    pub(crate) may_stay: Vec<bool>,
    /// One table for each rotary embedding of the model.
    pub(crate) rotary: Vec<RotaryTable>,
    /// Logits of a mixture's router, `[rows][experts]`.
    pub(super) router_logits: Buffer,
    /// The experts of every row, and where its slots lie.
    pub(super) choices: Vec<Choice>,
    pub(super) routes: Routes,
    /// Outputs of experts, `[slots][hidden]`.
    pub(super) expert_out: Buffer,
    pub(crate) activations: Activations,
    pub(crate) clock: Clock,
}

impl Workspace {
    /// Empty buffers.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// A workspace that holds these logits already, as if a call had just made them.
    pub fn with_logits(logits: &[f32]) -> Workspace {
        {
            let mut workspace = Workspace::default();
            workspace.set_logits(logits);
            workspace
        }
    }

    /// Logits of the last call: a row of [`Config::vocab`](crate::Config) numbers for every wanted position,
    /// in the order of chunks and positions, but for those that stayed on a device ([`Workspace::held`]).
    pub fn logits(&self) -> &[f32] {
        self.logits.first(self.filled)
    }

    /// Logits of the last call that stayed on a device: those of chunks with [`Wanted::Held`](crate::Wanted), in their order. A
    /// model that runs on the CPU leaves none: [`Workspace::logits`] has all.
    pub fn held(&self) -> &[Arc<dyn HeldLogits>] {
        &self.held
    }

    /// [`Workspace::logits`], to be changed by a sampler.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        self.logits.take(self.filled)
    }

    /// Holds these logits from now on, as if a call for one sequence had just made them.
    pub fn set_logits(&mut self, logits: &[f32]) {
        self.logits.take(logits.len()).copy_from_slice(logits);
        self.filled = logits.len();
    }

    /// From now on counts where calls spend their time, or no longer does; either way from zero.
    pub fn measure(&mut self, on: bool) {
        self.clock.set(on);
    }

    /// What calls have spent since [`Workspace::measure`] was told to count.
    pub fn spent(&self) -> Spent {
        self.clock.spent
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.x, &self.y, &self.q, &self.k, &self.v, &self.attended, &self.gate, &self.up, &self.logits];
        buffers.into_iter().map(Buffer::bytes).sum::<usize>()
            + self.rotary.iter().map(RotaryTable::bytes).sum::<usize>()
            + [&self.router_logits, &self.expert_out].into_iter().map(Buffer::bytes).sum::<usize>()
            + self.choices.capacity() * size_of::<Choice>()
            + self.routes.bytes()
            + self.activations.bytes()
    }
}
