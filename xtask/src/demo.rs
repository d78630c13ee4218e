//! `cargo xtask demo`: questions about a long text, answered from the full cache and from clustered ones.
//!
//! The text is a run of essays, about 6,000 tokens, with a few made-up facts set between its paragraphs. The
//! questions are asked after the whole text was read and compressed, so nothing could be kept on their behalf.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::document::{FACTS, Fact};
use crate::peers::median;
use crate::process::{build_demo, program, stdout};
use crate::{document, fetch, table};

/// What `demo` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a short name, a file or a hub id.
    #[arg(long, default_value = "smollm2")]
    model: String,
    /// Length of the text in characters; about 4.3 of them make a token.
    #[arg(long, default_value_t = 26_000)]
    chars: usize,
}

/// One way to keep the cache.
struct Setting {
    name: &'static str,
    args: &'static [&'static str],
}

const SETTINGS: &[Setting] = &[
    Setting { name: "full", args: &["--policy", "full"] },
    Setting { name: "50%", args: &["--kv-budget", "50%"] },
    Setting { name: "25%", args: &["--kv-budget", "25%"] },
    Setting { name: "20%", args: &["--kv-budget", "20%"] },
];

/// What `chelsea run --json` prints, as far as it is shown here.
#[derive(Debug, Deserialize)]
struct Report {
    answers: Vec<Answer>,
    prefill_tokens: u64,
    prefill_s: f64,
    kv_bytes: u64,
    kv_bytes_peak: u64,
}

#[derive(Debug, Deserialize)]
struct Answer {
    text: String,
    decode_tokens_per_s: f64,
}

/// Runs the demonstration; it fails only if a run fails, not if an answer is wrong.
pub fn run(args: &Args) -> Result<bool> {
    if !build_demo()? {
        return Ok(false);
    }
    let path = document::written("demo", &fetch::one_by_demo(fetch::TEXTS)?, args.chars)?;
    let reports = SETTINGS.iter().map(|s| ask(&args.model, &path, s)).collect::<Result<Vec<_>>>()?;
    print(&reports);
    Ok(true)
}

fn ask(model: &str, document: &Path, setting: &Setting) -> Result<Report> {
    let mut command = Command::new(program());
    command.args(["run", "-m", model, "--json", "--max-tokens", "32", "--file"]).arg(document).args(setting.args);
    for fact in FACTS {
        command.args(["-p", fact.question]);
    }
    let report: Report = serde_json::from_slice(&stdout(&mut command)?).context("its JSON cannot be read")?;
    ensure!(report.answers.len() == FACTS.len(), "{} answers to {} questions", report.answers.len(), FACTS.len());
    Ok(report)
}

fn print(reports: &[Report]) {
    for (i, fact) in FACTS.iter().enumerate() {
        println!("\n{}  (planted: {})", fact.question, fact.answer);
        for (setting, report) in SETTINGS.iter().zip(reports) {
            let text = report.answers[i].text.trim().replace('\n', " ");
            let mark = if is_right(fact, &report.answers[i]) { "right" } else { "WRONG" };
            println!("  {:<4} {mark}  {text}", setting.name);
        }
    }
    let full = reports[0].kv_bytes;
    let rows: Vec<Vec<String>> = SETTINGS.iter().zip(reports).map(|(s, r)| row(s.name, r, full)).collect();
    let header = ["cache", "right", "cache now", "of full", "peak", "prefill tok/s", "decode tok/s"];
    println!("\n{} tokens read\n\n{}", reports[0].prefill_tokens, table::render(&header, &rows));
}

fn is_right(fact: &Fact, answer: &Answer) -> bool {
    answer.text.to_lowercase().contains(&fact.answer.to_lowercase())
}

fn row(name: &str, report: &Report, full: u64) -> Vec<String> {
    let right = FACTS.iter().zip(&report.answers).filter(|(fact, answer)| is_right(fact, answer)).count();
    let speeds: Vec<f64> = report.answers.iter().map(|a| a.decode_tokens_per_s).collect();
    vec![
        name.to_owned(),
        format!("{right}/{}", FACTS.len()),
        table::bytes(report.kv_bytes),
        format!("{:.0}%", 100.0 * report.kv_bytes as f64 / full as f64),
        table::bytes(report.kv_bytes_peak),
        format!("{:.0}", report.prefill_tokens as f64 / report.prefill_s.max(1e-9)),
        format!("{:.1}", median(&speeds)),
    ]
}

// Elsewhere the features differ by a few, and some crates are compiled twice.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use crate::process::{cargo, stdout};
    use std::collections::BTreeSet;

    /// What is compiled for a package, each with its features.
    fn compiled(package: &str) -> BTreeSet<String> {
        let mut tree = cargo(&["tree", "--locked", "--no-default-features", "--edges", "normal,build"]);
        tree.args(["--prefix", "none", "--format", "{p} {f}", "--package", package]);
        let text = String::from_utf8(stdout(&mut tree).expect("a tree")).expect("it is text");
        text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
    }

    #[test]
    fn nothing_is_compiled_twice_for_the_demonstration() {
        let command = compiled("chelsea");
        let twice: Vec<String> = compiled("xtask").into_iter().filter(|line| !command.contains(line)).collect();
        assert!(matches!(twice.as_slice(), [itself] if itself.starts_with("xtask ")), "{twice:#?}");
    }
}
