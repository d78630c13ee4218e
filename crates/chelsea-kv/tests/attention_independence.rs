//! What a request is answered depends on the request alone, bit for bit: not on threads, nor on its neighbours.

use chelsea_kv::attention::{Attention, Isa, Request, attend_with};
use chelsea_kv::{Dtype, Head};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const HEAD_DIM: usize = 64;
const GROUP: usize = 3;

/// Heads of one sequence and its queries.
struct Sequence {
    heads: Vec<Head>,
    q: Vec<f32>,
    n: usize,
}

impl Sequence {
    fn new(dtype: Dtype, before: &[usize], n: usize, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let fill = |&before: &usize| {
            let mut head = Head::new(HEAD_DIM, dtype);
            let (keys, values) = (numbers(71 * HEAD_DIM), numbers(67 * HEAD_DIM));
            for i in 0..before + n {
                let (key, value) = (&keys[i % 71 * HEAD_DIM..][..HEAD_DIM], &values[i % 67 * HEAD_DIM..][..HEAD_DIM]);
                head.push(key, value, 1 + (i % 5) as u32, i as f32);
            }
            head
        };
        let heads: Vec<Head> = before.iter().map(fill).collect();
        let q = numbers(n * before.len() * GROUP * HEAD_DIM).iter().map(|x| 4.0 * x).collect();
        Sequence { heads, q, n }
    }
}

/// The answers of a batch, as bits.
fn answers(isa: Isa, threads: usize, layer: &Attention<'_>, batch: &[&Sequence]) -> Vec<Vec<u32>> {
    let mut outs: Vec<Vec<f32>> = batch.iter().map(|sequence| vec![f32::NAN; sequence.q.len()]).collect();
    let mut requests: Vec<Request<'_>> = batch
        .iter()
        .zip(&mut outs)
        .map(|(sequence, out)| Request { heads: &sequence.heads, q: &sequence.q, n: sequence.n, out })
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| attend_with(isa, &mut requests, layer));
    outs.iter().map(|out| out.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Sequences of many lengths, decode rows and chunks.
fn sequences(dtype: Dtype) -> Vec<Sequence> {
    let shapes: [(&[usize], usize); 8] = [
        (&[9000, 700], 1),
        (&[300, 20], 1),
        (&[0, 0], 130),
        (&[5000, 12_000], 40),
        (&[2500, 2500], 1),
        (&[1000, 30], 7),
        (&[3, 64], 1),
        (&[4000, 100], 150),
    ];
    shapes.iter().enumerate().map(|(seed, (before, n))| Sequence::new(dtype, before, *n, seed as u64)).collect()
}

/// Calls `f` with every number type, instruction set and layer, and what each sequence answers alone on one thread.
fn each(f: impl Fn(Isa, &Attention<'_>, &[Sequence], &[Vec<u32>])) {
    let sinks = [0.5; 2 * GROUP];
    let full = Attention::full(GROUP, 0.125);
    for dtype in Dtype::ALL {
        let all = sequences(dtype);
        for isa in Isa::available() {
            for layer in [full, Attention { window: Some(3000), sinks: Some(&sinks), ..full }] {
                let alone: Vec<_> =
                    all.iter().map(|sequence| answers(isa, 1, &layer, &[sequence]).swap_remove(0)).collect();
                f(isa, &layer, &all, &alone);
            }
        }
    }
}

#[test]
fn answers_are_the_same_on_any_number_of_threads() {
    each(|isa, layer, all, alone| {
        for threads in [2, 3, 5, 8] {
            for (sequence, alone) in all.iter().zip(alone) {
                assert!(answers(isa, threads, layer, &[sequence])[0] == *alone, "{isa:?}, {threads} threads");
            }
        }
    });
}

#[test]
fn answers_are_the_same_beside_any_neighbours() {
    each(|isa, layer, all, alone| {
        for others in [1, 2, 7] {
            for threads in [1, 2, 3] {
                for first in 0..all.len() {
                    let batch: Vec<usize> = (first..=first + others).map(|i| i % all.len()).collect();
                    let sequences: Vec<&Sequence> = batch.iter().map(|&i| &all[i]).collect();
                    let together = answers(isa, threads, layer, &sequences);
                    for (&i, together) in batch.iter().zip(&together) {
                        assert!(*together == alone[i], "{isa:?}, {threads} threads, {others} others, sequence {i}");
                    }
                }
            }
        }
    });
}
