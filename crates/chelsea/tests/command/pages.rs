//! The commands in the pages of the documentation, as the tests need them: those of the command line's parser and those that
//! run them share this file.
//!
//! A block of shell commands is fenced with ```` ```sh ````. What the comment above it says is done with it:
//! `<!-- test: quick -->` has it run as it stands, anything else has its flags checked.

#![allow(dead_code)] // each of the two uses a part of it

use std::path::{Path, PathBuf};

/// A block of commands.
#[derive(Debug)]
pub struct Block {
    /// The page and the line that the block begins at, for messages.
    pub place: String,
    /// Whether it is to be run.
    pub quick: bool,
    /// Its lines as they stand.
    pub text: String,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The contents of a page, named from the root.
pub fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a page that are fenced as `language`, each with the comment above it, if there is one.
pub fn fenced<'a>(name: &str, page: &'a str, language: &str) -> Vec<(String, Option<&'a str>, String)> {
    let (mut blocks, mut comment, mut open) = (Vec::new(), None, None::<(String, Option<&str>, String)>);
    for (number, line) in page.lines().enumerate() {
        match open.take() {
            Some(block) if line.trim() == "```" => blocks.push(block),
            Some((place, comment, text)) => open = Some((place, comment, text + line + "\n")),
            None if line.trim().strip_prefix("```") == Some(language) => {
                open = Some((format!("{name}:{}", number + 1), comment, String::new()));
            }
            None => {}
        }
        comment = line.trim().strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
    }
    assert!(open.is_none(), "{name}: a block is not closed");
    blocks
}

/// The blocks of shell commands of a page.
pub fn blocks(name: &str) -> Vec<Block> {
    let block = |(place, comment, text)| Block { place, quick: comment == Some("test: quick"), text };
    fenced(name, &page(name), "sh").into_iter().map(block).collect()
}

/// The commands of a block as words, those of a pipe apart, without comments and redirections.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let mut words: Vec<String> = Vec::new();
        let mut letters = line.chars().peekable();
        while let Some(&first) = letters.peek() {
            match first {
                ' ' => drop(letters.next()),
                '#' => break,
                '|' | '>' => {
                    commands.push(std::mem::take(&mut words));
                    letters.next();
                }
                _ => words.push(word(&mut letters)),
            }
        }
        commands.push(words);
    }
    commands.retain(|words| !words.is_empty());
    commands
}

/// The next word, without its quotes.
fn word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let (mut word, mut quote) = (String::new(), None);
    while let Some(&letter) = letters.peek() {
        match quote {
            Some(mark) if letter == mark => quote = None,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None if letter == ' ' => break,
            _ => word.push(letter),
        }
        letters.next();
    }
    word
}
