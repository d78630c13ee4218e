//! A mixture of experts: a router picks a few gated feed-forwards for each token, and their outputs are summed by weight.
//!
//! Rows that go through the same expert are multiplied together, so that its weights are read once per batch. Each row sums
//! its experts in the order of their numbers, whichever rows are beside it.

use chelsea_linear::{Choice, Experts as Matrices, Input, Routes, forward_experts};

use super::activation::gate_mul;
use super::clock::Phase;
use super::product::{Projection, products};
use super::workspace::Workspace;
use crate::config::{Activation, Routing};

/// One product of all experts.
#[derive(Debug)]
pub(crate) struct ExpertProjection {
    pub(crate) weights: Matrices,
    /// `[experts][rows]`.
    pub(crate) biases: Option<Vec<f32>>,
}

impl ExpertProjection {
    /// Adds each expert's bias to its slots of `x`, `[slots][rows]`.
    fn add_bias(&self, x: &mut [f32], routes: &Routes) {
        let Some(biases) = &self.biases else { return };
        let width = self.weights.rows();
        for (expert, slots) in routes.experts() {
            let bias = &biases[expert * width..][..width];
            for x in x[slots.start * width..slots.end * width].chunks_exact_mut(width) {
                x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        }
    }

    /// Bytes of the matrices and of the biases.
    fn bytes(&self) -> (usize, usize) {
        (self.weights.bytes(), self.biases.as_ref().map_or(0, |biases| size_of_val(biases.as_slice())))
    }
}

/// The experts of a layer: gated feed-forwards whose products may have biases.
#[derive(Debug)]
pub(crate) struct Experts {
    /// `[experts][hidden]`, multiplied in f32: a rounded logit would pick other experts.
    pub(crate) router: Projection,
    pub(crate) gate: ExpertProjection,
    pub(crate) up: ExpertProjection,
    pub(crate) down: ExpertProjection,
    /// How many a token goes through.
    pub(crate) used: usize,
    pub(crate) routing: Routing,
    pub(crate) activation: Activation,
}

impl Experts {
    /// Rows of `ws.y`, in place.
    pub(crate) fn forward(&self, ws: &mut Workspace) {
        let rows: usize = ws.chunks.iter().sum();
        let (count, hidden, inner) = (self.gate.weights.count(), self.gate.weights.cols(), self.gate.weights.rows());
        let y = ws.y.take(rows * hidden);
        let logits = ws.router_logits.take(rows * count);
        products(&mut [(&self.router.weight, &mut *logits)], y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        self.router.add_bias(logits);
        ws.choices.clear();
        for logits in logits.chunks_exact(count) {
            self.choose(logits, &mut ws.choices);
        }
        ws.routes.set(&ws.chunks, count, &ws.choices);
        let slots = ws.routes.slots();
        let (gate, up) = (ws.gate.take(slots * inner), ws.up.take(slots * inner));
        ws.clock.lap(Phase::Rest);

        let parts = &mut [(&self.gate.weights, &mut *gate), (&self.up.weights, &mut *up)];
        forward_experts(parts, y, Input::Rows, &ws.routes, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        self.gate.add_bias(gate, &ws.routes);
        self.up.add_bias(up, &ws.routes);
        gate_mul(self.activation, gate, up);
        let out = ws.expert_out.take(slots * hidden);
        ws.clock.lap(Phase::Rest);
        let parts = &mut [(&self.down.weights, &mut *out)];
        forward_experts(parts, gate, Input::Slots, &ws.routes, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        self.down.add_bias(out, &ws.routes);
        y.fill(0.0);
        ws.routes.add_weighted(out, y);
        ws.clock.lap(Phase::Rest);
    }

    /// Adds the experts of a row with these logits to `choices`, by their numbers: those with the largest logits, the lower
    /// number first among equals.
    fn choose(&self, logits: &[f32], choices: &mut Vec<Choice>) {
        let start = choices.len();
        for (expert, &logit) in (0..).zip(logits) {
            let at = choices[start..].iter().position(|chosen| logit.total_cmp(&chosen.weight).is_gt());
            let at = start + at.unwrap_or(choices.len() - start);
            if at < start + self.used {
                choices.truncate(start + self.used - 1);
                choices.insert(at, Choice { expert, weight: logit });
            }
        }
        let chosen = &mut choices[start..];
        let most = chosen.first().map_or(0.0, |choice| choice.weight);
        let total: f32 = match self.routing {
            Routing::Softmax => logits.iter().map(|logit| (logit - most).exp()).sum(),
            Routing::SoftmaxOfChosen => chosen.iter().map(|choice| (choice.weight - most).exp()).sum(),
        };
        for choice in &mut *chosen {
            choice.weight = (choice.weight - most).exp() / total;
        }
        chosen.sort_unstable_by_key(|choice| choice.expert);
    }

    /// Bytes of the matrices and of the biases.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let parts = [self.router.bytes(), self.gate.bytes(), self.up.bytes(), self.down.bytes()];
        parts.into_iter().fold((0, 0), |sum, (matrices, biases)| (sum.0 + matrices, sum.1 + biases))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_linear::{GgmlType, Linear, Products};

    fn experts(count: usize, used: usize, routing: Routing) -> Experts {
        let linear = |rows: usize, cols: usize, seed: usize| {
            let numbers = (0..rows * cols).map(|i| ((i * 7 + seed * 31) % 23) as f32 / 11.0 - 1.0);
            let data: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            Linear::new(GgmlType::F32, &data, rows, cols, Products::F32, None).unwrap()
        };
        let projection = |rows, cols, seed: usize| ExpertProjection {
            weights: Matrices::from_matrices((0..count).map(|e| linear(rows, cols, seed + 3 * e)).collect()).unwrap(),
            biases: Some((0..count * rows).map(|i| (i + seed) as f32 / 10.0).collect()),
        };
        let router = Projection { weight: linear(count, 6, 99), bias: Some(vec![0.25; count]) };
        let (gate, up, down) = (projection(4, 6, 0), projection(4, 6, 1), projection(6, 4, 2));
        Experts { router, gate, up, down, used, routing, activation: Activation::Silu }
    }

    fn rows(count: usize) -> Vec<f32> {
        (0..count * 6).map(|i| ((i * 13) % 17) as f32 / 8.0 - 1.0).collect()
    }

    fn forward(experts: &Experts, x: &[f32], chunks: &[usize]) -> Vec<f32> {
        let mut ws = Workspace { chunks: chunks.to_vec(), ..Workspace::default() };
        ws.y.take(x.len()).copy_from_slice(x);
        experts.forward(&mut ws);
        ws.y.take(x.len()).to_vec()
    }

    #[test]
    fn the_largest_logits_are_picked_and_weights_are_those_of_the_softmax() {
        let logits = [0.5, 2.0, -1.0, 2.0, 1.0];
        let of = |routing| {
            let mut choices = Vec::new();
            experts(5, 3, routing).choose(&logits, &mut choices);
            choices
        };
        let exp: Vec<f32> = logits.iter().map(|logit: &f32| logit.exp()).collect();
        for (routing, total) in
            [(Routing::Softmax, exp.iter().sum::<f32>()), (Routing::SoftmaxOfChosen, exp[1] + exp[3] + exp[4])]
        {
            let found = of(routing);
            assert_eq!(found.iter().map(|choice| choice.expert).collect::<Vec<_>>(), [1, 3, 4]);
            for choice in found {
                assert!((choice.weight - exp[choice.expert as usize] / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_row_gets_the_same_alone_and_among_others() {
        let experts = experts(7, 3, Routing::SoftmaxOfChosen);
        let x = rows(9);
        let together = forward(&experts, &x, &[4, 1, 0, 4]);
        for (row, expected) in x.chunks_exact(6).zip(together.chunks_exact(6)) {
            let alone = forward(&experts, row, &[1]);
            for (alone, expected) in alone.iter().zip(expected) {
                assert!((alone - expected).abs() < 1e-5 * expected.abs().max(1.0), "{alone} {expected}");
            }
        }
    }

    #[test]
    fn all_experts_by_weight_are_the_weighted_sum() {
        let experts = experts(2, 2, Routing::Softmax);
        let x = rows(3);
        let found = forward(&experts, &x, &[3]);
        for (x, found) in x.chunks_exact(6).zip(found.chunks_exact(6)) {
            let product = |linear: &Linear, bias: &[f32], x: &[f32]| {
                let mut row = vec![0.0; x.len()];
                let mut out = Vec::new();
                for (i, bias) in bias.iter().enumerate() {
                    linear.row(i, &mut row);
                    out.push(bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>());
                }
                out
            };
            let of_expert = |projection: &ExpertProjection, expert: usize, x: &[f32]| {
                let width = projection.weights.rows();
                let bias = &projection.biases.as_ref().unwrap()[expert * width..][..width];
                product(&projection.weights.matrices()[expert], bias, x)
            };
            let logits = product(&experts.router.weight, experts.router.bias.as_ref().unwrap(), x);
            let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
            let mut sum = vec![0.0; 6];
            for (expert, logit) in logits.iter().enumerate() {
                let (gate, up) = (of_expert(&experts.gate, expert, x), of_expert(&experts.up, expert, x));
                let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let out = of_expert(&experts.down, expert, &inner);
                sum.iter_mut().zip(&out).for_each(|(sum, out)| *sum += logit.exp() / total * out);
            }
            for (found, expected) in found.iter().zip(&sum) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}
