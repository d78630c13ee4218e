//! What a machine has to compute with, and what is said where there is no GPU.

use crate::support::{chelsea, error, json};
use serde_json::Value;

#[test]
fn the_devices_of_this_machine_are_listed_or_it_is_said_why_not() {
    let devices = json(&["inspect", "--devices", "--json"]);
    let devices = devices.as_array().unwrap();
    assert_eq!(devices[0]["device"], "cpu");
    assert!(devices.len() >= 2, "a GPU, or why there is none");
    let lines = |device: &Value| device["state"].as_str().unwrap().lines().count();
    assert!(devices.iter().all(|device| lines(device) == 1));
    let table = String::from_utf8(chelsea(&["inspect", "--devices"]).stdout).unwrap();
    assert!(table.contains("cpu") && table.contains("cuda"), "{table}");
}

#[test]
fn a_gpu_that_is_named_and_not_there_is_an_error_of_one_line() {
    let said = error(&["bench", "-m", "random:tiny", "--device", "cuda:99"]);
    assert!(said.starts_with("error: --device cuda:99: ") && said.trim_end().lines().count() == 1, "{said}");
    let exact = error(&["bench", "-m", "random:tiny", "--device", "cuda:0", "--products", "f32"]);
    assert!(exact.contains("--products f32") || exact.contains("cuda:0"), "{exact}");
    assert!(error(&["bench", "-m", "random:tiny", "--device", "gpu"]).contains("auto, cpu, cuda"));
}

#[test]
fn nothing_is_said_where_the_cpu_is_asked_for() {
    let args =
        ["bench", "-v", "-m", "random:tiny", "--depths", "64", "--prefill", "8", "--decode", "2", "--trials", "1"];
    let said = |device: &str| {
        let out = chelsea(&[&args[..], &["--device", device]].concat());
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(!said("cpu").contains("running on"));
    // One line says where it runs, or why not on a GPU.
    assert_eq!(said("auto").matches("running on").count(), 1);
}
