//! Runs the command on the real small model, where the test environment has it.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Output};

/// The small model. Tests that call this are ignored unless they are asked for, as `cargo xtask test` does.
pub fn model() -> PathBuf {
    let path = folder("CHELSEA_TEST_MODELS", "with smollm2.gguf").join("smollm2.gguf");
    assert!(
        path.is_file(),
        "CHELSEA_TEST_MODELS is set, but there is no {}: `cargo xtask fetch smollm2`",
        path.display()
    );
    path
}

fn folder(variable: &str, holds: &str) -> PathBuf {
    let Some(folder) = std::env::var_os(variable) else {
        panic!("this test needs {variable}, a folder {holds}: `cargo xtask test` fetches it and sets the variable");
    };
    PathBuf::from(folder)
}

/// Real text, about `bytes` long.
pub fn essays(bytes: usize) -> String {
    let folder = folder("CHELSEA_TEST_ESSAYS", "of texts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut text = String::new();
    for file in files {
        text.push_str(&std::fs::read_to_string(file).unwrap());
        if text.len() >= bytes {
            break;
        }
    }
    let end = (0..=bytes.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap();
    text.truncate(end);
    text
}

/// Runs the command.
pub fn chelsea(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chelsea")).args(args).output().unwrap()
}

/// Runs the command and reads the one JSON object it prints.
pub fn json(args: &[&str]) -> Value {
    let out = chelsea(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("one JSON object on stdout")
}

/// Runs the command, expects it to fail, and returns what it says.
pub fn error(args: &[&str]) -> String {
    let out = chelsea(args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} should fail");
    assert!(!said.contains("panicked"), "{args:?} panicked: {said}");
    assert!(out.status.code().is_some(), "{args:?} was killed: {said}");
    said
}

/// By the shell's own `kill`: the program of that name is not everywhere.
pub fn interrupt(child: &Child) {
    let status = Command::new("sh").args(["-c", "kill -INT \"$1\"", "sh", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}
