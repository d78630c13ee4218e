//! What tests of several modules share: matrices, inputs and the numbers they should come to.

mod bf16;
mod chunks;
mod experts;
mod kernels;

use crate::activations::Activations;
use crate::forward::forward_on;
use crate::kernel::bf16::Matrices;
use crate::kernel::{Isa, Machine};
use crate::linear::{Linear, Products};
use crate::types::GgmlType;

/// Vector instructions alone: every row is multiplied in bytes.
fn bytes_on(isa: Isa) -> Machine {
    Machine { isa, matrices: None }
}

/// The plain twin of matrix instructions, and the instructions where they are here.
fn matrices() -> impl Iterator<Item = Machine> {
    let isa = Isa::detect();
    [Some(Matrices::Twin), Matrices::detect()]
        .into_iter()
        .flatten()
        .map(move |found| Machine { isa, matrices: Some(found) })
}

/// Activations rounded to bytes.
fn in_bytes(x: &[f32], m: usize, cols: usize) -> Activations {
    let mut acts = Activations::new();
    acts.arrange(bytes_on(Isa::Scalar), &[m], cols);
    acts.fill(bytes_on(Isa::Scalar), x);
    acts
}

/// A matrix of packed tiles.
fn packed(ty: GgmlType, data: &[u8], rows: usize, cols: usize) -> Linear {
    Linear::new(ty, data, rows, cols, Products::Fast, None).expect("a valid matrix")
}

/// Products on some machine, and the activations that they were formed with.
fn products_on(machine: Machine, linear: &Linear, x: &[f32], chunks: &[usize]) -> (Vec<f32>, Activations) {
    let mut acts = Activations::new();
    let mut y = vec![f32::NAN; chunks.iter().sum::<usize>() * linear.rows()];
    forward_on(machine, &mut [(linear, &mut y[..])], x, chunks, &mut acts);
    (y, acts)
}

/// A small deterministic generator; shapes and bits need no better one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// About normal, mean 0, deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.next() as f32 / (1u64 << 31) as f32).sum::<f32>() - 6.0
    }
}

/// Random blocks whose half-precision numbers are sane.
fn random_weights(ty: GgmlType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let halves: &[usize] = match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::MXFP4 => &[],
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL | GgmlType::IQ4XS => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q6K => &[208],
    };
    let mut data: Vec<u8> = (0..ty.bytes_for(rows, cols).expect("whole blocks")).map(|_| random.next() as u8).collect();
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        for &at in halves {
            let half = half::f16::from_f32(random.normal() * 0.05);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        let number = random.normal();
        match ty {
            GgmlType::F32 => block.copy_from_slice(&number.to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&half::f16::from_f32(number).to_le_bytes()),
            GgmlType::MXFP4 => block[0] = 120 + (block[0] & 7),
            GgmlType::BF16 => block.copy_from_slice(&half::bf16::from_f32(number).to_le_bytes()),
            _ => {}
        }
    }
    data
}

fn random_shape(ty: GgmlType, random: &mut Random) -> (usize, usize, usize) {
    let blocks = if ty.block_len() == 256 { 1 + random.below(5) } else { 1 + random.below(40) };
    let cols = blocks * ty.block_len().max(32) - if ty.block_len() == 1 { random.below(32) } else { 0 };
    (1 + random.below(70), cols, 1 + random.below(37))
}

/// `x W^T` in f64 from the weights and activations that the products really use, and the sum of the
/// absolute terms, which is what rounding errors grow with.
fn reference(linear: &Linear, acts: &Activations, m: usize) -> Vec<(f64, f64)> {
    let cols = linear.cols();
    let mut w = vec![0.0; cols];
    let mut x = vec![vec![0.0; cols]; m];
    for (t, x) in x.iter_mut().enumerate() {
        acts.dequantize(t, x);
    }
    let mut y = vec![(0.0, 0.0); m * linear.rows()];
    for row in 0..linear.rows() {
        linear.row(row, &mut w);
        for (t, x) in x.iter().enumerate() {
            let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            y[t * linear.rows() + row] = (terms().sum(), terms().map(f64::abs).sum());
        }
    }
    y
}

/// Blocks whose scales are 1 (or small integers) and whose codes are random, all ones or all zeros.
fn integer_weights(ty: GgmlType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut data = random_weights(ty, rows, cols, random);
    for (i, block) in data.chunks_exact_mut(ty.block_bytes()).enumerate() {
        match i % 3 {
            1 => block.fill(0xff),
            2 => block.fill(0x00),
            _ => {}
        }
        let (halves, scales): (&[usize], _) = match ty {
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL => (&[0], 0..0),
            GgmlType::IQ4XS => (&[0], 2..8),
            GgmlType::MXFP4 => (&[], 0..1),
            GgmlType::Q4_1 | GgmlType::Q5_1 => (&[0, 2], 0..0),
            GgmlType::Q4K | GgmlType::Q5K => (&[0, 2], 4..16),
            GgmlType::Q2K => (&[80, 82], 0..16),
            GgmlType::Q3K => (&[108], 96..108),
            _ => (&[208], 192..208),
        };
        block[scales].fill(match ty {
            GgmlType::Q2K => 0x11,
            // The exponent of one.
            GgmlType::MXFP4 => 128,
            _ => 0x01,
        });
        if ty == GgmlType::IQ4XS {
            // 33, from which 32 is taken.
            block[2..4].fill(0xaa);
            block[4..8].fill(0x11);
        }
        for &at in halves {
            block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        }
    }
    data
}
