//! A report as blocks, and the blocks as Markdown and as one HTML page.

/// A part of a report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    /// A heading of level 1, 2 or 3.
    Heading(u8, String),
    /// A paragraph.
    Text(String),
    /// A table; the first column is text, the others are figures.
    Table {
        /// Names of the columns.
        head: Vec<String>,
        /// Rows.
        rows: Vec<Vec<String>>,
    },
    /// A plot.
    Plot {
        /// Its file's name, without the ending.
        name: String,
        /// What it shows.
        about: String,
        /// The drawing.
        svg: String,
    },
}

/// The folder of the drawings that the Markdown shows.
pub(super) const PLOTS: &str = "plots";

/// The blocks as Markdown.
pub(super) fn markdown(blocks: &[Block]) -> String {
    let cell = |text: &String| text.replace('|', "\\|");
    let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
    let mut out = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, text) => out += &format!("{} {text}\n\n", "#".repeat(usize::from(*level))),
            Block::Text(text) => out += &format!("{text}\n\n"),
            Block::Table { head, rows } => {
                out += &line(head);
                out += &format!("|---{}|\n", "|---:".repeat(head.len().saturating_sub(1)));
                rows.iter().for_each(|row| out += &line(row));
                out.push('\n');
            }
            Block::Plot { name, about, .. } => out += &format!("![{about}]({PLOTS}/{name}.svg)\n\n"),
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// Tables that are wider than a telephone are moved sideways on their own, with the names of rows in sight.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #212529; --paper: #fff; --line: #dee2e6; --rule: #868e96; --row: #f1f3f5; }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6e9ec; --paper: #14171c; --line: #2e343c; --rule: #6e767e; --row: #1f242b; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1200px; \
margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 0.75rem; }
p { max-width: 48rem; }
.table { overflow-x: auto; margin: 1rem 0; }
figure { margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid var(--rule); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody tr:hover td { background: var(--row); }
figure svg { width: 100%; max-width: 860px; height: auto; }
@media (max-width: 600px) {
body { margin: 1rem auto; }
h1 { font-size: 1.6rem; }
table { font-size: 12px; }
td:first-child { white-space: normal; min-width: 6rem; }
}
";

/// The blocks as a page that needs no other file.
pub(super) fn html(title: &str, blocks: &[Block]) -> String {
    let mut body = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, text) => body += &format!("<h{level}>{}</h{level}>\n", escape(text)),
            Block::Text(text) => body += &format!("<p>{}</p>\n", escape(text)),
            Block::Table { head, rows } => {
                let cells = |tag: &str, row: &[String]| -> String {
                    row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect()
                };
                let rows: String = rows.iter().map(|r| format!("<tr>{}</tr>\n", cells("td", r))).collect();
                body += &format!(
                    "<div class=\"table\"><table><thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
                    cells("th", head)
                );
            }
            Block::Plot { about, svg, .. } => {
                // Inside a page the drawing needs no declaration of its own.
                let svg = svg.find("<svg").map_or(svg.as_str(), |at| &svg[at..]);
                body += &format!("<figure role=\"img\" aria-label=\"{}\">\n{svg}\n</figure>\n", escape(about));
            }
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Block> {
        let cells = |row: &[&str]| row.iter().map(|c| (*c).to_owned()).collect();
        vec![
            Block::Heading(1, "A <b>".into()),
            Block::Table { head: cells(&["x", "y"]), rows: vec![cells(&["a|b", "1 < 2"])] },
            Block::Plot { name: "p".into(), about: "it \"is\"".into(), svg: "<?xml?><svg>1</svg>".into() },
            Block::Text("End & all".into()),
        ]
    }

    #[test]
    fn markdown_has_a_rule_below_the_head_and_names_the_plots() {
        let text = markdown(&blocks());
        assert!(text.contains("| x | y |\n|---|---:|\n| a\\|b | 1 < 2 |\n"), "{text}");
        assert!(text.contains("(plots/p.svg)") && text.ends_with("End & all\n"), "{text}");
    }

    #[test]
    fn html_is_escaped_and_holds_the_drawings() {
        let page = html("T & t", &blocks());
        assert!(page.contains("<title>T &amp; t</title>") && page.contains("<h1>A &lt;b&gt;</h1>"));
        assert!(page.contains("<td>1 &lt; 2</td>") && page.contains("<svg>1</svg>") && !page.contains("<?xml"));
        assert!(page.contains("aria-label=\"it &quot;is&quot;\""));
    }
}
