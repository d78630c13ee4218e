//! The hub's ways and failings, played by a server on this machine.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use chelsea_hub::{Format, HubError, Options, Silent, Source, resolve};
use common::*;

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 % 251) as u8).collect()
}

fn error(spec: &str, options: &Options) -> HubError {
    resolve(spec, options, &mut Silent).expect_err("it should not work")
}

fn incomplete_files(dir: &Path) -> Vec<PathBuf> {
    let blobs = dir.join("hub/models--org--name/blobs");
    let all = std::fs::read_dir(blobs).into_iter().flatten().flatten().map(|e| e.path());
    all.filter(|p| p.extension().is_some_and(|e| e == "incomplete")).collect()
}

#[test]
fn a_gguf_arrives_once_and_in_the_shared_layout() {
    let body = bytes(200_000);
    let server = Server::start(hub(&[("README.md", b"x"), ("m-Q4_K_M.gguf", &body), ("m-Q8_0.gguf", b"y")]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let mut progress = Recorder::default();
    let model = resolve("org/name", &options, &mut progress).unwrap();
    assert_eq!(model.format, Format::Gguf);
    assert_eq!(model.source, Source::Hub { repo: "org/name".into(), commit: COMMIT.into() });
    let root = dir.path().join("hub/models--org--name");
    assert_eq!(model.path, root.join("snapshots").join(COMMIT).join("m-Q4_K_M.gguf"));
    assert_eq!(std::fs::read(&model.path).unwrap(), body);
    assert_eq!(std::fs::read(root.join("blobs").join(sha256(&body))).unwrap(), body);
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(progress.stages[0], ("downloading org/name:m-Q4_K_M.gguf".into(), Some(200_000)));
    resolve("org/name", &options, &mut Silent).unwrap();
    assert_eq!(server.gets("resolve").len(), 1, "the second call downloads nothing");
}

#[test]
fn the_token_follows_no_redirect_to_another_port() {
    let body = bytes(50_000);
    let storage_body = body.clone();
    let storage = Server::start(move |request| Answer::ranged(request, &storage_body));
    let (target, linked) = (format!("{}/blob?signature=1", storage.url), body.clone());
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["m.gguf"]),
        // First a relative redirect, as for renamed repositories, then one to the storage.
        path if path.starts_with("/org/name/") => {
            Answer::status(307).with("Location", format!("/new/name/resolve/{COMMIT}/m.gguf"))
        }
        _ => large(Answer::status(302), &linked).with("Location", &target),
    });
    let dir = tempfile::tempdir().unwrap();
    let options = Options { token: Some("secret".into()), ..options(&dir, &server) };
    let model = resolve("org/name:m.gguf", &options, &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
    assert!(server.requests().iter().all(|r| r.header("authorization") == Some("Bearer secret")));
    assert!(!storage.requests().is_empty());
    assert!(storage.requests().iter().all(|r| r.header("authorization").is_none()));
    assert!(storage.requests().iter().all(|r| r.method == "GET"), "metadata are read from the redirect");
}

#[test]
fn redirects_in_a_circle_end_in_an_error() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["m.gguf"]),
        path => Answer::status(302).with("Location", path),
    });
    let dir = tempfile::tempdir().unwrap();
    let text = error("org/name", &options(&dir, &server)).to_string();
    assert!(text.contains("too many redirects"), "{text}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let body = bytes(300_000);
    let (served, calls) = (body.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") {
            return listing(&["m.gguf"]);
        }
        let answer = large(Answer::ranged(request, &served), &served);
        // The first two bodies break off.
        let is_early = request.method == "GET" && calls.fetch_add(1, Ordering::SeqCst) < 2;
        Answer { cut: is_early.then_some(100_000), ..answer }
    });
    let dir = tempfile::tempdir().unwrap();
    let model = resolve("org/name", &options(&dir, &server), &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
    let offsets: Vec<usize> = server.gets("resolve").iter().map(|r| r.offset()).collect();
    assert_eq!(offsets, [0, 100_000, 200_000]);
    assert!(incomplete_files(dir.path()).is_empty());
}

#[test]
fn a_stopped_download_goes_on_in_the_next_run() {
    let body = bytes(1_000_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let mut stopper = Recorder { stop_at_bytes: Some(300_000), ..Default::default() };
    assert!(matches!(resolve("org/name", &options, &mut stopper), Err(HubError::Cancelled)));
    let kept = std::fs::metadata(&incomplete_files(dir.path())[0]).unwrap().len();
    assert!((300_000..1_000_000).contains(&kept), "{kept}");
    let model = resolve("org/name", &options, &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
    assert_eq!(server.gets("resolve").last().unwrap().offset() as u64, kept);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let body = bytes(100_000);
    let served = body.clone();
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") {
            return listing(&["m.gguf"]);
        }
        let is_early = request.method == "GET" && calls.fetch_add(1, Ordering::SeqCst) == 0;
        Answer { cut: is_early.then_some(60_000), ..large(Answer::ok(&served[..]), &served) }
    });
    let dir = tempfile::tempdir().unwrap();
    let model = resolve("org/name", &options(&dir, &server), &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
}

#[test]
fn a_transfer_that_never_gets_anywhere_ends_and_keeps_what_came() {
    let body = bytes(100_000);
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") {
            return listing(&["m.gguf"]);
        }
        let cut = if request.offset() == 0 { 40_000 } else { 0 };
        Answer { cut: Some(cut), ..large(Answer::ranged(request, &body), &body) }
    });
    let dir = tempfile::tempdir().unwrap();
    let error = error("org/name", &options(&dir, &server));
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(std::fs::metadata(&incomplete_files(dir.path())[0]).unwrap().len(), 40_000);
    assert_eq!(server.gets("resolve").len(), 1 + 3, "one that brought bytes and the allowed retries");
}

#[test]
fn a_401_names_the_token_and_the_licence() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["m.gguf"]),
        _ => Answer::status(401).with("X-Error-Message", "Access to model org/name is restricted."),
    });
    let dir = tempfile::tempdir().unwrap();
    let without = options(&dir, &server);
    let text = error("org/name", &without).to_string();
    for word in ["org/name:m.gguf", "401", "HF_TOKEN", "licence"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let with = Options { token: Some("t".into()), ..without };
    let text = error("org/name", &with).to_string();
    assert!(text.contains("the token was sent"), "{text}");
}

#[test]
fn the_hubs_own_words_are_shown() {
    let server = Server::start(|_| Answer::status(403).with("X-Error-Message", "gated: ask the authors"));
    let dir = tempfile::tempdir().unwrap();
    let text = error("org/name", &options(&dir, &server)).to_string();
    assert!(text.contains("gated: ask the authors") && text.contains("403"), "{text}");
}

#[test]
fn a_missing_repository_or_file_is_named() {
    let server = Server::start(hub(&[("m-Q8_0.gguf", b"abc")]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let text = error("org/other", &options).to_string();
    assert!(text.contains("org/other") && text.contains("404"), "{text}");
    let text = error("org/name:absent.gguf", &options).to_string();
    assert!(text.contains("absent.gguf") && text.contains("m-Q8_0.gguf"), "{text}");
}

#[test]
fn a_file_that_vanished_is_a_404_with_its_name() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["m.gguf"]),
        _ => Answer::status(404),
    });
    let dir = tempfile::tempdir().unwrap();
    let text = error("org/name", &options(&dir, &server)).to_string();
    assert!(text.contains("org/name:m.gguf"), "{text}");
}

#[test]
fn a_size_that_differs_from_the_announced_one_is_refused() {
    let body = bytes(10_000);
    for served in [9_000, 11_000] {
        let (announced, body) = (body.clone(), bytes(served));
        let server = Server::start(move |request| match request.path.as_str() {
            path if path.starts_with("/api/") => listing(&["m.gguf"]),
            _ => large(Answer::ranged(request, &body), &announced),
        });
        let dir = tempfile::tempdir().unwrap();
        let error = error("org/name", &options(&dir, &server));
        assert!(matches!(error, HubError::WrongContent { .. }), "{error}");
        assert!(error.to_string().contains("10000") && error.to_string().contains(&served.to_string()), "{error}");
        assert!(incomplete_files(dir.path()).is_empty());
    }
}

#[test]
fn contents_that_do_not_match_their_hash_are_discarded() {
    let (announced, mut served) = (bytes(10_000), bytes(10_000));
    served[5_000] ^= 1;
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["m.gguf"]),
        _ => large(Answer::ranged(request, &served), &announced),
    });
    let dir = tempfile::tempdir().unwrap();
    let error = error("org/name", &options(&dir, &server));
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let blobs = dir.path().join("hub/models--org--name/blobs");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

#[test]
fn a_partial_file_from_another_version_is_started_over() {
    let body = bytes(50_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("hub/models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&body))), vec![0; 60_000]).unwrap();
    let model = resolve("org/name", &options(&dir, &server), &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
}

#[test]
fn a_cached_file_of_the_wrong_size_is_reported() {
    let body = bytes(50_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("hub/models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(sha256(&body)), b"short").unwrap();
    let text = error("org/name", &options(&dir, &server)).to_string();
    assert!(text.contains("5 bytes") && text.contains("chelsea models remove org/name"), "{text}");
}

#[test]
fn a_hiccup_of_the_server_is_survived() {
    let (body, calls) = (bytes(1_000), AtomicUsize::new(0));
    let good = hub(&[("m.gguf", &body)]);
    let server = Server::start(move |request| match calls.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => Answer::status(503),
        _ => good(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let model = resolve("org/name", &options(&dir, &server), &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), body);
}

#[test]
fn offline_mode_uses_the_cache_and_asks_nobody() {
    let body = bytes(1_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let online = options(&dir, &server);
    let offline = Options { offline: true, ..online.clone() };
    let text = error("org/name", &offline).to_string();
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("org/name"), "{text}");
    assert!(server.requests().is_empty());
    let path = resolve("org/name", &online, &mut Silent).unwrap().path;
    let asked = server.requests().len();
    assert_eq!(resolve("org/name", &offline, &mut Silent).unwrap().path, path);
    assert_eq!(resolve("org/name:m.gguf", &offline, &mut Silent).unwrap().path, path);
    assert!(matches!(error("org/name:other.gguf", &offline), HubError::Offline { .. }));
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_server_that_is_down_leaves_the_cached_copy_usable() {
    let body = bytes(1_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let path = resolve("org/name", &options, &mut Silent).unwrap().path;
    drop(server);
    let mut progress = Recorder::default();
    assert_eq!(resolve("org/name", &options, &mut progress).unwrap().path, path);
    assert!(progress.notes[0].contains("cached copy of org/name:m.gguf"), "{:?}", progress.notes);
    let text = error("org/absent", &options).to_string();
    assert!(text.contains("could not reach the hub") && text.contains("HF_ENDPOINT"), "{text}");
}

#[test]
fn a_silent_server_counts_as_broken() {
    let server = Server::start(|_| {
        std::thread::sleep(std::time::Duration::from_secs(2));
        Answer::status(200)
    });
    let dir = tempfile::tempdir().unwrap();
    let options = Options { stall: std::time::Duration::from_millis(200), retries: 0, ..options(&dir, &server) };
    assert!(matches!(error("org/name", &options), HubError::Unreachable { .. }));
}

#[test]
fn sharded_safetensors_arrive_with_all_that_belongs_to_them() {
    let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let server = Server::start(hub(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"t\":1}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("original/model.pth", b"no"),
    ]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let model = resolve("org/name", &options, &mut Silent).unwrap();
    assert_eq!(model.format, Format::Safetensors);
    for file in ["config.json", "tokenizer.json", "model.safetensors.index.json", "model-1.safetensors"] {
        assert!(model.path.join(file).is_file(), "{file}");
    }
    assert_eq!(std::fs::read(model.path.join("model-2.safetensors")).unwrap(), b"two");
    assert!(server.gets("model.pth").is_empty());
    let offline = Options { offline: true, ..options.clone() };
    assert_eq!(resolve("org/name", &offline, &mut Silent).unwrap().path, model.path);
    std::fs::remove_file(model.path.join("model-2.safetensors")).unwrap();
    assert!(matches!(error("org/name", &offline), HubError::Offline { .. }), "a shard is missing");
}

#[test]
fn all_parts_of_a_split_gguf_arrive() {
    let parts = ["m-q4_k_m-00001-of-00002.gguf", "m-q4_k_m-00002-of-00002.gguf"];
    let bodies = [bytes(90_000), bytes(70_000)];
    let server = Server::start(hub(&[(parts[0], &bodies[0]), (parts[1], &bodies[1]), ("m-q8_0.gguf", b"x")]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let model = resolve("org/name", &options, &mut Silent).unwrap();
    assert!(model.path.ends_with(parts[0]) && model.name.ends_with(parts[0]), "{model:?}");
    for (part, body) in parts.iter().zip(&bodies) {
        assert_eq!(&std::fs::read(model.path.with_file_name(part)).unwrap(), body);
    }
    let offline = Options { offline: true, ..options };
    assert_eq!(resolve("org/name:q4_k_m", &offline, &mut Silent).unwrap().path, model.path);
    std::fs::remove_file(model.path.with_file_name(parts[1])).unwrap();
    assert!(matches!(error("org/name", &offline), HubError::Offline { .. }), "half a model is none");
}

#[test]
fn a_small_file_needs_no_hash_in_its_etag() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["config.json", "model.safetensors"]),
        path if path.ends_with("config.json") => Answer::ok("{}").with("ETag", "\"8c1e4f\""),
        _ => Answer::ok("weights").with("ETag", "W/\"77aa\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let model = resolve("org/name", &options(&dir, &server), &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path.join("model.safetensors")).unwrap(), b"weights");
}

#[test]
fn a_revision_has_its_own_reference() {
    let body = bytes(100);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    resolve("org/name@v2.0:m.gguf", &options(&dir, &server), &mut Silent).unwrap();
    assert!(server.gets("/revision/v2.0").len() == 1);
    let reference = dir.path().join("hub/models--org--name/refs/v2.0");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);
}

#[test]
fn an_answer_that_is_no_listing_is_said_so() {
    for answer in ["<html>", "{}", r#"{"sha":"../../x","siblings":[]}"#] {
        let server = Server::start(move |_| Answer::ok(answer));
        let dir = tempfile::tempdir().unwrap();
        let error = error("org/name", &options(&dir, &server));
        assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn names_that_leave_the_cache_are_never_written() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["../../../evil.gguf", "m.gguf"]),
        _ => Answer::ok("x").with("ETag", "\"../../evil\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let error = error("org/name", &options(&dir, &server));
    assert!(error.to_string().contains("cannot name a file"), "{error}");
}

#[test]
fn two_at_once_download_once() {
    let body = bytes(400_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| resolve("org/name", &options, &mut Silent).unwrap());
        }
    });
    assert_eq!(server.gets("resolve").len(), 1);
}

#[test]
fn a_cached_repository_can_be_listed_verified_and_removed() {
    let body = bytes(5_000);
    let server = Server::start(hub(&[("m.gguf", &body)]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let model = resolve("org/name", &options, &mut Silent).unwrap();
    let entry = chelsea_hub::list(&options).into_iter().find(|e| e.name == "org/name").unwrap();
    assert_eq!((entry.state, entry.kind), (chelsea_hub::State::Installed, chelsea_hub::Kind::Hub));
    assert_eq!(chelsea_hub::verify("org/name", &options, &mut Silent).unwrap(), 5_000);
    std::fs::write(&model.path, bytes(4_999)).unwrap();
    assert!(matches!(chelsea_hub::verify("org/name", &options, &mut Silent), Err(HubError::CacheDamaged { .. })));
    assert!(chelsea_hub::remove("org/name", &options, &mut Silent).unwrap() >= 4_999);
    assert!(!chelsea_hub::list(&options).iter().any(|e| e.name == "org/name"));
    assert!(matches!(chelsea_hub::remove("org/name", &options, &mut Silent), Err(HubError::UnknownName { .. })));
}

#[test]
fn a_complete_model_needs_no_cache_to_write_to() {
    let server = Server::start(hub(&[("m.gguf", &bytes(1_000))]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let path = resolve("org/name", &options, &mut Silent).unwrap().path;
    let refs = dir.path().join("hub/models--org--name/refs");
    // What another client wrote is left as it is where it says the same.
    std::fs::write(refs.join("main"), format!("{COMMIT}\n")).unwrap();
    assert_eq!(resolve("org/name", &options, &mut Silent).unwrap().path, path);
    assert_eq!(std::fs::read_to_string(refs.join("main")).unwrap(), format!("{COMMIT}\n"));
    // Permissions do not stop every user; a file in the folder's place does.
    std::fs::remove_dir_all(&refs).unwrap();
    std::fs::write(&refs, "").unwrap();
    assert_eq!(resolve("org/name", &options, &mut Silent).unwrap().path, path);
}

#[test]
fn an_empty_reference_is_none_and_is_written_anew() {
    let server = Server::start(hub(&[("m.gguf", &bytes(1_000))]));
    let dir = tempfile::tempdir().unwrap();
    let online = options(&dir, &server);
    let path = resolve("org/name", &online, &mut Silent).unwrap().path;
    let refs = dir.path().join("hub/models--org--name/refs");
    std::fs::write(refs.join("main"), "").unwrap();
    let offline = Options { offline: true, ..online.clone() };
    assert!(matches!(error("org/name", &offline), HubError::Offline { .. }));
    assert_eq!(resolve("org/name", &online, &mut Silent).unwrap().path, path);
    assert_eq!(std::fs::read_to_string(refs.join("main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read_dir(&refs).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn another_quantisation_from_the_cache_is_named() {
    let server = Server::start(hub(&[("m-Q4_K_M.gguf", b"four"), ("m-Q8_0.gguf", b"eight")]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    assert_eq!(resolve("org/name:q8_0", &options, &mut Silent).unwrap().name, "org/name:m-Q8_0.gguf");
    drop(server);
    // Online it would be Q4_K_M.
    let mut progress = Recorder::default();
    assert_eq!(resolve("org/name", &options, &mut progress).unwrap().name, "org/name:m-Q8_0.gguf");
    assert!(progress.notes[0].contains("m-Q8_0.gguf"), "{:?}", progress.notes);
}

#[test]
fn removing_waits_for_a_download_that_is_under_way() {
    let server = Server::start(hub(&[("m.gguf", &bytes(1_000))]));
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, &server);
    let path = resolve("org/name", &options, &mut Silent).unwrap().path;
    let lock = std::fs::File::create(dir.path().join("hub/.locks/models--org--name/0a1b.lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| chelsea_hub::remove("org/name", &options, &mut Silent).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(path.is_file() && !remover.is_finished());
        lock.unlock().unwrap();
        assert!(remover.join().unwrap() >= 1_000);
    });
    assert!(!path.exists());
}
