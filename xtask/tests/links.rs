//! Every link from one page of the repository to another leads somewhere: to a file that is there, and to a heading of it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Pages below a folder; what is built, foreign or hidden is left out.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = name.starts_with('.') || ["target", "corpus"].contains(&name);
        if path.is_symlink() || skipped {
            continue;
        }
        if path.is_dir() {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text outside of blocks of code, and without code in lines.
fn prose(text: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            let parts: Vec<&str> = line.split('`').collect();
            out.extend(parts.iter().step_by(2).copied());
            out.push('\n');
        }
    }
    out
}

/// Targets of `[text](target)` and `![text](target)`.
fn links(text: &str) -> Vec<String> {
    let parts = text.split("](").skip(1);
    parts.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.trim().to_owned()).collect()
}

/// A heading's anchor: lower case, blanks as hyphens, letters, digits, hyphens and underscores kept.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Anchors of a page; a heading that comes again has a number behind it.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut code = false;
    let mut all = HashSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        let Some((marks, heading)) = line.split_once(' ') else { continue };
        if code || marks.is_empty() || !marks.chars().all(|c| c == '#') {
            continue;
        }
        let name = anchor(heading);
        let times = seen.entry(name.clone()).or_default();
        all.insert(if *times == 0 { name } else { format!("{name}-{times}") });
        *times += 1;
    }
    all
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    pages(root, &mut all);
    assert!(all.len() > 5, "{all:?}");
    let mut broken = Vec::new();
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&prose(&text)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((&*link, None), |(file, h)| (file, Some(h)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let name = page.strip_prefix(root).unwrap().display();
            if !target.exists() {
                broken.push(format!("{name}: {link}: no such file"));
            } else if let Some(heading) = heading
                && !anchors(&std::fs::read_to_string(&target).unwrap_or_default()).contains(heading)
            {
                broken.push(format!("{name}: {link}: no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn headings_have_the_anchors_that_links_use() {
    let text = "# A title\n\n```sh\n# no heading\n```\n## Values in 4 bits (`--kv-type k8v4`)\n## A title\n";
    let expected = ["a-title", "values-in-4-bits---kv-type-k8v4", "a-title-1"].map(String::from);
    assert_eq!(anchors(text), HashSet::from(expected));
    assert_eq!(links(&prose("see [a](b.md#c), `[no](link)` and ![d](e.svg)")), ["b.md#c", "e.svg"]);
}
