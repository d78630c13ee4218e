//! What was measured, as tables for people and as JSON for programs.

use super::subject::Subject;
use super::trials::Spread;
use super::{attention::Attention, batch, depth, end_to_end, matching, mixed, split};
use crate::cli::{BenchArgs, What};
use crate::output::{self, Table};
use chelsea_kv::Policy;
use serde::Serialize;
use std::fmt::Write as _;

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub machine: Machine,
    pub trials: u32,
    pub prefill: usize,
    pub decode: usize,
    pub policy: String,
    /// How caches came to their depth.
    pub filled: &'static str,
    pub weight_bytes: usize,
    /// Whether Ctrl-C ended it: what was not finished until then is not in it.
    pub cancelled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depth: Vec<depth::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch: Vec<batch::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mixed: Vec<mixed::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub end_to_end: Vec<end_to_end::Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matching: Vec<matching::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<split::Row>,
}

/// What it ran on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    pub threads: usize,
    /// Instructions that products run on.
    pub products: &'static str,
    /// Instructions that attention runs on.
    pub attention: String,
}

impl Machine {
    pub(super) fn here(threads: usize) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cpu: name.map(|(_, name)| name.trim().to_owned()),
            threads,
            products: chelsea_linear::instructions(),
            attention: format!("{:?}", chelsea_kv::backend::Isa::best()),
        }
    }

    fn text(&self) -> String {
        format!(
            "{}, {} threads (products: {}, attention: {})",
            self.cpu.as_deref().unwrap_or("unknown processor"),
            self.threads,
            self.products,
            self.attention
        )
    }
}

/// A policy's name, and its settings where they are not the defaults.
fn name(policy: &dyn Policy) -> String {
    let spec = policy.spec();
    let default = chelsea_kv::policy(policy.name()).is_ok_and(|default| default.spec() == spec);
    if default { policy.name().to_owned() } else { spec }
}

impl Report {
    /// A report without rows yet.
    pub fn new(args: &BenchArgs, subject: &Subject) -> Self {
        Report {
            model: args.model.name().into_owned(),
            machine: Machine::here(subject.pool.current_num_threads()),
            trials: args.trials,
            prefill: args.prefill,
            decode: args.decode,
            policy: name(&*args.policy),
            filled: filled(args),
            weight_bytes: subject.model.memory().total(),
            cancelled: false,
            depth: Vec::new(),
            batch: Vec::new(),
            mixed: Vec::new(),
            end_to_end: Vec::new(),
            attention: None,
            matching: Vec::new(),
            split: Vec::new(),
        }
    }

    /// One line on what was measured where, for tables and charts.
    pub fn note(&self) -> String {
        format!("{}; {}; medians of {} trials", self.model, self.machine.text(), self.trials)
    }

    /// All tables.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}, weights {}\n{}\nMedians of {} trials; caches filled with {}; policy {}.\n",
            self.model,
            output::bytes(self.weight_bytes),
            self.machine.text(),
            self.trials,
            self.filled,
            self.policy
        );
        let mut section = |title: String, table: String| {
            let _ = write!(out, "\n{title}\n\n{table}");
        };
        if !self.depth.is_empty() {
            let title = format!(
                "Prefill of {} and decode of {} tokens at depth. The ratio compares decode with the first setting of \
                 the same depth.",
                self.prefill, self.decode
            );
            section(title, self.depth_table());
        }
        if !self.batch.is_empty() {
            section(
                "Sequences decoded together. The ratio compares tokens/s with one sequence.".into(),
                self.batch_table(),
            );
        }
        if !self.mixed.is_empty() {
            let title = "A chunk read in one pass with decoded tokens; milliseconds without clustering. The share is of both \
                         passes apart.";
            section(title.into(), self.mixed_table());
        }
        if !self.end_to_end.is_empty() {
            section("A prompt read online, then generation; seconds.".into(), self.end_to_end_table());
        }
        if let Some(attention) = &self.attention {
            let title = format!(
                "Attention alone. Plain reading of memory in the same run: {:.1} GB/s; processor caches are faster.",
                attention.ram_gb_per_s.median
            );
            section(title, attention_table(attention));
        }
        if !self.matching.is_empty() {
            section("Clustering alone; microseconds a token.".into(), self.matching_table());
        }
        if !self.split.is_empty() {
            section("Where the time goes; milliseconds a token.".into(), self.split_table());
        }
        out
    }

    fn depth_table(&self) -> String {
        let mut table =
            Table::with_heading(["depth", "kept", "entries", "cache", "prefill tok/s", "decode ms", "tok/s", "ratio"]);
        let rate = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        for row in &self.depth {
            let first = self.depth.iter().find(|x| x.depth == row.depth).and_then(|x| x.decode_tokens_per_s);
            let ratio = first.zip(row.decode_tokens_per_s).map(|(a, b)| format!("{:.2}x", b / a));
            table.row([
                row.depth.to_string(),
                row.budget.clone(),
                format!("{:.0}", row.entries_a_head),
                output::bytes(row.kv_bytes),
                rate(row.prefill_tokens_per_s),
                median(row.decode_ms, 2),
                rate(row.decode_tokens_per_s),
                ratio.unwrap_or("-".into()),
            ]);
        }
        table.render()
    }

    fn batch_table(&self) -> String {
        let mut table = Table::with_heading(["depth", "kept", "sequences", "caches", "step ms", "tok/s", "ratio"]);
        for row in &self.batch {
            let same = |x: &&batch::Row| x.depth == row.depth && x.budget == row.budget && x.sequences == 1;
            let ratio = self.batch.iter().find(same).map(|one| format!("{:.2}x", row.tokens_per_s / one.tokens_per_s));
            table.row([
                row.depth.to_string(),
                row.budget.clone(),
                row.sequences.to_string(),
                output::bytes(row.kv_bytes),
                format!("{:.2}", row.step_ms.median),
                format!("{:.1}", row.tokens_per_s),
                ratio.unwrap_or("-".into()),
            ]);
        }
        table.render()
    }

    fn mixed_table(&self) -> String {
        let heading = ["depth", "kept", "decoding", "decode ms", "chunk", "read ms", "together ms", "share"];
        let mut table = Table::with_heading(heading);
        for row in &self.mixed {
            table.row([
                row.depth.to_string(),
                row.budget.clone(),
                row.sequences.to_string(),
                format!("{:.2}", row.decode_ms.median),
                row.chunk.to_string(),
                format!("{:.2}", row.read_ms.median),
                format!("{:.2}", row.together_ms.median),
                format!("{:.2}", row.share),
            ]);
        }
        table.render()
    }

    fn end_to_end_table(&self) -> String {
        let heading = [
            "kept",
            "prompt",
            "generated",
            "total",
            "prefill",
            "(clustering)",
            "decode",
            "peak cache",
            "of full",
            "ratio",
        ];
        let mut table = Table::with_heading(heading);
        let first = self.end_to_end.first().map_or(1.0, |row| row.total_s.median);
        for row in &self.end_to_end {
            table.row([
                row.budget.clone(),
                row.prompt.to_string(),
                row.generated.to_string(),
                format!("{:.2}", row.total_s.median),
                format!("{:.2}", row.prefill_s.median),
                format!("{:.2}", row.clustering_s.median),
                format!("{:.2}", row.decode_s.median),
                output::bytes(row.kv_bytes_peak),
                output::percent(row.kv_bytes_peak, row.kv_bytes_full),
                format!("{:.2}x", first / row.total_s.median),
            ]);
        }
        table.render()
    }

    fn matching_table(&self) -> String {
        let mut table = Table::with_heading(["depth", "kept", "online", "of prefill", "one-shot"]);
        for row in &self.matching {
            table.row([
                row.depth.to_string(),
                row.budget.clone(),
                median(row.online_us, 1),
                row.share_of_prefill.map_or("-".into(), |s| format!("{:.1}%", 100.0 * s.median)),
                median(row.one_shot_us, 1),
            ]);
        }
        table.render()
    }

    fn split_table(&self) -> String {
        let mut table = Table::with_heading(["work", "depth", "kept"].into_iter().chain(split::PARTS).chain(["total"]));
        for row in &self.split {
            let total: f64 = row.ms.iter().sum();
            let share = |ms: &f64| format!("{ms:.3} {:>3.0}%", 100.0 * ms / total);
            let cells = [row.work.to_owned(), row.depth.to_string(), row.budget.clone()];
            table.row(cells.into_iter().chain(row.ms.iter().map(share)).chain([format!("{total:.3}")]));
        }
        table.render()
    }
}

/// How caches came to their depth. Two measurements take caches that nothing was read into, whatever is asked for.
fn filled(args: &BenchArgs) -> &'static str {
    let synthetic = args.wanted().into_iter().any(|what| matches!(what, What::Attention | What::Matching));
    match (args.real, synthetic) {
        (false, _) => "random entries",
        (true, false) => "random tokens read",
        (true, true) => "random tokens read, except for attention alone and one-shot clustering: random entries",
    }
}

fn attention_table(attention: &Attention) -> String {
    let heading =
        ["depth", "kept", "cache", "decode ms", "GB/s", "of plain", "GFLOP/s", "queries", "layer ms", "GFLOP/s"];
    let mut table = Table::with_heading(heading);
    for row in &attention.rows {
        table.row([
            row.depth.to_string(),
            row.budget.clone(),
            output::bytes(row.bytes),
            format!("{:.2}", row.decode_ms.median),
            format!("{:.1}", row.decode_gb_per_s),
            format!("{:.0}%", 100.0 * row.decode_gb_per_s / attention.ram_gb_per_s.median),
            format!("{:.1}", row.decode_gflop_per_s),
            row.queries.to_string(),
            median(row.prefill_layer_ms, 2),
            row.prefill_gflop_per_s.map_or("-".into(), |x| format!("{x:.1}")),
        ]);
    }
    table.render()
}

fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("-".into(), |s| format!("{:.digits$}", s.median))
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn ratios_compare_with_the_first_setting_of_the_same_kind() {
        let text = sample().text();
        for wanted in ["4.00x", "2.00x", "75%", "2.1%", "4.000  40%", "25.0%", "10.000", "0.90"] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() < 130), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_in_the_report() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["depth"][3]["decode_tokens_per_s"], 200.0);
        assert_eq!(json["attention"]["rows"][0]["decode_gb_per_s"], 15.0);
        let empty = Report { depth: vec![], batch: vec![], attention: None, ..sample() };
        let json = serde_json::to_value(empty).unwrap();
        assert!(json.get("depth").is_none() && json.get("attention").is_none() && json.get("split").is_some());
    }
}
