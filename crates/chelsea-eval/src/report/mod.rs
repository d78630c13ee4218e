//! Results as a report: tables in Markdown, the same with plots in one HTML page.
//!
//! The main figure is the score against the bytes that the cache held, as measured. Scores are means over tasks of
//! means over samples; intervals come from samples redrawn within their tasks, and differences from pairs of the same
//! sample. Whether a difference is more than noise is said in words.

mod cell;
mod charts;
mod group;
mod page;
mod stats;
mod tables;

pub use stats::{Interval, Verdict};

use crate::results::Record;
use crate::setting::Basis;
use cell::Figure;
use chelsea_plot::PlotError;
use group::Section;
use page::Block;
use stats::ENOUGH;

/// Samples of a task below which intervals are known to be too narrow.
const FEW: usize = 10;

/// A report.
#[derive(Debug)]
pub struct Report {
    blocks: Vec<Block>,
}

const TITLE: &str = "What compressed caches remember";

const HOW_TO_READ: &str = "Scores are in points of 100, first averaged over the samples of a task, then over tasks. \
Bytes are those that the cache held when the question came, everything counted, as a share of what keys and values of \
all tokens take; so a full cache has a little more than 100%. Brackets hold 95% of the means of 2,000 redraws of the \
samples. Differences are taken sample by sample; they are \"within the noise\" where their bracket holds zero, or where a \
sign test finds so uneven a split of wins and losses more than once in twenty by chance. Loss is the mean -ln p of a \
right answer's tokens.";

impl Report {
    /// Sums up results; with `policies`, only those and the full cache.
    pub fn new(records: &[Record], policies: &[String]) -> Result<Report, PlotError> {
        let mut blocks = vec![Block::Heading(1, TITLE.into()), Block::Text(HOW_TO_READ.into())];
        for (i, section) in Section::all(records, policies).iter().enumerate() {
            add(section, &format!("{}-{}", charts::slug(&section.model), i + 1), &mut blocks)?;
        }
        Ok(Report { blocks })
    }

    /// The tables as Markdown, which shows the plots from the files of [`Report::plots`].
    pub fn markdown(&self) -> String {
        page::markdown(&self.blocks)
    }

    /// Everything as one page.
    pub fn html(&self) -> String {
        page::html(TITLE, &self.blocks)
    }

    /// The plots with their paths beside the Markdown.
    pub fn plots(&self) -> impl Iterator<Item = (String, &str)> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Plot { name, svg, .. } => Some((format!("{}/{name}.svg", page::PLOTS), svg.as_str())),
            _ => None,
        })
    }
}

fn add(section: &Section<'_>, prefix: &str, blocks: &mut Vec<Block>) -> Result<(), PlotError> {
    let heading = |blocks: &mut Vec<Block>, text: &str| blocks.push(Block::Heading(3, text.into()));
    blocks.push(Block::Heading(2, section.model.clone()));
    blocks.push(Block::Text(overview(section)));
    if let Some(table) = tables::scores(section) {
        heading(blocks, "Scores");
        blocks.extend(charts::against_bytes(section, Figure::Score, None, format!("{prefix}-score"))?);
        blocks.push(table);
        let shared = section.shared(Figure::Score, &|_| true);
        if section.cells.iter().any(|c| !c.tasks(Figure::Score).is_empty() && !c.covers(&shared)) {
            blocks.push(Block::Text(
                "* was not run on all samples that means are compared on, and is on no curve of means.".into(),
            ));
        }
        if section.cells.iter().any(|c| c.samples(Figure::Score) > shared.len()) {
            blocks.push(Block::Text(format!(
                "Not every cache was run on as many samples. The table has all of each; plots, scores at equal bytes and \
                 those by task and length are of samples that all share: here {}.",
                shared.len()
            )));
        }
        blocks.extend(few_samples(section).map(Block::Text));
    }
    if let Some(table) = tables::at_equal_bytes(section) {
        heading(blocks, "Scores at equal bytes");
        blocks.push(Block::Text(
            "A score with ~ lies on the line between the two nearest keep ratios that were measured.".into(),
        ));
        blocks.push(table);
    }
    if let Some(table) = tables::divergence(section) {
        heading(blocks, "Divergence from the full cache on held-out text");
        blocks.extend(charts::against_bytes(section, Figure::Kl, None, format!("{prefix}-kl"))?);
        blocks.push(table);
    }
    if tables::scores(section).is_some()
        && let Some(plot) = charts::against_bytes(section, Figure::Nll, None, format!("{prefix}-loss"))?
    {
        heading(blocks, "Loss of right answers");
        blocks.push(plot);
    }
    if let Some(table) = tables::by_task(section) {
        heading(blocks, "By task");
        blocks.extend(legend(&table));
        blocks.push(table);
        for (i, task) in section.tasks.iter().enumerate() {
            // The number tells names apart that differ in what a file's name leaves out.
            let name = format!("{prefix}-task-{}-{}", i + 1, charts::slug(task));
            blocks.extend(charts::against_bytes(section, Figure::Score, Some(task), name)?);
        }
    }
    let groups = section.tasks_by_lengths();
    if !groups.is_empty() {
        heading(blocks, "By length");
    }
    for (i, (lengths, tasks)) in groups.iter().enumerate() {
        if groups.len() > 1 {
            blocks.push(Block::Text(format!("Tasks: {}.", Vec::from_iter(tasks.iter().copied()).join(", "))));
        }
        let table = tables::by_length(section, lengths, tasks);
        blocks.extend(table.as_ref().and_then(legend));
        blocks.extend(table);
        let mut shares: Vec<(Basis, f32)> = section.cells.iter().map(|c| (c.setting.of, c.setting.keep)).collect();
        shares.retain(|(_, keep)| *keep < 1.0);
        shares.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        shares.dedup();
        for (of, keep) in shares {
            let what = if of == Basis::Bytes { "bytes-" } else { "" };
            let name = format!("{prefix}-length-{}-{what}{}", i + 1, charts::slug(&keep.to_string()));
            blocks.extend(charts::against_length(section, lengths, tasks, (of, keep), name)?);
        }
    }
    let maps = charts::depths(section, prefix)?;
    if !maps.is_empty() {
        heading(blocks, "By depth");
        blocks.extend(maps);
    }
    Ok(())
}

/// What a star in a table of parts means, where there is one.
fn legend(table: &Block) -> Option<Block> {
    let Block::Table { rows, .. } = table else { return None };
    let starred = rows.iter().flatten().any(|cell| cell.ends_with('*'));
    starred.then(|| Block::Text("A score with * is over other samples than those that it stands beside.".into()))
}

fn overview(section: &Section<'_>) -> String {
    let samples = section.cells.iter().map(|c| c.records.len()).max().unwrap_or(0);
    let lengths: Vec<String> = section.lengths.iter().map(|n| charts::tokens(*n)).collect();
    let short: Vec<String> = section
        .cells
        .iter()
        .filter(|c| c.records.len() < samples)
        .map(|c| format!("{} ({} of {samples})", section.name(c), c.records.len()))
        .collect();
    const SHOWN: usize = 4;
    let missing = match short.len() {
        0 => String::new(),
        n if n <= SHOWN => format!(" Not every setting has every sample: {}.", short.join(", ")),
        n => format!(" Not every setting has every sample: {} and {} more.", short[..SHOWN].join(", "), n - SHOWN),
    };
    let twice = match section.contradictions {
        0 => String::new(),
        n => format!(" {n} results were there twice with different figures, and the first of each was taken."),
    };
    format!(
        "Tasks: {}. {samples} samples, of {} tokens. Cache: {}.{missing}{twice}",
        section.tasks.join(", "),
        lengths.join(", "),
        section.setup
    )
}

/// A warning where intervals say less than they seem to.
fn few_samples(section: &Section<'_>) -> Option<String> {
    let fewest = section
        .cells
        .iter()
        .flat_map(|c| c.values(Figure::Score, &|_| true))
        .map(|samples| samples.len())
        .min()
        .filter(|&n| n < FEW)?;
    Some(format!(
        "Some tasks have {fewest} sample{} only. With fewer than {FEW}, brackets are too narrow, and where all samples \
         score the same they shrink to nothing: take differences of single tasks as hints. With fewer than {ENOUGH}, \
         tasks are redrawn too.",
        if fewest == 1 { "" } else { "s" }
    ))
}

#[cfg(test)]
mod tests;
