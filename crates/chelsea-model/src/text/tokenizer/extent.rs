//! What a vocabulary says of any text: how few tokens it can be, and where it may be cut without another result.
//!
//! Encoding takes about a hundred bytes of memory for each byte of text, so a long text is encoded in pieces. A cut lies
//! between a letter and a space or a line end that a letter follows. Every pre-tokenizer cuts there, and where one does
//! not, no merge crosses the place: a vocabulary with a token that goes on behind such a place is found out when it is
//! read, and is not cut.

use tokenizers::{AddedToken, NormalizerWrapper};

use super::table::Table;

/// Bytes of text that are encoded at once, more or less.
pub(super) const PIECE: usize = 64 << 10;

/// What holds for every text in a vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Bytes of text that a token stands for at most; none where nothing bounds it.
    longest: Option<usize>,
    /// Whether the ids of a text that is cut are those of the whole.
    cuts: bool,
}

impl Extent {
    pub(super) fn of(table: &Table, added: &[AddedToken], normalizer: Option<&NormalizerWrapper>) -> Self {
        let (mut longest, mut cuts, mut bytes) = (1, true, Vec::new());
        for id in 0..table.len() as u32 {
            bytes.clear();
            table.append_bytes(id, &mut bytes);
            longest = longest.max(bytes.len());
            cuts &= !std::str::from_utf8(&bytes).is_ok_and(|text| first_cut(text, 0).is_some());
        }
        // One that takes in the white space beside it must not begin or end at a cut.
        let at_letters = |token: &AddedToken| {
            let (first, last) = (token.content.chars().next(), token.content.chars().next_back());
            (token.lstrip && first.is_some_and(is_letter)) || (token.rstrip && last.is_some_and(is_letter))
        };
        cuts &= !added.iter().any(at_letters);
        Self { longest: normalizer.map_or(Some(1), shrinks).map(|times| longest * times), cuts }
    }

    /// The least number of tokens that a text of `bytes` can be.
    pub(super) fn fewest(&self, bytes: usize) -> usize {
        self.longest.map_or(0, |longest| bytes.div_ceil(longest))
    }

    /// The text in pieces of about `piece` bytes, whose ids together are those of the whole.
    pub(super) fn pieces<'t>(&self, text: &'t str, piece: usize) -> impl Iterator<Item = &'t str> + use<'t> {
        let (mut rest, cuts) = (text, self.cuts);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let at = if cuts { first_cut(rest, piece) } else { None }.unwrap_or(rest.len());
            let (now, later) = rest.split_at(at);
            rest = later;
            Some(now)
        })
    }
}

/// The first place at `from` or behind it where text may be cut.
fn first_cut(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    (from.max(1)..bytes.len().saturating_sub(1)).find(|&at| {
        matches!(bytes[at], b' ' | b'\n')
            && text[..at].chars().next_back().is_some_and(is_letter)
            && text[at + 1..].chars().next().is_some_and(is_letter)
    })
}

/// Letters that are letters to every pattern, and that no normal form joins with what is beside a space.
fn is_letter(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' => true,
        'À'..='ɏ' => c != '×' && c != '÷',
        // Cyrillic, Hiragana, Han, Hangul.
        'Ѐ'..='ҁ' | 'ぁ'..='ゖ' | '一'..='鿿' | '가'..='힣' => true,
        _ => false,
    }
}

/// How many bytes of text a normaliser makes one of at most; none where that has no bound.
fn shrinks(step: &NormalizerWrapper) -> Option<usize> {
    match step {
        NormalizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().try_fold(1, |times, step| Some(times * shrinks(step)?))
        }
        NormalizerWrapper::Prepend(_) => Some(1),
        // Three Hangul letters of three bytes are a syllable of three, a letter and its accents fewer bytes than they were.
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => Some(4),
        // A letter of mathematics has four bytes and is one of Latin.
        NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) => Some(16),
        // A space and the sign for it, which the table counts as a space.
        NormalizerWrapper::Replace(replace) => {
            // Its pattern can be asked for in writing only.
            let written = serde_json::to_value(replace).unwrap_or_default();
            (written["pattern"]["String"] == " " && replace.content == "▁").then_some(1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_between_letters_and_one_space() {
        assert_eq!(first_cut("a cat", 0), Some(1));
        assert_eq!(first_cut("a cat sat", 2), Some(5));
        assert_eq!(first_cut("猫\n犬", 0), Some(3));
        for text in ["", " ", "a ", " a", "a  cat", "1 cat", "a 1", "a.\nb", "a\r\nb", "ก ข", "a\u{301} b"] {
            assert_eq!(first_cut(text, 0), None, "{text:?}");
        }
    }

    #[test]
    fn pieces_are_the_text() {
        let text = "a cat sat on the mat\nand 猫 was it.  Well ".repeat(9);
        for (cuts, several) in [(true, true), (false, false)] {
            let extent = Extent { longest: Some(4), cuts };
            for piece in [0, 1, 7, 64] {
                let pieces: Vec<&str> = extent.pieces(&text, piece).collect();
                assert_eq!(pieces.concat(), text);
                assert_eq!(pieces.len() > 2, several);
            }
            assert_eq!(extent.fewest(9), 3);
            assert_eq!(extent.pieces("", 7).count(), 0);
        }
    }
}
