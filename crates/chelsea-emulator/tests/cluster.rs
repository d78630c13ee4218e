//! Clustering of stretches of rows.

mod common;

use chelsea_cuda::kernels::NO_BALANCE;
use chelsea_cuda::kernels::cluster::{
    Cluster, FeatureHead, Features, Stretch, cluster, features, largest_number, row_stride,
};
use chelsea_cuda::twins::cluster as twin;
use chelsea_cuda::twins::{Entry, read_entry, write_entry};
use chelsea_cuda::{Buffer, Device, DeviceError};
use chelsea_emulator::Schedule;
use chelsea_kv::{Rotary, matching::rounded};
use common::{Lots, Outcome, device, fill, layouts, pool};
use std::sync::Arc;

/// Rows by lot, of which some are equal.
fn rows(lots: &mut Lots, count: usize, dim: usize) -> Vec<Vec<i16>> {
    let most = rounded::largest(dim) as usize;
    let mut rows: Vec<Vec<i16>> = Vec::new();
    for i in 0..count {
        let row = match lots.below(6) {
            0 if i > 0 => rows[lots.below(i)].clone(),
            _ => (0..dim).map(|_| (lots.below(2 * most + 1) as i32 - most as i32) as i16).collect(),
        };
        rows.push(row);
    }
    rows
}

/// What the kernel merges of some stretches, rows and weights of all after one another.
fn merged(
    device: &Arc<dyn Device>,
    stretches: &[Stretch],
    share: f64,
    rows: &[Vec<i16>],
    weights: &[u32],
) -> Result<Vec<twin::Merges>, DeviceError> {
    let stride = rows[0].len().next_multiple_of(32);
    let mut flat = vec![0i16; rows.len() * stride];
    rows.iter().zip(flat.chunks_mut(stride)).for_each(|(row, out)| out[..row.len()].copy_from_slice(row));
    let (stretches_at, rows_at) = (Buffer::with(device, stretches)?, Buffer::with(device, &flat)?);
    let (weights_at, lengths) = (Buffer::with(device, weights)?, Buffer::new(device, rows.len() * 4)?);
    let (pairs, prices) = (Buffer::new(device, rows.len() * 8)?, Buffer::new(device, rows.len() * 4)?);
    let counts = Buffer::new(device, stretches.len() * 4)?;
    let arguments = Cluster {
        stretches: stretches_at.at(),
        rows: rows_at.at(),
        weights: weights_at.at(),
        lengths: lengths.at(),
        pairs: pairs.at(),
        prices: prices.at(),
        counts: counts.at(),
        share,
        stride: stride as u32,
        unused: 0,
    };
    cluster(&**device, stretches.len(), &arguments)?;
    let counts: Vec<u32> = counts.values(stretches.len())?;
    let (pairs, prices): (Vec<[u32; 2]>, Vec<f32>) = (pairs.values(rows.len())?, prices.values(rows.len())?);
    let own = |(stretch, &count): (&Stretch, &u32)| {
        let own = stretch.first as usize..(stretch.first + count) as usize;
        twin::Merges { pairs: pairs[own.clone()].to_vec(), prices: prices[own].to_vec() }
    };
    Ok(stretches.iter().zip(&counts).map(own).collect())
}

#[test]
fn stretches_merge_as_the_twin_does_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(51);
    for (i, (dim, share)) in [(64, 0.0625), (48, 0.5), (256, 0.25)].into_iter().enumerate() {
        let counts = [300, 1, 2, 37, 256];
        let total: usize = counts.iter().sum();
        let all = rows(&mut lots, total, dim);
        let weights: Vec<u32> = (0..total).map(|_| 1 + lots.below(9) as u32).collect();
        let mut first = 0;
        let stretches = counts.map(|count| {
            first += count as u32;
            let least = if count == 300 { 100 } else { 1 };
            Stretch { first: first - count as u32, count: count as u32, least, unit: 0.01, ceiling: f32::INFINITY }
        });
        let found = merged(&device(Schedule::ALL[i]), &stretches, share, &all, &weights)?;
        for (stretch, found) in stretches.iter().zip(&found) {
            let own = stretch.first as usize..(stretch.first + stretch.count) as usize;
            let (mut rows, mut weights) = (all[own.clone()].to_vec(), weights[own].to_vec());
            let wanted = twin::cluster(*stretch, share, &mut rows, &mut weights);
            assert!(*found == wanted, "{dim} numbers, {} rows", stretch.count);
            assert_eq!(wanted.pairs.len(), (stretch.count.max(stretch.least) - stretch.least) as usize);
        }
    }
    Ok(())
}

#[test]
fn a_stretch_stops_behind_its_ceiling() -> Outcome {
    let mut lots = Lots::new(52);
    let all = rows(&mut lots, 200, 32);
    let free = Stretch { first: 0, count: 200, least: 1, unit: 1.0, ceiling: f32::INFINITY };
    let whole = twin::cluster(free, 0.0625, &mut all.clone(), &mut [1; 200]);
    let ceiling = whole.prices[80];
    let stretch = Stretch { ceiling, ..free };
    let wanted = twin::cluster(stretch, 0.0625, &mut all.clone(), &mut [1; 200]);
    let found = merged(&device(Schedule::InOrder), &[stretch], 0.0625, &all, &[1; 200])?;
    assert!(found[0] == wanted && wanted.pairs.len() < whole.pairs.len());
    assert!(wanted.prices.last().is_some_and(|&last| last > ceiling));
    Ok(())
}

#[test]
fn the_first_round_matches_as_the_cpus_policy_does() {
    let mut lots = Lots::new(53);
    for dim in [6, 64, 256] {
        let all = rows(&mut lots, 700, dim);
        let words = rounded::words(dim);
        let flat: Vec<[i16; 2]> = all.iter().flat_map(|row| row.as_chunks().0.to_vec()).collect();
        let mut edges = Vec::new();
        rounded::match_rounded(&flat, words, 256, &mut rounded::Scratch::default(), &mut edges);
        edges.sort_by(|x, y| x.cost.total_cmp(&y.cost));
        // All of one round, and its first.
        let stretch = Stretch { first: 0, count: 700, least: 350, unit: 1.0, ceiling: -1.0 };
        let first = twin::cluster(stretch, 1.0, &mut all.clone(), &mut [1; 700]);
        let wanted: Vec<[u32; 2]> = edges.iter().map(|edge| [edge.a, edge.b]).collect();
        assert_eq!(first.pairs, wanted);
    }
}

#[test]
fn roots_name_survivors() {
    let merges = twin::Merges { pairs: vec![[1, 0], [0, 4], [3, 4]], prices: vec![0.0; 3] };
    assert_eq!(merges.roots(5, 3), [4, 4, 2, 4, 4]);
    assert_eq!(merges.roots(5, 1), [0, 0, 2, 3, 4]);
}

#[test]
fn entries_become_the_rows_that_the_twin_makes() -> Outcome {
    let mut lots = Lots::new(54);
    for (i, layout) in layouts().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let dim = layout.dim;
        // Every other head size is turned in part, and every third is compared without values.
        let mut rotary = Rotary::plain(dim, 10_000.0);
        rotary.inv_freq.truncate(if i % 2 == 0 { dim / 2 } else { dim / 4 });
        let value_factor = if i % 3 == 0 { 0.0 } else { 0.7 };
        let numbers = if value_factor == 0.0 { dim } else { 2 * dim };
        let stride = row_stride(numbers);
        let pool = pool(&device, layout, 5)?;
        let balances = (0..dim).map(|d| 0.5 + (d % 7) as f32).collect::<Vec<_>>();
        let (scales, pages) = (lots.row(2 * dim, 1.0).iter().map(|x| x.abs()).collect::<Vec<_>>(), [3u32, 0, 1, 4, 2]);
        let mut heads = Vec::new();
        let mut wanted = Vec::new();
        for (h, (len, first, page)) in [(150, 20, 0), (70, 0, 3)].into_iter().enumerate() {
            let entries: Vec<Entry> = (0..len).map(|i| lots.entry(dim, 3 * i)).collect();
            fill(&device, &pool, layout, &pages[page..], &entries)?;
            let cached: Vec<Entry> = entries[first..]
                .iter()
                .map(|entry| {
                    let mut bytes = vec![0; layout.bytes()];
                    write_entry(&mut bytes, layout, 0, entry);
                    let mut stored = read_entry(&bytes, layout, 0);
                    if h == 1 {
                        stored.key.iter_mut().zip(&balances).for_each(|(x, size)| *x *= size);
                    }
                    stored
                })
                .collect();
            heads.push(FeatureHead {
                pages: page as u32,
                first: first as u32,
                count: (len - first) as u32,
                row: if h == 0 { 0 } else { 130 },
                balance: if h == 1 { 0 } else { NO_BALANCE },
                value_factor,
            });
            let (rows, unit) = twin::features(&cached, &rotary, &scales[h * dim..][..dim], value_factor);
            wanted.push((rows, unit, cached));
        }
        let (heads_at, pages_at) = (Buffer::with(&device, &heads)?, Buffer::with(&device, &pages)?);
        let (balances_at, frequencies) = (Buffer::with(&device, &balances)?, Buffer::with(&device, &rotary.inv_freq)?);
        let (scales_at, centres) = (Buffer::with(&device, &scales)?, Buffer::new(&device, 2 * dim * 4)?);
        let (units, rows) = (Buffer::new(&device, 8)?, Buffer::new(&device, 200 * stride * 2)?);
        let weights = Buffer::new(&device, 200 * 4)?;
        let arguments = Features {
            pool: pool.at(),
            heads: heads_at.at(),
            pages: pages_at.at(),
            balances: balances_at.at(),
            frequencies: frequencies.at(),
            scales: scales_at.at(),
            centres: centres.at(),
            units: units.at(),
            rows: rows.at(),
            weights: weights.at(),
            dim: dim as u32,
            pairs: rotary.inv_freq.len() as u32,
            stride: stride as u32,
            most: largest_number(numbers),
        };
        features(&*device, layout.ty, 2, 130, &arguments)?;
        let (rows, units): (Vec<i16>, Vec<f32>) = (rows.values(200 * stride)?, units.values(2)?);
        let weights: Vec<u32> = weights.values(200)?;
        for ((head, (wanted, unit, cached)), found_unit) in heads.iter().zip(&wanted).zip(&units) {
            assert!((found_unit / unit - 1.0).abs() < 1e-5, "{layout:?}: {found_unit} {unit}");
            let mut off = 0;
            for (i, (wanted, entry)) in wanted.iter().zip(cached).enumerate() {
                let row = &rows[(head.row as usize + i) * stride..][..stride];
                assert_eq!(weights[head.row as usize + i], entry.count);
                assert!(row[numbers..].iter().all(|&x| x == 0));
                for (&x, &y) in row.iter().zip(wanted) {
                    assert!((i32::from(x) - i32::from(y)).abs() <= 1, "{layout:?}, row {i}: {x} {y}");
                    off += usize::from(x != y);
                }
            }
            // Means are summed up in another order: now and then a number is rounded the other way.
            assert!(off * 100 <= wanted.len() * numbers, "{layout:?}: {off} numbers");
        }
    }
    Ok(())
}

#[test]
fn the_largest_numbers_are_those_of_the_cpus_policy() {
    for numbers in [0, 1, 16, 100, 128, 256, 512] {
        assert_eq!(largest_number(numbers), rounded::largest(numbers));
    }
}
