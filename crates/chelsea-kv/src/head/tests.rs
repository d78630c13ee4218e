use super::*;
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn row(i: usize, dim: usize) -> Vec<f32> {
    (0..dim).map(|k| (i * 31 + k) as f32 * 0.25).collect()
}

fn filled(n: usize, dim: usize, dtype: Dtype) -> Head {
    let mut head = Head::new(Dims::both(dim), dtype);
    for i in 0..n {
        head.push(&row(i, dim), &row(i + 1000, dim), i as u32 + 1, i as f32);
    }
    head
}

fn assert_entry(head: &Head, at: usize, i: usize) {
    let dim = head.key_dim();
    let mut out = vec![0.0; dim];
    head.read_key(at, &mut out);
    // What a type of so many bits rounds off at most, of a row whose largest number is `largest`.
    let error = |bits: usize, largest: f32| match (head.dtype(), bits) {
        (_, 32) => 0.0,
        (Dtype::Bf16, _) => largest / 256.0,
        (_, 16) => largest / 2048.0,
        (_, 8) => largest / 254.0 * 1.0001,
        // Numbers beyond 7 or -8 steps are cut, where shorter steps make the others better.
        _ => largest * 5.5 / 12.5,
    };
    let holds = |read: &[f32], bits: usize, row: Vec<f32>| {
        let error = error(bits, row[dim - 1]);
        read.iter().zip(row).all(|(&x, y)| (x - y).abs() <= error)
    };
    assert!(holds(&out, head.dtype().key_bits(), row(i, dim)), "key {i} at {at}");
    head.read_value(at, &mut out);
    assert!(holds(&out, head.dtype().value_bits(), row(i + 1000, dim)), "value {i} at {at}");
    assert_eq!((head.count(at), head.position(at)), (i as u32 + 1, i as f32));
}

#[test]
fn entries_are_read_as_they_were_written() {
    for dtype in Dtype::ALL {
        for dim in [2, 10, 16, 64, 80] {
            let head = filled(150, dim, dtype);
            (0..150).for_each(|i| assert_entry(&head, i, i));
        }
    }
}

#[test]
fn a_tile_of_keys_is_its_keys() {
    for dtype in Dtype::ALL {
        let (head, dim) = (filled(100, 10, dtype), 10);
        let (mut tile, mut key) = (vec![0.0; dim * TILE], vec![0.0; dim]);
        for i in 0..100 {
            head.read_key_tile(i, &mut tile);
            head.read_key(i, &mut key);
            assert!((0..dim).all(|k| tile[k * TILE + i % TILE] == key[k]), "{dtype:?}, entry {i}");
        }
    }
}

#[test]
fn tokens_added_at_once_are_tokens_added_one_by_one() {
    for dim in [6, 32] {
        let rows: Vec<f32> = (0..100).flat_map(|i| row(i, 2 * dim)).collect();
        let mut at_once = filled(70, dim, Dtype::F16);
        let mut one_by_one = at_once.clone();
        at_once.extend(&rows[dim..], &rows, Dims::both(2 * dim), 100, 70);
        for i in 0..100 {
            let token = &rows[i * 2 * dim..][..2 * dim];
            one_by_one.push(&token[dim..], &token[..dim], 1, (70 + i) as f32);
        }
        assert_eq!(at_once.len(), one_by_one.len());
        for (x, y) in at_once.pages().iter().zip(one_by_one.pages()) {
            assert_eq!(x.keys::<f16>(), y.keys::<f16>());
            assert_eq!(x.values::<f16>(), y.values::<f16>());
            assert_eq!((x.counts(), x.positions()), (y.counts(), y.positions()));
        }
    }
}

/// Everything that an entry is, as bits.
fn bits(head: &Head, i: usize) -> Vec<u32> {
    let mut row = vec![0.0; 2 * head.key_dim()];
    let (key, value) = row.split_at_mut(head.key_dim());
    head.read_key(i, key);
    head.read_value(i, value);
    row.iter().map(|x| x.to_bits()).chain([head.count(i), head.position(i).to_bits()]).collect()
}

#[test]
fn moved_entries_keep_every_bit_and_so_do_their_neighbours() {
    let mut rng = StdRng::seed_from_u64(3);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::K8V4, Dtype::K5V4] {
        for dim in [10, 32] {
            let mut head = filled(300, dim, dtype);
            for _ in 0..60 {
                let (most, furthest) = if rng.random() { (5, 5) } else { (150, 200) };
                let len = rng.random_range(0..=most);
                let from = rng.random_range(1..=300 - len);
                let to = from - rng.random_range(1..=from.min(furthest));
                let mut expected: Vec<_> = (0..300).map(|i| bits(&head, i)).collect();
                (0..len).for_each(|i| expected[to + i] = expected[from + i].clone());
                head.move_down(to, from, len, &Reservation::unbound());
                let moved: Vec<_> = (0..300).map(|i| bits(&head, i)).collect();
                assert!(moved == expected, "{dtype:?}, {dim} numbers, {len} entries from {from} to {to}");
            }
        }
    }
}

#[test]
fn a_clone_shares_pages_until_one_is_written() {
    let mut head = filled(100, 8, Dtype::F32);
    let copy = head.clone();
    head.truncate(80);
    head.push(&row(7, 8), &row(1007, 8), 8, 7.0);
    assert!(head.pages()[0].is_same(&copy.pages()[0]));
    assert!(!head.pages()[1].is_same(&copy.pages()[1]));
    assert_entry(&head, 80, 7);
    (0..100).for_each(|i| assert_entry(&copy, i, i));
    assert_eq!(head.pages()[1].counts()[17], 0, "slots past the end hold no entry");
}

#[test]
fn pages_that_wait_are_as_new_and_no_more_than_may() {
    let mut head = filled(500, 8, Dtype::Q8);
    let copy = head.clone();
    head.limit_idle_pages(3);
    head.truncate(450);
    assert_eq!(head.idle.len(), 0, "a page that a copy reads is not given away");
    drop(copy);
    head.truncate(70);
    assert_eq!((head.pages().len(), head.idle.len()), (2, 3));
    assert_eq!(head.clone().idle.len(), 0);
    let mut anew = filled(70, 8, Dtype::Q8);
    for head in [&mut head, &mut anew] {
        head.push(&row(7, 8), &row(1007, 8), 8, 7.0);
        (0..60).for_each(|i| head.push(&row(i, 8), &row(i + 1000, 8), 1, i as f32));
    }
    assert_eq!(head.idle.len(), 2);
    let (page, new) = (head.pages().last().unwrap(), anew.pages().last().unwrap());
    assert_eq!((page.kv(), page.counts(), page.ln_counts()), (new.kv(), new.counts(), new.ln_counts()));
    assert_eq!(page.positions(), new.positions());
    head.limit_idle_pages(1);
    assert_eq!(head.idle.len(), 1);
}
