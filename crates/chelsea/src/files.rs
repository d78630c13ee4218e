//! Files that the command writes for people to keep.

use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::path::Path;

/// Writes `text` to `path`, and its folder if there is none. What stands there is whole at any time: the old text or
/// the new one, and nothing beside it.
pub fn replace_file(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).with_context(failed)?;
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".chelsea-").suffix(".partial");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_failure_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join("page.md");
        for text in ["one", "two"] {
            replace_file(&path, text).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        let taken = folder.path().join("taken");
        std::fs::create_dir_all(taken.join("full")).expect("a folder in its place");
        let error = replace_file(&taken, "text").expect_err("a folder").to_string();
        assert!(error.contains("taken"), "{error}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
