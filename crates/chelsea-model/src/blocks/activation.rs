//! Gates of feed-forwards: where the two halves meet.

use rayon::prelude::*;

use super::norm::PARALLEL;
use crate::config::Activation;

/// `gate = activation(gate, up)`, number by number.
pub(crate) fn gate_mul(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => each(gate, up, silu),
        Activation::GeluTanh => each(gate, up, gelu_tanh),
        Activation::ClampedSwiglu { alpha, limit } => {
            each(gate, up, move |gate, up| clamped_swiglu(gate, up, alpha, limit));
        }
    }
}

fn each(gate: &mut [f32], up: &[f32], function: impl Fn(f32, f32) -> f32 + Copy + Sync) {
    // Compiled once for every width of vectors.
    let each = |gate: &mut [f32], up: &[f32]| {
        chelsea_simd::vectorized(
            #[inline(always)]
            || gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = function(*gate, *up)),
        );
    };
    // An exponential costs far more than the other loops' numbers.
    const CHUNK: usize = PARALLEL / 8;
    if gate.len() < CHUNK {
        each(gate, up);
    } else {
        gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| each(gate, up));
    }
}

#[inline(always)]
fn silu(gate: f32, up: f32) -> f32 {
    gate / (1.0 + exp(-gate)) * up
}

/// `x / 2 (1 + tanh u)` is `x / (1 + e^-2u)`, with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu_tanh(gate: f32, up: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769_2;
    let twice = TWICE_ROOT * (gate + 0.044_715 * gate * gate * gate);
    gate / (1.0 + exp(-twice)) * up
}

#[inline(always)]
fn clamped_swiglu(gate: f32, up: f32, alpha: f32, limit: f32) -> f32 {
    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
    gate / (1.0 + exp(-alpha * gate)) * (up + 1.0)
}

/// `e^x` within three units in the last place, without branches, so that the compiler makes vectors of it.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`: a Taylor polynomial of degree 7 for `e^r` (its error is below
/// 1e-8), and `n` added to the exponent. Clamped to where the result is a normal number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking off 1.5 * 2^23 rounds to the nearest integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let polynomial = 1.0 / 5040.0;
    let polynomial = polynomial * r + 1.0 / 720.0;
    let polynomial = polynomial * r + 1.0 / 120.0;
    let polynomial = polynomial * r + 1.0 / 24.0;
    let polynomial = polynomial * r + 1.0 / 6.0;
    let polynomial = polynomial * r + 0.5;
    let polynomial = polynomial * r + 1.0;
    let polynomial = polynomial * r + 1.0;
    f32::from_bits(polynomial.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_exact_to_single_precision() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}: {} {exact}", exp(x));
        }
    }

    #[test]
    fn gate_saturates_without_overflow() {
        let mut gate = [-1e30, -100.0, 0.0, 100.0, 1e30];
        gate_mul(Activation::Silu, &mut gate, &[2.0; 5]);
        assert!(gate[0].abs() < 1e-5 && gate[1].abs() < 1e-30);
        assert_eq!(&gate[2..], &[0.0, 200.0, 2e30]);
        let mut gate = [-1e9, -100.0, 0.0, 100.0, 1e9];
        gate_mul(Activation::GeluTanh, &mut gate, &[2.0; 5]);
        assert!(gate[0].abs() < 1e-5 && gate[1].abs() < 1e-30);
        assert_eq!(&gate[2..], &[0.0, 200.0, 2e9]);
        let mut gate = [-1e30, 0.0, 1e30];
        gate_mul(Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 }, &mut gate, &[9.0, 9.0, -9.0]);
        assert!(gate[0].abs() < 1e-5 && gate[1] == 0.0 && (gate[2] + 42.0).abs() < 1e-3, "{gate:?}");
    }

    #[test]
    fn gates_are_those_of_their_definitions() {
        for i in -400..400 {
            let (x, up) = (f64::from(i) / 40.0, f64::from(i % 37) / 3.0 - 6.0);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let clamped = x.min(7.0);
            let cases = [
                (Activation::Silu, x * sigmoid(x) * up),
                (Activation::GeluTanh, 0.5 * x * (1.0 + u.tanh()) * up),
                (
                    Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 },
                    clamped * sigmoid(1.702 * clamped) * (up.clamp(-7.0, 7.0) + 1.0),
                ),
            ];
            for (activation, expected) in cases {
                let mut gate = [x as f32];
                gate_mul(activation, &mut gate, &[up as f32]);
                let error = (f64::from(gate[0]) - expected).abs();
                assert!(error < 2e-6 * expected.abs().max(1.0), "{activation:?} of {x}, {up}: {} {expected}", gate[0]);
            }
        }
    }

    #[test]
    fn loops_on_one_thread_and_on_many_agree() {
        let gate: Vec<f32> = (0..PARALLEL).map(|i| ((i * 37) % 101) as f32 / 10.0 - 5.0).collect();
        let up: Vec<f32> = gate.iter().map(|x| x / 3.0).collect();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut many = gate.clone();
            gate_mul(activation, &mut many, &up);
            for (i, (many, up)) in many.chunks(96).zip(up.chunks(96)).enumerate() {
                let mut few = gate[i * 96..][..many.len()].to_vec();
                gate_mul(activation, &mut few, up);
                assert_eq!(few, many);
            }
        }
    }
}
