//! Products as callers see them: shapes, sharing of activations, threads.

use chelsea_linear::{Activations, GgmlType, Linear, Products, forward_many};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        })
        .collect()
}

fn matrix(rows: usize, cols: usize, products: Products) -> Linear {
    let weights = numbers(rows * cols, (rows * cols) as u64);
    Linear::new(GgmlType::F32, bytemuck::cast_slice(&weights), rows, cols, products, None).expect("a valid matrix")
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool")
}

#[test]
fn products_of_one_call_equal_single_products() {
    for m in [21, 40] {
        products_of_one_call(m);
    }
}

fn products_of_one_call(m: usize) {
    let cols = 96;
    let x = numbers(m * cols, 1);
    // More matrices than one region takes, of both kinds.
    let matrices: Vec<Linear> =
        (0..11).map(|i| matrix(16 * i + 5, cols, if i % 4 == 3 { Products::F32 } else { Products::Fast })).collect();
    let mut together: Vec<Vec<f32>> = matrices.iter().map(|w| vec![f32::NAN; m * w.rows()]).collect();
    let mut parts: Vec<(&Linear, &mut [f32])> = matrices.iter().zip(together.iter_mut().map(|y| &mut y[..])).collect();
    forward_many(&mut parts, &x, &[m], &mut Activations::new());
    for (w, together) in matrices.iter().zip(&together) {
        let mut alone = vec![f32::NAN; m * w.rows()];
        w.forward(&x, m, &mut alone);
        assert_eq!(&alone, together);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let w = matrix(1000, 64, Products::Fast);
    let x = numbers(150 * 64, 2);
    let run = |threads| {
        pool(threads).install(|| {
            let mut y = vec![f32::NAN; 150 * 1000];
            w.forward(&x, 150, &mut y);
            y
        })
    };
    let one = run(1);
    assert!(one.iter().all(|y| y.is_finite()));
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one);
    }
}

#[test]
fn a_token_does_not_depend_on_the_tokens_beside_it() {
    let w = matrix(40, 64, Products::Fast);
    let x = numbers(150 * 64, 3);
    // Many tokens may be multiplied with other instructions than few.
    for (n, some) in [(31, &[1, 2, 3, 5, 7, 8, 9, 16][..]), (150, &[32, 33, 64, 100, 149])] {
        let mut all = vec![0.0; n * 40];
        w.forward(&x[..n * 64], n, &mut all);
        for &m in some {
            let mut some = vec![0.0; m * 40];
            w.forward(&x[..m * 64], m, &mut some);
            assert_eq!(some, all[..m * 40], "{m} of {n} tokens");
        }
    }
}

#[test]
fn fast_products_stay_close_to_f32_products() {
    let (rows, cols, m) = (50, 576, 9);
    let x = numbers(m * cols, 4);
    let [mut fast, mut exact] = [Products::Fast, Products::F32].map(|products| {
        let mut y = vec![0.0; m * rows];
        matrix(rows, cols, products).forward(&x, m, &mut y);
        y
    });
    let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
    let size = norm(&exact);
    for (fast, exact) in fast.iter_mut().zip(&mut exact) {
        *fast -= *exact;
    }
    assert!(norm(&fast) < 0.01 * size, "{} of {size}", norm(&fast));
}

#[test]
fn many_products_at_once_from_many_threads() {
    use rayon::prelude::*;
    let w = matrix(300, 64, Products::Fast);
    let x = numbers(20 * 64, 5);
    let mut expected = vec![0.0; 20 * 300];
    w.forward(&x, 20, &mut expected);
    // Products inside tasks of the pool whose products they share threads with.
    pool(4).install(|| {
        (0..64).into_par_iter().for_each(|_| {
            let mut y = vec![0.0; 20 * 300];
            w.forward(&x, 20, &mut y);
            assert_eq!(y, expected);
        });
    });
}

#[test]
fn no_tokens_are_no_work() {
    matrix(40, 64, Products::Fast).forward(&[], 0, &mut []);
    forward_many(&mut [], &[], &[], &mut Activations::new());
}

#[test]
#[should_panic(expected = "output is not 2 x 40")]
fn an_output_of_the_wrong_length_is_refused() {
    matrix(40, 64, Products::Fast).forward(&[0.0; 128], 2, &mut [0.0; 79]);
}

#[test]
#[should_panic(expected = "activations are not 2 x 64")]
fn an_input_of_the_wrong_length_is_refused() {
    matrix(40, 64, Products::Fast).forward(&[0.0; 127], 2, &mut [0.0; 80]);
}
