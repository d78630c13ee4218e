//! What the user wrote for a model, taken apart.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::catalog::{self, NamedModel};
use crate::error::HubError;

/// A place on the hub: `org/name[@revision][:file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
    /// The file wanted, or a part of its name such as `Q8_0`.
    pub file: Option<String>,
}

/// The three kinds of places a model comes from.
#[derive(Debug, Clone)]
pub enum Spec {
    /// A file or folder of this machine.
    Local(PathBuf),
    /// A short name of the catalogue.
    Named(&'static NamedModel),
    /// A repository of the hub.
    Hub(HubId),
}

impl Spec {
    /// Reads `text`. What exists on this machine comes first, then the short names, then the hub. A name that is not
    /// UTF-8 can only be of this machine.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Spec, HubError> {
        let text = text.as_ref();
        let bad = |reason: &str| HubError::BadSpec { spec: text.to_string_lossy().into(), reason: reason.to_owned() };
        let Some(trimmed) = text.to_str().map(str::trim) else {
            let path = Path::new(text);
            return if path.exists() {
                Ok(Spec::Local(path.into()))
            } else {
                Err(bad("there is no such file or folder"))
            };
        };
        if trimmed.is_empty() {
            return Err(bad("it is empty"));
        }
        let path = Path::new(trimmed);
        if path.exists() {
            return Ok(Spec::Local(path.to_owned()));
        }
        if let Some(model) = catalog::model(trimmed) {
            return Ok(Spec::Named(model));
        }
        if looks_like_path(trimmed) {
            return Err(bad("there is no such file or folder"));
        }
        match HubId::parse(trimmed) {
            Some(id) => Ok(Spec::Hub(id)),
            None => Err(bad(
                "no file, folder or short name is called so, and it is not of the form org/name[@revision][:file], where \
                 org and name are letters, digits, `.`, `_` and `-`",
            )),
        }
    }
}

impl HubId {
    /// `org/name[@revision][:file]`, or `None` when the text has another form.
    pub fn parse(text: &str) -> Option<HubId> {
        let (place, file) = match text.split_once(':') {
            Some((place, file)) => (place, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = place.split_once('@').unwrap_or((place, "main"));
        let (org, name) = repo.split_once('/')?;
        // What the hub allows; anything else would not survive being put into a URL.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_name = |part: &str| is_safe_path(part) && part.chars().all(plain);
        if !is_name(org) || !is_name(name) || !is_safe_path(revision) || !file.is_none_or(is_safe_path) {
            return None;
        }
        Some(HubId { repo: repo.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }
}

/// A relative path of plain components: safe to append to a folder and to a URL once encoded.
pub(crate) fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|part| {
            let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '?' | '*' | '"' | '<' | '>' | '|');
            !part.is_empty() && part != "." && part != ".." && part.chars().all(plain)
        })
}

fn looks_like_path(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let has_model_ending = lower.ends_with(".gguf") || lower.ends_with(".safetensors");
    let has_path_start = ["/", "./", "../", "~", ".\\", "..\\"].iter().any(|start| text.starts_with(start));
    let is_drive = text.as_bytes().get(1) == Some(&b':') && text.len() > 2;
    has_path_start || is_drive || text.contains('\\') || (has_model_ending && !text.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(repo: &str, revision: &str, file: Option<&str>) -> Option<HubId> {
        Some(HubId { repo: repo.into(), revision: revision.into(), file: file.map(str::to_owned) })
    }

    #[test]
    fn a_hub_id_has_a_repository_a_revision_and_a_file() {
        assert_eq!(HubId::parse("org/name"), id("org/name", "main", None));
        assert_eq!(HubId::parse("org/name:a/b.gguf"), id("org/name", "main", Some("a/b.gguf")));
        assert_eq!(HubId::parse("org/name@v1:b.gguf"), id("org/name", "v1", Some("b.gguf")));
    }

    #[test]
    fn paths_that_leave_their_folder_are_no_hub_ids() {
        for text in ["name", "/name", "org/", "a/b/c", "../name", "org/..", "org/name:../x", "org/name:/x", "org/name:"]
        {
            assert_eq!(HubId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn organisations_and_names_are_plain() {
        assert!(HubId::parse("Org-1/na_me.v2").is_some());
        for text in ["org/na me", "org/name#x", "org/näme", "o%2Fx/name", "org/name&x=1", "o;rg/name"] {
            assert_eq!(HubId::parse(text), None, "{text}");
            let error = Spec::parse(text).expect_err(text).to_string();
            assert!(error.contains("letters, digits"), "{error}");
        }
    }

    #[test]
    fn what_exists_here_wins_over_the_hub() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("m.gguf");
        std::fs::write(&file, "GGUF").expect("written");
        assert!(matches!(Spec::parse(file.to_str().expect("utf-8")), Ok(Spec::Local(p)) if p == file));
        assert!(matches!(Spec::parse("smollm2"), Ok(Spec::Named(m)) if m.name == "smollm2"));
        assert!(matches!(Spec::parse("no-such-org/model"), Ok(Spec::Hub(_))));
    }

    #[test]
    fn a_missing_file_is_not_looked_for_on_the_hub() {
        for text in ["./org/model.gguf", "models/x.gguf", "/no/such/folder", "C:\\models\\x.gguf", "", "one-word"] {
            let error = Spec::parse(text).expect_err(text).to_string();
            assert!(error.contains("short names smollm2"), "{error}");
        }
    }
}
