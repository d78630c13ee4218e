//! `cargo xtask quality-plot`: the score of every policy against the bytes it keeps, from the table in `docs/results`.
//!
//! `chelsea eval report` draws the same from results; of this comparison only the table was kept. What is drawn depends on
//! nothing else, so that a test holds the committed picture against it.

use crate::process::root;
use anyhow::{Context as _, Result, bail};
use chelsea_plot::{Axis, Level, LineChart, Look, Point, Series, Unit};
use std::path::PathBuf;

const TABLE: &str = "ruler-4k-0.5b-peers.csv";
const PICTURE: &str = "quality-ruler-qwen2-5-coder-0-5b.svg";

/// What has a colour, in this order: Chelsea, the two policies that come nearest, and the best known one.
const COLOURED: [&str; 4] = ["chelsea", "lagkv", "keydiff", "streaming"];

/// Draws.
pub fn run() -> Result<bool> {
    let path = picture();
    std::fs::write(&path, draw(&table()?)?).with_context(|| path.display().to_string())?;
    eprintln!("written: {}", path.display());
    Ok(true)
}

fn picture() -> PathBuf {
    root().join("docs").join("plots").join(PICTURE)
}

fn table() -> Result<String> {
    let path = root().join("docs").join("results").join(TABLE);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The picture of a table with the columns policy, entries, bytes, score and loss; all but the first are in percent, or not
/// looked at.
fn draw(table: &str) -> Result<String> {
    let mut series: Vec<Series> = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let &[policy, entries, bytes, score, _] = &cells[..] else { bail!("{TABLE} has the line `{line}`") };
        let share = |text: &str| text.parse::<f64>().map(|v| v / 100.0).with_context(|| format!("{TABLE}: `{line}`"));
        let (entries, point) = (share(entries)?, Point::new(share(bytes)?, share(score)?));
        if entries >= 1.0 {
            levels.push(Level { name: "full cache".into(), y: point.y });
        } else if let Some(known) = series.iter_mut().find(|s| s.name == policy) {
            known.points.push(point);
        } else {
            let look = COLOURED.iter().position(|name| *name == policy).map_or(Look::Grey, Look::Colour);
            series.push(Series { name: policy.into(), points: vec![point], look });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_picture_is_what_the_table_gives() {
        let committed = std::fs::read_to_string(picture()).expect("the picture is committed");
        assert_eq!(
            committed,
            draw(&table().expect("the table is committed")).expect("drawn"),
            "cargo xtask quality-plot"
        );
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        assert!(draw("head\nchelsea,50,53.4,70.5\n").is_err());
        assert!(draw("head\nchelsea,50,53.4,many,0.5\n").is_err());
    }
}
