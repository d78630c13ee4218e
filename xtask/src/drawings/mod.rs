//! `cargo xtask drawings`: the two drawings of docs/method.md, from keys that are made up with fixed seeds, so that the
//! same bytes are written every time.

mod recipe;

use crate::process::root;
use anyhow::{Context, Result};
use chelsea_plot::{Drawing, Ink, PlotError, Side};
use recipe::{Edge, Entry, Merge, Numbers, cheapest, cut, match_chunks, merge, merges};
use std::fs;

/// Draws them and writes them to docs/plots.
pub fn run() -> Result<bool> {
    for (name, svg) in [("method-chunk.svg", chunk()?), ("method-pool.svg", pool()?)] {
        let path = root().join("docs/plots").join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(true)
}

/// Colours of set A, of set B, and of what was merged.
const A: Ink = Ink::Series(1);
const B: Ink = Ink::Series(0);
const MERGED: Ink = Ink::Series(2);

/// Which of four themes each of the twelve keys is about.
const THEMES: [usize; 12] = [0, 0, 1, 1, 2, 0, 3, 2, 0, 1, 2, 3];
const CENTRES: [[f64; 2]; 4] = [[-1.4, 1.0], [1.3, 1.2], [-0.9, -1.2], [1.5, -0.9]];

/// One round inside one chunk.
fn chunk() -> Result<String, PlotError> {
    let mut numbers = Numbers(495);
    let key = |theme: usize, numbers: &mut Numbers| CENTRES[theme].map(|x| x + 0.55 * numbers.normal()).to_vec();
    let entry = |(i, &theme): (usize, &usize)| Entry { row: key(theme, &mut numbers), members: vec![i] };
    let before: Vec<Entry> = THEMES.iter().enumerate().map(entry).collect();
    let edges = match_chunks(&before, before.len());
    let taken = cheapest(edges.clone(), 4);
    let is_taken = |edge: &Edge| taken.contains(edge);
    let mut after = before.clone();
    merge(&mut after, taken.iter());

    let mut d = Drawing::new(
        "One round of matching in a chunk of twelve entries",
        "Made-up keys of two numbers. Every odd entry (set A) proposes to join the nearest even one (set B); the cost is the \
         squared distance. The four cheapest proposals are taken.",
        520,
    );
    // The keys as points of a plane.
    let (left, top, side) = (36, 122, 350);
    let at = |row: &[f64]| {
        let scale = f64::from(side) / 6.0;
        let place = |x: f64| f64::from(side / 2) + scale * x;
        (left + place(row[0]).round() as i32, top + side - place(row[1]).round() as i32)
    };
    d.text((left, top - 14), "the keys in their plane", 13.0, Ink::Faint, Side::Left);
    for (from, to) in [((0, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 1), (0, 1)), ((0, 1), (0, 0))] {
        let corner = |(x, y): (i32, i32)| (left + side * x, top + side * y);
        d.line(&[corner(from), corner(to)], Ink::Pale, 1);
    }
    for edge in &edges {
        let (ink, width) = if is_taken(edge) { (MERGED, 4) } else { (Ink::Pale, 1) };
        d.line(&[at(&before[edge.a].row), at(&before[edge.b].row)], ink, width);
    }
    for (i, entry) in before.iter().enumerate() {
        numbered(&mut d, at(&entry.row), i);
    }

    // The same entries in the order of the text.
    let x = |i: usize| 452 + 33 * i as i32;
    let (upper, lower) = (160, 232);
    d.text((428, top - 14), "in the order of the text, before", 13.0, Ink::Faint, Side::Left);
    for edge in &edges {
        let (ink, width) = if is_taken(edge) { (MERGED, 4) } else { (Ink::Pale, 1) };
        d.line(&[(x(edge.a), lower), (x(edge.b), upper)], ink, width);
        let ink = if is_taken(edge) { MERGED } else { Ink::Faint };
        d.text((x(edge.a), lower + 26), format!("{:.2}", edge.cost), 12.0, ink, Side::Middle);
    }
    for i in 0..before.len() {
        numbered(&mut d, (x(i), if i % 2 == 0 { upper } else { lower }), i);
    }
    d.text((428, lower + 26), "cost", 12.0, Ink::Faint, Side::Right);
    d.text((428, upper), "B", 14.0, B, Side::Right);
    d.text((428, lower), "A", 14.0, A, Side::Right);

    let row = 364;
    d.text(
        (428, row - 46),
        "after: a cluster sits where its entry of B was, the order is kept",
        13.0,
        Ink::Faint,
        Side::Left,
    );
    for entry in &after {
        let first = entry.members[0];
        let place = (x(first), row);
        if let [alone] = entry.members[..] {
            numbered(&mut d, place, alone);
            continue;
        }
        let mut members = entry.members.clone();
        members.sort_unstable();
        let text: Vec<String> = members.iter().map(ToString::to_string).collect();
        d.dot(place, 11 + 3 * (members.len() as u32 - 1), MERGED);
        d.text(place, first.to_string(), 12.0, Ink::Paper, Side::Middle);
        d.text((place.0, row + 32), format!("n = {}", members.len()), 12.0, Ink::Text, Side::Middle);
        d.text((place.0, row + 49), text.join(", "), 11.0, Ink::Faint, Side::Middle);
    }
    let legend = [(B, "even: set B"), (A, "odd: set A"), (MERGED, "taken, and the clusters that follow")];
    let mut at = 435;
    for (ink, text) in legend {
        d.dot((at, 460), 7, ink);
        d.text((at + 13, 460), text, 12.0, Ink::Text, Side::Left);
        at += 30 + 7 * text.len() as i32;
    }
    d.to_svg()
}

/// Entry `i` as a dot with its number.
fn numbered(d: &mut Drawing, at: (i32, i32), i: usize) {
    d.dot(at, 11, if i.is_multiple_of(2) { B } else { A });
    d.text(at, i.to_string(), 12.0, Ink::Paper, Side::Middle);
}

/// Candidates of each head, numbers of a row, and how far the keys of each head lie from one another.
const CANDIDATES: usize = 128;
const DIM: usize = 8;
const SPREADS: [f64; 6] = [0.12, 0.5, 0.25, 0.85, 0.38, 0.65];
/// What the default policy has: entries of a chunk, share of a head that a round merges, and share of the average that every
/// head keeps.
const CHUNK: usize = 256;
const ROUND_SHARE: f64 = 1.0 / 16.0;
const FLOOR: f64 = 0.05;

/// One pool over the heads of a model.
fn pool() -> Result<String, PlotError> {
    let mut numbers = Numbers(5);
    let total = SPREADS.len() * CANDIDATES;
    let target = total / 4;
    let least = (FLOOR * (target / SPREADS.len()) as f64).ceil() as usize;
    let of_head = |&spread: &f64| merges(head(spread, &mut numbers), least, CHUNK, ROUND_SHARE);
    let lists: Vec<Vec<Merge>> = SPREADS.iter().map(of_head).collect();
    let taken = cut(&lists, total - target);
    let distance = |merge: &Merge| merge.price.sqrt();
    let farthest = lists.iter().flatten().map(distance).fold(0.0, f64::max);
    let price = lists.iter().zip(&taken).flat_map(|(list, &taken)| &list[..taken]).map(distance).fold(0.0, f64::max);

    let mut d = Drawing::new(
        "One pool over all heads decides which of them keeps how much",
        format!(
            "Six made-up heads of {CANDIDATES} entries each, of which a quarter is to stay. Left: all that each head could \
             merge; the cheapest {} of {} are carried out, whichever head they are of. Right: what is left then.",
            total - target,
            lists.iter().map(Vec::len).sum::<usize>()
        ),
        520,
    );
    let (top, row) = (150, 50);
    let bottom = top + row * SPREADS.len() as i32;
    let (left, right) = (132, 500);
    let x = |distance: f64| left + (f64::from(right - left) * distance / (1.05 * farthest)).round() as i32;
    d.text((left, top - 24), "merges of each head, by price", 13.0, Ink::Faint, Side::Left);
    d.line(&[(x(price), top - 8), (x(price), bottom)], Ink::Text, 2);
    d.text((x(price) + 6, bottom + 14), "the cut: dearer ones are left", 12.0, Ink::Text, Side::Left);
    for (g, (list, &taken)) in lists.iter().zip(&taken).enumerate() {
        let y = top + row * g as i32 + row / 2;
        d.text((left - 14, y), format!("layer {}, head {}", g / 2, g % 2), 12.5, Ink::Text, Side::Right);
        d.line(&[(left, y), (right, y)], Ink::Pale, 1);
        for (i, merge) in list.iter().enumerate() {
            // Neighbours above and below the line, so that dots of equal distance are seen.
            let aside = [0, -9, 9, -4, 5][i % 5];
            d.dot((x(distance(merge)), y + aside), 3, if i < taken { MERGED } else { Ink::Pale });
        }
    }
    d.line(&[(left, bottom), (right, bottom)], Ink::Pale, 1);
    d.text((right, bottom + 34), "farther apart: a merge changes attention more", 12.0, Ink::Faint, Side::Right);

    let (left, right) = (560, 800);
    let kept: Vec<usize> = taken.iter().map(|taken| CANDIDATES - taken).collect();
    let most = kept.iter().copied().max().unwrap_or(1);
    let x = |n: usize| left + (right - left) * n as i32 / most as i32;
    d.text((left, top - 24), "entries that each head keeps", 13.0, Ink::Faint, Side::Left);
    for (g, &kept) in kept.iter().enumerate() {
        let y = top + row * g as i32 + row / 2;
        d.bar((left, y - 12), (x(kept), y + 12), B);
        d.text((x(kept) + 6, y), kept.to_string(), 12.5, Ink::Text, Side::Left);
    }
    let even = target / SPREADS.len();
    d.line(&[(x(even), top - 8), (x(even), bottom)], Ink::Text, 2);
    d.text((x(even) + 6, bottom + 14), format!("an equal share: {even}"), 12.0, Ink::Text, Side::Left);
    d.to_svg()
}

/// A head whose keys gather around a few centres, the more loosely the larger `spread` is.
fn head(spread: f64, numbers: &mut Numbers) -> Vec<Entry> {
    let point = |factor: f64, numbers: &mut Numbers| (0..DIM).map(|_| factor * numbers.normal()).collect::<Vec<f64>>();
    let centres: Vec<Vec<f64>> = (0..12).map(|_| point(1.0, numbers)).collect();
    let entry = |i: usize| {
        let centre = &centres[(numbers.even() * centres.len() as f64) as usize];
        let offset = point(spread, numbers);
        Entry { row: centre.iter().zip(&offset).map(|(c, o)| c + o).collect(), members: vec![i] }
    };
    (0..CANDIDATES).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawings_of_the_documentation_are_what_is_drawn() {
        for (name, svg) in [("method-chunk.svg", chunk()), ("method-pool.svg", pool())] {
            let path = root().join("docs/plots").join(name);
            let committed = fs::read_to_string(&path).expect("a committed drawing");
            assert!(committed == svg.expect("a drawing"), "{name} is another: run `cargo xtask drawings`");
        }
    }
}
