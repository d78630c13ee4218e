//! Files that the command writes for people to keep.

use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::path::Path;

/// Writes `text` to `path`, and its folder if there is none. What stands there is whole at any time: the old text or
/// the new one, and nothing beside it.
pub fn replace_file(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    // A link stays one: what it leads to is replaced, also where nothing is there yet.
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    let path = path.as_path();
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

/// Links in a row that are followed; systems give up there, too.
const MOST_LINKS: usize = 40;

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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (link, target) = (folder.path().join("link.md"), folder.path().join("target.md"));
        std::os::unix::fs::symlink("target.md", &link).expect("linked");
        for text in ["one", "two"] {
            replace_file(&link, text).expect("written");
            assert_eq!(std::fs::read_to_string(&target).expect("read"), text);
            assert!(link.symlink_metadata().expect("there").is_symlink());
        }
    }
}
