//! The commands that README.md and docs/guide.md show, run as they are written.

use crate::pages::{blocks, root};
use crate::small;
use crate::support::{essays, model};
use std::path::Path;
use std::process::Command;

const PAGES: [&str; 2] = ["README.md", "docs/guide.md"];

/// Runs all quick blocks of a page, one after the other, in a folder that holds the documents they speak of.
fn run(page: &str, folder: &Path, report: &str, home: &Path) {
    std::fs::write(folder.join("report.txt"), report).unwrap();
    std::fs::copy(root().join("LICENSE-APACHE"), folder.join("LICENSE-APACHE")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_chelsea")).parent().unwrap();
    let found = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([program.to_owned()].into_iter().chain(std::env::split_paths(&found))).unwrap();
    let quick: Vec<_> = blocks(page).into_iter().filter(|block| block.quick).collect();
    assert!(quick.len() > 1, "{page} has commands that are run");
    for block in quick {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &block.text]).current_dir(folder).env("PATH", &path);
        // Nothing is to be downloaded.
        shell.env("CHELSEA_HOME", home).env("HF_HUB_OFFLINE", "1");
        let out = shell.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}:\n{}\n{said}", block.place, block.text);
        // That a folder stands in for a model is said, and nothing else is to be warned of.
        let warned = said.lines().any(|line| line.contains("WARN") && !line.contains("taking the folder"));
        assert!(!warned, "{}:\n{}\n{said}", block.place, block.text);
    }
}

#[test]
fn quick_commands_of_the_pages_run_as_written() {
    for page in PAGES {
        let folder = tempfile::tempdir().unwrap();
        // A folder is found before a short name: random weights stand in for the models.
        let random = small::model(folder.path());
        for name in ["smollm2", "qwen2.5-coder-0.5b"] {
            let stand_in = folder.path().join(name);
            std::fs::create_dir(&stand_in).unwrap();
            for file in std::fs::read_dir(&random).unwrap().map(|file| file.unwrap()) {
                std::fs::copy(file.path(), stand_in.join(file.file_name())).unwrap();
            }
        }
        run(page, folder.path(), &"The report was written by a cat. ".repeat(100), &folder.path().join("home"));
    }
}

#[test]
#[ignore = "needs models"]
fn quick_commands_of_the_pages_run_on_the_models_they_name() {
    // `cargo xtask test` names the folder below Chelsea's own in which models with short names lie.
    let models = model();
    let home = models.parent().and_then(Path::parent).unwrap().to_owned();
    for page in PAGES {
        let folder = tempfile::tempdir().unwrap();
        run(page, folder.path(), &essays(8000), &home);
    }
}
