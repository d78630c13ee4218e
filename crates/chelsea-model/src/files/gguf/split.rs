//! GGUF models that were split into several files: which files they are, and whether they belong together.
//!
//! The parts are called `NAME-00001-of-00003.gguf` and so on. All of them say how many there are and which one they
//! are; only the first says what the model is. Each has tensors of its own.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError};

/// What a file says about the parts that it is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Number of this part, from 0.
    pub part: u32,
    /// Number of parts, at least two.
    pub parts: u32,
    /// Tensors of all parts, where the file says it.
    pub tensors: Option<u64>,
}

impl Split {
    /// What `gguf` says, if it is one part of several.
    pub(crate) fn of(gguf: &Gguf) -> Result<Option<Split>, GgufError> {
        let metadata = &gguf.metadata;
        let Some(parts) = metadata.u32("split.count")?.filter(|&parts| parts > 1) else { return Ok(None) };
        let part = metadata.u32("split.no")?.unwrap_or(0);
        Ok(Some(Split { part, parts, tensors: metadata.u64("split.tensors.count")? }))
    }

    /// The file of part `part` beside `path`, which is one of the parts; `None` when `path` is not called like one.
    pub(crate) fn file_of(self, path: &Path, part: u32) -> Option<PathBuf> {
        let (stem, ending) = path.file_name()?.to_str()?.rsplit_once('.')?;
        let (stem, parts) = stem.rsplit_once("-of-")?;
        let (name, number) = stem.rsplit_once('-')?;
        let belongs = parts.parse() == Ok(self.parts) && number.parse() == Ok(u64::from(self.part) + 1);
        let width = number.len();
        belongs.then(|| path.with_file_name(format!("{name}-{:0width$}-of-{parts}.{ending}", part + 1)))
    }
}

/// Whether a file's name is that of a part of a split model other than the first.
pub(crate) fn is_later_part(path: &Path) -> bool {
    let number = || {
        let (stem, parts) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
        let (_, number) = stem.rsplit_once('-')?;
        parts.parse::<u32>().ok().and(number.parse::<u32>().ok())
    };
    number().is_some_and(|number| number > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_name() {
        let split = Split { part: 1, parts: 3, tensors: None };
        let file_of = |path: &str, part| split.file_of(Path::new(path), part);
        assert_eq!(file_of("d/m-of-x-00002-of-00003.gguf", 0), Some("d/m-of-x-00001-of-00003.gguf".into()));
        assert_eq!(file_of("m-2-of-3.GGUF", 2), Some("m-3-of-3.GGUF".into()));
        for other in ["m.gguf", "m-00003-of-00003.gguf", "m-00002-of-00004.gguf", "m-of-00003.gguf", "..", ""] {
            assert_eq!(file_of(other, 0), None, "{other}");
        }
        assert!(is_later_part(Path::new("m-00002-of-00003.gguf")));
        assert!(!is_later_part(Path::new("m-00001-of-00003.gguf")) && !is_later_part(Path::new("one-of-many.gguf")));
    }
}
