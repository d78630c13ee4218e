//! `chelsea eval report`: results as a page.

use crate::cli::ReportArgs;
use anyhow::{Context as _, Result, bail};
use chelsea_eval::report::Report;
use chelsea_eval::results;
use std::path::Path;

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
        write(&args.out.join(path), svg)?;
    }
    let pages = ["report.md", "report.html"].map(|name| args.out.join(name));
    write(&pages[0], &report.markdown())?;
    write(&pages[1], &report.html())?;
    pages.iter().for_each(|page| println!("{}", page.display()));
    Ok(())
}

/// Writes a file under another name first, so that a page is never half there.
fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path)).with_context(failed)
}
