//! Tests that the commands and pieces of code which the documentation shows are ones that there are.

#[path = "../../tests/command/pages.rs"]
mod pages;

use super::Cli;
use clap::Parser as _;
use pages::{blocks, commands, fenced, page, root};
use std::path::Path;

/// Every page that shows commands: those at the root, and everything below docs.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(String::from).to_vec();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of pages") {
            let path = entry.expect("an entry").path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "md" => {
                    let name = path.strip_prefix(root()).expect("below the root");
                    pages.push(name.to_str().expect("a plain name").to_owned());
                }
                _ => {}
            }
        }
    }
    pages
}

fn after<'a>(words: &'a [String], flags: &[&str]) -> Option<&'a str> {
    words.iter().position(|word| flags.contains(&&**word)).and_then(|at| words.get(at + 1)).map(String::as_str)
}

#[test]
fn every_command_in_the_documentation_is_understood() {
    chelsea_baselines::register();
    let chores = std::fs::read_to_string(root().join("xtask/src/main.rs")).expect("the chores");
    let mut seen = 0;
    for name in pages() {
        for block in blocks(&name) {
            for words in commands(&block.text) {
                seen += 1;
                let place = format!("{}: {}", block.place, words.join(" "));
                match &*words[0] {
                    "chelsea" => {
                        // A file of settings names the model.
                        let model = words.iter().any(|word| word == "--config").then(|| "--model=x".to_owned());
                        if let Err(error) = Cli::try_parse_from(words.iter().chain(&model)) {
                            assert!(!error.use_stderr(), "{place}\n{error}");
                        }
                    }
                    "cargo" if words[1] == "xtask" => {
                        let chore: String = words[2].split('-').map(capital).collect();
                        assert!(chores.contains(&format!("    {chore}")), "{place}: there is no such chore");
                    }
                    "cargo" => {
                        let Some(package) = after(&words, &["-p", "--package"]) else { continue };
                        if package == "CRATE" {
                            continue;
                        }
                        let folder = root().join("crates").join(package);
                        assert!(folder.is_dir(), "{place}: there is no such crate");
                        if let Some(example) = after(&words, &["--example"]) {
                            let file = folder.join("examples").join(example).with_extension("rs");
                            assert!(file.is_file(), "{place}: there is no such example");
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(seen > 40, "only {seen} commands were found");
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

#[test]
fn code_in_the_guide_is_code_of_the_examples() {
    let guide = page("docs/guide.md");
    let code = fenced("docs/guide.md", &guide, "rust");
    assert!(code.len() > 1);
    for (place, comment, text) in code {
        let file = comment
            .and_then(|comment| comment.strip_prefix("from: "))
            .unwrap_or_else(|| panic!("{place}: from where?"));
        let whole =
            std::fs::read_to_string(root().join(Path::new(file))).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert!(whole.contains(&text), "{place}: {file} has no such lines");
    }
}

#[test]
fn words_of_a_command_are_those_of_a_shell() {
    let words = commands("cat a | chelsea run -p \"Who is it?\" -n 3 > b  # a comment\nchelsea \\\n  models\n");
    assert_eq!(
        words,
        [vec!["cat", "a"], vec!["chelsea", "run", "-p", "Who is it?", "-n", "3"], vec!["b"], vec!["chelsea", "models"]]
    );
}
