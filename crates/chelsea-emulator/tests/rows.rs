//! What happens to rows between products.

mod common;

use chelsea_cuda::Buffer;
use chelsea_cuda::kernels::rows::{
    Activation, Add, LIKELIEST, Largest, Norm, Rope, Scale, ScaleHeads, add, gate, largest, likeliest, likeliest_bytes,
    rms_norm, rope, scale, scale_heads,
};
use chelsea_cuda::twins::rows as twin;
use chelsea_emulator::Schedule;
use common::{Lots, Outcome, device, difference};

#[test]
fn rows_are_normed_also_in_place_and_with_gaps() -> Outcome {
    let mut lots = Lots::new(21);
    for (i, (width, stride)) in [(64, 64), (300, 310), (896, 896), (128, 1000)].into_iter().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let (x, weight) = (lots.row(3 * stride, 2.0), lots.row(width, 1.0));
        let (x_at, weight_at) = (Buffer::with(&device, &x)?, Buffer::with(&device, &weight)?);
        let out = Buffer::new(&device, 3 * width * 4)?;
        let mut arguments = Norm {
            x: x_at.at(),
            weight: weight_at.at(),
            out: out.at(),
            width: width as u32,
            rows: 3,
            x_stride: stride as u32,
            out_stride: width as u32,
            eps: 1e-5,
            unused: 0,
        };
        rms_norm(&*device, &arguments)?;
        let found: Vec<f32> = out.values(3 * width)?;
        (arguments.out, arguments.out_stride) = (arguments.x, arguments.x_stride);
        rms_norm(&*device, &arguments)?;
        let in_place: Vec<f32> = x_at.values(3 * stride)?;
        for row in 0..3 {
            let wanted = twin::rms_norm(&x[row * stride..][..width], &weight, 1e-5);
            assert!(difference(&found[row * width..][..width], &wanted) < 1e-6);
            assert_eq!(in_place[row * stride..][..width], found[row * width..][..width]);
            assert_eq!(in_place[row * stride + width..(row + 1) * stride], x[row * stride + width..(row + 1) * stride]);
        }
    }
    Ok(())
}

#[test]
fn residuals_and_biases_are_added() -> Outcome {
    let mut lots = Lots::new(22);
    let device = device(Schedule::Shuffled(3));
    for period in [700, 100] {
        let (x, y) = (lots.row(700, 1.0), lots.row(period, 1.0));
        let (x_at, y_at) = (Buffer::with(&device, &x)?, Buffer::with(&device, &y)?);
        add(&*device, &Add { x: x_at.at(), y: y_at.at(), count: 700, period: period as u32 })?;
        let wanted: Vec<f32> = x.iter().zip(y.iter().cycle()).map(|(x, y)| x + y).collect();
        assert_eq!(x_at.values::<f32>(700)?, wanted);
    }
    Ok(())
}

#[test]
fn gates_are_multiplied() -> Outcome {
    let mut lots = Lots::new(23);
    let clamped = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
    for (schedule, activation) in Schedule::ALL.into_iter().zip([Activation::Silu, Activation::GeluTanh, clamped]) {
        let device = device(schedule);
        let (mut x, y) = (lots.row(300, 6.0), lots.row(300, 6.0));
        (x[0], x[1]) = (200.0, -200.0);
        let (x_at, y_at) = (Buffer::with(&device, &x)?, Buffer::with(&device, &y)?);
        gate(&*device, activation, x_at.at(), y_at.at(), 300)?;
        let wanted: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| twin::gate(activation, x, y)).collect();
        assert!(difference(&x_at.values(300)?, &wanted) < 1e-6, "{activation:?}");
    }
    Ok(())
}

#[test]
fn heads_are_turned_as_the_twin_turns_them_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(24);
    // Of the last, a part of each head is turned.
    for (i, (dim, pairs)) in [(64, 32), (128, 64), (80, 16)].into_iter().enumerate() {
        let device = device(Schedule::ALL[i]);
        let (tokens, heads, stride) = (3, 5, 5 * dim + 7);
        let mut x = lots.row(tokens * stride, 1.0);
        let (cosines, sines) = (lots.row(tokens * pairs, 1.0), lots.row(tokens * pairs, 1.0));
        let x_at = Buffer::with(&device, &x)?;
        let (cosines_at, sines_at) = (Buffer::with(&device, &cosines)?, Buffer::with(&device, &sines)?);
        let arguments = Rope {
            x: x_at.at(),
            cosines: cosines_at.at(),
            sines: sines_at.at(),
            tokens: tokens as u32,
            heads: heads as u32,
            dim: dim as u32,
            pairs: pairs as u32,
            stride: stride as u32,
            unused: 0,
        };
        rope(&*device, &arguments)?;
        for token in 0..tokens {
            for head in 0..heads {
                let own = token * pairs..(token + 1) * pairs;
                twin::rope(&mut x[token * stride + head * dim..][..dim], &cosines[own.clone()], &sines[own]);
            }
        }
        assert_eq!(x_at.values::<f32>(x.len())?, x);
    }
    Ok(())
}

#[test]
fn numbers_are_scaled_and_capped() -> Outcome {
    let mut lots = Lots::new(25);
    let device = device(Schedule::Reversed);
    for (factor, cap) in [(0.5, 0.0), (1.0, 30.0), (3.0, 5.0)] {
        let x = lots.row(500, 20.0);
        let x_at = Buffer::with(&device, &x)?;
        scale(&*device, &Scale { x: x_at.at(), count: 500, factor, cap, unused: 0 })?;
        let wanted: Vec<f64> = x.iter().map(|x| twin::scale(*x, factor, cap)).collect();
        assert!(difference(&x_at.values(500)?, &wanted) < 1e-6);
    }
    Ok(())
}

#[test]
fn the_first_of_the_largest_numbers_is_found() -> Outcome {
    let mut lots = Lots::new(26);
    for (schedule, width) in Schedule::ALL.into_iter().zip([1, 300, 5000]) {
        let device = device(schedule);
        let mut x: Vec<f32> = lots.row(6 * width, 4.0).into_iter().map(f32::round).collect();
        x[width..2 * width].fill(f32::NEG_INFINITY);
        x[2 * width..3 * width].fill(f32::NAN);
        x[3 * width] = f32::NAN;
        x[5 * width - 1] = 100.0;
        let (x_at, out) = (Buffer::with(&device, &x)?, Buffer::new(&device, 24)?);
        largest(&*device, &Largest { x: x_at.at(), out: out.at(), width: width as u32, rows: 6 })?;
        let wanted: Vec<u32> = x.chunks(width).map(twin::largest).collect();
        assert_eq!(out.values::<u32>(6)?, wanted);
    }
    Ok(())
}

#[test]
fn the_likeliest_are_found_as_the_twin_finds_them() -> Outcome {
    let mut lots = Lots::new(28);
    // One block of threads, several, and so many that their finds need several themselves.
    for (i, width) in [7, 256, 300, 8192, 20_000, 300_000].into_iter().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let mut x = lots.row(3 * width, 4.0);
        // Many equal ones, of which the first count; and all alike, but for some odd ones.
        x[width..2 * width].iter_mut().for_each(|x| *x = (*x / 3.0).round());
        x[2 * width..].fill(-1.5);
        let odd = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 2.0, 0.0, -0.0];
        for (j, odd) in odd.into_iter().enumerate().take(width) {
            x[2 * width + (j * 7919 + 1) % width] = odd;
        }
        let x_at = Buffer::with(&device, &x)?;
        let (room, out) = (Buffer::new(&device, likeliest_bytes(3, width))?, Buffer::new(&device, 3 * LIKELIEST * 8)?);
        likeliest(&*device, x_at.at(), (3, width), room.at(), out.at())?;
        let pairs: Vec<[u32; 2]> = out.values(3 * LIKELIEST)?;
        for (row, x) in x.chunks(width).enumerate() {
            let found = pairs[row * LIKELIEST..][..LIKELIEST].iter().filter(|pair| pair[1] != u32::MAX);
            let mut found: Vec<(u32, u32)> = found.map(|pair| (pair[1], pair[0])).collect();
            let mut wanted: Vec<(u32, u32)> =
                twin::likeliest(x, LIKELIEST).iter().map(|&(x, place)| (place, x.to_bits())).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            assert!(found == wanted, "row {row} of {width}");
        }
    }
    Ok(())
}

#[test]
fn queries_are_multiplied_by_what_their_keys_were_divided_by() -> Outcome {
    let mut lots = Lots::new(27);
    let device = device(Schedule::Reversed);
    let (rows, kv_heads, group, dim) = (3, 2, 3, 16);
    let (width, stride) = (kv_heads * group * dim, kv_heads * group * dim + 5);
    let (x, factors) = (lots.row(rows * stride, 1.0), lots.row(4 * dim, 1.0));
    let which = [2, u32::MAX, 0, 3, u32::MAX, 1];
    let (x_at, factors_at) = (Buffer::with(&device, &x)?, Buffer::with(&device, &factors)?);
    let which_at = Buffer::with(&device, &which)?;
    let arguments = ScaleHeads {
        x: x_at.at(),
        factors: factors_at.at(),
        which: which_at.at(),
        rows: rows as u32,
        kv_heads: kv_heads as u32,
        group: group as u32,
        dim: dim as u32,
        stride: stride as u32,
        unused: 0,
    };
    scale_heads(&*device, &arguments)?;
    let mut wanted = x;
    for row in 0..rows {
        for column in 0..width {
            let factor = which[row * kv_heads + column / dim / group];
            if factor != u32::MAX {
                wanted[row * stride + column] *= factors[factor as usize * dim + column % dim];
            }
        }
    }
    assert_eq!(x_at.values::<f32>(wanted.len())?, wanted);
    Ok(())
}
