//! Models that lie on this machine.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::split::Part;
use crate::{Format, ResolvedModel, Source, StandIn};

/// A file or folder as a model. Only names and first bytes are looked at; reading it is the loader's work.
pub(crate) fn resolve(path: &Path) -> Result<ResolvedModel, HubError> {
    let bad = |reason: String| HubError::BadLocalModel { path: path.to_owned(), reason };
    let model = |path: PathBuf, format| {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        ResolvedModel { path, format, name, source: Source::Local }
    };
    if path.is_dir() {
        let (path, format) = folder(path)?;
        return Ok(model(path, format));
    }
    check_stand_in(path)?;
    match format_of(path)? {
        Some(Format::Safetensors) if !path.with_file_name("config.json").is_file() => {
            Err(bad("a .safetensors file needs its config.json (and tokenizer.json) beside it".into()))
        }
        Some(format) => Ok(model(path.to_owned(), format)),
        None => Err(bad("it is neither a GGUF nor a safetensors file".into())),
    }
}

fn folder(path: &Path) -> Result<(PathBuf, Format), HubError> {
    let bad = |reason: String| HubError::BadLocalModel { path: path.to_owned(), reason };
    let entries = std::fs::read_dir(path).map_err(HubError::io("list", path))?;
    let files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    let with = |ending: &str| -> Vec<&PathBuf> {
        files.iter().filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending))).collect()
    };
    // A part brings its later ones with it.
    let is_later = |p: &PathBuf| p.to_str().and_then(Part::of).is_some_and(|part| !part.is_first());
    let ours = ["safetensors", "gguf", "json"];
    let of_a_model = |p: &&PathBuf| p.extension().is_some_and(|e| ours.iter().any(|own| e.eq_ignore_ascii_case(own)));
    files.iter().filter(of_a_model).try_for_each(|file| check_stand_in(file))?;
    let (safetensors, mut gguf) = (with("safetensors"), with("gguf"));
    gguf.retain(|p| !is_later(p));
    let has = |name: &str| path.join(name).is_file();
    match (safetensors.is_empty(), has("config.json"), gguf.as_slice()) {
        (false, true, _) if has("model.safetensors") || has("model.safetensors.index.json") => {
            Ok((path.to_owned(), Format::Safetensors))
        }
        // Under another name it has to be the only one.
        (false, true, _) => match safetensors.as_slice() {
            [one] => Ok(((*one).clone(), Format::Safetensors)),
            _ => Err(bad("it has several .safetensors files and no model.safetensors.index.json; name one".into())),
        },
        (true, _, [one]) => Ok(((*one).clone(), Format::Gguf)),
        (false, false, _) => Err(bad("it has .safetensors files but no config.json".into())),
        (true, _, []) => Err(bad("it has neither .safetensors files with a config.json nor a .gguf file".into())),
        (true, _, several) => {
            let names: Vec<_> = several.iter().filter_map(|p| p.file_name()?.to_str()).collect();
            Err(bad(format!("it has several .gguf files, name one: {}", names.join(", "))))
        }
    }
}

/// Refuses a file that is not the one that was meant.
fn check_stand_in(path: &Path) -> Result<(), HubError> {
    match StandIn::of_file(path) {
        Some(found) => Err(HubError::BadLocalModel { path: path.to_owned(), reason: found.to_string() }),
        None => Ok(()),
    }
}

/// By the ending; a GGUF file also by its first bytes, whatever it is called.
fn format_of(path: &Path) -> Result<Option<Format>, HubError> {
    match path.extension() {
        Some(e) if e.eq_ignore_ascii_case("gguf") => return Ok(Some(Format::Gguf)),
        Some(e) if e.eq_ignore_ascii_case("safetensors") => return Ok(Some(Format::Safetensors)),
        _ => {}
    }
    let file = std::fs::File::open(path).map_err(HubError::io("open", path))?;
    let mut head = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut head).map_err(HubError::io("read", path))?;
    Ok((head == b"GGUF").then_some(Format::Gguf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    #[test]
    fn a_file_is_known_by_its_ending_or_its_first_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let named = write(dir.path(), "a.GGUF", b"");
        assert_eq!(resolve(&named).expect("a model").format, Format::Gguf);
        let unnamed = write(dir.path(), "blob", b"GGUF\x03\0\0\0\0");
        assert_eq!(resolve(&unnamed).expect("a model").format, Format::Gguf);
        let tensors = write(dir.path(), "m.safetensors", b"");
        let error = resolve(&tensors).expect_err("no config yet").to_string();
        assert!(error.contains("config.json"), "{error}");
        write(dir.path(), "config.json", b"{}");
        assert_eq!(resolve(&tensors).expect("a model").format, Format::Safetensors);
        let text = write(dir.path(), "notes.txt", b"hello");
        assert!(resolve(&text).is_err());
    }

    #[test]
    fn a_folder_needs_a_config_or_a_single_gguf() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(resolve(dir.path()).is_err());
        let one = write(dir.path(), "one.gguf", b"GGUF");
        assert_eq!(resolve(dir.path()).expect("the only one").path, one);
        write(dir.path(), "two.gguf", b"GGUF");
        let error = resolve(dir.path()).expect_err("two").to_string();
        assert!(error.contains("one.gguf") && error.contains("two.gguf"), "{error}");
        std::fs::remove_file(one).expect("removed");
        let first = write(dir.path(), "m-00001-of-00002.gguf", b"GGUF");
        write(dir.path(), "m-00002-of-00002.gguf", b"GGUF");
        assert!(resolve(dir.path()).is_err(), "beside another");
        std::fs::remove_file(dir.path().join("two.gguf")).expect("removed");
        assert_eq!(resolve(dir.path()).expect("parts of one").path, first);
        write(dir.path(), "model.safetensors", b"");
        assert!(resolve(dir.path()).expect_err("no config").to_string().contains("config.json"));
        write(dir.path(), "config.json", b"{}");
        let model = resolve(dir.path()).expect("a model folder");
        assert_eq!((model.path.as_path(), model.format), (dir.path(), Format::Safetensors));
    }

    #[test]
    fn pointers_and_pages_are_called_what_they_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let pointer = write(dir.path(), "model.gguf", b"version https://git-lfs.example/spec/v1\noid sha256:0\n");
        for path in [dir.path(), &pointer] {
            let error = resolve(path).expect_err("no model").to_string();
            assert!(error.contains("model.gguf") && error.contains("Git LFS pointer"), "{error}");
        }
        let page = write(dir.path(), "page.gguf", b"<!doctype html><title>model.gguf</title>");
        assert!(resolve(&page).expect_err("no model").to_string().contains("web page"));
        std::fs::remove_file(pointer).expect("removed");
        std::fs::remove_file(page).expect("removed");
        write(dir.path(), "config.json", b"{}");
        write(dir.path(), "model.safetensors", b"");
        write(dir.path(), "tokenizer.json", b"version https://git-lfs.example/spec/v1\noid sha256:0\n");
        let error = resolve(dir.path()).expect_err("no tokenizer").to_string();
        assert!(error.contains("tokenizer.json") && error.contains("Git LFS pointer"), "{error}");
    }

    #[test]
    fn a_single_safetensors_file_may_have_any_name() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), "config.json", b"{}");
        let one = write(dir.path(), "weights.safetensors", b"");
        assert_eq!(resolve(dir.path()).expect("the only one").path, one);
        write(dir.path(), "other.safetensors", b"");
        assert!(resolve(dir.path()).expect_err("two").to_string().contains("name one"));
    }
}
