//! A mixture of experts: a router picks a few gated feed-forwards for each token, and their outputs are summed by weight.
//!
//! Rows that go through the same expert are gathered, so that its weights are read once a batch. Each row sums its experts
//! in the order of their numbers, whichever rows are beside it.

use chelsea_linear::{Activations, Linear};

use super::activation::gate_mul;
use super::buffer::Buffer;
use super::clock::Phase;
use super::product::{Projection, products};
use super::routed::{Pick, Routed};
use super::workspace::Workspace;
use crate::config::{Activation, Routing};

/// One expert: a gated feed-forward whose products may have biases.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) gate: Projection,
    pub(crate) up: Projection,
    pub(crate) down: Projection,
}

/// The experts of a layer.
#[derive(Debug)]
pub(crate) struct Experts {
    /// `[experts][hidden]`, multiplied in f32: a rounded logit would pick other experts.
    pub(crate) router: Projection,
    pub(crate) experts: Vec<Expert>,
    /// How many a token goes through.
    pub(crate) used: usize,
    pub(crate) routing: Routing,
    pub(crate) activation: Activation,
}

impl Experts {
    /// Rows of `ws.y`, in place.
    pub(crate) fn forward(&self, ws: &mut Workspace) {
        let rows: usize = ws.chunks.iter().sum();
        let hidden = self.router.weight.cols();
        let y = ws.y.take(rows * hidden);
        let routed = &mut ws.routed;
        let logits = routed.logits.take(rows * self.experts.len());
        products(&mut [(&self.router.weight, &mut *logits)], y, &ws.chunks, &mut ws.activations);
        ws.clock.lap(Phase::Products);
        self.router.add_bias(logits);
        routed.picks.clear();
        for (row, logits) in logits.chunks_exact(self.experts.len()).enumerate() {
            self.pick(row, logits, &mut routed.picks);
        }
        routed.picks.sort_unstable_by_key(|pick| (pick.expert, pick.row));
        let sum = routed.sum.take(rows * hidden);
        sum.fill(0.0);
        ws.clock.lap(Phase::Rest);

        if rows == 1 {
            let (gate, up) = (&mut ws.gate, &mut ws.up);
            self.one_row(y, routed, gate, up, &mut ws.activations);
            y.copy_from_slice(routed.sum.take(hidden));
            ws.clock.lap(Phase::Products);
            return;
        }
        let mut picks = &routed.picks[..];
        while let Some(first) = picks.first() {
            let count = picks.iter().take_while(|pick| pick.expert == first.expert).count();
            let (mine, later) = picks.split_at(count);
            picks = later;
            let expert = &self.experts[first.expert];
            let x = routed.x.take(count * hidden);
            for (x, pick) in x.chunks_exact_mut(hidden).zip(mine) {
                x.copy_from_slice(&y[pick.row * hidden..][..hidden]);
            }
            rows_of_chunks(&ws.chunks, mine, &mut routed.chunks);
            let inner = expert.gate.weight.rows();
            let (gate, up) = (ws.gate.take(count * inner), ws.up.take(count * inner));
            let out = routed.out.take(count * hidden);
            ws.clock.lap(Phase::Rest);
            let parts = &mut [(&expert.gate.weight, &mut *gate), (&expert.up.weight, &mut *up)];
            products(parts, x, &routed.chunks, &mut ws.activations);
            ws.clock.lap(Phase::Products);
            expert.gate.add_bias(gate);
            expert.up.add_bias(up);
            gate_mul(self.activation, gate, up);
            ws.clock.lap(Phase::Rest);
            products(&mut [(&expert.down.weight, &mut *out)], gate, &routed.chunks, &mut ws.activations);
            ws.clock.lap(Phase::Products);
            expert.down.add_bias(out);
            for (out, pick) in out.chunks_exact(hidden).zip(mine) {
                add_weighted(&mut sum[pick.row * hidden..][..hidden], out, pick.weight);
            }
        }
        y.copy_from_slice(sum);
        ws.clock.lap(Phase::Rest);
    }

    /// The experts of a single row: as above, but the first products of all of them, which have the same input, are one
    /// call. A decoded token would wait for many short ones otherwise.
    fn one_row(
        &self,
        y: &[f32],
        routed: &mut Routed,
        gate: &mut Buffer,
        up: &mut Buffer,
        activations: &mut Activations,
    ) {
        let inner = self.experts[0].gate.weight.rows();
        let (gate, up) = (gate.take(self.used * inner), up.take(self.used * inner));
        let mut parts: Vec<(&Linear, &mut [f32])> = Vec::with_capacity(2 * self.used);
        for ((pick, gate), up) in routed.picks.iter().zip(gate.chunks_exact_mut(inner)).zip(up.chunks_exact_mut(inner))
        {
            let expert = &self.experts[pick.expert];
            parts.push((&expert.gate.weight, gate));
            parts.push((&expert.up.weight, up));
        }
        products(&mut parts, y, &[1], activations);
        let (sum, out) = (routed.sum.take(y.len()), routed.out.take(y.len()));
        for ((pick, gate), up) in routed.picks.iter().zip(gate.chunks_exact_mut(inner)).zip(up.chunks_exact_mut(inner))
        {
            let expert = &self.experts[pick.expert];
            expert.gate.add_bias(gate);
            expert.up.add_bias(up);
            gate_mul(self.activation, gate, up);
            products(&mut [(&expert.down.weight, &mut *out)], gate, &[1], activations);
            expert.down.add_bias(out);
            add_weighted(sum, out, pick.weight);
        }
    }

    /// Adds the experts of a row with these logits to `picks`: those with the largest, the lower number first among equals.
    fn pick(&self, row: usize, logits: &[f32], picks: &mut Vec<Pick>) {
        let start = picks.len();
        for (expert, &logit) in logits.iter().enumerate() {
            let at = picks[start..].iter().position(|pick| logit.total_cmp(&pick.weight).is_gt());
            let at = start + at.unwrap_or(picks.len() - start);
            if at < start + self.used {
                picks.truncate(start + self.used - 1);
                picks.insert(at, Pick { expert, row, weight: logit });
            }
        }
        let chosen = &mut picks[start..];
        let most = chosen.first().map_or(0.0, |pick| pick.weight);
        let total: f32 = match self.routing {
            Routing::Softmax => logits.iter().map(|logit| (logit - most).exp()).sum(),
            Routing::SoftmaxOfChosen => chosen.iter().map(|pick| (pick.weight - most).exp()).sum(),
        };
        for pick in chosen {
            pick.weight = (pick.weight - most).exp() / total;
        }
    }

    /// Bytes of the matrices and of the biases.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let parts = self.experts.iter().flat_map(|expert| [&expert.gate, &expert.up, &expert.down]);
        let sizes = parts.chain([&self.router]).map(Projection::bytes);
        sizes.fold((0, 0), |sum, (matrix, bias)| (sum.0 + matrix, sum.1 + bias))
    }
}

fn add_weighted(sum: &mut [f32], x: &[f32], weight: f32) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += weight * x;
    }
}

/// How many of an expert's rows, which are ascending, lie in each chunk of the batch; chunks without any are left out.
fn rows_of_chunks(chunks: &[usize], picks: &[Pick], out: &mut Vec<usize>) {
    out.clear();
    let (mut end, mut taken) = (0, 0);
    for rows in chunks {
        end += rows;
        let count = picks[taken..].iter().take_while(|pick| pick.row < end).count();
        taken += count;
        if count > 0 {
            out.push(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_linear::{GgmlType, Products};

    fn experts(count: usize, used: usize, routing: Routing) -> Experts {
        let linear = |rows: usize, cols: usize, seed: usize| {
            let numbers = (0..rows * cols).map(|i| ((i * 7 + seed * 31) % 23) as f32 / 11.0 - 1.0);
            let data: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            Linear::new(GgmlType::F32, &data, rows, cols, Products::F32, None).unwrap()
        };
        let projection = |rows, cols, seed| Projection {
            weight: linear(rows, cols, seed),
            bias: Some((0..rows).map(|i| (i + seed) as f32 / 10.0).collect()),
        };
        let expert = |e: usize| Expert {
            gate: projection(4, 6, 3 * e),
            up: projection(4, 6, 3 * e + 1),
            down: projection(6, 4, 3 * e + 2),
        };
        let router = projection(count, 6, 99);
        let experts = (0..count).map(expert).collect();
        Experts { router, experts, used, routing, activation: Activation::Silu }
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
            let mut picks = Vec::new();
            experts(5, 3, routing).pick(7, &logits, &mut picks);
            picks.iter().map(|pick| (pick.expert, pick.row, pick.weight)).collect::<Vec<_>>()
        };
        let exp: Vec<f32> = logits.iter().map(|logit: &f32| logit.exp()).collect();
        for (routing, total) in
            [(Routing::Softmax, exp.iter().sum::<f32>()), (Routing::SoftmaxOfChosen, exp[1] + exp[3] + exp[4])]
        {
            let found = of(routing);
            assert_eq!(found.iter().map(|pick| (pick.0, pick.1)).collect::<Vec<_>>(), [(1, 7), (3, 7), (4, 7)]);
            for (expert, _, weight) in found {
                assert!((weight - exp[expert] / total).abs() < 1e-6);
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
            let product = |projection: &Projection, x: &[f32]| {
                let mut row = vec![0.0; x.len()];
                let bias = projection.bias.clone().unwrap();
                let mut out = Vec::new();
                for (i, bias) in bias.into_iter().enumerate() {
                    projection.weight.row(i, &mut row);
                    out.push(bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>());
                }
                out
            };
            let logits = product(&experts.router, x);
            let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
            let mut sum = vec![0.0; 6];
            for (expert, logit) in experts.experts.iter().zip(&logits) {
                let (gate, up) = (product(&expert.gate, x), product(&expert.up, x));
                let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add_weighted(&mut sum, &product(&expert.down, &inner), logit.exp() / total);
            }
            for (found, expected) in found.iter().zip(&sum) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}
