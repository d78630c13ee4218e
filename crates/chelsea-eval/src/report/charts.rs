//! The plots of a report.

use super::cell::{Cell, Figure, Keys, is_among};
use super::group::{Section, percent};
use super::page::Block;
use crate::results::Record;
use crate::setting::Basis;
use chelsea_plot::{Axis, HeatMap, Level, LineChart, Look, PlotError, Point, Series, Unit};
use std::collections::BTreeSet;

/// A figure against the bytes kept, one curve for each policy.
pub(super) fn against_bytes(
    section: &Section<'_>,
    figure: Figure,
    task: Option<&str>,
    name: String,
) -> Result<Option<Block>, PlotError> {
    // A loss belongs to a task that is scored, not to held-out text.
    let scored = |r: &Record| figure != Figure::Nll || Figure::Score.of(r).is_some();
    let of_task = |r: &Record| scored(r) && task.is_none_or(|t| r.task == t);
    // Means over different samples do not belong on one plot.
    let shared = section.shared(figure, &of_task);
    let keep = |r: &Record| is_among(r, &shared);
    let looks = Looks::of(section);
    let mut series: Vec<Series> = section
        .curves()
        .into_iter()
        .map(|(name, cells)| {
            let point = |cell: &&Cell<'_>| {
                let i = cell.interval(figure, &keep)?;
                Some(Point::between(cell.share(figure, &keep), i.mean, i.low, i.high))
            };
            let points = cells.iter().filter(|c| c.covers(&shared)).filter_map(point).collect();
            Series { look: looks.look(&name), name, points }
        })
        .filter(|s| !s.points.is_empty())
        .collect();
    let bands = thin_out(&mut series);
    let full = section.cells.iter().filter(|c| c.setting.keep >= 1.0 && c.covers(&shared));
    let levels: Vec<Level> =
        full.filter_map(|c| Some(Level { name: c.series.clone(), y: c.interval(figure, &keep)?.mean })).collect();
    if series.is_empty() || (levels.is_empty() && series.iter().all(|s| s.points.len() < 2)) {
        return Ok(None);
    }
    let (what, y) = match figure {
        Figure::Score => ("Score", Axis::linear("score", Unit::Percent).between(0.0, 1.0)),
        Figure::Nll => ("Loss of right answers", Axis::linear("mean -ln p of a token", Unit::Number)),
        Figure::Kl => ("Divergence from the full cache", Axis::linear("mean KL of a token", Unit::Number)),
    };
    let samples = shared.len();
    let of = task.map_or_else(|| "mean of all tasks".to_owned(), String::from);
    let title = format!("{what} against bytes kept: {of}");
    let chart = LineChart {
        title: title.clone(),
        note: format!("{}, {samples} samples; {bands}", section.model),
        x: Axis::linear("bytes of the cache, as a share of keys and values of all tokens", Unit::Percent)
            .between(0.0, x_end(&series)),
        y,
        series,
        levels,
    };
    Ok(Some(Block::Plot { name, about: title, svg: chart.to_svg()? }))
}

/// Most curves in colour: more cannot be told apart at a glance. The full cache is a line across besides.
const MOST_COLOURED: usize = 4;

/// Which curves have a colour, the same on every plot of a section: where there are too many, the default policy and
/// StreamingLLM, which most readers know, and of the others those that score best.
struct Looks {
    coloured: Vec<String>,
}

impl Looks {
    fn of(section: &Section<'_>) -> Self {
        let curves = section.curves();
        let figure = if section.tasks_of(Figure::Score).is_empty() { Figure::Kl } else { Figure::Score };
        let shared = section.shared(figure, &|_| true);
        // The mean over what a curve has measured, higher for better; a curve without all samples comes last.
        let worth = |cells: &[&Cell<'_>]| {
            let value = |c: &&Cell<'_>| c.interval(figure, &|r| is_among(r, &shared)).map(|i| i.mean);
            let values: Vec<f64> = cells.iter().filter(|c| c.covers(&shared)).filter_map(value).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            match (values.is_empty(), figure) {
                (true, _) => f64::NEG_INFINITY,
                (false, Figure::Score) => mean,
                (false, _) => -mean,
            }
        };
        let rank = |name: &str, cells: &[&Cell<'_>]| match name {
            _ if cells.iter().any(|c| c.is_default()) => 0,
            _ if cells.iter().any(|c| c.spec == "streaming") => 1,
            _ => 2,
        };
        let mut order: Vec<(usize, f64, String)> =
            curves.iter().map(|(name, cells)| (rank(name, cells), worth(cells), name.clone())).collect();
        order.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        order.truncate(MOST_COLOURED);
        Self { coloured: order.into_iter().map(|(.., name)| name).collect() }
    }

    fn look(&self, name: &str) -> Look {
        self.coloured.iter().position(|known| known == name).map_or(Look::Grey, Look::Colour)
    }
}

/// A little room beyond the most that was kept.
fn x_end(series: &[Series]) -> f64 {
    let most = series.iter().flat_map(|s| &s.points).map(|p| p.x).fold(0.0, f64::max);
    ((most * 20.0).ceil() / 20.0).max(0.05)
}

/// Most series whose bands can be told apart.
const MOST_BANDS: usize = 5;

/// Takes the bands away where there are too many, but for the default policy's. Says what the bands are.
fn thin_out(series: &mut [Series]) -> &'static str {
    if series.len() <= MOST_BANDS {
        return "bands: 95% of redrawn samples";
    }
    let others = series.iter_mut().filter(|s| s.name.split(',').next() != Some("chelsea"));
    others.flat_map(|s| &mut s.points).for_each(|p| p.band = None);
    "band around chelsea: 95% of redrawn samples; the others' stand in the table"
}

/// Score against length, one curve for each policy, at one share kept and for the full cache. As everywhere, means are over
/// samples that all were run on; who was not run on all of a length has no point there.
pub(super) fn against_length(
    section: &Section<'_>,
    lengths: &BTreeSet<usize>,
    tasks: &BTreeSet<&str>,
    (of, keep): (Basis, f32),
    name: String,
) -> Result<Option<Block>, PlotError> {
    let cells = section.cells.iter().filter(|c| (c.setting.of, c.setting.keep) == (of, keep));
    let looks = Looks::of(section);
    let full = section.cells.iter().filter(|c| c.setting.keep >= 1.0);
    let has_tasks = |c: &&Cell<'_>| c.records.keys().any(|(task, _)| tasks.contains(task));
    let cells: Vec<&Cell<'_>> = cells.filter(has_tasks).collect();
    if cells.is_empty() {
        return Ok(None);
    }
    let shared = |&length: &usize| {
        let here = |r: &Record| section.length(r) == length && tasks.contains(r.task.as_str());
        (length, section.shared(Figure::Score, &here))
    };
    let at: Vec<(usize, Keys<'_>)> = lengths.iter().map(shared).collect();
    let mut series: Vec<Series> = cells
        .into_iter()
        .chain(full)
        .map(|cell| {
            let point = |(length, shared): &(usize, Keys<'_>)| {
                if !cell.covers(shared) {
                    return None;
                }
                let i = cell.interval(Figure::Score, &|r| is_among(r, shared))?;
                Some(Point::between(*length as f64, i.mean, i.low, i.high))
            };
            let look = if cell.setting.keep >= 1.0 { Look::Ink } else { looks.look(&cell.series) };
            Series { name: cell.series.clone(), points: at.iter().filter_map(point).collect(), look }
        })
        .filter(|s| s.points.len() > 1)
        .collect();
    if series.is_empty() {
        return Ok(None);
    }
    let bands = thin_out(&mut series);
    let what = if of == Basis::Bytes { " of the bytes" } else { "" };
    let title = format!("Score against length, {}{what} kept", percent(f64::from(keep)));
    let names = if tasks.len() > 3 {
        format!("{} tasks", tasks.len())
    } else {
        Vec::from_iter(tasks.iter().copied()).join(", ")
    };
    let chart = LineChart {
        title: title.clone(),
        note: format!("{}, {names}; {bands}", section.model),
        x: Axis::log("tokens of the document", Unit::Tokens),
        y: Axis::linear("score", Unit::Percent).between(0.0, 1.0),
        series,
        levels: Vec::new(),
    };
    Ok(Some(Block::Plot { name, about: title, svg: chart.to_svg()? }))
}

/// Maps of scores over depth: one for each setting over lengths where there are several, else one over all settings.
pub(super) fn depths(section: &Section<'_>, prefix: &str) -> Result<Vec<Block>, PlotError> {
    let mut blocks = Vec::new();
    for &task in &section.tasks {
        let records = || section.cells.iter().flat_map(|c| c.records.values()).filter(|r| r.task == task);
        let depths: BTreeSet<i64> = records().flat_map(|r| &r.asked).filter_map(|a| a.depth).map(in_percent).collect();
        let lengths: BTreeSet<usize> = records().map(|r| section.length(r)).collect();
        if depths.len() < 2 || depths.len() > 60 {
            continue;
        }
        let map = |title: String, x_label: &str, columns: Vec<(String, &Cell<'_>, Option<usize>)>| {
            let value = |depth: i64, cell: &Cell<'_>, length: Option<usize>| -> Option<f64> {
                let here = |r: &&&Record| r.task == task && length.is_none_or(|n| section.length(r) == n);
                let asked = cell.records.values().filter(here).flat_map(|r| &r.asked);
                let scores: Vec<f64> =
                    asked.filter(|a| a.depth.map(in_percent) == Some(depth)).map(|a| a.score).collect();
                (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
            };
            HeatMap {
                title,
                note: format!("{}, {task}", section.model),
                x_label: x_label.into(),
                y_label: "depth of the answer".into(),
                rows: depths.iter().map(|d| format!("{d}%")).collect(),
                values: depths
                    .iter()
                    .map(|&d| columns.iter().map(|(_, cell, length)| value(d, cell, *length)).collect())
                    .collect(),
                columns: columns.into_iter().map(|(name, ..)| name).collect(),
                colour: Axis::linear("score", Unit::Percent).between(0.0, 1.0),
            }
        };
        let has_task = |c: &&Cell<'_>| c.records.keys().any(|(t, _)| *t == task);
        let mut push = |title: String, map: HeatMap| -> Result<(), PlotError> {
            let name = format!("{prefix}-depth-{}-{}", slug(task), blocks.len());
            blocks.push(Block::Plot { name, about: title, svg: map.to_svg()? });
            Ok(())
        };
        if lengths.len() > 1 {
            for cell in section.cells.iter().filter(has_task) {
                let title = format!("Score over depth and length: {}", section.name(cell));
                let columns = lengths.iter().map(|&n| (tokens(n), cell, Some(n))).collect();
                push(title.clone(), map(title, "tokens of the document", columns))?;
            }
        } else {
            // As many settings as fit beside each other.
            let cells: Vec<&Cell<'_>> = section.cells.iter().filter(has_task).collect();
            for part in cells.chunks(6) {
                let title = format!("Score over depth: {task}");
                let columns = part.iter().map(|c| (section.name(c), *c, None)).collect();
                push(title.clone(), map(title, "cache", columns))?;
            }
        }
    }
    Ok(blocks)
}

fn in_percent(depth: f64) -> i64 {
    (100.0 * depth).round() as i64
}

/// A number of tokens as people write it.
pub(super) fn tokens(n: usize) -> String {
    if n >= 1024 && n.is_multiple_of(1024) { format!("{}K", n / 1024) } else { n.to_string() }
}

/// A text as part of a file's name: the end of it, where a path has what tells it from others.
pub(super) fn slug(text: &str) -> String {
    let all: Vec<char> =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    all[all.len().saturating_sub(LONGEST_SLUG)..].iter().collect()
}

/// Most letters of a [`slug`]: a few of them fit into the name of a file.
const LONGEST_SLUG: usize = 60;
