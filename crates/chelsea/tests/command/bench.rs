//! `chelsea bench` on a model of random weights, which needs no file.

use crate::support::{chelsea, error, json};
use serde_json::Value;

const TINY: [&str; 7] = ["bench", "-m", "random:tiny", "--threads", "2", "--trials", "1"];

fn bench(more: &[&str]) -> Value {
    json(&[&TINY[..], &["--json"], more].concat())
}

fn refused(more: &[&str]) -> String {
    error(&[&["bench", "--json"], more].concat())
}

#[test]
fn every_measurement_has_rows_that_make_sense() {
    let out = bench(&[
        "--what",
        "depth,batch,mixed,end-to-end,attention,matching,split",
        "--depths",
        "600,1200",
        "--keeps",
        "1,0.3",
        "--kv-budgets",
        "256",
        "--prefill",
        "128",
        "--decode",
        "8",
        "--batches",
        "1,3",
        "--prompt",
        "700",
        "--generate",
        "9",
    ]);
    assert_eq!(out["machine"]["threads"], 2);
    let rows = |key: &str| out[key].as_array().unwrap_or_else(|| panic!("{key} in {out}")).clone();
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{v} is no number"));

    let depth = rows("depth");
    assert_eq!(depth.len(), 6);
    let entries: Vec<f64> = depth.iter().map(|row| number(&row["entries_a_head"])).collect();
    assert_eq!(entries, [600.0, 180.0, 256.0, 1200.0, 360.0, 256.0]);
    for row in &depth {
        let ms = &row["decode_ms"];
        assert!(number(&ms["min"]) > 0.0 && number(&ms["min"]) <= number(&ms["max"]));
        assert!(number(&row["prefill_tokens_per_s"]) > 0.0);
    }
    assert!(number(&depth[1]["kv_bytes"]) < 0.5 * number(&depth[0]["kv_bytes"]));

    let batch = rows("batch");
    assert_eq!(batch.iter().map(|row| number(&row["sequences"])).collect::<Vec<_>>(), [1.0, 3.0].repeat(6));
    assert_eq!(number(&batch[1]["kv_bytes"]), 3.0 * number(&batch[0]["kv_bytes"]), "no pages are shared");

    let mixed = rows("mixed");
    assert_eq!(mixed.iter().map(|row| number(&row["sequences"])).collect::<Vec<_>>(), [1.0, 3.0].repeat(6));
    for row in &mixed {
        let of = |key: &str| number(&row[key]["median"]);
        assert_eq!(row["chunk"], 128);
        assert!(of("decode_ms") > 0.0 && of("read_ms") > of("decode_ms"), "{row}");
        assert!((of("together_ms") / (of("decode_ms") + of("read_ms")) - number(&row["share"])).abs() < 1e-6, "{row}");
    }

    let whole = rows("end_to_end");
    assert_eq!(whole.len(), 3);
    for row in &whole {
        let of = |key: &str| number(&row[key]["median"]);
        assert!((of("total_s") - of("prefill_s") - of("decode_s")).abs() < 1e-6 * of("total_s") + 1e-6, "{row}");
        assert!(of("clustering_s") <= of("prefill_s"));
        assert_eq!(number(&row["prompt"]) + number(&row["generated"]), 709.0);
    }
    let full = number(&whole[0]["kv_bytes_full"]);
    let peaks: Vec<f64> = whole.iter().map(|row| number(&row["kv_bytes_peak"])).collect();
    assert!(peaks.iter().all(|&peak| peak >= 0.2 * full) && peaks[0] >= full, "{peaks:?} of {full}");
    // A prompt of little more than a block peaks at that block and the room to cluster it: the end tells.
    assert!(number(&whole[2]["kv_bytes"]) < number(&whole[0]["kv_bytes"]), "{whole:?}");
    assert_eq!(number(&whole[0]["clustering_s"]["max"]), 0.0, "a full cache is not clustered");

    let attention = &out["attention"];
    assert!(number(&attention["ram_gb_per_s"]["median"]) > 0.1);
    for row in attention["rows"].as_array().unwrap() {
        assert_eq!(row["queries"], 128);
        let (ms, bytes) = (number(&row["decode_ms"]["median"]), number(&row["bytes"]));
        assert!((number(&row["decode_gb_per_s"]) * ms * 1e6 / bytes - 1.0).abs() < 1e-6, "{row}");
    }

    let matching = rows("matching");
    assert_eq!(matching.len(), 4, "full caches are left out");
    for row in &matching {
        assert!((0.0..=1.0).contains(&number(&row["share_of_prefill"]["median"])), "{row}");
        assert!(number(&row["one_shot_us"]["median"]) > 0.0, "{row}");
    }

    let split = rows("split");
    assert_eq!(split.len(), 12);
    for row in &split {
        let parts: Vec<f64> = row["ms"].as_array().unwrap().iter().map(number).collect();
        assert!(parts.iter().all(|&ms| ms >= 0.0) && parts[0] > 0.0 && parts[2] > 0.0, "{row}");
        if row["budget"] == "100%" {
            assert_eq!(parts[4], 0.0, "a full cache is not clustered: {row}");
        } else {
            assert!(parts[4] > 0.0, "{row}");
        }
    }
}

#[test]
fn what_was_measured_is_printed_where_plots_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "a file").unwrap();
    let more = ["--json", "--depths", "256", "--prefill", "0", "--decode", "4", "--plots", taken.to_str().unwrap()];
    let out = chelsea(&[&TINY[..], &more].concat());
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("taken"));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["depth"].as_array().unwrap().len(), 2);
}

#[test]
fn tables_are_for_people_and_plots_are_whole_files() {
    let folder = tempfile::tempdir().unwrap();
    let plots = folder.path().join("plots");
    let more = ["--what", "depth,split", "--depths", "256,512", "--prefill", "0", "--decode", "4", "--plots"];
    let out = chelsea(&[&TINY[..], &more, &[plots.to_str().unwrap()]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    for wanted in ["random:tiny", "2 threads", "medians of 1 trials", "100%", "20%", "ratio", "attention", "1.00x"] {
        assert!(text.to_lowercase().contains(wanted), "{wanted} is not in\n{text}");
    }
    let mut files: Vec<_> =
        std::fs::read_dir(&plots).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["decode-time.svg", "memory.svg", "split-decode.svg"]);
    for file in files {
        let svg = std::fs::read_to_string(plots.join(file)).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }
}

#[test]
fn what_is_not_measured_needs_no_length_and_what_is_not_read_is_not_called_so() {
    let whole = ["--what", "end-to-end", "--prefill", "0", "--decode", "0", "--prompt", "40", "--generate", "2"];
    assert_eq!(bench(&whole)["end_to_end"][0]["generated"], 2);
    let filled = |what| {
        let short = ["--depths", "64", "--keeps", "1,0.9", "--prefill", "8", "--decode", "2", "--real", "--what", what];
        bench(&short)["filled"].as_str().unwrap().to_owned()
    };
    assert_eq!(filled("depth"), "random tokens read");
    for what in ["attention", "matching"] {
        assert!(filled(what).contains("random entries"), "{what}");
    }
}

#[test]
fn the_whole_file_counts_where_no_prompt_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let model = crate::small::model(folder.path());
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "x".repeat(5000)).unwrap();
    let file = file.to_str().unwrap();
    let read = ["--what", "end-to-end", "--file", file, "--keeps", "1", "--trials", "1", "--generate"];
    let of = |more: &[&'static str]| [&["bench", "-m", &model, "--json"], &read[..], more].concat();
    assert_eq!(json(&of(&["1"]))["end_to_end"][0]["prompt"], 5000);
    assert_eq!(json(&of(&["1", "--prompt", "100"]))["end_to_end"][0]["prompt"], 100);
    let said = error(&of(&["16775000"]));
    assert!(said.contains("16780000 tokens, beyond"), "{said}");
}

#[test]
fn a_model_that_does_not_exist_is_refused_with_those_that_do() {
    let said = refused(&["-m", "random:gpt-5"]);
    assert!(said.contains("no random model `gpt-5`") && said.contains("llama-3.2-1b"), "{said}");
    let said = refused(&["-m", "no/such/model.gguf"]);
    assert!(said.contains("no/such/model.gguf"), "{said}");
}

#[test]
fn depths_that_do_not_fit_are_refused_before_weights_are_drawn() {
    let start = std::time::Instant::now();
    let said = refused(&["-m", "random:llama-3.1-8b", "--depths", "8000000"]);
    if cfg!(target_os = "linux") {
        assert!(said.contains("of memory") && said.contains("are free"), "{said}");
        // Drawing eight billion weights takes many times longer.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
    let said = refused(&["-m", "random:tiny", "--depths", "20000000"]);
    assert!(said.contains("20000000") && said.contains("beyond the 16777216"), "{said}");
}

#[test]
fn settings_out_of_range_are_refused() {
    for (more, wanted) in [
        (&["--threads", "0"][..], "0 is not in 1..=1024"),
        (&["--keeps", "0"], "above 0 and at most 1"),
        (&["--keeps", "1,2"], "above 0 and at most 1"),
        (&["--kv-budgets", "10"], "too small"),
        (&["--prefill", "0", "--decode", "0"], "nothing to measure"),
        (&["--what", "speed"], "possible values"),
        (&["--what", "matching", "--keeps", "1"], "needs a keep ratio below 1"),
        (&["--what", "attention", "--depths", "0"], "needs a depth above 0"),
        (&["--what", "batch", "--decode", "0"], "--decode is 0"),
        (&["--what", "end-to-end", "--file", "x.txt"], "reads no text"),
        (&["--policy", "none"], "none"),
    ] {
        let said = refused(&[&["-m", "random:tiny"], more].concat());
        assert!(said.contains(wanted), "{more:?}: {said}");
    }
}
