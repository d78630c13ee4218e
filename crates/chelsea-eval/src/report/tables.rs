//! The tables of a report.

use super::cell::{Cell, Figure, Keys, is_among};
use super::charts::tokens;
use super::group::{Section, percent};
use super::page::Block;
use super::stats::{Interval, Verdict};
use crate::results::Record;
use std::collections::BTreeSet;

fn table(head: &[&str], rows: Vec<Vec<String>>) -> Block {
    Block::Table { head: head.iter().map(|h| (*h).to_owned()).collect(), rows }
}

/// A score in points of a hundred, with its interval.
fn points(interval: Option<Interval>) -> String {
    interval.map_or("–".into(), |i| format!("{:.1} [{:.1}, {:.1}]", 100.0 * i.mean, 100.0 * i.low, 100.0 * i.high))
}

/// A difference in points, with its interval and what it is worth.
fn difference(interval: Option<Interval>) -> String {
    let Some(i) = interval else { return "–".into() };
    match i.verdict() {
        Verdict::Same => Verdict::Same.text().into(),
        verdict => {
            let signed = |v: f64| format!("{:+.1}", 100.0 * v);
            format!("{} [{}, {}], {}", signed(i.mean), signed(i.low), signed(i.high), verdict.text())
        }
    }
}

fn number(interval: Option<Interval>) -> String {
    interval.map_or("–".into(), |i| format!("{:.3} [{:.3}, {:.3}]", i.mean, i.low, i.high))
}

fn mean(interval: Option<Interval>) -> String {
    interval.map_or("–".into(), |i| format!("{:.3}", i.mean))
}

/// Every setting: bytes, score, differences from the full cache and from the default policy.
pub(super) fn scores(section: &Section<'_>) -> Option<Block> {
    let all = &|_: &_| true;
    let shared = section.shared(Figure::Score, all);
    let row = |cell: &Cell<'_>| {
        let score = cell.interval(Figure::Score, all)?;
        let full = section.full(cell).filter(|f| !std::ptr::eq(*f, cell));
        let ours = section.default_policy(cell).filter(|c| !std::ptr::eq(*c, cell));
        let star = if cell.covers(&shared) { "" } else { " *" };
        Some(vec![
            format!("{}{star}", section.name(cell)),
            percent(cell.share(Figure::Score, all)),
            cell.samples(Figure::Score).to_string(),
            points(Some(score)),
            full.map_or("–".into(), |f| difference(cell.difference(f, Figure::Score))),
            full.and_then(|f| cell.agreement(f)).map_or("–".into(), percent),
            ours.filter(|c| c.setting.keep < 1.0)
                .map_or("–".into(), |c| difference(cell.difference(c, Figure::Score))),
            mean(cell.interval(Figure::Nll, &|r| Figure::Score.of(r).is_some())),
        ])
    };
    let rows: Vec<_> = section.cells.iter().filter_map(row).collect();
    let head = [
        "cache",
        "bytes",
        "samples",
        "score",
        "less the full cache's",
        "same answers",
        "less chelsea's at the same keep",
        "loss",
    ];
    (!rows.is_empty()).then(|| table(&head, rows))
}

/// Every setting: divergence from the full cache and loss of held-out text.
pub(super) fn divergence(section: &Section<'_>) -> Option<Block> {
    let diverges = |r: &_| Figure::Kl.of(r).is_some();
    let row = |cell: &Cell<'_>| {
        let kl = cell.interval(Figure::Kl, &|_| true)?;
        let ours = section.default_policy(cell).filter(|c| !std::ptr::eq(*c, cell));
        let less = ours.filter(|c| c.setting.keep < 1.0).and_then(|c| cell.difference(c, Figure::Kl));
        let less = less.map_or("–".into(), |i| {
            // Less divergence is better.
            let verdict = match i.verdict() {
                Verdict::Better => Verdict::Worse,
                Verdict::Worse => Verdict::Better,
                other => other,
            };
            format!("{:+.3} [{:+.3}, {:+.3}], {}", i.mean, i.low, i.high, verdict.text())
        });
        Some(vec![
            section.name(cell),
            percent(cell.share(Figure::Kl, &|_| true)),
            cell.samples(Figure::Kl).to_string(),
            number(Some(kl)),
            less,
            number(cell.interval(Figure::Nll, &diverges)),
        ])
    };
    let rows: Vec<_> = section.cells.iter().filter_map(row).collect();
    let head = ["cache", "bytes", "samples", "KL from the full cache", "less chelsea's at the same keep", "loss"];
    (!rows.is_empty()).then(|| table(&head, rows))
}

/// Scores where curves reach the same bytes: those that the default policy (or the first) was measured at.
pub(super) fn at_equal_bytes(section: &Section<'_>) -> Option<Block> {
    let curves = section.curves();
    let shared = section.shared(Figure::Score, &|_| true);
    let here = |r: &Record| is_among(r, &shared);
    let measured = |cells: &[&Cell<'_>]| -> Vec<(f64, f64)> {
        let point = |c: &&Cell<'_>| Some((c.share(Figure::Score, &here), c.interval(Figure::Score, &here)?.mean));
        let usable = |c: &&&Cell<'_>| c.setting.keep < 1.0 && c.covers(&shared);
        let mut points: Vec<_> = cells.iter().filter(usable).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let reference = curves.iter().find(|(name, _)| name == "chelsea").or(curves.first())?;
    let shares: Vec<f64> = measured(&reference.1).into_iter().map(|(share, _)| share).collect();
    if curves.len() < 2 || shares.is_empty() {
        return None;
    }
    let row = |(name, cells): &(String, Vec<&Cell<'_>>)| {
        let points = measured(cells);
        let at = |&share: &f64| match between(&points, share) {
            Some((score, true)) => format!("{:.1}", 100.0 * score),
            Some((score, false)) => format!("~{:.1}", 100.0 * score),
            None => "–".into(),
        };
        std::iter::once(name.clone()).chain(shares.iter().map(at)).collect()
    };
    let mut head = vec!["bytes".to_owned()];
    head.extend(shares.iter().map(|s| percent(*s)));
    Some(Block::Table { head, rows: curves.iter().map(row).collect() })
}

/// The value of a curve at `x`, and whether it was measured there (within a fiftieth) or lies on the line between
/// its neighbours; none outside of what was measured.
fn between(points: &[(f64, f64)], x: f64) -> Option<(f64, bool)> {
    let near = points.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()))?;
    if (near.0 - x).abs() <= 0.02 * x {
        return Some((near.1, true));
    }
    let pair = points.windows(2).find(|w| w[0].0 <= x && x <= w[1].0)?;
    let part = (x - pair[0].0) / (pair[1].0 - pair[0].0);
    Some((pair[0].1 + part * (pair[1].1 - pair[0].1), false))
}

/// Scores by task; none where there is one only. A star is for who was not run on all samples that are compared.
pub(super) fn by_task(section: &Section<'_>) -> Option<Block> {
    let tasks: Vec<&str> = section.tasks_of(Figure::Score).into_iter().collect();
    let columns = tasks.iter().map(|t| (*t).to_owned()).collect();
    let table = split(section, columns, &|i, r| r.task == tasks[i])?;
    // Whichever there is less of goes side by side.
    Some(if tasks.len() > section.cells.len() { transposed(table, "task") } else { table })
}

/// Rows as columns, with another name for what the rows are now.
fn transposed(block: Block, corner: &str) -> Block {
    let Block::Table { head, rows } = block else { return block };
    let new_head = std::iter::once(corner.to_owned()).chain(rows.iter().map(|row| row[0].clone())).collect();
    let row = |(i, name): (usize, &String)| {
        std::iter::once(name.clone()).chain(rows.iter().map(|row| row[i].clone())).collect()
    };
    let new_rows = head.iter().enumerate().skip(1).map(row).collect();
    Block::Table { head: new_head, rows: new_rows }
}

/// Scores by length of tasks that were run at the same lengths.
pub(super) fn by_length(section: &Section<'_>, lengths: &BTreeSet<usize>, tasks: &BTreeSet<&str>) -> Option<Block> {
    let lengths: Vec<usize> = lengths.iter().copied().collect();
    let columns = lengths.iter().map(|n| tokens(*n)).collect();
    split(section, columns, &|i, r| section.length(r) == lengths[i] && tasks.contains(r.task.as_str()))
}

fn split(section: &Section<'_>, columns: Vec<String>, keep: &dyn Fn(usize, &Record) -> bool) -> Option<Block> {
    if columns.len() < 2 {
        return None;
    }
    let shared: Vec<Keys<'_>> = (0..columns.len()).map(|i| section.shared(Figure::Score, &|r| keep(i, r))).collect();
    let row = |cell: &Cell<'_>| {
        let score = |i: usize| {
            let all = cell.covers(&shared[i]);
            let (star, shared) = if all { ("", Some(&shared[i])) } else { (" *", None) };
            let here = |r: &Record| keep(i, r) && shared.is_none_or(|shared| is_among(r, shared));
            cell.interval(Figure::Score, &here).map(|i| format!("{:.1}{star}", 100.0 * i.mean))
        };
        let scores: Vec<Option<String>> = (0..columns.len()).map(score).collect();
        let some = scores.iter().any(Option::is_some);
        let cells = scores.into_iter().map(|s| s.unwrap_or("–".into()));
        some.then(|| std::iter::once(section.name(cell)).chain(cells).collect())
    };
    let rows = section.cells.iter().filter_map(row).collect();
    let head = std::iter::once("cache".to_owned()).chain(columns.iter().cloned()).collect();
    Some(Block::Table { head, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_can_be_turned() {
        let cells = |row: &[&str]| row.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let block = Block::Table { head: cells(&["cache", "a", "b"]), rows: vec![cells(&["full", "1", "2"])] };
        let turned =
            Block::Table { head: cells(&["task", "full"]), rows: vec![cells(&["a", "1"]), cells(&["b", "2"])] };
        assert_eq!(transposed(block, "task"), turned);
    }

    #[test]
    fn a_curve_is_read_where_it_was_measured_and_between() {
        let curve = [(0.2, 0.5), (0.4, 0.9)];
        assert_eq!(between(&curve, 0.201), Some((0.5, true)));
        let (score, measured) = between(&curve, 0.3).unwrap();
        assert!((score - 0.7).abs() < 1e-12 && !measured);
        assert_eq!(between(&curve, 0.1), None);
        assert_eq!(between(&[], 0.1), None);
    }
}
