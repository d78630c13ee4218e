//! Clustering of stretches of rows.

mod common;

use chelsea_cuda::kernels::NO_BALANCE;
use chelsea_cuda::kernels::cluster::{
    Cluster, Features, Found, Members, PlannedHead, STRETCH_ROWS, Select, Stretch, cluster, features, largest_number,
    list_members, measure, row_stride, select,
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

/// A stretch whose rows, and lists, begin at `row`.
fn stretch(head: usize, row: usize, count: usize, least: usize) -> Stretch {
    let [head, row, count, least] = [head, row, count, least].map(|x| x as u32);
    Stretch { head, first: 0, count, row, list: row, least, ceiling: f32::INFINITY, unused: 0 }
}

/// What was found out about a head of which only rows are known.
fn found(unit: f32) -> Found {
    Found { unit, value_factor: 0.0, value_scale: 0.0, left: 0 }
}

/// Lists of what stretches merge, in a device's memory.
struct Lists {
    pairs: Buffer,
    prices: Buffer,
    counts: Buffer,
}

impl Lists {
    fn of(&self, stretches: &[Stretch], rows: usize) -> Result<Vec<twin::Merges>, DeviceError> {
        let counts: Vec<u32> = self.counts.values(stretches.len())?;
        let (pairs, prices): (Vec<[u32; 2]>, Vec<f32>) = (self.pairs.values(rows)?, self.prices.values(rows)?);
        let own = |(stretch, &count): (&Stretch, &u32)| {
            let own = stretch.list as usize..(stretch.list + count) as usize;
            twin::Merges { pairs: pairs[own.clone()].to_vec(), prices: prices[own].to_vec() }
        };
        Ok(stretches.iter().zip(&counts).map(own).collect())
    }
}

/// What the kernel merges of some stretches, rows and weights of all after one another, in heads of this unit.
fn merged(
    device: &Arc<dyn Device>,
    stretches: &[Stretch],
    unit: f32,
    share: f64,
    rows: &[Vec<i16>],
    weights: &[u32],
) -> Result<Lists, DeviceError> {
    let stride = rows[0].len().next_multiple_of(32);
    let mut flat = vec![0i16; rows.len() * stride];
    rows.iter().zip(flat.chunks_mut(stride)).for_each(|(row, out)| out[..row.len()].copy_from_slice(row));
    let (stretches_at, rows_at) = (Buffer::with(device, stretches)?, Buffer::with(device, &flat)?);
    let (weights_at, lengths) = (Buffer::with(device, weights)?, Buffer::new(device, rows.len() * 4)?);
    let (pairs, prices) = (Buffer::new(device, rows.len() * 8)?, Buffer::new(device, rows.len() * 4)?);
    let counts = Buffer::new(device, stretches.len() * 4)?;
    let found = Buffer::with(device, &vec![found(unit); stretches.len()])?;
    let arguments = Cluster {
        stretches: stretches_at.at(),
        found: found.at(),
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
    device.synchronize()?;
    Ok(Lists { pairs, prices, counts })
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
            first += count;
            stretch(0, first - count, count, if count == 300 { 100 } else { 1 })
        });
        let lists = merged(&device(Schedule::ALL[i]), &stretches, 0.01, share, &all, &weights)?;
        for (stretch, found) in stretches.iter().zip(&lists.of(&stretches, total)?) {
            let own = stretch.row as usize..(stretch.row + stretch.count) as usize;
            let (mut rows, mut weights) = (all[own.clone()].to_vec(), weights[own].to_vec());
            let wanted = twin::cluster(*stretch, 0.01, share, &mut rows, &mut weights);
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
    let free = stretch(0, 0, 200, 1);
    let whole = twin::cluster(free, 1.0, 0.0625, &mut all.clone(), &mut [1; 200]);
    let ceiling = whole.prices[80];
    let stretch = Stretch { ceiling, ..free };
    let wanted = twin::cluster(stretch, 1.0, 0.0625, &mut all.clone(), &mut [1; 200]);
    let found = merged(&device(Schedule::InOrder), &[stretch], 1.0, 0.0625, &all, &[1; 200])?.of(&[stretch], 200)?;
    assert!(found[0] == wanted && wanted.pairs.len() < whole.pairs.len());
    assert!(wanted.prices.last().is_some_and(|&last| last > ceiling));
    Ok(())
}

/// Heads with candidates from some entry on: how many stretches of how many candidates, and entries behind them.
const HEADS: [(usize, &[usize], usize); 4] =
    [(4, &[90, 130], 70), (64, &[1], 0), (130, &[300], 3), (0, &[2, 2, 5], 64)];

#[test]
fn the_cheapest_merges_of_all_heads_are_listed_as_the_twin_lists_them() -> Outcome {
    let mut lots = Lots::new(55);
    let total: usize = HEADS.iter().flat_map(|(_, counts, _)| *counts).sum();
    let all = rows(&mut lots, total, 32);
    let weights: Vec<u32> = (0..total).map(|_| 1 + lots.below(9) as u32).collect();
    let (mut heads, mut stretches) = (Vec::new(), Vec::new());
    let (mut row, mut start, mut member) = (0, 0, 0);
    for (h, (first, counts, behind)) in HEADS.into_iter().enumerate() {
        let count: usize = counts.iter().sum();
        let len = first + count + behind;
        heads.push(PlannedHead {
            pages: 0,
            first: first as u32,
            count: count as u32,
            len: len as u32,
            balance: NO_BALANCE,
            value_scale: 0.0,
            stretch: stretches.len() as u32,
            stretches: counts.len() as u32,
            start: start as u32,
            member: member as u32,
        });
        let mut at = 0;
        for &count in counts {
            stretches.push(Stretch { first: at as u32, ..stretch(h, row, count, count / 10 + 1) });
            (at, row) = (at + count, row + count);
        }
        let listed = len - first / 64 * 64;
        (start, member) = (start + listed + 1, member + listed);
    }
    for (i, wanted) in [0, 1, 7, 100, 300, 470, 600].into_iter().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let lists = merged(&device, &stretches, 0.5, 0.0625, &all, &weights)?;
        let merges = lists.of(&stretches, total)?;
        let (stretches_at, heads_at) = (Buffer::with(&device, &stretches)?, Buffer::with(&device, &heads)?);
        let found_at = Buffer::with(&device, &vec![found(0.5); heads.len()])?;
        let [taken, places] = [0, 1].map(|_| Buffer::new(&device, stretches.len() * 4));
        let (taken, places) = (taken?, places?);
        let (starts, members) = (Buffer::new(&device, start * 4)?, Buffer::new(&device, member * 4)?);
        let select_arguments = Select {
            stretches: stretches_at.at(),
            heads: heads_at.at(),
            found: found_at.at(),
            prices: lists.prices.at(),
            counts: lists.counts.at(),
            taken: taken.at(),
            places: places.at(),
            count: stretches.len() as u32,
            head_count: heads.len() as u32,
            wanted: wanted as u32,
            unused: 0,
        };
        select(&*device, &select_arguments)?;
        let of_twin = twin::select(&merges, wanted);
        let of_kernel: Vec<u32> = taken.values(stretches.len())?;
        assert_eq!(of_kernel.iter().map(|&x| x as usize).collect::<Vec<_>>(), of_twin, "{wanted} merges");
        let members_arguments = Members {
            stretches: stretches_at.at(),
            heads: heads_at.at(),
            found: found_at.at(),
            taken: taken.at(),
            places: places.at(),
            pairs: lists.pairs.at(),
            starts: starts.at(),
            members: members.at(),
        };
        list_members(&*device, stretches.len(), &members_arguments)?;
        let (starts, members): (Vec<u32>, Vec<u32>) = (starts.values(start)?, members.values(member)?);
        let left: Vec<Found> = found_at.values(heads.len())?;
        for (h, (head, left)) in heads.iter().zip(&left).enumerate() {
            let mut roots = Vec::new();
            let own = head.stretch as usize..(head.stretch + head.stretches) as usize;
            for s in own {
                let first = stretches[s].first;
                let of_stretch = merges[s].roots(stretches[s].count as usize, of_twin[s]);
                roots.extend(of_stretch.into_iter().map(|root| root + first));
            }
            let wanted = twin::members(head.first as usize, head.len as usize, &roots);
            let alone = head.len as usize - head.first as usize / 64 * 64 - roots.len();
            assert_eq!(left.left as usize + alone, wanted.len(), "head {h}");
            let starts = &starts[head.start as usize..][..wanted.len() + 1];
            let of_kernel: Vec<Vec<u32>> =
                starts.windows(2).map(|ends| members[ends[0] as usize..ends[1] as usize].to_vec()).collect();
            assert_eq!(of_kernel, wanted, "head {h}");
        }
    }
    Ok(())
}

#[test]
fn long_ways_to_a_root_are_gone_and_a_whole_stretch_is_listed() -> Outcome {
    // Every row joins the one before it, the last first: the longest way there can be.
    let count = STRETCH_ROWS;
    let pairs: Vec<[u32; 2]> = (1..count as u32).rev().map(|i| [i, i - 1]).collect();
    let device = device(Schedule::InOrder);
    let head = PlannedHead {
        pages: 0,
        first: 0,
        count: count as u32,
        len: count as u32,
        balance: NO_BALANCE,
        value_scale: 0.0,
        stretch: 0,
        stretches: 1,
        start: 0,
        member: 0,
    };
    for taken in [count - 1, count / 2] {
        let (stretches, heads) = (Buffer::with(&device, &[stretch(0, 0, count, 1)])?, Buffer::with(&device, &[head])?);
        let left = Found { left: (count - taken) as u32, ..found(1.0) };
        let (found, pairs) = (Buffer::with(&device, &[left])?, Buffer::with(&device, &pairs)?);
        let (taken_at, places) = (Buffer::with(&device, &[taken as u32])?, Buffer::with(&device, &[0u32])?);
        let (starts, members) = (Buffer::new(&device, (count + 1) * 4)?, Buffer::new(&device, count * 4)?);
        let arguments = Members {
            stretches: stretches.at(),
            heads: heads.at(),
            found: found.at(),
            taken: taken_at.at(),
            places: places.at(),
            pairs: pairs.at(),
            starts: starts.at(),
            members: members.at(),
        };
        list_members(&*device, 1, &arguments)?;
        let starts: Vec<u32> = starts.values(count - taken + 1)?;
        let wanted: Vec<u32> = (0..(count - taken) as u32).chain([count as u32]).collect();
        assert_eq!(starts, wanted);
        assert_eq!(members.values::<u32>(count)?, (0..count as u32).collect::<Vec<_>>());
    }
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
        let stretch = Stretch { ceiling: -1.0, ..stretch(0, 0, 700, 350) };
        let first = twin::cluster(stretch, 1.0, 1.0, &mut all.clone(), &mut [1; 700]);
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
        let value_weight = if i % 3 == 0 { 0.0 } else { 0.7 };
        let numbers = if value_weight == 0.0 { dim } else { 2 * dim };
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
            // The scale of the first one's values is found out.
            let scale = if h == 0 { twin::value_scale(&cached) } else { 0.3 };
            heads.push(PlannedHead {
                pages: page as u32,
                first: first as u32,
                count: (len - first) as u32,
                len: len as u32,
                balance: if h == 1 { 0 } else { NO_BALANCE },
                value_scale: if h == 0 { 0.0 } else { scale },
                stretch: 0,
                stretches: 1,
                start: 0,
                member: 0,
            });
            let value_factor = (value_weight / f64::from(scale)).sqrt() as f32;
            let (rows, unit) = twin::features(&cached, &rotary, &scales[h * dim..][..dim], value_factor);
            wanted.push((rows, (unit, scale), cached));
        }
        // The candidates of the first in two parts.
        let stretches = [stretch(0, 0, 50, 1), Stretch { first: 50, ..stretch(0, 50, 80, 1) }, stretch(1, 130, 70, 1)];
        let (heads_at, pages_at) = (Buffer::with(&device, &heads)?, Buffer::with(&device, &pages)?);
        let (balances_at, frequencies) = (Buffer::with(&device, &balances)?, Buffer::with(&device, &rotary.inv_freq)?);
        let (scales_at, centres) = (Buffer::with(&device, &scales)?, Buffer::new(&device, 2 * dim * 4)?);
        let (found, rows) = (Buffer::new(&device, 2 * size_of::<Found>())?, Buffer::new(&device, 200 * stride * 2)?);
        let (weights, stretches) = (Buffer::new(&device, 200 * 4)?, Buffer::with(&device, &stretches)?);
        let arguments = Features {
            pool: pool.at(),
            heads: heads_at.at(),
            pages: pages_at.at(),
            balances: balances_at.at(),
            frequencies: frequencies.at(),
            scales: scales_at.at(),
            centres: centres.at(),
            found: found.at(),
            stretches: stretches.at(),
            rows: rows.at(),
            weights: weights.at(),
            value_weight,
            dim: dim as u32,
            pairs: rotary.inv_freq.len() as u32,
            stride: stride as u32,
            most: largest_number(numbers),
        };
        measure(&*device, layout.ty, 2, &arguments)?;
        features(&*device, layout.ty, 3, 80, &arguments)?;
        let (rows, found): (Vec<i16>, Vec<Found>) = (rows.values(200 * stride)?, found.values(2)?);
        let weights: Vec<u32> = weights.values(200)?;
        for ((first, (wanted, (unit, scale), cached)), found) in [0, 130].into_iter().zip(&wanted).zip(&found) {
            assert!((found.unit / unit - 1.0).abs() < 1e-5, "{layout:?}: {} {unit}", found.unit);
            // That of values that nobody looks at is not known.
            let wanted_scale = if value_weight == 0.0 && first == 0 { 1.0 } else { *scale };
            assert!((found.value_scale / wanted_scale - 1.0).abs() < 1e-6, "{layout:?}: {found:?} {scale}");
            let mut off = 0;
            for (i, (wanted, entry)) in wanted.iter().zip(cached).enumerate() {
                let row = &rows[(first + i) * stride..][..stride];
                assert_eq!(weights[first + i], entry.count);
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
