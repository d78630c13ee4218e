//! `cargo xtask compare --with OTHER`: whether two builds of the command answer alike, bit for bit.
//!
//! Both read the same text of essays with planted facts, under the full cache and under shares of its bytes, compressed
//! while reading and in one shot. Compared are the greedy answers, the number of cache entries that are left, and for
//! a continuation of the text the mean loss and the divergence from the full cache as 64-bit floats. Every logit of
//! every scored position enters these two numbers, so a change of the last bit of one shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::document::{self, FACTS};
use crate::process::{build_release, program, stdout};
use crate::{fetch, table};

/// What `compare` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The other build of `chelsea`.
    #[arg(long, value_name = "FILE")]
    with: PathBuf,
    /// This build of `chelsea` [default: the release build of this tree, built if need be].
    #[arg(long, value_name = "FILE")]
    this: Option<PathBuf>,
    /// Models: short names or files [default: those of the catalogue's that were fetched].
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Sizes of the cache beside the full one.
    #[arg(long, value_delimiter = ',', default_values_t = ["50%", "25%", "10%"].map(String::from))]
    budgets: Vec<String>,
    /// Length of the text in characters; about 4.3 of them make a token.
    #[arg(long, default_value_t = 20_000)]
    chars: usize,
    /// Tokens of the continuation that are scored.
    #[arg(long, default_value_t = 64)]
    target: usize,
    /// Threads of both builds.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

const MODELS: &[&str] = &["smollm2", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"];
const FULL: &str = "100%";
/// How the cache is compressed, as both `run --compress` and `eval --modes` call it.
const MODES: [&str; 2] = ["one-shot", "online"];

/// One way to keep the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell<'a> {
    budget: &'a str,
    mode: &'a str,
}

/// What one build made of one cell.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    answers: Vec<String>,
    entries: u64,
    /// Bits of the loss and of the divergence for each stretch of text.
    scored: Vec<[Option<u64>; 2]>,
}

/// What `chelsea run --json` prints, as far as it is compared.
#[derive(Debug, Deserialize)]
struct Report {
    answers: Vec<Answer>,
    kv_entries: u64,
}

#[derive(Debug, Deserialize)]
struct Answer {
    text: String,
}

/// What `chelsea eval continuation --json` prints for one setting, as far as it is compared.
#[derive(Debug, Deserialize)]
struct Record {
    mode: String,
    keep: f64,
    asked: Vec<Asked>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    nll: Option<f64>,
    kl: Option<f64>,
}

/// Runs both builds and prints the table; false if they differ anywhere.
pub fn run(args: &Args) -> Result<bool> {
    ensure!(args.with.is_file(), "{} is no program: --with names the other build of chelsea", args.with.display());
    let this = match &args.this {
        Some(path) => path.clone(),
        None if build_release()? => program(),
        None => return Ok(false),
    };
    // The builds run in the root, wherever this was called.
    let builds = [std::path::absolute(&this)?, std::path::absolute(&args.with)?];
    let models = models(&args.models)?;
    let text = document::written("compare", &fetch::one(fetch::TEXTS)?, args.chars)?;
    let cells = cells(&args.budgets);
    let (mut rows, mut same) = (Vec::new(), true);
    for model in &models {
        let mut outcomes = Vec::new();
        for build in &builds {
            outcomes.push(measure(args, build, model, &text, &cells)?);
        }
        for (i, cell) in cells.iter().enumerate() {
            let (row, alike) = row(model, cell, &outcomes[0][i], &outcomes[1][i]);
            rows.push(row);
            same &= alike;
        }
    }
    let header = ["model", "cache", "compressed", "answers", "entries", "loss, this", "loss, other", "logits"];
    println!("\nthis   {}\nother  {}\n", builds[0].display(), builds[1].display());
    println!("{}\n\n{}", table::render(&header, &rows), if same { "The builds agree." } else { "The builds DIFFER." });
    Ok(same)
}

/// The models asked for, or all that are there.
fn models(wanted: &[String]) -> Result<Vec<String>> {
    if !wanted.is_empty() {
        return Ok(wanted.to_vec());
    }
    let folder = fetch::folder("models")?;
    let there = MODELS.iter().filter(|name| folder.join(format!("{name}.gguf")).is_file());
    let there: Vec<String> = there.map(|name| (*name).to_owned()).collect();
    ensure!(!there.is_empty(), "no model was fetched yet: `cargo xtask fetch {}`", MODELS.join(" "));
    Ok(there)
}

/// The full cache once, and every other one in both modes.
fn cells(budgets: &[String]) -> Vec<Cell<'_>> {
    let compressed = budgets.iter().filter(|b| *b != FULL).flat_map(|b| MODES.map(|mode| Cell { budget: b, mode }));
    std::iter::once(Cell { budget: FULL, mode: MODES[0] }).chain(compressed).collect()
}

/// The outcome of every cell, in their order.
fn measure(args: &Args, build: &Path, model: &str, text: &Path, cells: &[Cell<'_>]) -> Result<Vec<Outcome>> {
    let threads = args.threads.to_string();
    let mut budgets: Vec<&str> = cells.iter().map(|cell| cell.budget).collect();
    budgets.dedup();
    let target = args.target.to_string();
    let mut command = Command::new(build);
    command.args([
        "eval",
        "continuation",
        "--json",
        "--samples",
        "1",
        "-m",
        model,
        "-t",
        &threads,
        "--target",
        &target,
    ]);
    command.args(["--modes", &MODES.join(","), "--kv-budgets", &budgets.join(","), "--haystack"]).arg(text);
    let scored = scored(&stdout(&mut command)?)?;
    let mut outcomes = Vec::new();
    for cell in cells {
        let mut command = Command::new(build);
        command.args(["run", "--json", "--temp", "0", "--max-tokens", "32", "-m", model, "-t", &threads]);
        if cell.budget == FULL {
            command.args(["--policy", "full"]);
        } else {
            command.args(["--kv-budget", cell.budget, "--compress", cell.mode]);
        }
        command.arg("--file").arg(text);
        for fact in FACTS {
            command.args(["-p", fact.question]);
        }
        let report: Report = serde_json::from_slice(&stdout(&mut command)?).context("its JSON cannot be read")?;
        ensure!(report.answers.len() == FACTS.len(), "{} answers to {} questions", report.answers.len(), FACTS.len());
        let Some(scored) = scored.get(&(share(cell.budget)?, cell.mode.to_owned())) else {
            bail!("`chelsea eval` says nothing about {} {}", cell.budget, cell.mode);
        };
        outcomes.push(Outcome {
            answers: report.answers.into_iter().map(|answer| answer.text).collect(),
            entries: report.kv_entries,
            scored: scored.clone(),
        });
    }
    Ok(outcomes)
}

/// A share of the bytes as the bits of the number that results hold.
fn share(budget: &str) -> Result<u32> {
    let percent = budget.strip_suffix('%').and_then(|number| number.parse::<f32>().ok());
    let percent = percent.with_context(|| format!("`{budget}` is no share of the full cache such as 25%"))?;
    Ok((percent / 100.0).to_bits())
}

type Scored = BTreeMap<(u32, String), Vec<[Option<u64>; 2]>>;

/// Losses and divergences by share and mode.
fn scored(json: &[u8]) -> Result<Scored> {
    let mut all = Scored::new();
    for record in serde_json::Deserializer::from_slice(json).into_iter::<Record>() {
        let record = record.context("a line of `chelsea eval --json` cannot be read")?;
        let bits = |value: Option<f64>| value.map(f64::to_bits);
        ensure!(
            record.asked.iter().any(|asked| asked.nll.is_some()),
            "a line of `chelsea eval --json` holds no loss: nothing would be compared"
        );
        let asked = record.asked.iter().map(|asked| [bits(asked.nll), bits(asked.kl)]);
        all.entry(((record.keep as f32).to_bits(), record.mode)).or_default().extend(asked);
    }
    Ok(all)
}

/// The row of one cell, and whether both builds agree in it.
fn row(model: &str, cell: &Cell<'_>, this: &Outcome, other: &Outcome) -> (Vec<String>, bool) {
    let word = |same: bool| if same { "same" } else { "DIFFERENT" }.to_owned();
    let loss = |outcome: &Outcome| match outcome.scored.first() {
        Some([Some(bits), _]) => format!("{:.9}", f64::from_bits(*bits)),
        _ => "-".to_owned(),
    };
    if let Some(i) = (0..this.answers.len()).find(|&i| this.answers[i] != other.answers[i]) {
        eprintln!("{model}, {} {}: {}", cell.budget, cell.mode, FACTS[i].question);
        eprintln!("  this:  {:?}\n  other: {:?}", this.answers[i], other.answers[i]);
    }
    let entries = if this.entries == other.entries {
        this.entries.to_string()
    } else {
        format!("{} and {}", this.entries, other.entries)
    };
    let row = vec![
        model.to_owned(),
        if cell.budget == FULL { "full" } else { cell.budget }.to_owned(),
        if cell.budget == FULL { "-" } else { cell.mode }.to_owned(),
        word(this.answers == other.answers),
        entries,
        loss(this),
        loss(other),
        word(this.scored == other.scored),
    ];
    (row, this == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(nll: f64) -> Outcome {
        Outcome { answers: vec!["a".into()], entries: 7, scored: vec![[Some(nll.to_bits()), None]] }
    }

    #[test]
    fn the_full_cache_is_measured_once_and_others_in_both_modes() {
        let budgets = ["100%".to_owned(), "25%".to_owned()];
        let cells = cells(&budgets);
        let all: Vec<_> = cells.iter().map(|cell| (cell.budget, cell.mode)).collect();
        assert_eq!(all, [("100%", "one-shot"), ("25%", "one-shot"), ("25%", "online")]);
    }

    #[test]
    fn the_last_bit_of_a_loss_counts() {
        let cell = Cell { budget: "25%", mode: "online" };
        assert!(row("m", &cell, &outcome(1.5), &outcome(1.5)).1);
        let (row, same) = row("m", &cell, &outcome(1.5), &outcome(1.5f64.next_up()));
        assert!(!same);
        assert_eq!(row.last().map(String::as_str), Some("DIFFERENT"));
    }

    #[test]
    fn results_are_found_by_share_and_mode() {
        let line = |keep: &str, nll: &str| {
            format!(r#"{{"v":2,"mode":"online","keep":{keep},"asked":[{{"score":0.5,"nll":{nll},"kl":0.1}}]}}"#)
        };
        let json = [line("0.25", "1.25"), line("0.1", "2.5")].join("\n");
        let all = scored(json.as_bytes()).expect("two lines");
        let of = |budget| &all[&(share(budget).expect("a share"), "online".to_owned())];
        assert_eq!(of("25%")[0], [Some(1.25f64.to_bits()), Some(0.1f64.to_bits())]);
        assert_eq!(of("10%")[0][0], Some(2.5f64.to_bits()));
        assert!(share("512MiB").is_err());
        assert!(scored(br#"{"mode":"online","keep":0.25,"asked":[]}"#).is_err());
    }
}
