//! Charts of a report.

use super::report::Report;
use super::split;
use super::trials::Spread;
use crate::files::replace_file;
use anyhow::Result;
use chelsea_plot::{Axis, BarChart, BarSeries, Layout, LineChart, Look, Point, Scale, Series, Unit};
use std::path::{Path, PathBuf};

/// Draws everything that the report holds into `folder`. Returns the files.
pub fn write(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (name, svg) in charts(report)? {
        let path = folder.join(format!("{name}.svg"));
        replace_file(&path, &svg)?;
        paths.push(path);
    }
    Ok(paths)
}

fn charts(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let mut charts = Vec::new();
    if report.depth.iter().any(|row| row.decode_ms.is_some()) {
        charts.push(("decode-time", decode_time(report).to_svg()?));
    }
    if report.depth.iter().any(|row| row.kv_bytes > 0) {
        charts.push(("memory", memory(report).to_svg()?));
    }
    if !report.batch.is_empty() {
        charts.push(("batch", batch(report).to_svg()?));
    }
    if report.attention.is_some() {
        charts.push(("attention", attention(report).to_svg()?));
    }
    for (name, work) in [("split-decode", "decode"), ("split-prefill", "prefill")] {
        if report.split.iter().any(|row| row.work == work) {
            charts.push((name, time_split(report, work).to_svg()?));
        }
    }
    Ok(charts)
}

/// Depths from 0 on are drawn evenly, those from 1 on by ratios.
fn depth_axis(depths: impl Iterator<Item = usize>) -> Axis {
    let scale = if depths.min() == Some(0) { Scale::Linear } else { Scale::Log };
    Axis { label: "depth (tokens)".into(), scale, unit: Unit::Tokens, range: None }
}

/// Rows as one series a budget, in the order of the budgets.
fn by_budget<'a, R>(
    rows: &'a [R],
    budget: impl Fn(&R) -> String,
    point: impl Fn(&'a R) -> Option<Point>,
) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let (name, Some(point)) = (budget(row), point(row)) else { continue };
        match series.iter_mut().find(|s| s.name == name) {
            Some(s) => s.points.push(point),
            None => series.push(Series { name, points: vec![point], look: Look::Colour(series.len()) }),
        }
    }
    series
}

fn kept(budget: &str) -> String {
    if budget == "100%" { "full cache".into() } else { format!("{budget} kept") }
}

fn banded(x: usize, y: Spread) -> Point {
    Point::between(x as f64, y.median, y.min, y.max)
}

fn decode_time(report: &Report) -> LineChart {
    LineChart {
        title: "Decode time against depth".into(),
        note: format!("{}; bands from the fastest to the slowest", report.note()),
        x: depth_axis(report.depth.iter().map(|row| row.depth)),
        y: Axis::linear("ms per token", Unit::Number),
        series: by_budget(&report.depth, |row| kept(&row.budget), |row| row.decode_ms.map(|ms| banded(row.depth, ms))),
        levels: Vec::new(),
    }
}

fn memory(report: &Report) -> LineChart {
    let rows = || report.depth.iter().filter(|row| row.kv_bytes > 0);
    let point = |row: &super::depth::Row| (row.kv_bytes > 0).then(|| Point::new(row.depth as f64, row.kv_bytes as f64));
    LineChart {
        title: "Bytes of the cache against depth".into(),
        note: format!("{}; everything counted", report.model),
        x: depth_axis(rows().map(|row| row.depth)),
        y: Axis::log("bytes of the cache", Unit::Bytes),
        series: by_budget(&report.depth, |row| kept(&row.budget), point),
        levels: Vec::new(),
    }
}

fn batch(report: &Report) -> LineChart {
    let name = |row: &super::batch::Row| format!("depth {}, {}", row.depth, kept(&row.budget));
    let rate = |n: usize, ms: f64| 1e3 * n as f64 / ms;
    let point = |row: &super::batch::Row| {
        let (n, ms) = (row.sequences, row.step_ms);
        Some(Point::between(n as f64, rate(n, ms.median), rate(n, ms.max), rate(n, ms.min)))
    };
    LineChart {
        title: "Sequences decoded together".into(),
        note: format!("{}; bands from the slowest to the fastest", report.note()),
        x: Axis::linear("sequences", Unit::Number),
        y: Axis::linear("tokens/s, all sequences together", Unit::Number),
        series: by_budget(&report.batch, name, point),
        levels: Vec::new(),
    }
}

fn attention(report: &Report) -> BarChart {
    let rows = report.attention.iter().flat_map(|a| &a.rows);
    let plain = report.attention.as_ref().map(|a| a.ram_gb_per_s.median);
    let (mut groups, mut speeds) = (Vec::new(), Vec::new());
    for row in rows {
        groups.push(format!("depth {}, {}", row.depth, kept(&row.budget)));
        speeds.push(Some(row.decode_gb_per_s));
    }
    let memory = vec![plain; groups.len()];
    BarChart {
        title: "Decode attention beside plain reading of memory".into(),
        note: report.note(),
        y: Axis::linear("GB/s", Unit::Number),
        groups,
        series: vec![
            BarSeries { name: "attention of one query a head".into(), values: speeds },
            BarSeries { name: "plain reading of memory".into(), values: memory },
        ],
        layout: Layout::Grouped,
    }
}

fn time_split(report: &Report, work: &str) -> BarChart {
    let rows: Vec<_> = report.split.iter().filter(|row| row.work == work).collect();
    BarChart {
        title: format!("Where {work} spends its time"),
        note: report.note(),
        y: Axis::linear("ms per token", Unit::Number),
        groups: rows.iter().map(|row| format!("depth {}, {}", row.depth, kept(&row.budget))).collect(),
        series: split::PARTS
            .iter()
            .enumerate()
            .map(|(i, part)| BarSeries { name: (*part).into(), values: rows.iter().map(|r| Some(r.ms[i])).collect() })
            .collect(),
        layout: Layout::Stacked,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn every_measurement_is_drawn_with_its_settings() {
        let charts = charts(&sample()).unwrap();
        let names: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["decode-time", "memory", "batch", "attention", "split-decode"]);
        for (name, svg) in &charts {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
        }
        let decode = &charts[0].1;
        assert!(decode.contains("full cache") && decode.contains("20% kept"));
        assert!(split::PARTS.iter().all(|part| charts[4].1.contains(part)));
    }

    #[test]
    fn a_depth_of_zero_makes_a_linear_axis() {
        assert_eq!(depth_axis([0, 8].into_iter()).scale, Scale::Linear);
        assert_eq!(depth_axis([8, 16].into_iter()).scale, Scale::Log);
    }

    #[test]
    fn files_are_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write(&sample(), &folder.path().join("new")).unwrap();
        assert_eq!(paths.len(), 5);
        let left = std::fs::read_dir(folder.path().join("new")).unwrap().count();
        assert_eq!(left, 5, "no part is left behind");
        assert!(write(&sample(), Path::new("/dev/null/x")).is_err());
    }
}
