//! What happens to rows between products, in f64 where a kernel sums in an order of its own.

use crate::kernels::rows::Activation;

/// Root-mean-square norm of a row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, weight)| f64::from(*x) * scale * f64::from(*weight)).collect()
}

/// A gate's product.
pub fn gate(activation: Activation, gate: f32, up: f32) -> f64 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
        }
    }
}

/// Turns a head in place.
pub fn rope(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (left, right) = head.split_at_mut(cosines.len());
    for (((x, y), c), s) in left.iter_mut().zip(right).zip(cosines).zip(sines) {
        (*x, *y) = (*x * c - *y * s, *y * c + *x * s);
    }
}

/// A number times `factor`, softly capped where `cap` is above 0.
pub fn scale(x: f32, factor: f32, cap: f32) -> f64 {
    let x = f64::from(x * factor);
    if cap > 0.0 { f64::from(cap) * (x / f64::from(cap)).tanh() } else { x }
}

/// The place of the largest number, the first of equal ones: 0 where none is a number.
pub fn largest(x: &[f32]) -> u32 {
    let mut best: Option<usize> = None;
    for (i, x_i) in x.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
        if best.is_none_or(|best| *x_i > x[best]) {
            best = Some(i);
        }
    }
    best.unwrap_or(0) as u32
}

/// The `most` largest numbers, of equal ones the first, with their places: the largest first, by the order of their bits. What
/// is no finite number counts as larger than all others.
pub fn likeliest(x: &[f32], most: usize) -> Vec<(f32, u32)> {
    let order = |x: f32| if x.is_finite() { x } else { f32::INFINITY };
    let mut pairs: Vec<(f32, u32)> = x.iter().copied().zip(0..).collect();
    pairs.sort_by(|a, b| order(b.0).total_cmp(&order(a.0)).then(a.1.cmp(&b.1)));
    pairs.truncate(most);
    pairs
}
