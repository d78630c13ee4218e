//! A comparison as text, as Markdown and as a chart.

use super::measure::{Comparison, GENERATE, KEEPS, PREFILL, PROMPT, Setting, Work, best, median};
use crate::table;
use anyhow::{Context as _, Result};
use chelsea_plot::{Axis, BarChart, BarSeries, Layout, Unit};

const BEGIN: &str = "<!-- bench-peers: begin -->";
const END: &str = "<!-- bench-peers: end -->";

/// One work, both engines.
struct Row {
    work: String,
    keep: &'static str,
    unit: &'static str,
    own: f64,
    peer: f64,
    /// How many times faster by medians, and by the fastest trial of each.
    ratio: (f64, f64),
    setting: String,
}

fn rows(c: &Comparison) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((work, setting), own) in &c.times {
        let Setting::Chelsea(keep) = setting else { continue };
        let Some((fastest_setting, peer)) = best(&c.times, *work) else { continue };
        let fastest = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
        let (own_s, peer_s) = (median(own), median(peer));
        let (name, unit, shown): (_, _, fn(f64) -> f64) = match work {
            Work::Prefill => (format!("prefill of {PREFILL}"), "tokens/s", |s| PREFILL as f64 / s),
            Work::Decode(depth) => (format!("decode at depth {depth}"), "tokens/s", |s| 1.0 / s),
            Work::EndToEnd => (format!("prompt of {PROMPT}, answer of {GENERATE}"), "s", |s| s),
        };
        rows.push(Row {
            work: name,
            keep,
            unit,
            own: shown(own_s),
            peer: shown(peer_s),
            ratio: (peer_s / own_s, fastest(peer) / fastest(own)),
            setting: named(&fastest_setting),
        });
    }
    rows
}

fn named(setting: &Setting) -> String {
    let on = |on: bool| if on { "on" } else { "off" };
    match setting {
        Setting::Chelsea(keep) => format!("keep {}", kept(keep)),
        Setting::LlamaCpp { flash, repack } => format!("flash {}, repack {}", on(*flash), on(*repack)),
    }
}

fn kept(keep: &str) -> String {
    keep.parse::<f64>().map_or_else(|_| keep.to_owned(), |keep| format!("{:.0}%", 100.0 * keep))
}

const HEADER: [&str; 8] =
    ["work", "kept", "Chelsea", "llama.cpp", "", "faster", "by the fastest trials", "llama.cpp's setting"];

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.work.clone(),
        kept(row.keep),
        format!("{:.1}", row.own),
        format!("{:.1}", row.peer),
        row.unit.to_owned(),
        format!("{:.2}x", row.ratio.0),
        format!("{:.2}x", row.ratio.1),
        row.setting.clone(),
    ]
}

fn caption(c: &Comparison) -> String {
    let mut text = format!(
        "{}, {} threads, medians of {} interleaved trials ({} of the prompt with its answer). {}. {}.",
        c.model, c.threads, c.trials, c.end_to_end_trials, c.machine, c.peer
    );
    if !c.broken.is_empty() {
        let broken: Vec<String> = c.broken.iter().map(named).collect();
        text += &format!(" Left out, because llama.cpp fails with it on this machine: {}.", broken.join("; "));
    }
    let peaks: Vec<String> = KEEPS
        .iter()
        .filter_map(|keep| {
            let (peak, full) = c.peak.get(keep)?;
            Some(format!("{} at {} kept (a full one takes {})", table::bytes(*peak), kept(keep), table::bytes(*full)))
        })
        .collect();
    if !peaks.is_empty() {
        text += &format!(" Chelsea's cache at its peak over that prompt: {}.", peaks.join(", "));
    }
    text
}

/// For the terminal.
pub fn text(c: &Comparison) -> String {
    let rows: Vec<Vec<String>> = rows(c).iter().map(cells).collect();
    format!("{}\n\n{}", caption(c), table::render(&HEADER, &rows))
}

/// For `docs/lab/llama-cpp.md`.
pub fn markdown(comparisons: &[Comparison]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = String::new();
    for c in comparisons {
        out += &format!("{HEADING}{}\n\n{}\n\n", c.model, caption(c));
        out += &line(&HEADER.map(String::from));
        out += &line(&["---", "---:", "---:", "---:", "---", "---:", "---:", "---"].map(String::from));
        rows(c).iter().for_each(|row| out += &line(&cells(row)));
        out += &format!("\n![How many times faster than llama.cpp on {}](../plots/{})\n\n", c.model, chart_name(c));
    }
    out.trim_end().to_owned() + "\n"
}

/// Name of the chart's file.
pub fn chart_name(c: &Comparison) -> String {
    let plain: String = c.model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("peers-{plain}.svg")
}

/// How many times faster, by work.
pub fn chart(c: &Comparison) -> Result<String> {
    let rows = rows(c);
    let mut groups: Vec<String> = rows.iter().map(|row| row.work.clone()).collect();
    groups.dedup();
    let series = KEEPS.map(|keep| BarSeries {
        name: if keep == "1" { "full cache".into() } else { format!("{} kept", kept(keep)) },
        values: groups
            .iter()
            .map(|work| rows.iter().find(|row| row.work == *work && row.keep == keep).map(|row| row.ratio.0))
            .collect(),
    });
    let peer = BarSeries { name: "llama.cpp".into(), values: groups.iter().map(|_| Some(1.0)).collect() };
    let chart = BarChart {
        title: format!("Chelsea beside llama.cpp: {}", c.model),
        note: caption(c),
        y: Axis::linear("times the speed of llama.cpp", Unit::Number),
        groups,
        series: series.into_iter().chain([peer]).collect(),
        layout: Layout::Grouped,
    };
    Ok(chart.to_svg()?)
}

/// The page called `name`, with the sections of these models between the markers replaced, or added; those of others stay.
pub fn between_markers(page: &str, name: &str, section: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{name} has no `{BEGIN}`"))?;
    let (old, after) = rest.split_once(END).with_context(|| format!("{name} has no `{END}` after it"))?;
    let mut models = by_model(old);
    for (model, text) in by_model(section) {
        match models.iter_mut().find(|(known, _)| *known == model) {
            Some(place) => place.1 = text,
            None => models.push((model, text)),
        }
    }
    let all: Vec<String> = models.iter().map(|(model, text)| format!("{HEADING}{model}\n\n{text}\n")).collect();
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", all.join("\n")))
}

/// What a model's section begins with.
pub const HEADING: &str = "#### ";

/// Models with what stands below their headings.
fn by_model(text: &str) -> Vec<(&str, &str)> {
    let sections = text.split(HEADING).skip(1);
    sections.filter_map(|section| section.split_once('\n')).map(|(model, text)| (model.trim(), text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::measure::{PEER, Times};
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn comparison() -> Comparison {
        let mut times = Times::new();
        let mut put =
            |work, setting: &Setting, seconds: &[f64]| times.insert((work, setting.clone()), seconds.to_vec());
        put(Work::Prefill, &Setting::Chelsea("1"), &[0.5, 0.4, 0.9]);
        put(Work::Prefill, &PEER[0], &[2.0, 1.6, 2.5]);
        put(Work::Prefill, &PEER[1], &[1.0, 1.2, 0.8]);
        for keep in KEEPS {
            put(Work::Decode(4000), &Setting::Chelsea(keep), &[if keep == "1" { 0.01 } else { 0.005 }]);
            put(Work::EndToEnd, &Setting::Chelsea(keep), &[10.0]);
        }
        put(Work::Decode(4000), &PEER[2], &[0.02]);
        put(Work::EndToEnd, &PEER[2], &[30.0]);
        Comparison {
            model: "m/x".into(),
            threads: 2,
            trials: 3,
            end_to_end_trials: 1,
            machine: "a machine".into(),
            peer: "a peer".into(),
            times,
            broken: BTreeSet::from([PEER[3].clone()]),
            peak: BTreeMap::from([("0.2", (1 << 20, 5 << 20))]),
        }
    }

    #[test]
    fn ratios_compare_with_the_best_setting_of_the_same_work() {
        let text = text(&comparison());
        assert!(text.contains("fails with it on this machine: flash off, repack off."), "{text}");
        let line = |name: &str| text.lines().filter(|l| l.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(line("prefill of 512").len(), 1);
        let prefill = &line("prefill of 512")[0];
        assert!(prefill.contains("1024.0") && prefill.contains("512.0") && prefill.contains("2.00x"), "{prefill}");
        assert!(prefill.ends_with("flash on, repack off"), "{prefill}");
        let decode = line("decode at depth 4000");
        assert!(decode[0].contains("20%") && decode[0].contains("4.00x"), "{decode:?}");
        assert!(decode[1].contains("100%") && decode[1].contains("2.00x"), "{decode:?}");
        assert!(text.contains("1.0 MiB at 20% kept (a full one takes 5.0 MiB)"), "{text}");
    }

    #[test]
    fn the_page_keeps_what_is_outside_the_markers() {
        let page = format!("# A\n\n{BEGIN}\nold\n{END}\n\ntail\n");
        let new = between_markers(&page, "a page", &markdown(&[comparison()])).expect("marked");
        assert!(new.starts_with("# A\n\n") && new.ends_with("\n\ntail\n") && !new.contains("old"));
        assert!(new.contains("| prefill of 512 |"));
        let other = between_markers(&new, "a page", "#### other\n\nits table\n").expect("still marked");
        assert!(other.contains("| prefill of 512 |") && other.contains("#### other\n\nits table\n"), "{other}");
        let again = between_markers(&other, "a page", "#### m/x\n\nanew\n").expect("still marked");
        assert!(again.contains("anew") && again.contains("its table") && !again.contains("| prefill"), "{again}");
        assert_eq!(between_markers(&again, "a page", "#### m/x\n\nanew\n").expect("still marked"), again);
        assert!(between_markers("no markers", "a page", "x").is_err());
    }

    #[test]
    fn the_chart_shows_every_work_and_setting() {
        let svg = chart(&comparison()).expect("drawn");
        assert!(["full cache", "20% kept", "llama.cpp"].iter().all(|name| svg.contains(name)));
        assert_eq!(chart_name(&comparison()), "peers-m-x.svg");
    }
}
