use super::*;
use half::{bf16, f16};

#[test]
fn every_half_goes_to_single_and_back() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect();
    let mut wide = vec![0.0; halves.len()];
    f16::widen(&halves, 1.0, &mut wide);
    assert!(halves.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()));
    let mut narrow = vec![f16::ZERO; halves.len()];
    f16::narrow(&wide, 1.0, &mut narrow);
    assert!(halves.iter().zip(&narrow).all(|(h, n)| h.to_bits() == n.to_bits()));
}

#[test]
fn single_is_rounded_to_the_nearest_half() {
    for len in [1, 7, 8, 16, 45] {
        let wide: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37 - 3.0).exp()).collect();
        let (mut narrow, mut brain) = (vec![f16::ZERO; len], vec![bf16::ZERO; len]);
        f16::narrow(&wide, 1.0, &mut narrow);
        bf16::narrow(&wide, 1.0, &mut brain);
        for i in 0..len {
            assert_eq!(narrow[i], f16::from_f32(wide[i]));
            assert_eq!(brain[i], bf16::from_f32(wide[i]));
        }
    }
}

/// Rows of several sizes, with numbers of several magnitudes.
fn rows() -> impl Iterator<Item = Vec<f32>> {
    let number = |i: usize| (i as f32 * 0.7).sin() * (i as f32 * 0.37).cos();
    [1e-30f32, 1e-3, 1.0, 800.0, 1e30].into_iter().flat_map(move |size| {
        [1, 2, 15, 16, 17, 64, 130].into_iter().map(move |len| (0..len).map(|i| number(i + 3) * size).collect())
    })
}

#[test]
fn bytes_stay_within_half_a_step() {
    for row in rows() {
        let scale = Byte::scale(&row);
        let (mut narrow, mut back) = (vec![Byte(0); row.len()], vec![0.0; row.len()]);
        Byte::narrow(&row, scale, &mut narrow);
        Byte::widen(&narrow, scale, &mut back);
        let worst = row.iter().zip(&back).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst <= scale * 0.5001, "{worst} of {scale}");
        assert!(narrow.iter().any(|x| x.get().abs() == 127.0), "the largest number has the largest byte");
        // What was read is stored the same again.
        let mut again = vec![Byte(0); row.len()];
        Byte::narrow(&back, Byte::scale(&back), &mut again);
        assert_eq!(again, narrow);
    }
}

#[test]
fn half_bytes_stay_within_half_a_step_or_at_an_end() {
    for row in rows() {
        let scale = Nibbles::row_scale(&row);
        let (mut narrow, mut back) = (vec![Nibbles(0x5a); 4 * row.len()], vec![0.0; row.len()]);
        for part in 0..2 {
            Nibbles::write(&row, scale, &mut narrow, part);
            Nibbles::read(&narrow, part, scale, &mut back);
            for ((x, y), stored) in row.iter().zip(&back).zip(narrow.iter().step_by(4)) {
                let cut = matches!(stored.get(part), -8 | 7) && x.abs() > y.abs();
                assert!(cut || (x - y).abs() <= scale.abs() * 0.5001, "{x}: {y}, step {scale}");
            }
        }
        // Both hold the same now; what was read is stored the same again.
        assert!(narrow.iter().step_by(4).all(|x| x.get(0) == x.get(1)));
        assert!(narrow.iter().enumerate().all(|(i, &x)| i % 4 == 0 || x == Nibbles(0x5a)));
        let (mut again, scale) = (narrow.clone(), Nibbles::row_scale(&back));
        Nibbles::write(&back, scale, &mut again, 1);
        let mut twice = vec![0.0; row.len()];
        Nibbles::read(&again, 1, scale, &mut twice);
        assert!(back.iter().zip(&twice).all(|(x, y)| (x - y).abs() <= 1e-5 * scale.abs()), "{back:?} {twice:?}");
    }
}

#[test]
fn the_step_of_half_bytes_is_chosen_for_all_numbers_of_a_row() {
    let error = |row: &[f32], scale: f32| {
        let (mut narrow, mut back) = (vec![Nibbles(0); 4 * row.len()], vec![0.0; row.len()]);
        Nibbles::write(row, scale, &mut narrow, 0);
        Nibbles::read(&narrow, 0, scale, &mut back);
        row.iter().zip(&back).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()
    };
    let (mut chosen, mut plain) = (0.0, 0.0);
    for row in rows().filter(|row| row.len() >= 16 && (1e-3..1e3).contains(&row[0].abs())) {
        let largest = row.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
        let unit = (largest * largest).recip();
        let (best, simple) = (error(&row, Nibbles::row_scale(&row)), error(&row, -largest / 8.0));
        assert!(best <= simple * 1.0001);
        (chosen, plain) = (chosen + best * unit, plain + simple * unit);
    }
    assert!(chosen < 0.97 * plain, "{chosen} of {plain}");
}

#[test]
fn a_half_byte_leaves_the_other_alone() {
    for byte in 0..=u8::MAX {
        let pair = Nibbles(byte);
        assert_eq!((pair.get(0), pair.get(1)), ((byte & 0xf) as i8 - 8, (byte >> 4) as i8 - 8));
        for part in 0..2 {
            for x in -8..8 {
                let mut other = pair;
                other.set(part, x);
                assert_eq!((other.get(part), other.get(1 - part)), (x, pair.get(1 - part)));
                assert_eq!(pair.with(part, other, part), other);
                assert_eq!(pair.with(1 - part, other, part).get(1 - part), x);
            }
        }
    }
}

#[test]
fn bytes_of_any_row_are_finite() {
    for row in [[0.0; 4], [-0.0; 4], [1e-45; 4], [f32::INFINITY, -1.0, 0.0, 3e38], [f32::NAN, 1.0, 2.0, -3.0]] {
        let scale = Byte::scale(&row);
        let (mut narrow, mut back) = ([Byte(1); 4], [f32::NAN; 4]);
        Byte::narrow(&row, scale, &mut narrow);
        Byte::widen(&narrow, scale, &mut back);
        assert!(scale.is_finite() && back.iter().all(|x| x.is_finite()), "{row:?}: {back:?}");
        if row.iter().all(|x| x.abs() < 1e-40) {
            assert_eq!(narrow, [Byte(128); 4]);
        }
        let scale = Nibbles::row_scale(&row);
        let mut narrow = [Nibbles(0xff); 16];
        Nibbles::write(&row, scale, &mut narrow, 1);
        Nibbles::read(&narrow, 1, scale, &mut back);
        assert!(scale.is_finite() && back.iter().all(|x| x.is_finite()), "{row:?}: {back:?}");
        if row.iter().all(|x| x.abs() < 1e-40) {
            assert!(narrow.iter().step_by(4).all(|&x| x == Nibbles(0x8f)));
        }
    }
}
