//! The clustering recipe in its shortest form, for keys that are made up: enough to draw what it does. The real one is
//! `chelsea-kv`'s policy `chelsea`; docs/method.md explains both.

/// An entry, or the centroid of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The numbers whose squared distance is the cost of a merge.
    pub row: Vec<f64>,
    /// The entries that it stands for, by their places in the text; the first is where it sits.
    pub members: Vec<usize>,
}

/// A proposal to merge entry `a` into entry `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    pub a: usize,
    pub b: usize,
    pub cost: f64,
}

/// Every second entry of a chunk proposes to join the nearest of the others.
pub fn match_chunks(entries: &[Entry], chunk: usize) -> Vec<Edge> {
    let mut edges = Vec::new();
    for first in (0..entries.len()).step_by(chunk) {
        let end = entries.len().min(first + chunk);
        for a in (first + 1..end).step_by(2) {
            let to = |b: usize| Edge { a, b, cost: squared_distance(&entries[a].row, &entries[b].row) };
            edges.extend((first..end).step_by(2).map(to).min_by(|x, y| x.cost.total_cmp(&y.cost)));
        }
    }
    edges
}

/// The `count` cheapest edges, the cheapest first.
pub fn cheapest(mut edges: Vec<Edge>, count: usize) -> Vec<Edge> {
    edges.sort_by(|x, y| x.cost.total_cmp(&y.cost).then(x.a.cmp(&y.a)));
    edges.truncate(count);
    edges
}

/// Carries the edges of one head out: a cluster is the mean of its entries, weighted by how many each stands for.
pub fn merge<'e>(entries: &mut Vec<Entry>, edges: impl Iterator<Item = &'e Edge>) {
    let mut gone = vec![false; entries.len()];
    for edge in edges {
        let a = entries[edge.a].clone();
        let b = &mut entries[edge.b];
        let share = a.members.len() as f64 / (a.members.len() + b.members.len()) as f64;
        b.row.iter_mut().zip(&a.row).for_each(|(b, a)| *b += share * (a - *b));
        b.members.extend(a.members);
        gone[edge.a] = true;
    }
    let mut gone = gone.into_iter();
    entries.retain(|_| gone.next() == Some(false));
}

/// Who joins whom, by the places where clusters sit, and at what price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    pub a: usize,
    pub b: usize,
    pub price: f64,
}

/// All merges of a head, in order, until it holds `least` clusters: in rounds, each of a `share` of the clusters at most. A
/// merge has the price that it costs, or that of the one before it, if that is more.
pub fn merges(mut entries: Vec<Entry>, least: usize, chunk: usize, share: f64) -> Vec<Merge> {
    let (mut merges, mut price) = (Vec::new(), 0.0f64);
    while entries.len() > least {
        let most = ((entries.len() as f64 * share) as usize).max(1).min(entries.len() - least);
        let taken = cheapest(match_chunks(&entries, chunk), most);
        if taken.is_empty() {
            break;
        }
        for edge in &taken {
            price = price.max(edge.cost);
            merges.push(Merge { a: entries[edge.a].members[0], b: entries[edge.b].members[0], price });
        }
        merge(&mut entries, taken.iter());
    }
    merges
}

/// How many merges of each head are among the `count` cheapest of all: a beginning of its list.
pub fn cut(heads: &[Vec<Merge>], count: usize) -> Vec<usize> {
    let mut all: Vec<(f64, usize)> =
        heads.iter().enumerate().flat_map(|(g, merges)| merges.iter().map(move |merge| (merge.price, g))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
    let mut taken = vec![0; heads.len()];
    all.iter().take(count).for_each(|&(_, g)| taken[g] += 1);
    taken
}

fn squared_distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// The same numbers on every machine: no function of the C library is called for them.
pub struct Numbers(pub u64);

impl Numbers {
    /// Evenly spread over 0 to 1.
    pub fn even(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Close to a normal distribution, of mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.even()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(rows: &[f64]) -> Vec<Entry> {
        rows.iter().enumerate().map(|(i, &x)| Entry { row: vec![x], members: vec![i] }).collect()
    }

    #[test]
    fn every_second_entry_goes_to_the_nearest_of_the_others_in_its_chunk() {
        let edges = match_chunks(&entries(&[0.0, 4.9, 5.0, 1.0, 9.0]), 4);
        assert_eq!(edges.iter().map(|e| (e.a, e.b)).collect::<Vec<_>>(), [(1, 2), (3, 0)]);
        assert_eq!(edges[1].cost, 1.0);
    }

    #[test]
    fn a_centroid_is_the_mean_of_all_its_entries() {
        let mut head = entries(&[0.0, 1.0, 100.0, 2.0]);
        let edges = match_chunks(&head, 4);
        merge(&mut head, edges.iter());
        assert_eq!(
            head,
            [Entry { row: vec![1.0], members: vec![0, 1, 3] }, Entry { row: vec![100.0], members: vec![2] }]
        );
    }

    #[test]
    fn the_cheapest_merges_of_all_heads_are_beginnings_of_their_lists() {
        let heads = [&[0.0, 1.0, 100.0, 2.0][..], &[0.0, 50.0]].map(|rows| merges(entries(rows), 1, 256, 0.25));
        let joined: Vec<(usize, usize)> = heads[0].iter().map(|merge| (merge.a, merge.b)).collect();
        assert_eq!(joined, [(1, 0), (2, 3), (3, 0)]);
        assert!(heads[0].is_sorted_by_key(|merge| merge.price));
        assert_eq!(cut(&heads, 2), [1, 1]);
        assert_eq!(cut(&heads, 9), [3, 1]);
    }
}
