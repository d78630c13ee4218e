//! Runs that are stopped from outside: Ctrl-C while reading and while answering, a reader that leaves, a disk that is full.

use crate::small;
use crate::support::{essays, interrupt, model};
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn start(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_chelsea"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the process watches for Ctrl-C; before that the signal just ends it, as it should.
fn wait_until_it_listens(child: &Child) {
    const SIGINT: u32 = 2;
    for _ in 0..600 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() >> (SIGINT - 1) & 1 == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the command never watched for Ctrl-C");
}

fn ended_by_ctrl_c(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(out.status.code(), Some(130), "{said}");
    said
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs models"]
fn ctrl_c_while_reading_prints_what_there_is_and_saves_nothing() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let doc = folder.path().join("doc.txt");
    std::fs::write(&doc, essays(33_000)).unwrap();
    let saved = folder.path().join("doc.kv");
    let [model, doc, saved] = [&model, &doc, &saved].map(|path| path.to_str().unwrap());
    let child = start(&[
        "run",
        "-m",
        model,
        "-f",
        doc,
        "-p",
        "Why?",
        "--json",
        "--threads",
        "1",
        "--block",
        "64",
        "--save-cache",
        saved,
    ]);
    wait_until_it_listens(&child);
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    ended_by_ctrl_c(&out);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["cancelled"], true);
    assert_eq!(report["answers"].as_array().unwrap().len(), 0, "{report}");
    assert!(report["kv_tokens"].as_u64().unwrap() < 7000, "{report}");
    assert_eq!(names(folder.path()), ["doc.txt"], "half a document is not saved");
}

#[test]
fn ctrl_c_while_reading_without_a_question_says_that_nothing_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let out = interrupted_reading(folder.path(), &["run", "--save-cache", "doc.kv"]);
    let said = ended_by_ctrl_c(&out);
    assert!(said.contains("stopped after") && said.contains("nothing was written to"), "{said}");
    assert_eq!(names(folder.path()), ["doc.txt", "model"]);
    std::fs::remove_dir_all(folder.path().join("model")).unwrap();
    let out = interrupted_reading(folder.path(), &["run", "--save-cache", "doc.kv", "--json"]);
    ended_by_ctrl_c(&out);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["cancelled"], true);
}

/// A verb on the small model and a text that takes it long, stopped in the middle.
fn interrupted_reading(folder: &Path, verb: &[&str]) -> Output {
    let model = small::model(folder);
    std::fs::write(folder.join("doc.txt"), "The cat sat. ".repeat(60_000)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_chelsea"))
        .args(verb)
        .args(["-m", &model, "-f", "doc.txt", "--threads", "1", "--block", "64"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_listens(&child);
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    child.wait_with_output().unwrap()
}

#[test]
#[ignore = "needs models"]
fn ctrl_c_while_answering_keeps_what_was_said_and_prints_the_table() {
    let model = model();
    let count = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,";
    let mut child = start(&[
        "run",
        "-m",
        model.to_str().unwrap(),
        "--no-chat-template",
        "-p",
        count,
        "-n",
        "7000",
        "--ctx",
        "8192",
    ]);
    let mut first = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let said = ended_by_ctrl_c(&out);
    assert!(said.contains("decode") && said.contains("tokens/s"), "{said}");
    let text = [&first[..], &out.stdout].concat();
    assert!(std::str::from_utf8(&text).unwrap().contains("15"), "{text:?}");
}

#[test]
fn ctrl_c_while_a_cache_is_built_writes_nothing_and_exits_as_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let out = interrupted_reading(folder.path(), &["cache", "build", "-o", "doc.kv"]);
    let said = ended_by_ctrl_c(&out);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(names(folder.path()), ["doc.txt", "model"]);
}

#[test]
fn ctrl_c_while_measuring_keeps_what_was_measured() {
    // One after the other, and more of them than anybody would wait for.
    let depths = ["64"; 20_000].join(",");
    let small =
        ["bench", "-m", "random:tiny", "--what", "batch", "--batches", "1", "--keeps", "1", "--depths", &depths];
    let short = ["--decode", "16", "--trials", "1", "--json", "--threads", "1"];
    let measured = |seconds| {
        let child = start(&[&small[..], &short].concat());
        wait_until_it_listens(&child);
        std::thread::sleep(Duration::from_secs(seconds));
        interrupt(&child);
        let out = child.wait_with_output().unwrap();
        ended_by_ctrl_c(&out);
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["cancelled"], true);
        report["batch"].as_array().unwrap().len()
    };
    // A slow machine may have measured nothing yet.
    let rows = [3, 12, 48].into_iter().map(measured).find(|&rows| rows > 0);
    assert!(rows.is_some_and(|rows| rows < 20_000), "{rows:?} rows");
}

/// What is left to say goes nowhere, and that is no error.
#[test]
fn a_reader_that_leaves_ends_the_command_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let model = small::model(folder.path());
    let answers = ["run", "-m", &model, "-p", "Why?", "-p", "Who?", "-n", "20", "--threads", "1"];
    let lists: [&[&str]; 3] = [&["models"], &["completions", "zsh"], &["inspect", &model, "--json"]];
    for args in lists.into_iter().chain([&answers[..]]) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_chelsea"));
        let out = command.args(args).stdin(Stdio::null()).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), said.as_ref()), (Some(0), ""), "{args:?}");
    }
}

/// A limit on the size of files refuses the write in the middle, as a full disk does.
#[test]
#[ignore = "needs models"]
fn a_disk_that_is_full_costs_the_file_but_not_the_answer() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let doc = folder.path().join("doc.txt");
    std::fs::write(&doc, essays(4000)).unwrap();
    let saved = folder.path().join("doc.kv");
    std::fs::write(&saved, "an earlier cache").unwrap();
    let [model, doc, file] = [&model, &doc, &saved].map(|path| path.to_str().unwrap());
    let run = "trap '' XFSZ; ulimit -f 512; exec \"$@\"";
    let out = Command::new("bash")
        .args(["-c", run, "bash", env!("CARGO_BIN_EXE_chelsea")])
        .args(["run", "-m", model, "-f", doc, "-p", "What is this about?", "-n", "8", "--save-cache", file])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot save the cache to") && said.contains("doc.kv"), "{said}");
    assert!(!out.stdout.is_empty(), "the question is answered all the same");
    assert_eq!(names(folder.path()), ["doc.kv", "doc.txt"], "nothing half-written is left");
    assert_eq!(std::fs::read_to_string(&saved).unwrap(), "an earlier cache");
}
