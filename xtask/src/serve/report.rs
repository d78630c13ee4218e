//! What was measured, as tables and plots.

use super::load::Measured;
use super::waits::{LONG, SHORT, Waits};
use super::{Args, Row};
use crate::table;
use anyhow::Result;
use chelsea_plot::{Axis, BarChart, BarSeries, Layout, LineChart, Look, Point, Series, Unit};
use std::path::Path;

/// A heading and the rows below it.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn text(&self) -> String {
        let header: Vec<&str> = self.header.iter().map(String::as_str).collect();
        table::render(&header, &self.rows)
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> =
            (0..self.header.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.header) + &line(&rule) + &rows
    }
}

/// Everything that was measured, ready to be shown.
pub struct Report<'a> {
    caption: String,
    model: &'a str,
    rows: &'a [Row],
}

impl<'a> Report<'a> {
    pub fn new(args: &'a Args, rows: &'a [Row]) -> Self {
        let caption = format!(
            "{}, {} threads, caches of {} MiB together; prompts of about {} tokens, answers of {}",
            args.model, args.threads, args.kv_mib, args.prompt, args.answer
        );
        Report { caption, model: &args.model, rows }
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let tables: Vec<String> = self.tables().iter().map(Table::text).collect();
        format!("{}\n\n{}", self.caption, tables.join("\n\n"))
    }

    /// Writes `bench-serve.md`, `bench-serve.json` and the plots into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let tables: Vec<String> = self.tables().iter().map(Table::markdown).collect();
        let mut page = format!("{}.\n\n{}", self.caption, tables.join("\n"));
        for (name, svg) in self.plots()? {
            std::fs::write(folder.join(&name), svg)?;
            page += &format!("\n![{}]({name})\n", name.trim_end_matches(".svg").replace('-', " "));
        }
        std::fs::write(folder.join("bench-serve.md"), page)?;
        std::fs::write(folder.join("bench-serve.json"), serde_json::to_string_pretty(self.rows)?)?;
        Ok(())
    }

    fn tables(&self) -> Vec<Table> {
        [self.at_once(), self.arriving(), self.waits()].into_iter().filter(|table| !table.rows.is_empty()).collect()
    }

    fn at_once(&self) -> Table {
        let header = ["long conversations together", "asked", "held at once", "decode tok/s", "tok/s in all", "failed"];
        let cells = |(name, m): (&String, &Measured)| {
            let (decode, all) = (format!("{:.1}", m.decode_rate), format!("{:.1}", m.throughput));
            vec![name.clone(), m.asked.to_string(), m.at_once.to_string(), decode, all, m.failed.to_string()]
        };
        Table { header: header.map(String::from).into(), rows: self.held().map(cells).collect() }
    }

    fn held(&self) -> impl Iterator<Item = (&String, &Measured)> {
        self.rows.iter().filter_map(|row| Some((&row.server, row.at_once.as_ref()?)))
    }

    fn arriving(&self) -> Table {
        let header = [
            "arriving",
            "a second",
            "asked",
            "tok/s",
            "first token, s: p50",
            "p95",
            "p99",
            "next, ms: p50",
            "p95",
            "p99",
            "failed",
        ];
        let all = self.rows.iter().flat_map(|row| row.arriving.iter().map(move |(rate, m)| (row, rate, m)));
        let cells = all.map(|(row, rate, m)| {
            let mut cells =
                vec![row.server.clone(), rate.to_string(), m.asked.to_string(), format!("{:.1}", m.throughput)];
            cells.extend([0.5, 0.95, 0.99].map(|q| format!("{:.2}", m.first_token.at(q))));
            cells.extend([0.5, 0.95, 0.99].map(|q| format!("{:.0}", 1e3 * m.next_token.at(q))));
            cells.push(m.failed.to_string());
            cells
        });
        Table { header: header.map(String::from).into(), rows: cells.collect() }
    }

    fn waits(&self) -> Table {
        let header = [
            format!("beside a prompt of {LONG} tokens"),
            "decode step, ms".into(),
            "pauses, ms: p50".into(),
            "p99".into(),
            "promised".into(),
            format!("{SHORT} tokens behind it, s"),
            "first turn, s".into(),
            "second".into(),
            "share".into(),
            "not read again".into(),
            "after kill -9, s".into(),
        ];
        let ms = |s: f64| format!("{:.0}", 1e3 * s);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let cells = |(name, w): (&String, &Waits)| {
            vec![
                name.clone(),
                format!("{:.1}", 1e3 * w.alone.at(0.5)),
                ms(w.beside.at(0.5)),
                ms(w.beside.at(0.99)),
                or_dash(w.max_stall.map(ms)),
                format!("{:.2}", w.behind),
                format!("{:.2}", w.first_turn),
                format!("{:.3}", w.second_turn),
                format!("{:.1}%", 100.0 * w.second_turn / w.first_turn),
                or_dash(w.cached.map(|n| n.to_string())),
                or_dash(w.after_restart.map(|s| format!("{s:.3}"))),
            ]
        };
        let rows = self.rows.iter().filter_map(|row| Some((&row.server, row.waits.as_ref()?)));
        Table { header: header.into(), rows: rows.map(cells).collect() }
    }

    /// Names of files, and what is in them.
    fn plots(&self) -> Result<Vec<(String, String)>> {
        let mut plots = Vec::new();
        let held: Vec<(&String, &Measured)> = self.held().collect();
        if !held.is_empty() {
            let bars = |of: fn(&Measured) -> f64| held.iter().map(|(_, m)| Some(of(m))).collect();
            for (file, label, values) in [
                ("held-at-once.svg", "conversations held at once", bars(|m| m.at_once as f64)),
                ("decode-speed.svg", "tokens a second of those held", bars(|m| m.decode_rate)),
            ] {
                let chart = BarChart {
                    title: format!("In the same bytes: {label}"),
                    note: self.caption.clone(),
                    y: Axis::linear(label, Unit::Number),
                    groups: held.iter().map(|(name, _)| (*name).clone()).collect(),
                    series: vec![BarSeries { name: self.model.to_owned(), values }],
                    layout: Layout::Grouped,
                };
                plots.push((file.into(), chart.to_svg()?));
            }
        }
        let arriving = self.rows.iter().filter(|row| row.arriving.len() > 1);
        let series: Vec<Series> = arriving
            .enumerate()
            .map(|(i, row)| Series {
                name: row.server.clone(),
                points: row.arriving.iter().map(|(rate, m)| Point::new(*rate, m.first_token.at(0.95))).collect(),
                look: Look::Colour(i),
            })
            .collect();
        if !series.is_empty() {
            let chart = LineChart {
                title: "Waiting for the first token: 95 of 100 wait less".into(),
                note: self.caption.clone(),
                x: Axis::linear("requests a second", Unit::Number),
                y: Axis::linear("seconds to the first token", Unit::Number),
                series,
                levels: Vec::new(),
            };
            plots.push(("first-token.svg".into(), chart.to_svg()?));
        }
        Ok(plots)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn tables_are_the_same_in_a_terminal_and_on_a_page() {
        let cells = |cells: [&str; 2]| cells.map(String::from).to_vec();
        let table =
            Table { header: cells(["server", "held"]), rows: vec![cells(["ours", "9"]), cells(["theirs", "2"])] };
        assert_eq!(table.markdown(), "| server | held |\n| --- | ---: |\n| ours | 9 |\n| theirs | 2 |\n");
        assert_eq!(table.text().lines().last().unwrap_or_default(), "theirs     2");
    }
}
