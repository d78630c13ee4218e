//! Names of files that are parts of one model: `NAME-00001-of-00003.gguf`.

/// The place of a file among the parts of a model, from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// What comes before the number, folders included.
    name: &'a str,
    /// Number of this part, from 1, as it is written.
    number: &'a str,
    /// Number of parts, as it is written.
    parts: &'a str,
    ending: &'a str,
}

impl<'a> Part<'a> {
    /// The place of `file`, if it is called like one part of several.
    pub(crate) fn of(file: &'a str) -> Option<Part<'a>> {
        let (stem, ending) = file.rsplit_once('.')?;
        let (stem, parts) = stem.rsplit_once("-of-")?;
        let (name, number) = stem.rsplit_once('-')?;
        let count = parts.parse::<u32>().ok()?;
        let within = (1..=count).contains(&number.parse().ok()?);
        (count > 1 && within).then_some(Part { name, number, parts, ending })
    }

    /// Whether this is the first part.
    pub(crate) fn is_first(&self) -> bool {
        self.number.parse() == Ok(1)
    }

    /// How many parts there are.
    pub(crate) fn parts(&self) -> u32 {
        self.parts.parse().expect("it was a number when the name was taken apart")
    }

    /// The names of all parts, in order.
    pub(crate) fn all(self) -> impl Iterator<Item = String> {
        let Part { name, number, parts, ending } = self;
        let width = number.len();
        (1..=self.parts()).map(move |part| format!("{name}-{part:0width$}-of-{parts}.{ending}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_names_of_all_parts() {
        let part = Part::of("q4/m-of-x-00002-of-00003.gguf").expect("a part");
        assert!(!part.is_first());
        let all: Vec<String> = part.all().collect();
        assert_eq!(all, [1, 2, 3].map(|i| format!("q4/m-of-x-0000{i}-of-00003.gguf")));
        assert!(Part::of(&all[0]).is_some_and(|first| first.is_first()));
        for whole in ["m.gguf", "m-00001-of-00001.gguf", "m-00004-of-00003.gguf", "m-0-of-3.gguf", "m-of-3.gguf", ""] {
            assert_eq!(Part::of(whole), None, "{whole}");
        }
    }
}
