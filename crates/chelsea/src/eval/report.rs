//! `chelsea eval report`: results as a page.

use crate::cli::ReportArgs;
use crate::files::replace_file;
use anyhow::{Result, bail};
use chelsea_eval::report::Report;
use chelsea_eval::results;

/// Runs the verb.
pub fn run(args: &ReportArgs) -> Result<()> {
    let mut records = Vec::new();
    for file in &args.results {
        let (found, torn) = results::load(file)?;
        if torn {
            tracing::warn!("{}: the last line was cut short and is left out", file.display());
        }
        records.extend(found);
    }
    if records.is_empty() {
        bail!("there are no results to report on: the files are empty");
    }
    for policy in &args.policies {
        if !records.iter().any(|r| r.setting.policy == *policy) {
            bail!("no result is of the policy `{policy}`");
        }
    }
    let report = Report::new(&records, &args.policies)?;
    for (path, svg) in report.plots() {
        replace_file(&args.out.join(path), svg)?;
    }
    let pages = ["report.md", "report.html"].map(|name| args.out.join(name));
    replace_file(&pages[0], &report.markdown())?;
    replace_file(&pages[1], &report.html())?;
    pages.iter().for_each(|page| println!("{}", page.display()));
    Ok(())
}
