//! What people look at: aligned tables, sizes, progress bars.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use unicode_width::UnicodeWidthStr;

/// A table whose columns line up; the first column is left-aligned, the others right-aligned unless said.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    rule_after_first: bool,
    left: Vec<usize>,
}

impl Table {
    /// A table with a heading.
    pub fn with_heading<S: Into<String>>(heading: impl IntoIterator<Item = S>) -> Self {
        Table { rows: vec![heading.into_iter().map(Into::into).collect()], rule_after_first: true, left: Vec::new() }
    }

    /// Aligns one more column to the left.
    pub fn left(mut self, column: usize) -> Self {
        self.left.push(column);
        self
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// Prints the table to standard output. Where that is a terminal, texts of the last column that are too long for it go
    /// on below themselves.
    pub fn print(&self) {
        print!("{}", self.render_within(terminal_width()));
    }

    /// The table as text, one line per row.
    pub fn render(&self) -> String {
        self.render_within(None)
    }

    /// The same, with the last column broken at spaces where lines would be longer than `width`, if it is one of text.
    fn render_within(&self, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(cell.width());
            }
        }
        let last = columns.saturating_sub(1);
        let before = widths.iter().take(last).map(|w| w + 2).sum::<usize>();
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(before).max(LEAST_TEXT));
        let wraps = (last == 0 || self.left.contains(&last)) && widths.last().is_some_and(|&w| w > room);
        if wraps {
            widths[last] = room;
        }
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            let mut below = Vec::new();
            for (j, cell) in row.iter().enumerate() {
                let mut lines = if wraps && j == last { wrapped(cell, room) } else { vec![cell.clone()] };
                below = lines.split_off(1);
                let cell = &lines[0];
                let pad = " ".repeat(widths[j].saturating_sub(cell.width()));
                if j > 0 {
                    line.push_str("  ");
                }
                line.push_str(&if j == 0 || self.left.contains(&j) {
                    format!("{cell}{pad}")
                } else {
                    format!("{pad}{cell}")
                });
            }
            out.push_str(line.trim_end());
            out.push('\n');
            for text in below {
                let _ = writeln!(out, "{}{text}", " ".repeat(before));
            }
            if i == 0 && self.rule_after_first {
                let _ = writeln!(out, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (columns.saturating_sub(1))));
            }
        }
        out
    }
}

/// Least room for a last column of text: on a terminal that is narrower still, lines break where they may.
const LEAST_TEXT: usize = 24;

/// A text as lines of at most `width` columns, broken at spaces; at least one line. A longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.width() + 1 + word.width() <= width);
        match line {
            Some(line) => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<usize> {
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
    }
    #[cfg(not(unix))]
    None
}

/// Bytes as people read them.
pub fn bytes(n: usize) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..0x10_0000 => format!("{:.1} KiB", n as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", n as f64 / (1u64 << 20) as f64),
        _ => format!("{:.2} GiB", n as f64 / (1u64 << 30) as f64),
    }
}

/// A share as a percentage; a dash where there is no whole.
pub fn percent(part: usize, whole: usize) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

/// The middle value, or the mean of the two middle ones; `None` if there are no values.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let &upper = values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// An error with its causes in one line. What a cause says that was said already is not said twice: many errors name
/// their cause and have it, too.
pub fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, "{}{cause}", if text.is_empty() { "" } else { ": " });
        }
    }
    text
}

/// Whether what is said on stderr may have colours.
pub fn colours() -> bool {
    let unwanted = |name, value: Option<&str>| {
        std::env::var_os(name).is_some_and(|now| value.map_or(!now.is_empty(), |value| now == value))
    };
    std::io::stderr().is_terminal() && !unwanted("NO_COLOR", None) && !unwanted("TERM", Some("dumb"))
}

/// A progress bar on stderr; silent when stderr is not a terminal or `quiet` is set.
pub fn bar(total: u64, what: &str, in_bytes: bool, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let template = if in_bytes {
        "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
    } else {
        "{msg} [{wide_bar}] {pos}/{len} tokens {rate} {eta}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let style = style.with_key("rate", rate);
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what.to_string());
    bar
}

/// Downloads shown as bars, one after the other; it ends the download when Ctrl-C was pressed.
pub struct Downloads {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Downloads {
    /// Shows bars on stderr unless `quiet`.
    pub fn new(quiet: bool) -> Self {
        Downloads { quiet, bar: None }
    }
}

impl chelsea_hub::Progress for Downloads {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        self.end();
        self.bar = Some(bar(total.unwrap_or(0), what, true, self.quiet));
    }

    fn advance(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&mut self, message: &str) {
        tracing::warn!("{message}");
    }

    fn cancelled(&self) -> bool {
        crate::signals::cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut t = Table::with_heading(["policy", "bytes"]);
        t.row(["full", "100 MiB"]).row(["chelsea", "20 MiB"]);
        assert_eq!(t.render(), "policy     bytes\n----------------\nfull     100 MiB\nchelsea   20 MiB\n");
    }

    #[test]
    fn a_last_column_of_text_goes_on_below_itself_where_a_terminal_is_narrow() {
        let mut t = Table::with_heading(["name", "what it does"]).left(1);
        t.row(["a", "keep the entries that the last queries attend to"]).row(["bc", "short"]);
        let expected = "name  what it does\n------------------------------\na     keep the entries that\n      the last queries attend\n      to\nbc    short\n";
        assert_eq!(t.render_within(Some(30)), expected);
        assert_eq!(t.render_within(Some(200)), t.render());
        // Figures are not broken.
        let mut t = Table::with_heading(["name", "bytes"]);
        t.row(["a", "100 MiB of 200 MiB of 300 MiB"]);
        assert_eq!(t.render_within(Some(20)), t.render());
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 20), "5.0 MiB");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
        assert_eq!(percent(1, 4), "25.0%");
        assert_eq!(percent(1, 0), "-");
    }

    #[test]
    fn an_error_says_each_of_its_causes_once() {
        let cause = std::io::Error::other("the disk is gone");
        let error = anyhow::Error::new(cause).context("cannot read a.txt: the disk is gone").context("cannot go on");
        assert_eq!(error_text(&error), "cannot go on: cannot read a.txt: the disk is gone");
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(error_text(&error), "outer: inner");
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }
}
