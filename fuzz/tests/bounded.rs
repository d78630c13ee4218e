//! The corpus and a bounded number of its mutations, the same ones every time.

use chelsea_fuzz::runner::corpus;
use chelsea_fuzz::{Limits, TARGETS, Target, memory, run, targets};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn stands(name: &str, runs: u64) {
    let scratch = tempfile::tempdir().expect("a folder");
    let target = targets::by_name(name).expect("a target");
    match run(target, runs, 1, Limits::default(), scratch.path()) {
        Ok(tally) => assert!(tally.accepted > 0, "no input was valid: the inner parts are never reached"),
        Err(found) => panic!("{} (the input is {})", found.what, scratch.keep().join(found.path).display()),
    }
}

#[test]
fn the_gguf_reader_stands_mutated_files() {
    stands("gguf", 3_000);
}

#[test]
fn the_safetensors_reader_stands_mutated_files() {
    stands("safetensors", 2_000);
}

#[test]
fn the_config_reader_stands_mutated_files() {
    stands("config", 5_000);
}

#[test]
fn the_tokenizer_reader_stands_mutated_files() {
    stands("tokenizer", 2_000);
}

#[test]
fn the_snapshot_reader_stands_mutated_files() {
    stands("snapshot", 3_000);
}

#[test]
fn the_reader_of_caches_that_are_handed_over_stands_mutated_streams() {
    stands("handover", 3_000);
}

#[test]
fn every_seed_marked_ok_is_valid_and_every_other_is_refused() {
    for target in TARGETS {
        for (path, bytes) in corpus(target).expect("a corpus") {
            let is_ok = path.file_stem().is_some_and(|name| name.to_string_lossy().starts_with("ok"));
            assert_eq!((target.run)(&bytes), is_ok, "{}", path.display());
        }
    }
}

#[test]
fn a_target_that_panics_or_takes_too_much_is_found() {
    let scratch = tempfile::tempdir().expect("a folder");
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    let panics = Target { name: "gguf", run: |_| panic!("on purpose") };
    let found = run(&panics, 0, 0, limits, scratch.path()).expect_err("it panics");
    assert!(found.what.contains("on purpose") && found.path.is_file(), "{found:?}");
    let greedy = Target { name: "gguf", run: |bytes| Vec::<u8>::with_capacity((2 << 20) + bytes.len()).is_empty() };
    let found = run(&greedy, 0, 0, limits, scratch.path()).expect_err("it takes two MiB");
    assert!(found.what.contains("bytes of memory"), "{found:?}");
}

#[test]
fn the_reader_of_samples_stands_mutated_files() {
    stands("samples", 5_000);
}

#[test]
fn the_reader_of_results_stands_mutated_files() {
    stands("results", 5_000);
}
