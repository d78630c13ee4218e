//! What people really give the command: odd encodings, names, templates, budgets. On the small random model.

use crate::small::{self, MARK};
use crate::support::{chelsea, error, json};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A folder with the model and a document, and what to begin a run with.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = small::model(folder.path());
        Place { folder, model }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["run", "-m", &self.model, "--threads", "1", "--json"], more].concat()
    }

    fn json(&self, more: &[&str]) -> Value {
        json(&self.args(more))
    }

    fn error(&self, more: &[&str]) -> String {
        error(&self.args(more))
    }

    /// What is said beside a result.
    fn said(&self, more: &[&str]) -> String {
        let out = chelsea(&self.args(more));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

fn text(report: &Value, answer: usize) -> &str {
    report["answers"][answer]["text"].as_str().unwrap()
}

#[test]
fn answers_are_drawn_anew_and_repeated_by_their_seed() {
    let place = Place::new();
    let ask = ["-p", "Why?", "-p", "Why?", "-n", "24", "--temp", "2", "--top-k", "0"];
    let first = place.json(&ask);
    let seed = first["seed"].as_u64().expect("the seed is told").to_string();
    assert_ne!(text(&first, 0), text(&first, 1), "the same question is answered twice");
    let again = place.json(&[&ask[..], &["--seed", &seed]].concat());
    assert_eq!(first["answers"][1]["text"], again["answers"][1]["text"]);
    assert_eq!(text(&first, 0), text(&again, 0));
    let other = place.json(&[&ask[..], &["--seed", "-1"]].concat());
    assert_ne!((&first["seed"], text(&first, 0)), (&other["seed"], text(&other, 0)));
    assert_eq!(place.json(&["-p", "Why?", "-n", "2"])["seed"], Value::Null, "nothing was drawn");
    let out = chelsea(&["run", "-m", &place.model, "-p", "Why?", "-n", "2", "--temp", "1", "--seed", "77"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("--seed 77"));
}

#[test]
fn control_tokens_are_typed_on_request_and_never_by_a_document() {
    let place = Place::new();
    let doc = place.write("doc.txt", MARK);
    let tokens = |more: &[&str]| place.json(&[more, &["-n", "1"]].concat())["kv_tokens"].as_u64().unwrap() as usize;
    let prompt = format!("{MARK}ab");
    let raw = ["--no-chat-template", "-p", &prompt];
    assert_eq!((tokens(&raw), tokens(&[&raw[..], &["--special"]].concat())), (MARK.len() + 2, 3));
    // Two line ends lie between a document and its question.
    assert_eq!(tokens(&[&raw[..], &["--special", "-f", &doc]].concat()), MARK.len() + 2 + 3);
    assert!(place.error(&["-p", "a", "--special"]).contains("--no-chat-template"));
}

#[test]
fn a_budget_that_cannot_be_held_is_told_and_not_exceeded_in_silence() {
    let place = Place::new();
    let doc = place.write("doc.txt", "The cat sat. ".repeat(160));
    let ask = ["-f", &doc, "-p", "Why?", "-n", "1"];
    for policy in ["snapkv", "h2o", "chelsea", "streaming"] {
        let args = [&ask[..], &["--policy", policy, "--kv-budget", "2%"]].concat();
        let report = place.json(&args);
        let kv = &report["kv"];
        let (asked, held) = (kv["asked"].as_u64().unwrap(), kv["held"].as_u64().unwrap());
        assert!(held > asked && kv["exceeded"] == true, "{policy}: {kv}");
        assert_eq!((&kv["budget"], &kv["asked_share"]), (&"2%".into(), &f64::from(0.02f32).into()));
        let said = place.said(&args);
        assert_eq!(said.matches("of 2% asked").count(), 1, "{said}");
        let statistics = kv["statistics_bytes"].as_u64().unwrap();
        assert_eq!(statistics > 0, said.contains("statistics of"), "{policy}: {kv} {said}");
        assert!(policy != "snapkv" || statistics > 0);
    }
    // What can be held is held.
    let within = [&ask[..], &["--kv-budget", "60%"]].concat();
    assert_eq!(place.json(&within)["kv"]["exceeded"], false);
    assert!(!place.said(&within).contains("asked"), "no word about it");
    let shown = json(&["inspect", &place.model, "--kv-budget", "2%", "--policy", "snapkv", "--json"]);
    let holds = &shown["kv_budget"];
    assert_eq!(holds["least"]["entries_per_head"], 69);
    assert!(holds["held_from_tokens"].as_u64().unwrap() > 2081, "{holds}");
}

#[test]
fn a_loaded_cache_says_what_it_holds() {
    let place = Place::new();
    let doc = place.write("doc.txt", "The cat sat. ".repeat(400));
    let cache = place.path("doc.kv");
    place.json(&["-f", &doc, "--kv-budget", "20%", "--save-cache", &cache]);
    let load = ["--load-cache", &cache, "-p", "Why?", "-n", "1"];
    let larger = [&load[..], &["--kv-budget", "50%"]].concat();
    let report = place.json(&larger);
    assert_eq!(report["kv"]["budget"], "50%");
    assert!(report["kv"]["held_share"].as_f64().unwrap() < 0.21, "{report}");
    let said = place.said(&larger);
    assert!(said.contains("of 50% asked") && said.contains("saved with a budget of 20%"), "{said}");
    assert_eq!(place.said(&load), "");
    let shown = json(&["cache", "show", &cache, "--json"]);
    assert!(shown["kv_held_share"].as_f64().unwrap() < 0.2, "{shown}");
}

#[test]
fn a_cache_knows_its_template_and_its_tokenizer() {
    let place = Place::new();
    let doc = place.write("doc.txt", "The cat sat.");
    let cache = place.path("doc.kv");
    let template = |text: &str| place.write("model/chat_template.jinja", text);
    template("U:{{ messages[0].content }} A:");
    place.json(&["-f", &doc, "--save-cache", &cache]);
    let load = ["--load-cache", &cache, "-p", "Why?", "-n", "1"];
    assert_eq!(place.said(&load), "");
    template("User: {{ messages[0].content }} Answer:");
    let said = place.error(&load);
    assert!(said.contains("another chat template") && said.contains("--any-template"), "{said}");
    let said = place.said(&[&load[..], &["--any-template"]].concat());
    assert!(said.contains("another chat template"), "{said}");
    template("U:{{ messages[0].content }} A:");
    let path = place.folder.path().join("model/tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, tokenizer.replace(MARK, "<|other|>")).unwrap();
    let said = place.error(&[&load[..], &["--any-template"]].concat());
    assert!(said.contains("another tokenizer"), "{said}");
}

#[test]
fn a_system_message_goes_into_the_question_where_the_template_refuses_one() {
    let place = Place::new();
    place.write(
        "model/chat_template.jinja",
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
         U:{{ messages[0].content }}A:",
    );
    let ask = ["-p", "Why?", "-n", "1", "--system", "Be brief."];
    let report = place.json(&ask);
    assert_eq!(report["answers"][0]["prompt_tokens"], "U:Be brief.\n\nWhy?A:".len());
    assert!(place.said(&ask).contains("--system"));
    place.write("model/chat_template.jinja", " ");
    assert!(place.said(&["-p", "Why?", "-n", "1"]).contains("template is empty"));
}

#[test]
fn documents_in_other_encodings_are_named_with_what_helps() {
    let place = Place::new();
    let latin = place.write("latin.txt", b"Die B\xfcrger m\xfcssen f\xfcr gr\xf6\xdfere G\xe4rten zahlen.");
    let said = place.error(&["-f", &latin, "-p", "a"]);
    assert!(
        said.contains("windows-1252") && said.contains("iconv -f windows-1252") && said.contains("--lossy"),
        "{said}"
    );
    let good = "größer ".repeat(1000);
    let damaged = place.write("damaged.txt", [good.as_bytes(), b"\xff"].concat());
    let said = place.error(&["-f", &damaged, "-p", "a"]);
    assert!(said.contains("1 byte (") && said.contains("--lossy") && !said.contains("iconv"), "{said}");
    let ask = ["-f", &damaged, "-p", "a", "-n", "1", "--lossy"];
    assert!(place.said(&ask).contains("1 byte of it not UTF-8"));
    // U+FFFD has three bytes; two line ends and the question follow.
    assert_eq!(place.json(&ask)["kv_tokens"], good.len() + 3 + 3);
    let wide: Vec<u8> = "\u{feff}A text.".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let said = place.error(&["-f", &place.write("wide.txt", wide), "-p", "a"]);
    assert!(said.contains("UTF-16") && said.contains("iconv -f UTF-16"), "{said}");
    let marked = place.write("marked.txt", "\u{feff}A text.");
    assert_eq!(place.json(&["-f", &marked, "-p", "a", "-n", "1"])["kv_tokens"], "A text.\n\na".len());
    let said = place.error(&["-f", &place.write("a.pdf", b"%PDF-1.7\n\xe2\xe3"), "-p", "a"]);
    assert!(said.contains("pdftotext"), "{said}");
    let said = place.said(&["-f", &place.write("empty.txt", " \n"), "-p", "a", "-n", "1"]);
    assert!(said.contains("empty.txt is empty"), "{said}");
}

#[test]
fn one_flag_takes_many_documents() {
    let place = Place::new();
    let (a, b) = (place.write("a.txt", "One."), place.write("b.txt", "Two."));
    let tokens = |args: &[&str]| place.json(&[args, &["-p", "a", "-n", "1"]].concat())["kv_tokens"].clone();
    assert_eq!(tokens(&["-f", &a, &b]), "One.\n\nTwo.\n\na".len());
    assert_eq!(tokens(&["-f", &a, &b]), tokens(&["-f", &a, "-f", &b]));
}

#[test]
fn an_answer_may_be_as_long_as_the_context() {
    let place = Place::new();
    let report = place.json(&["-p", "ab", "-n", "-1", "-c", "40"]);
    assert_eq!((&report["answers"][0]["finish"], &report["kv_tokens"]), (&"context".into(), &40.into()), "{report}");
    assert_eq!(place.json(&["-p", "ab", "-n", "3", "-c", "0"])["answers"][0]["generated_tokens"], 3);
}

#[test]
fn a_document_that_cannot_fit_is_refused_before_it_is_cut_into_tokens() {
    let place = Place::new();
    // Four times what a context of a million tokens holds, at one byte a token here.
    let doc = place.write("doc.txt", "The cat sat. ".repeat(700_000));
    let start = std::time::Instant::now();
    let said = place.error(&["-f", &doc, "-p", "a"]);
    assert!(said.contains("at least") && said.contains("do not fit"), "{said}");
    assert!(start.elapsed().as_secs() < 60, "it took {:?}", start.elapsed());
}

#[test]
fn a_folder_called_like_a_short_name_says_what_was_taken() {
    let place = Place::new();
    std::fs::rename(place.folder.path().join("model"), place.folder.path().join("smollm2")).unwrap();
    let run = |home: &Path| {
        Command::new(env!("CARGO_BIN_EXE_chelsea"))
            .args(["inspect", "smollm2"])
            .current_dir(place.folder.path())
            .env("CHELSEA_HOME", home)
            .env("CHELSEA_PYTHON", "/nowhere/python")
            .output()
            .unwrap()
    };
    let out = run(place.folder.path());
    assert!(out.status.success());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("taking the folder `smollm2` that is here") && said.contains("./smollm2"), "{said}");
    // What `eval report --out smollm2` leaves is no model.
    std::fs::remove_dir_all(place.folder.path().join("smollm2")).unwrap();
    std::fs::create_dir(place.folder.path().join("smollm2")).unwrap();
    place.write("smollm2/report.md", "# Results");
    let said = String::from_utf8_lossy(&run(place.folder.path()).stderr).into_owned();
    assert!(said.contains("taking the model of the short name `smollm2`"), "{said}");
}

#[test]
fn errors_say_things_once_and_without_colours_in_a_file() {
    let place = Place::new();
    for args in [
        vec!["run", "-m", "./nowhere.gguf", "-p", "a"],
        vec!["run", "-m", &place.model, "-f", "./nowhere.txt", "-p", "a"],
        vec!["run", "-m", &place.model, "--load-cache", "./nowhere.kv", "-p", "a"],
        vec!["cache", "show", "./nowhere.kv"],
        vec!["eval", "report", "./nowhere.jsonl", "--out", "x"],
        vec!["eval", "run", "./nowhere.jsonl", "-m", &place.model],
    ] {
        let said = error(&args);
        assert!(said.matches("No such file").count() <= 1, "{args:?}: {said}");
        assert!(said.matches("nowhere").count() <= 2, "{args:?}: {said}");
        assert!(!said.contains('\x1b'), "{args:?}: {said:?}");
    }
    let doc = place.write("empty.txt", "");
    let said = place.said(&["-f", &doc, "-p", "a", "-n", "1"]);
    assert!(said.contains("WARN") && !said.contains('\x1b'), "{said:?}");
}

#[test]
fn pointers_and_pages_in_place_of_a_model_are_called_so() {
    let place = Place::new();
    let pointer = place.write("m.gguf", "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n");
    let page = place.write("p.gguf", "<!DOCTYPE html><html><body>Not found</body></html>");
    assert!(error(&["inspect", &pointer]).contains("Git LFS pointer"));
    assert!(error(&["run", "-m", &page, "-p", "a"]).contains("web page"));
    assert!(place.error(&["-f", &pointer, "-p", "a"]).contains("Git LFS pointer"));
    assert!(place.said(&["-f", &page, "-p", "a", "-n", "1"]).contains("web page"));
}

#[test]
#[cfg(target_os = "linux")]
fn names_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let name = |bytes: &[u8]| place.folder.path().join(OsStr::from_bytes(bytes));
    let (model, doc, cache) = (name(b"mod\xe8le"), name(b"th\xe8se.txt"), name(b"th\xe8se.kv"));
    std::fs::rename(place.folder.path().join("model"), &model).unwrap();
    std::fs::write(&doc, "A text.").unwrap();
    let run = |more: &[&OsStr]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chelsea"));
        command.args(["run", "--threads", "1", "-p", "a", "-n", "1", "-m"]).arg(&model).args(more);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    run(&["-f".as_ref(), doc.as_os_str(), "--save-cache".as_ref(), cache.as_os_str()]);
    run(&["--load-cache".as_ref(), cache.as_os_str()]);
    let out = Command::new(env!("CARGO_BIN_EXE_chelsea")).arg("inspect").arg(&model).output().unwrap();
    assert!(out.status.success());
}

#[test]
#[cfg(unix)]
fn a_cache_is_saved_through_links_and_under_long_names() {
    let place = Place::new();
    let doc = place.write("doc.txt", "The cat sat.");
    std::os::unix::fs::symlink("target.kv", place.path("link.kv")).unwrap();
    let long = place.path(&format!("{}.kv", "x".repeat(246)));
    let abandoned = place.write(".chelsea-abcdef.part", "half a cache of a killed process");
    for file in [&place.path("link.kv"), &long] {
        place.json(&["-f", &doc, "--save-cache", file]);
        place.json(&["--load-cache", file, "-p", "a", "-n", "1"]);
    }
    assert!(place.folder.path().join("target.kv").is_file());
    assert!(std::fs::symlink_metadata(place.path("link.kv")).unwrap().is_symlink());
    assert!(!Path::new(&abandoned).exists());
}

#[test]
fn policies_are_one_table() {
    let out = chelsea(&["policies"]);
    let text = String::from_utf8(out.stdout).unwrap();
    for policy in chelsea_kv::registry() {
        assert!(text.lines().any(|line| line.starts_with(policy.name)), "{}", policy.name);
    }
    let help = String::from_utf8(chelsea(&["run", "--help"]).stdout).unwrap();
    assert!(help.contains("chelsea policies") && !help.contains("share of the average"), "{help}");
}
