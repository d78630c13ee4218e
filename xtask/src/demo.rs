//! `cargo xtask demo`: questions about a long text, answered from the full cache and from clustered ones.
//!
//! The text is a run of essays, about 6,000 tokens, with a few made-up facts set between its paragraphs. The
//! questions are asked after the whole text was read and compressed, so nothing could be kept on their behalf.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::peers::median;
use crate::process::{cargo, root, shown, succeeds, target_dir};
use crate::{fetch, table};

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

/// A fact to plant, the question for it, and the word that a right answer holds.
struct Fact {
    text: &'static str,
    question: &'static str,
    answer: &'static str,
}

/// Chosen mostly because the small model finds them with the full cache: a demonstration, no recall rate.
const FACTS: &[Fact] = &[
    Fact {
        text: "The special magic number for Lisbon is 4839201.",
        question: "What is the special magic number for Lisbon?",
        answer: "4839201",
    },
    Fact {
        text: "Professor Brenner hid the spare key under the blue flowerpot.",
        question: "Where did Professor Brenner hide the spare key?",
        answer: "flowerpot",
    },
    Fact {
        text: "The winning horse of the spring derby was named Tangerine Thunder.",
        question: "What was the name of the winning horse of the spring derby?",
        answer: "Tangerine Thunder",
    },
    Fact {
        text: "In the village of Quenby the bakery opens at 5:40 in the morning.",
        question: "When does the bakery in the village of Quenby open?",
        answer: "5:40",
    },
    Fact {
        text: "The treaty of Valmora was signed in the year 1746.",
        question: "In which year was the treaty of Valmora signed?",
        answer: "1746",
    },
];

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
    if !succeeds(&mut cargo(&["build", "--release", "--package", "chelsea"]))? {
        return Ok(false);
    }
    let essays = fetch::one(fetch::TEXTS)?;
    if chelsea_hub::catalog::model(&args.model).is_some() {
        fetch::one(&args.model)?;
    }
    let folder = target_dir().join("demo");
    fs::create_dir_all(&folder)?;
    let path = folder.join("document.txt");
    fs::write(&path, document(&essays, args.chars)?).with_context(|| path.display().to_string())?;
    eprintln!("\nThe text with {} facts planted in it: {}", FACTS.len(), path.display());
    let reports = SETTINGS.iter().map(|s| ask(&args.model, &path, s)).collect::<Result<Vec<_>>>()?;
    print(&reports);
    Ok(true)
}

/// Essays of `folder` up to about `chars` characters, with the facts spread evenly between paragraphs.
fn document(folder: &Path, chars: usize) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut paragraphs = Vec::new();
    let mut length = 0;
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for paragraph in text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
            if length >= chars {
                break;
            }
            length += paragraph.len();
            paragraphs.push(paragraph.replace('\n', " "));
        }
    }
    ensure!(paragraphs.len() > FACTS.len(), "the text in {} is too short", folder.display());
    let step = length / (FACTS.len() + 1);
    let (mut text, mut planted) = (String::new(), 0);
    for paragraph in &paragraphs {
        if planted < FACTS.len() && text.len() >= (planted + 1) * step {
            text += FACTS[planted].text;
            text += "\n\n";
            planted += 1;
        }
        text += paragraph;
        text += "\n\n";
    }
    if planted < FACTS.len() {
        bail!("only {planted} facts found a place");
    }
    Ok(text)
}

fn ask(model: &str, document: &Path, setting: &Setting) -> Result<Report> {
    let program = target_dir().join("release").join(format!("chelsea{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(program);
    command.args(["run", "-m", model, "--json", "--max-tokens", "32", "--file"]).arg(document).args(setting.args);
    for fact in FACTS {
        command.args(["-p", fact.question]);
    }
    command.current_dir(root()).stdout(Stdio::piped());
    eprintln!("\n$ {}", shown(&command));
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`{}` failed: {}", shown(&command), output.status);
    let report: Report = serde_json::from_slice(&output.stdout).context("its JSON cannot be read")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_spread_over_the_text() {
        let folder = std::env::temp_dir().join(format!("chelsea-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        let essay: Vec<String> = (0..200).map(|i| format!("Paragraph {i} says little.")).collect();
        fs::write(folder.join("a.txt"), essay.join("\n\n")).expect("written");
        let text = document(&folder, 4_000).expect("made");
        fs::remove_dir_all(&folder).expect("removed");
        let places: Vec<usize> = FACTS.iter().map(|f| text.find(f.text).expect("planted")).collect();
        assert!(places.windows(2).all(|w| w[1] - w[0] > 500), "{places:?}");
        assert!(text.ends_with("says little.\n\n"));
    }
}
