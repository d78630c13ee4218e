//! `cargo xtask quality-plot`: what caches still answer, and how far they stray, against the bytes they keep, from tables in
//! `docs/results`.
//!
//! `chelsea eval report` draws the same from results; of these comparisons only the tables were kept. What is drawn depends
//! on nothing else, so that a test holds the committed pictures against them.

use crate::process::root;
use anyhow::{Context as _, Result, bail};
use chelsea_plot::{Axis, Level, LineChart, Look, Point, Series, Unit};
use std::path::PathBuf;

/// A table, and the picture of it.
struct Picture {
    table: &'static str,
    file: &'static str,
    draw: fn(&str) -> Result<String>,
}

const PICTURES: [Picture; 2] = [
    Picture { table: "ruler-4k-0.5b-peers.csv", file: "quality-ruler-qwen2-5-coder-0-5b.svg", draw: answers },
    Picture { table: "continuation-3k-0.5b.csv", file: "quality-bits-qwen2-5-coder-0-5b.svg", draw: divergence },
];

impl Picture {
    fn path(&self) -> PathBuf {
        root().join("docs").join("plots").join(self.file)
    }

    fn drawn(&self) -> Result<String> {
        let path = root().join("docs").join("results").join(self.table);
        let table = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        (self.draw)(&table).with_context(|| self.table.to_owned())
    }
}

/// What has a colour in the first picture, in this order: Chelsea, the two policies that come nearest, and the best known
/// one.
const COLOURED: [&str; 4] = ["chelsea", "lagkv", "keydiff", "streaming"];

/// Draws.
pub fn run() -> Result<bool> {
    for picture in &PICTURES {
        let path = picture.path();
        std::fs::write(&path, picture.drawn()?).with_context(|| path.display().to_string())?;
        eprintln!("written: {}", path.display());
    }
    Ok(true)
}

fn number(text: &str, line: &str) -> Result<f64> {
    text.parse::<f64>().with_context(|| format!("the line `{line}`"))
}

/// Takes a point into the series of a name; a new one looks as `look` says.
fn push(series: &mut Vec<Series>, name: &str, point: Point, look: Look) {
    match series.iter_mut().find(|s| s.name == name) {
        Some(known) => known.points.push(point),
        None => series.push(Series { name: name.into(), points: vec![point], look }),
    }
}

/// The picture of a table with the columns policy, entries, bytes, score and loss; all but the first are in percent, or not
/// looked at.
fn answers(table: &str) -> Result<String> {
    let mut series: Vec<Series> = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let &[policy, entries, bytes, score, _] = &cells[..] else { bail!("the line `{line}`") };
        let share = |text: &str| number(text, line).map(|v| v / 100.0);
        let (entries, point) = (share(entries)?, Point::new(share(bytes)?, share(score)?));
        if entries >= 1.0 {
            levels.push(Level { name: "full cache".into(), y: point.y });
        } else {
            let look = COLOURED.iter().position(|name| *name == policy).map_or(Look::Grey, Look::Colour);
            push(&mut series, policy, point, look);
        }
    }
    let chart = LineChart {
        title: "What is still answered, by how much of the cache is kept".into(),
        note: "RULER, 13 tasks of 4,096 tokens, 3 samples each; Qwen2.5 Coder 0.5B; every cache in 16 bits, compressed before \
               the question is known"
            .into(),
        x: Axis::linear("bytes kept, as a share of the keys and values of all tokens", Unit::Percent).between(0.0, 0.55),
        y: Axis::linear("score", Unit::Percent).between(0.0, 0.8),
        series,
        levels,
    };
    Ok(chart.to_svg()?)
}

/// The picture of a table with the columns cache, stored, bytes in percent, KL, and more that is not looked at.
fn divergence(table: &str) -> Result<String> {
    let mut series: Vec<Series> = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let &[cache, _, bytes, kl, ..] = &cells[..] else { bail!("the line `{line}`") };
        let point = Point::new(number(bytes, line)? / 100.0, number(kl, line)?);
        let look = Look::Colour(series.len());
        push(&mut series, cache, point, look);
    }
    let chart = LineChart {
        title: "How far predictions stray, by how much of the cache is kept".into(),
        note: "256 tokens after 3,000 of essays, 4 texts; Qwen2.5 Coder 0.5B; every cache in the bits that its bytes make \
               best, compressed once"
            .into(),
        x: Axis::linear("bytes kept, as a share of the keys and values of all tokens in 16 bits", Unit::Percent)
            .between(0.0, 0.65),
        y: Axis::log("KL divergence from the full cache in 16 bits", Unit::Number),
        series,
        levels: Vec::new(),
    };
    Ok(chart.to_svg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_pictures_are_what_the_tables_give() {
        for picture in &PICTURES {
            let committed = std::fs::read_to_string(picture.path()).expect("the picture is committed");
            assert_eq!(committed, picture.drawn().expect("the table is committed"), "cargo xtask quality-plot");
        }
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        assert!(answers("head\nchelsea,50,53.4,70.5\n").is_err());
        assert!(answers("head\nchelsea,50,53.4,many,0.5\n").is_err());
        assert!(divergence("head\nchelsea,q8,24.2\n").is_err());
        assert!(divergence("head\nchelsea,q8,24.2,none,3.2\n").is_err());
    }
}
