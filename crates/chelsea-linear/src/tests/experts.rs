//! Products of experts against products of each row with each of its experts.

use super::*;
use crate::experts::forward_experts_on;
use crate::kernel::MIN_ROWS;
use crate::{Choice, Experts, Input, LinearError, Routes};

fn experts(ty: GgmlType, count: usize, rows: usize, cols: usize, random: &mut Random) -> Experts {
    let data = random_weights(ty, count * rows, cols, random);
    Experts::new(ty, &data, count, rows, cols, Products::Fast, None).expect("valid experts")
}

/// `each` different experts for every row; `popular` is among those of all rows.
fn choices(rows: usize, each: usize, count: usize, popular: u32, random: &mut Random) -> Vec<Choice> {
    let mut choices = Vec::new();
    for _ in 0..rows {
        let mut row = vec![popular];
        while row.len() < each {
            let expert = random.below(count) as u32;
            if !row.contains(&expert) {
                row.push(expert);
            }
        }
        choices.extend(row.into_iter().map(|expert| Choice { expert, weight: random.normal() }));
    }
    choices
}

/// A layer of experts: two products of rows, something in between, one of slots, and the weighted sum.
fn layer(
    machine: Machine,
    [gate, up, down]: [&Experts; 3],
    x: &[f32],
    chunks: &[usize],
    choices: &[Choice],
) -> Vec<f32> {
    let (mut routes, mut acts) = (Routes::new(), Activations::new());
    routes.set(chunks, gate.count(), choices);
    let slots = routes.slots();
    let (mut a, mut b) = (vec![f32::NAN; slots * gate.rows()], vec![f32::NAN; slots * up.rows()]);
    forward_experts_on(machine, &mut [(gate, &mut a), (up, &mut b)], x, Input::Rows, &routes, &mut acts);
    a.iter_mut().zip(&b).for_each(|(a, b)| *a *= b);
    let mut y = vec![f32::NAN; slots * down.rows()];
    forward_experts_on(machine, &mut [(down, &mut y)], &a, Input::Slots, &routes, &mut acts);
    let mut out = vec![0.5; chunks.iter().sum::<usize>() * down.rows()];
    routes.add_weighted(&y, &mut out);
    out
}

#[test]
fn experts_give_what_single_products_give() {
    let mut random = Random(53);
    let (count, each, cols, inner) = (7, 3, 96, 64);
    for ty in [GgmlType::MXFP4, GgmlType::Q8_0, GgmlType::F16] {
        let gate = experts(ty, count, inner, cols, &mut random);
        let up = experts(ty, count, inner, cols, &mut random);
        let down = experts(ty, count, 21, inner, &mut random);
        for rows in [0, 1, 2, 30] {
            let x: Vec<f32> = (0..rows * cols).map(|_| random.normal()).collect();
            let choices = choices(rows, each, count, 4, &mut random);
            for isa in Isa::available() {
                let found = layer(bytes_on(isa), [&gate, &up, &down], &x, &[rows], &choices);
                let mut expected = vec![0.5; rows * 21];
                for (row, out) in expected.chunks_exact_mut(21).enumerate() {
                    for choice in &choices[row * each..][..each] {
                        let one = |experts: &Experts, x: &[f32]| {
                            products_on(bytes_on(isa), &experts.matrices()[choice.expert as usize], x, &[1]).0
                        };
                        let x = &x[row * cols..][..cols];
                        let (mut a, b) = (one(&gate, x), one(&up, x));
                        a.iter_mut().zip(&b).for_each(|(a, b)| *a *= b);
                        out.iter_mut().zip(one(&down, &a)).for_each(|(out, y)| *out += choice.weight * y);
                    }
                }
                assert!(found == expected, "{ty} {isa:?} {rows} rows");
            }
        }
    }
}

#[test]
fn a_chunk_gets_the_same_from_experts_beside_other_chunks() {
    let mut random = Random(59);
    let (count, each, cols) = (5, 2, 64);
    let [gate, up, down] = [0, 1, 2].map(|_| experts(GgmlType::Q4_0, count, 64, cols, &mut random));
    let chunks = [1, MIN_ROWS + 7, 3, 1, MIN_ROWS - 1, 90];
    let rows: usize = chunks.iter().sum();
    let x: Vec<f32> = (0..rows * cols).map(|_| random.normal()).collect();
    let choices = choices(rows, each, count, 2, &mut random);
    let machines = Isa::available().map(bytes_on).chain(matrices());
    for machine in machines {
        let pools = [1, 2, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool"));
        let together = layer(machine, [&gate, &up, &down], &x, &chunks, &choices);
        for pool in pools {
            let again = pool.install(|| layer(machine, [&gate, &up, &down], &x, &chunks, &choices));
            assert!(again == together, "{machine:?}");
        }
        let mut first = 0;
        for length in chunks {
            let (x, choices) = (&x[first * cols..][..length * cols], &choices[first * each..][..length * each]);
            let alone = layer(machine, [&gate, &up, &down], x, &[length], choices);
            assert!(alone == together[first * 64..][..length * 64], "{machine:?} chunk of {length}");
            first += length;
        }
    }
}

#[test]
fn products_of_experts_in_f32_take_the_rows_of_their_slots() {
    let mut random = Random(61);
    let (count, cols, rows) = (3, 40, 11);
    let data = random_weights(GgmlType::F32, count * 18, cols, &mut random);
    let experts = Experts::new(GgmlType::F32, &data, count, 18, cols, Products::F32, None).expect("valid experts");
    let x: Vec<f32> = (0..rows * cols).map(|_| random.normal()).collect();
    let choices = choices(rows, 1, count, 1, &mut random);
    let mut routes = Routes::new();
    routes.set(&[rows], count, &choices);
    assert_eq!(routes.experts().collect::<Vec<_>>(), [(1, 0..rows)]);
    let mut y = vec![f32::NAN; rows * 18];
    forward_experts_on(Machine::detect(), &mut [(&experts, &mut y)], &x, Input::Rows, &routes, &mut Activations::new());
    let mut expected = vec![0.0; rows * 18];
    experts.matrices()[1].forward(&x, rows, &mut expected);
    assert_eq!(y, expected);
}

#[test]
fn slots_lie_expert_by_expert_in_the_order_of_rows() {
    let mut routes = Routes::new();
    let choice = |expert| Choice { expert, weight: 1.0 + expert as f32 };
    // Of another batch before.
    routes.set(&[3], 9, &[choice(8), choice(7), choice(6)]);
    routes.set(&[1, 2], 4, &[3, 0, 0, 2, 3, 0].map(choice));
    assert_eq!(routes.slots(), 6);
    assert_eq!(routes.experts().collect::<Vec<_>>(), [(0, 0..3), (2, 3..4), (3, 4..6)]);
    let y = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
    let mut out = [0.0, 0.0, 1000.0];
    routes.add_weighted(&y, &mut out);
    assert_eq!(out, [4.0 * 50.0 + 10.0, 20.0 + 3.0 * 40.0, 1000.0 + 4.0 * 60.0 + 30.0]);
}

#[test]
fn wrong_lengths_of_experts_are_errors() {
    let new = |data: &[u8], experts, rows, cols| {
        Experts::new(GgmlType::MXFP4, data, experts, rows, cols, Products::Fast, None)
            .map(|_| ())
            .expect_err("must be refused")
    };
    let data = [0; 17 * 6];
    assert!(matches!(new(&data, 0, 3, 32), LinearError::Empty { .. }));
    assert!(matches!(new(&data, 2, 0, 32), LinearError::Empty { .. }));
    assert!(matches!(new(&data, 4, 3, 32), LinearError::Length { expected: 204, found: 102, .. }));
    assert!(matches!(new(&data, usize::MAX / 16, 3, 32), LinearError::TooLarge { .. }));
    assert!(matches!(new(&data, 2, 3, 33), LinearError::PartialBlock { .. }));
}

#[test]
#[should_panic(expected = "expert 4 of 4")]
fn an_expert_that_does_not_exist_is_refused() {
    Routes::new().set(&[1], 4, &[Choice { expert: 4, weight: 1.0 }]);
}

#[test]
fn matrices_made_one_by_one_are_the_same_experts() {
    let mut random = Random(59);
    let (ty, count, rows, cols) = (GgmlType::Q8_0, 3, 5, 64);
    let data = random_weights(ty, count * rows, cols, &mut random);
    let together = Experts::new(ty, &data, count, rows, cols, Products::Fast, None).expect("valid experts");
    let one = |data: &[u8]| Linear::new(ty, data, rows, cols, Products::Fast, None).expect("a valid matrix");
    let matrices: Vec<Linear> = data.chunks_exact(data.len() / count).map(one).collect();
    let apart = Experts::from_matrices(matrices).expect("of one shape");
    let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
    for (first, second) in together.matrices().iter().zip(apart.matrices()) {
        for row in 0..rows {
            first.row(row, &mut a);
            second.row(row, &mut b);
            assert_eq!(a, b);
        }
    }
    assert!(matches!(Experts::from_matrices(Vec::new()), Err(LinearError::Empty { .. })));
    let short = Linear::new(ty, &data[..data.len() / count / rows], 1, cols, Products::Fast, None).expect("a matrix");
    let error = Experts::from_matrices(vec![one(&data[..data.len() / count]), short]).expect_err("two shapes");
    assert_eq!(error, LinearError::Experts { first: (5, 64), other: (1, 64) });
}
