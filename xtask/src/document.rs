//! The text that the demonstration and the comparison read: essays with a few made-up facts between their paragraphs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::target_dir;

/// A fact to plant, the question for it, and the word that a right answer holds.
pub struct Fact {
    pub text: &'static str,
    pub question: &'static str,
    pub answer: &'static str,
}

/// Chosen mostly because the small model finds them with the full cache: a demonstration, no recall rate.
pub const FACTS: &[Fact] = &[
    Fact {
        text: "The special magic number for Lisbon is 4839201.",
        question: "What is the special magic number for Lisbon?",
        answer: "4839201",
    },
    Fact {
        text: "Professor Brenner hid the spare key under the blue flowerpot.",
        question: "Where did Professor Brenner hide the spare key?",
        answer: "flowerpot",
    },
    Fact {
        text: "The winning horse of the spring derby was named Tangerine Thunder.",
        question: "What was the name of the winning horse of the spring derby?",
        answer: "Tangerine Thunder",
    },
    Fact {
        text: "In the village of Quenby the bakery opens at 5:40 in the morning.",
        question: "When does the bakery in the village of Quenby open?",
        answer: "5:40",
    },
    Fact {
        text: "The treaty of Valmora was signed in the year 1746.",
        question: "In which year was the treaty of Valmora signed?",
        answer: "1746",
    },
];

/// Writes a text of about `chars` characters of `essays` to `NAME/document.txt` below the folder that cargo builds into, and returns
/// its path.
pub fn written(name: &str, essays: &Path, chars: usize) -> Result<PathBuf> {
    let folder = target_dir().join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("document.txt");
    fs::write(&path, document(essays, chars)?).with_context(|| path.display().to_string())?;
    eprintln!("\nThe text with {} facts planted in it: {}", FACTS.len(), path.display());
    Ok(path)
}

/// Essays of `folder` up to about `chars` characters, with the facts spread evenly between paragraphs.
fn document(folder: &Path, chars: usize) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut paragraphs = Vec::new();
    let mut length = 0;
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for paragraph in text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
            if length >= chars {
                break;
            }
            length += paragraph.len();
            paragraphs.push(paragraph.replace('\n', " "));
        }
    }
    ensure!(paragraphs.len() > FACTS.len(), "the text in {} is too short", folder.display());
    let step = length / (FACTS.len() + 1);
    let (mut text, mut planted) = (String::new(), 0);
    for paragraph in &paragraphs {
        if planted < FACTS.len() && text.len() >= (planted + 1) * step {
            text += FACTS[planted].text;
            text += "\n\n";
            planted += 1;
        }
        text += paragraph;
        text += "\n\n";
    }
    if planted < FACTS.len() {
        bail!("only {planted} facts found a place");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_spread_over_the_text() {
        let folder = std::env::temp_dir().join(format!("chelsea-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        let essay: Vec<String> = (0..200).map(|i| format!("Paragraph {i} says little.")).collect();
        fs::write(folder.join("a.txt"), essay.join("\n\n")).expect("written");
        let text = document(&folder, 4_000).expect("made");
        fs::remove_dir_all(&folder).expect("removed");
        let places: Vec<usize> = FACTS.iter().map(|f| text.find(f.text).expect("planted")).collect();
        assert!(places.windows(2).all(|w| w[1] - w[0] > 500), "{places:?}");
        assert!(text.ends_with("says little.\n\n"));
    }
}
