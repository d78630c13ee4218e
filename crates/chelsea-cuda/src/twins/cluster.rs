//! Clustering of a stretch of rows, and what is selected of several.

use super::page::Entry;
use crate::kernels::cluster::{CHUNK_ROWS, Stretch, largest_number};
use chelsea_kv::Rotary;

/// What a stretch merges, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merges {
    /// Who joins whom, by row.
    pub pairs: Vec<[u32; 2]>,
    /// What each costs, or the one before it, if that was more.
    pub prices: Vec<f32>,
}

impl Merges {
    /// The root of each of `count` rows after the first `taken` merges.
    pub fn roots(&self, count: usize, taken: usize) -> Vec<u32> {
        let mut roots: Vec<u32> = (0..count as u32).collect();
        // Whoever was joined may join another later: the last come first.
        for &[a, b] in self.pairs[..taken].iter().rev() {
            roots[a as usize] = roots[b as usize];
        }
        roots
    }
}

/// How many merges of each list are among the `wanted` cheapest of all: of equal prices the first.
pub fn select(lists: &[Merges], wanted: usize) -> Vec<usize> {
    let mut all: Vec<(f32, usize)> =
        lists.iter().enumerate().flat_map(|(s, list)| list.prices.iter().map(move |&price| (price, s))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let mut taken = vec![0; lists.len()];
    all.iter().take(wanted).for_each(|&(_, s)| taken[s] += 1);
    taken
}

/// The members of each survivor of a head of `len` entries, in order, where candidates begin at entry `first` and have these
/// roots: of all entries from the first candidate's page on.
pub fn members(first: usize, len: usize, roots: &[u32]) -> Vec<Vec<u32>> {
    let alone = |entries: std::ops::Range<usize>| entries.map(|i| vec![i as u32]);
    let cluster = |root: usize| {
        let members = roots.iter().enumerate().filter(move |&(_, &of)| of as usize == root);
        members.map(|(i, _)| (first + i) as u32).collect::<Vec<u32>>()
    };
    let clusters = (0..roots.len()).filter(|&i| roots[i] as usize == i).map(cluster);
    alone(first / chelsea_kv::PAGE * chelsea_kv::PAGE..first)
        .chain(clusters)
        .chain(alone(first + roots.len()..len))
        .collect()
}

/// A proposal to merge the row at one place into that at another.
struct Edge {
    a: usize,
    b: usize,
    cost: f32,
}

/// The nearest even place for each odd one, in chunks; the first of equally near ones.
fn matched(rows: &[Vec<i16>], order: &[usize]) -> Vec<Edge> {
    let distance =
        |x: &[i16], y: &[i16]| -> i64 { x.iter().zip(y).map(|(&x, &y)| (i64::from(x) - i64::from(y)).pow(2)).sum() };
    let mut edges = Vec::new();
    for (c, chunk) in order.chunks(CHUNK_ROWS).enumerate() {
        for a in (1..chunk.len()).step_by(2) {
            let all = (0..chunk.len()).step_by(2).map(|b| (distance(&rows[chunk[a]], &rows[chunk[b]]), b));
            if let Some((cost, b)) = all.min() {
                // Whole numbers of 32 bits, which become floats.
                edges.push(Edge { a: c * CHUNK_ROWS + a, b: c * CHUNK_ROWS + b, cost: cost as i32 as f32 });
            }
        }
    }
    edges
}

/// Clusters a stretch of rows that stand for so many tokens each, of numbers that are multiples of `unit`. Of `stretch`,
/// `count`, `least` and `ceiling` are looked at.
///
/// # Panics
/// If there are fewer rows or weights than the stretch has.
pub fn cluster(stretch: Stretch, unit: f32, share: f64, rows: &mut [Vec<i16>], weights: &mut [u32]) -> Merges {
    let Stretch { count, least, ceiling, .. } = stretch;
    let least = least as usize;
    let mut order: Vec<usize> = (0..count as usize).collect();
    let mut merges = Merges::default();
    let mut price = f32::NEG_INFINITY;
    while order.len() > least && order.len() > 1 {
        let most = ((order.len() as f64 * share) as usize).max(1).min(order.len() - least);
        let mut edges = matched(rows, &order);
        // Of equal costs the first come first.
        edges.sort_by(|x, y| x.cost.total_cmp(&y.cost));
        edges.truncate(most);
        for edge in &edges {
            price = price.max(edge.cost * unit * unit);
            merges.pairs.push([order[edge.a] as u32, order[edge.b] as u32]);
            merges.prices.push(price);
        }
        if price > ceiling {
            break;
        }
        edges.sort_by_key(|edge| edge.a);
        for edge in &edges {
            let (a, b) = (order[edge.a], order[edge.b]);
            weights[b] += weights[a];
            let share = weights[a] as f32 / weights[b] as f32;
            let row = rows[a].clone();
            for (mean, &x) in rows[b].iter_mut().zip(&row) {
                let before = f32::from(*mean);
                *mean = (before + share * (f32::from(x) - before)).round_ties_even() as i16;
            }
        }
        for edge in edges.iter().rev() {
            order.remove(edge.a);
        }
    }
    merges
}

/// Mean of `|value|^2` over entries; 1 if all are zero.
pub fn value_scale(entries: &[Entry]) -> f32 {
    let sum: f64 = entries.iter().flat_map(|entry| &entry.value).map(|&x| f64::from(x) * f64::from(x)).sum();
    if sum > 0.0 { (sum / entries.len() as f64) as f32 } else { 1.0 }
}

/// The rows of a head's candidates, and what they are multiples of: a key before RoPE, less the mean of all and times `scale`
/// dimension by dimension, then the value times `value_factor`, unless that is 0.
///
/// # Panics
/// If the sizes of entries, scale and rotary do not fit.
pub fn features(entries: &[Entry], rotary: &Rotary, scale: &[f32], value_factor: f32) -> (Vec<Vec<i16>>, f32) {
    let turned = |entry: &Entry| {
        let mut key = entry.key.clone();
        rotary.turn_back(&mut key, entry.position);
        key
    };
    let keys: Vec<Vec<f32>> = entries.iter().map(turned).collect();
    let mean = |d: usize| (keys.iter().map(|key| f64::from(key[d])).sum::<f64>() / keys.len() as f64) as f32;
    let centre: Vec<f32> = (0..scale.len()).map(mean).collect();
    let mut reach = 0.0f32;
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for (entry, key) in entries.iter().zip(&keys) {
        let mut row: Vec<f32> = key.iter().zip(&centre).zip(scale).map(|((x, c), s)| (x - c) * s).collect();
        if value_factor != 0.0 {
            row.extend(entry.value.iter().map(|x| x * value_factor));
        }
        reach = row.iter().fold(reach, |reach, x| reach.max(x.abs()));
        rows.push(row);
    }
    let most = largest_number(rows.first().map_or(0, Vec::len));
    let unit = reach / most;
    let unit = if unit.is_normal() { unit } else { 1.0 };
    let round = |x: &f32| (x / unit).clamp(-most, most).round_ties_even() as i16;
    (rows.iter().map(|row| row.iter().map(round).collect()).collect(), unit)
}
