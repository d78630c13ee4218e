//! `chelsea bench`: speed and memory at given depths, keep ratios and fixed sizes.
//!
//! - [`subject`]: what is measured, and whether it fits into memory, before anything is allocated;
//! - `depth`, `batch`, `mixed`, `end_to_end`, `attention`, `matching`, `split`: one measurement each, from settings to rows;
//! - [`report`]: rows as tables and as JSON, [`plots`]: rows as charts;
//! - [`trials`]: how a number is taken.
//!
//! Every number is the median of trials that are interleaved over all settings, so that a machine that slows down
//! for a while slows all of them down.

mod attention;
mod batch;
mod depth;
mod end_to_end;
mod matching;
mod mixed;
mod plots;
mod report;
#[cfg(test)]
mod sample;
mod split;
mod subject;
mod trials;

use crate::cli::{BenchArgs, What};
use crate::signals;
use anyhow::{Result, bail};
use report::Report;
use std::io::IsTerminal as _;
use subject::{Subject, Unloaded};

/// Runs the verb.
pub fn run(args: &BenchArgs) -> Result<()> {
    // The others say themselves what they cannot do without.
    let both = args.wanted().into_iter().any(|what| matches!(what, What::Depth | What::Split));
    if both && args.prefill == 0 && args.decode == 0 {
        bail!("nothing to measure at depth: --prefill and --decode are both 0");
    }
    let quiet = args.json || !std::io::stderr().is_terminal();
    let cancel = signals::cancel_flag()?;
    let unloaded = Unloaded::open(args, quiet)?;
    subject::check(args, &unloaded)?;
    let subject = unloaded.load(args, cancel, quiet)?;
    let mut report = Report::new(args, &subject);
    for what in args.wanted() {
        if let Err(error) = measure(what, args, &subject, &mut report, quiet) {
            if !signals::cancelled() {
                return Err(error);
            }
            report.cancelled = true;
            tracing::debug!("{error:#}");
            eprintln!("stopped before the end: what was measured until then follows");
            break;
        }
    }
    // Before anything is printed: a closed pipe ends the command.
    let drawn = args.plots.as_ref().map_or(Ok(Vec::new()), |folder| plots::write(&report, folder));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    for path in drawn? {
        eprintln!("drawn: {}", path.display());
    }
    Ok(())
}

fn measure(what: What, args: &BenchArgs, subject: &Subject, report: &mut Report, quiet: bool) -> Result<()> {
    match what {
        What::Depth => report.depth = depth::run(args, subject, quiet)?,
        What::Batch => batch::run(args, subject, &mut report.batch, quiet)?,
        What::Mixed => report.mixed = mixed::run(args, subject, quiet)?,
        What::EndToEnd => report.end_to_end = end_to_end::run(args, subject, quiet)?,
        What::Attention => report.attention = Some(attention::run(args, subject, quiet)?),
        What::Matching => report.matching = matching::run(args, subject, quiet)?,
        What::Split => report.split = split::run(args, subject, quiet)?,
    }
    Ok(())
}
