//! The gated feed-forward: `down(activation(gate(x), up(x)))`.

use chelsea_linear::Linear;

use super::activation::gate_mul;
use super::clock::Phase;
use super::product::products;
use super::workspace::Workspace;
use crate::config::Activation;

/// A gated feed-forward.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// Rows of `ws.y`, in place.
    pub(crate) fn forward(&self, ws: &mut Workspace) {
        let rows: usize = ws.chunks.iter().sum();
        let y = ws.y.take(rows * self.gate.cols());
        let (gate, up) = (ws.gate.take(rows * self.gate.rows()), ws.up.take(rows * self.up.rows()));
        products(&mut [(&self.gate, &mut *gate), (&self.up, &mut *up)], y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        gate_mul(self.activation, gate, up);
        ws.clock.lap(Phase::Rest);
        products(&mut [(&self.down, y)], gate, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }
}
