//! `chelsea eval` on the real small model.

use crate::support::{chelsea, error, essays, interrupt, model};
use serde_json::{Value, json};
use std::path::Path;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    text(path).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn ok(args: &[&str]) -> (String, String) {
    let out = chelsea(args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {said}");
    (String::from_utf8(out.stdout).unwrap(), said)
}

#[test]
#[ignore = "needs models"]
fn a_killed_run_goes_on_without_losing_or_repeating_anything() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let results = folder.path().join("results.jsonl");
    let [model, hay, out] = [&model, &hay, &results].map(|p| p.to_str().unwrap());
    let command = [
        "eval",
        "needles",
        "-m",
        model,
        "--haystack",
        hay,
        "--samples",
        "2",
        "--tokens",
        "500",
        "--needles",
        "2",
        "--keeps",
        "1,0.5",
        "--policies",
        "chelsea,streaming",
        "--modes",
        "one-shot,online,turns",
        "--out",
        out,
    ];
    let (table, _) = ok(&command);
    let whole = text(&results);
    let measured = lines(&results);
    // Two samples; the full cache in two ways of asking, two policies in three modes.
    assert_eq!(measured.len(), 2 * (2 + 2 * 3));
    for line in &measured {
        let (kept, full) = (line["kv_bytes"].as_f64().unwrap(), line["kv_bytes_full"].as_f64().unwrap());
        let keep = line["keep"].as_f64().unwrap();
        // A short text over ragged heads: half a page a head is empty, and entries carry counts.
        assert!((kept / full - keep).abs() < 0.15, "{line}");
        assert_eq!(line["asked"].as_array().unwrap().len(), 2, "{line}");
        assert!(line["asked"][0]["nll"].as_f64().unwrap() >= 0.0);
    }
    let of = |policy: &str, mode: &str| {
        let found = measured.iter().find(|l| l["policy"] == policy && l["mode"] == mode);
        found.unwrap_or_else(|| panic!("{policy} {mode}"))["asked"].clone()
    };
    // The first question of a conversation is asked as one alone is.
    assert_eq!(of("chelsea", "turns")[0], of("chelsea", "one-shot")[0]);

    // A kill in the middle of a line.
    let cut = whole.trim_end().rfind('\n').unwrap() + 40;
    std::fs::write(&results, &whole[..cut]).unwrap();
    let (again, said) = ok(&command);
    assert!(said.contains("cut short") && said.contains("15 results were there"), "{said}");
    assert_eq!(again, table);
    let (before, after) = (measured, lines(&results));
    let without_time = |mut line: Value| {
        line["seconds"] = json!(0);
        line
    };
    assert_eq!(
        before.into_iter().map(without_time).collect::<Vec<_>>(),
        after.into_iter().map(without_time).collect::<Vec<_>>()
    );

    // Nothing is left to do: the file stays as it is.
    let settled = text(&results);
    ok(&command);
    assert_eq!(text(&results), settled);

    let report = folder.path().join("report");
    ok(&["eval", "report", out, "--out", report.to_str().unwrap()]);
    let page = text(&report.join("report.html"));
    assert!(page.contains("<svg") && page.contains("streaming, online 50%"), "{page}");
    assert!(text(&report.join("report.md")).contains("| streaming, turns 50% |"));
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs models"]
fn ctrl_c_ends_a_run_in_good_order() {
    use std::process::{Command, Stdio};
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let results = folder.path().join("results.jsonl");
    let [model, hay, out] = [&model, &hay, &results].map(|p| p.to_str().unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_chelsea"))
        .args(["eval", "needles", "-m", model, "--haystack", hay, "--samples", "1000", "--tokens", "300"])
        .args(["--needles", "1", "--keeps", "1", "--out", out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = || std::fs::read_to_string(&results).is_ok_and(|text| text.contains('\n'));
    let mut waits = 0..6000;
    while !begun() && waits.next().is_some() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{said}");
    let measured = lines(&results).len();
    assert!(said.contains(&format!("{measured} of 1000 results are in")), "{said}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("digit NLL"), "what was measured is shown");
}

#[test]
#[ignore = "needs models"]
fn needles_print_a_line_a_question_and_the_table_of_old() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let [model, hay] = [&model, &hay].map(|p| p.to_str().unwrap());
    let (out, table) = ok(&[
        "eval",
        "needles",
        "-m",
        model,
        "--haystack",
        hay,
        "--contexts",
        "1",
        "--tokens",
        "300",
        "--needles",
        "2",
        "--keeps",
        "1,0.5",
        "--json",
    ]);
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for key in
        ["policy", "keep", "online", "context", "city", "digits", "answer", "hit", "nll", "kv_bytes", "kv_bytes_full"]
    {
        assert!(!lines[0][key].is_null(), "{key} in {}", lines[0]);
    }
    assert!(table.contains("digit NLL") && table.contains("full"), "{table}");
}

#[test]
#[ignore = "needs models"]
fn predictions_of_the_full_cache_do_not_stray_from_themselves() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let [model, hay] = [&model, &hay].map(|p| p.to_str().unwrap());
    let (out, _) = ok(&[
        "eval",
        "continuation",
        "-m",
        model,
        "--haystack",
        hay,
        "--samples",
        "1",
        "--tokens",
        "600",
        "--keeps",
        "1,0.3",
        "--modes",
        "one-shot,online",
        "--policies",
        "chelsea,streaming",
        "--json",
    ]);
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    for line in &lines {
        let (kl, nll) = (line["asked"][0]["kl"].as_f64().unwrap(), line["asked"][0]["nll"].as_f64().unwrap());
        if line["policy"] == "full" {
            assert_eq!((kl, line["score"].as_f64()), (0.0, Some(1.0)));
        } else {
            assert!(kl > 1e-4 && kl < 3.0, "{line}");
        }
        assert!(nll > 0.5 && nll < 8.0, "{line}");
    }
    let few = ["eval", "continuation", "-m", model, "--haystack", hay, "--samples", "1", "--tokens", "600"];
    let (out, _) = ok(&[&few[..], &["--keeps", "1", "--kv-type", "k8v4", "--json"]].concat());
    let bits: Value = serde_json::from_str(out.trim()).unwrap();
    let kl = bits["asked"][0]["kl"].as_f64().unwrap();
    assert!((1e-6..1.0).contains(&kl), "all entries in few bits stray from those in 16: {bits}");
    let said = error(&["eval", "continuation", "-m", model, "--haystack", hay, "--tokens", "600", "--modes", "aware"]);
    assert!(said.contains("one-shot and online"), "{said}");
}

#[test]
#[ignore = "needs models"]
fn a_stream_is_read_in_as_many_entries_as_were_given() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let [model, hay] = [&model, &hay].map(|p| p.to_str().unwrap());
    let stream = ["eval", "stream", "-m", model, "--haystack", hay, "--samples", "1"];
    let (out, table) =
        ok(&[&stream[..], &["--tokens", "2000", "--keeps", "1", "--entries", "300,3000", "--json"]].concat());
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    // More entries than the text has tokens are the full cache.
    assert_eq!(lines.len(), 2, "{table}");
    assert!(table.contains("entries") && table.contains("300") && table.contains("8/8"), "{table}");
    let loss = |line: &Value, piece: usize| line["asked"][piece]["nll"].as_f64().unwrap();
    let (full, few) = (&lines[0], &lines[1]);
    assert_eq!((full["asked"].as_array().unwrap().len(), &full["policy"]), (8, &Value::from("full")), "{full}");
    assert_eq!(loss(full, 0), loss(few, 0), "at first there is room for everything");
    assert_ne!(loss(full, 7), loss(few, 7), "later there is not");
    let kept = few["kv_bytes"].as_f64().unwrap() / full["kv_bytes"].as_f64().unwrap();
    // A block of 1,024 tokens may be read before anything is clustered.
    assert!((0.1..0.75).contains(&kept), "{kept}");
    for (bad, said) in [(["--modes", "online"], "leave out --modes"), (["--tokens", "300,400"], "one length")] {
        let error = error(&[&stream[..], &bad].concat());
        assert!(error.contains(said), "{error}");
    }
}

#[test]
#[ignore = "needs models"]
fn lists_are_asked_about_in_turn_and_rules_are_counted() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let [model, hay] = [&model, &hay].map(|p| p.to_str().unwrap());
    let few = ["eval", "lookup", "-m", model, "--haystack", hay, "--samples", "1", "--tokens", "300"];
    let asked = ["--questions", "3", "--keeps", "1,0.5", "--modes", "turns-online", "--json"];
    let (out, _) = ok(&[&few[..], &asked].concat());
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let tasks: Vec<&str> = lines.iter().map(|line| line["task"].as_str().unwrap()).collect();
    for task in ["lookup-pairs", "lookup-ends", "lookup-numbers"] {
        assert_eq!(tasks.iter().filter(|&&name| name == task).count(), 2, "{tasks:?}");
    }
    for line in &lines {
        assert_eq!(line["asked"].as_array().unwrap().len(), 3, "{line}");
        assert!((0.0..=1.0).contains(&line["score"].as_f64().unwrap()), "{line}");
    }
    let rules = ["eval", "rules", "-m", model, "--haystack", hay, "--samples", "1", "--tokens", "300", "--rules", "2"];
    let (out, _) = ok(&[&rules[..], &["--keeps", "1,0.5", "--json"]].concat());
    let kept: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(kept.len(), 2);
    // Three answers, each of which keeps none, one or both.
    let halves = kept[0]["score"].as_f64().unwrap() * 6.0;
    assert!(kept[0]["task"] == "rules" && (halves - halves.round()).abs() < 1e-9, "{out}");
    let said = error(&[&few[..], &["--kinds", "numbers", "--questions", "7"]].concat());
    assert!(said.contains("7 questions") && said.contains('6'), "{said}");
}

#[test]
#[ignore = "needs models"]
fn budgets_of_bytes_are_those_of_run_in_the_type_that_they_ask_for() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let hay = folder.path().join("hay.txt");
    std::fs::write(&hay, essays(12_000)).unwrap();
    let results = folder.path().join("results.jsonl");
    let [model, hay, out] = [&model, &hay, &results].map(|p| p.to_str().unwrap());
    let task =
        ["eval", "continuation", "-m", model, "--haystack", hay, "--samples", "1", "--tokens", "1500", "--out", out];
    // No budgets: the full cache and those of the product.
    let (table, _) = ok(&task);
    assert!(table.contains("25% of bytes") && table.contains("20% of bytes"), "{table}");
    let more = ["--kv-budgets", "25%,10%", "--keeps", "0.25", "--modes", "one-shot,online"];
    ok(&[task.as_slice(), &more].concat());
    let measured = lines(&results);
    // Four, then what was not there: a tenth in one shot, both budgets online, and entries in both modes.
    assert_eq!(measured.len(), 4 + 3 + 2);
    for line in &measured {
        let (share, setup) =
            (line["keep"].as_f64().unwrap(), line["setup"].as_str().unwrap().split(',').nth(3).unwrap());
        let stored = match (line["of"].as_str(), share) {
            (None, _) => "f16",
            (Some("bytes"), share) if share < 0.15 => "k8v4",
            (Some("bytes"), _) => "q8",
            other => panic!("{other:?}"),
        };
        assert_eq!(setup, stored, "{line}");
        let kept = line["kv_bytes"].as_f64().unwrap() / line["kv_bytes_full"].as_f64().unwrap();
        if stored != "f16" {
            assert!(kept <= share && kept > 0.8 * share - 0.02, "{kept} of {share}: {line}");
        }
        // All are held against the full cache in 16 bits: one in 8 that keeps everything would have strayed, too.
        let kl = line["asked"][0]["kl"].as_f64().unwrap();
        assert_eq!(kl == 0.0, share == 1.0, "{line}");
    }
    // The type that the budget asks for anyway changes nothing, a full cache in 8 bits is something else.
    ok(&[task.as_slice(), &["--kv-budgets", "25%", "--kv-type", "q8"]].concat());
    assert_eq!(lines(&results).len(), measured.len());
    ok(&[task.as_slice(), &["--keeps", "1", "--kv-type", "q8"]].concat());
    let all = lines(&results);
    assert_eq!(all.len(), measured.len() + 1);
    assert!(all[measured.len()]["asked"][0]["kl"].as_f64().unwrap() > 0.0, "{}", all[measured.len()]);
    let bad = error(&[task.as_slice(), &["--kv-budgets", "512MiB"]].concat());
    assert!(bad.contains("shares of the full cache"), "{bad}");
}

#[test]
#[ignore = "needs models"]
fn files_are_scored_and_their_bad_lines_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("qa_1.jsonl");
    let line = |document: &str| {
        json!({"index": 1, "input": format!("{document}\nQuestion: What is the capital of Freedonia?"),
               "answer_prefix": " Answer: The capital of Freedonia is", "outputs": ["Sylvania"]})
        .to_string()
    };
    let long = line(&"word ".repeat(9000));
    let good = line("The capital of Freedonia is Sylvania. Its rivers are long.");
    std::fs::write(&file, format!("{good}\n{{\"input\": 1}}\n{long}\n")).unwrap();
    let file = file.to_str().unwrap();
    // What is wrong with a file is said before a model is loaded.
    let said = error(&["eval", "run", file, "-m", "./missing.gguf"]);
    assert!(said.contains("qa_1.jsonl:2") && said.contains("--on-error skip"), "{said}");
    assert!(error(&["eval", "run", file, "-m", "x", "--metric", "bleu"]).contains("rouge-l"));
    assert!(error(&["eval", "run", "./none.jsonl", "-m", "x"]).contains("none.jsonl"));

    let model = model();
    let model = model.to_str().unwrap();
    let (out, said) = ok(&[
        "eval",
        "run",
        file,
        "-m",
        model,
        "--keeps",
        "1",
        "--on-error",
        "skip",
        "--modes",
        "one-shot,aware",
        "--json",
    ]);
    assert!(said.contains("qa_1.jsonl:2") && said.contains("qa_1.jsonl:3: the sample needs"), "{said}");
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!((line["task"].as_str(), line["score"].as_f64()), (Some("qa_1"), Some(1.0)), "{line}");
    }
    // What was measured before an error ends it is shown.
    std::fs::write(file, format!("{good}\n{long}\n")).unwrap();
    let out = chelsea(&["eval", "run", file, "-m", model, "--keeps", "1"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("qa_1.jsonl:2: the sample needs"));
    assert!(String::from_utf8_lossy(&out.stdout).contains("qa_1"));
    // Document and question are the same tokens whichever is compressed first: with nothing dropped, so is the answer.
    assert_eq!(lines[0]["asked"], lines[1]["asked"]);
}

#[test]
fn results_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.jsonl");
    std::fs::write(&file, "{}\n").unwrap();
    let [file, out] = [&file, &folder.path().join("out")].map(|p| p.to_str().unwrap().to_owned());
    assert!(error(&["eval", "report", &file, "--out", &out]).contains("r.jsonl:1"));
    std::fs::write(&file, "").unwrap();
    assert!(error(&["eval", "report", &file, "--out", &out]).contains("no results"));
}
