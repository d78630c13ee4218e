//! Modules of this crate point one way: no circle, and the order that `lib.rs` gives.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up, as the list in `lib.rs`.
const ORDER: [&str; 10] =
    ["files", "config", "arch", "error", "checkpoint", "text", "blocks", "device", "model", "forward"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file without comments and without its tests, which may use the whole crate.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Identifiers that follow `prefix` in `code`, also those in the braces of a `use`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let identifier = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        // `super::` is no part of `super::super::`, nor `crate::` of another word.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split('}').next().unwrap().split(',').map(|name| identifier(name.trim()))),
            None => {
                names.insert(identifier(rest));
            }
        }
    }
    names
}

/// A way from a module back to itself.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(at: &str, way: &mut Vec<String>, edges: &BTreeMap<String, BTreeSet<String>>) -> bool {
        if way.iter().any(|seen| seen == at) {
            way.push(at.to_owned());
            return true;
        }
        way.push(at.to_owned());
        if edges.get(at).into_iter().flatten().any(|next| visit(next, way, edges)) {
            return true;
        }
        way.pop();
        false
    }
    edges.keys().find_map(|start| {
        let mut way = Vec::new();
        visit(start, &mut way, edges).then_some(way)
    })
}

#[test]
fn modules_of_the_crate_use_only_what_is_below_them() {
    let lib = code(&source().join("lib.rs"));
    // What the crate shows by another path than its module: `gguf` is in `files`, `Config` in `config`.
    let mut home: BTreeMap<String, String> = ORDER.map(|name| (name.to_owned(), name.to_owned())).into();
    for module in ORDER {
        for name in names_after(&lib, &format!("pub use {module}::")) {
            home.insert(name, module.to_owned());
        }
    }
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let mut seen = BTreeSet::new();
    for path in files {
        let inside = path.strip_prefix(source()).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let rank = |name: &str| ORDER.iter().position(|known| *known == name);
        let own = rank(&module).unwrap_or_else(|| panic!("`{module}` is not in the order of modules"));
        for name in names_after(&code(&path), "crate::") {
            let target = home.get(&name).unwrap_or_else(|| panic!("{}: what is crate::{name}?", inside.display()));
            assert!(rank(target) <= Some(own), "{} uses `{target}`, which is above it", inside.display());
        }
        seen.insert(module);
    }
    assert_eq!(seen.len(), ORDER.len(), "{seen:?}");
}

#[test]
fn neighbours_in_a_folder_form_no_circle() {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let mut folders: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        folders.entry(path.parent().unwrap().to_owned()).or_default().push(path);
    }
    let mut edges_seen = 0;
    for (folder, files) in folders.iter().filter(|(folder, _)| **folder != source()) {
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let neighbours: BTreeSet<String> = files.iter().map(|path| stem(path)).filter(|name| name != "mod").collect();
        let within = folder.strip_prefix(source()).unwrap().to_str().unwrap().replace('/', "::");
        let mut edges = BTreeMap::new();
        for path in files.iter().filter(|path| stem(path) != "mod") {
            let code = code(path);
            let mut used = names_after(&code, "super::");
            used.extend(names_after(&code, &format!("crate::{within}::")));
            used.retain(|name| neighbours.contains(name) && *name != stem(path));
            edges_seen += used.len();
            edges.insert(stem(path), used);
        }
        assert_eq!(circle(&edges), None, "in {}", folder.display());
    }
    assert!(edges_seen > 20, "only {edges_seen} uses were found");
}

#[test]
fn circles_are_found() {
    let edges = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        edges
    };
    assert_eq!(circle(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert!(circle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])).is_some());
    let names =
        names_after("use crate::a::B;\nuse crate::{c::D, e};\nlet x = crate::f::g(); other_crate::h", "crate::");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "c", "e", "f"]);
}
