//! Results as tables and JSON lines on the terminal.

use super::Shown;
use crate::output::{self, Table};
use chelsea_eval::results::{Asked, Record};
use chelsea_eval::{Basis, Mode, ParsedSetting, Sample, Setting};
use chelsea_kv::Budget;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// What was run, in a line.
pub fn heading(model: &str, samples: &[Sample], skipped: usize, shown: Shown) -> String {
    let lengths: BTreeSet<usize> = samples.iter().map(|s| s.length).collect();
    let asked: BTreeSet<usize> = samples.iter().map(|s| s.probes.len()).collect();
    if let (Shown::Needles, Some(questions), 1) = (shown, asked.first(), asked.len()) {
        let tokens = lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let each = if *questions == 1 { "question" } else { "questions" };
        return format!("{model}: {} contexts of {tokens} tokens, {questions} {each} each", samples.len());
    }
    let tasks: BTreeSet<&str> = samples.iter().map(|s| s.task.as_str()).collect();
    let names = match tasks.len() {
        1..=3 => tasks.into_iter().collect::<Vec<_>>().join(", "),
        n => format!("{n} tasks"),
    };
    let left_out = if skipped > 0 { format!(", {skipped} left out") } else { String::new() };
    format!("{model}: {names}, {} samples{left_out}", samples.len())
}

fn of<'a>(setting: &Setting, records: &'a [Record]) -> Vec<&'a Record> {
    records.iter().filter(|r| r.setting == *setting).collect()
}

fn kept(setting: &Setting) -> [String; 3] {
    let mode = if setting.keep >= 1.0 && setting.mode == Mode::OneShot { "-".into() } else { setting.mode.to_string() };
    let of = match setting.of {
        Basis::Bytes if setting.keep < 1.0 => " of bytes",
        Basis::Held if setting.keep < 1.0 => " at the end",
        _ => "",
    };
    [setting.policy.clone(), format!("{}%{of}", (setting.keep * 1000.0).round() / 10.0), mode]
}

fn bytes(rows: &[&Record]) -> String {
    let mean = |f: fn(&Record) -> usize| rows.iter().map(|r| f(r)).sum::<usize>() / rows.len().max(1);
    output::percent(mean(|r| r.kv_bytes), mean(|r| r.kv_bytes_full))
}

/// Hits and losses of needles.
pub fn needles(settings: &[ParsedSetting], records: &[Record]) -> String {
    let mut table = Table::with_heading(["policy", "kept", "mode", "hits", "of", "digit NLL", "cache bytes"]);
    for setting in settings {
        let rows = of(setting, records);
        let asked: Vec<&Asked> = rows.iter().flat_map(|r| &r.asked).collect();
        if asked.is_empty() {
            continue;
        }
        // Of a question for several values, each value is a needle.
        let needles: usize = asked.iter().map(|a| a.expected.len()).sum();
        let hits: f64 = asked.iter().map(|a| a.score * a.expected.len() as f64).sum();
        let nll = mean(asked.iter().map(|a| a.nll));
        let [policy, keep, mode] = kept(setting);
        table.row([policy, keep, mode, format!("{hits:.0}"), needles.to_string(), nll, bytes(&rows)]);
    }
    table.render()
}

/// Scores of every task under every setting, and their mean over tasks.
pub fn tasks(settings: &[ParsedSetting], records: &[Record]) -> String {
    let names: BTreeSet<&str> = records.iter().map(|r| r.task.as_str()).collect();
    let whole = records.iter().filter(|r| r.setting.keep >= 1.0);
    let full: HashMap<(&str, &str), &Record> = whole.map(|r| ((r.task.as_str(), r.sample.as_str()), r)).collect();
    let mut table = Table::with_heading([
        "task",
        "policy",
        "kept",
        "mode",
        "samples",
        "score",
        "as full",
        "NLL",
        "KL",
        "exact",
        "cache bytes",
    ])
    .left(1);
    let mut row = |task: &str, setting: &Setting, rows: &[&Record], score: f64| {
        let asked: Vec<&Asked> = rows.iter().flat_map(|r| &r.asked).collect();
        let exact = mean(asked.iter().map(|a| a.exact.map(|e| f64::from(u8::from(e)))));
        let [policy, keep, mode] = kept(setting);
        table.row([
            task.to_owned(),
            policy,
            keep,
            mode,
            rows.len().to_string(),
            format!("{:.1}", 100.0 * score),
            agreement(setting, rows, &full),
            mean(asked.iter().map(|a| a.nll)),
            mean(asked.iter().map(|a| a.kl)),
            exact,
            bytes(rows),
        ]);
    };
    let score = |rows: &[&Record]| rows.iter().map(|r| r.score).sum::<f64>() / rows.len() as f64;
    for name in &names {
        for setting in settings {
            let rows: Vec<&Record> = of(setting, records).into_iter().filter(|r| r.task == *name).collect();
            if !rows.is_empty() {
                row(name, setting, &rows, score(&rows));
            }
        }
    }
    if names.len() > 1 {
        for setting in settings {
            let rows = of(setting, records);
            let of_task = |name: &&str| rows.iter().copied().filter(|r| r.task == **name).collect::<Vec<_>>();
            let scores: Vec<f64> = names.iter().map(of_task).filter(|r| !r.is_empty()).map(|r| score(&r)).collect();
            if scores.len() == names.len() {
                row("mean of tasks", setting, &rows, scores.iter().sum::<f64>() / scores.len() as f64);
            }
        }
    }
    table.render()
}

/// The loss of each piece of a text that goes on, and of all of it.
pub fn stream(settings: &[ParsedSetting], records: &[Record]) -> String {
    let pieces = records.iter().map(|r| r.asked.len()).max().unwrap_or(0);
    let head = ["policy", "entries", "cache MiB", "NLL"].map(String::from).into_iter();
    let mut table = Table::with_heading(head.chain((1..=pieces).map(|i| format!("{i}/{pieces}"))));
    for setting in settings {
        let rows = of(setting, records);
        let Some(first) = rows.first() else { continue };
        let entries = match setting.budget(first.length) {
            Budget::Entries(entries) => entries.to_string(),
            _ if setting.keep >= 1.0 => "all".into(),
            _ => kept(setting)[1].clone(),
        };
        let mebibytes = rows.iter().map(|r| r.kv_bytes).sum::<usize>() as f64 / rows.len() as f64 / f64::from(1 << 20);
        let piece = |i: usize| mean(rows.iter().map(|r| r.asked.get(i).and_then(|a| a.nll)));
        let whole = mean(rows.iter().flat_map(|r| &r.asked).map(|a| a.nll));
        let cells = [setting.policy.clone(), entries, format!("{mebibytes:.1}"), whole];
        table.row(cells.into_iter().chain((0..pieces).map(piece)));
    }
    table.render()
}

/// Share of the questions that are answered as the full cache answers them, where it was asked, too.
fn agreement(setting: &Setting, rows: &[&Record], full: &HashMap<(&str, &str), &Record>) -> String {
    let of_full = |r: &Record| full.get(&(r.task.as_str(), r.sample.as_str())).copied();
    let pairs = rows.iter().filter_map(|r| Some(r.agreement(of_full(r)?)));
    let (alike, all) = pairs.fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    if all == 0 || setting.keep >= 1.0 { "-".into() } else { output::percent(alike, all) }
}

/// The mean of figures that all have, or a dash.
fn mean(figures: impl Iterator<Item = Option<f64>>) -> String {
    let figures: Option<Vec<f64>> = figures.collect();
    match figures {
        Some(f) if !f.is_empty() => format!("{:.3}", f.iter().sum::<f64>() / f.len() as f64),
        _ => "-".into(),
    }
}

/// One line of JSON for each question about needles, one for each sample of other tasks.
pub fn print_json(record: &Record, shown: Shown) {
    if shown != Shown::Needles {
        println!("{}", json!(record));
        return;
    }
    let context = record.sample.split(['#', '@']).next().and_then(|n| n.parse::<u64>().ok());
    for asked in &record.asked {
        let line = json!({
            "policy": record.setting.policy, "keep": record.setting.keep, "of": record.setting.of, "online": record.setting.mode.online(),
            "mode": record.setting.mode, "context": context, "length": record.length, "depth": asked.depth,
            "city": asked.about, "digits": asked.expected.join(", "), "answer": asked.answer,
            "hit": asked.score == 1.0, "nll": asked.nll, "kv_bytes": record.kv_bytes,
            "kv_bytes_full": record.kv_bytes_full,
        });
        println!("{line}");
    }
}
