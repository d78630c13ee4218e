//! Text to hide things in: one long text, cut into sentences whose lengths in tokens are known.

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;

/// A text that cannot give what was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HaystackError {
    /// Too little text.
    #[error("the haystack has about {has} tokens, but a context needs {needs}: give more text or fewer tokens")]
    TooShort {
        /// Tokens there are.
        has: usize,
        /// Tokens needed.
        needs: usize,
    },
    /// More things to hide than there can be.
    #[error("{asked} {what} were asked for, but {known} are the most there can be")]
    TooMany {
        /// What was asked for.
        what: &'static str,
        /// How many.
        asked: usize,
        /// How many there could be.
        known: usize,
    },
    /// A setting that makes no task.
    #[error("{0}")]
    Setting(&'static str),
    /// Text that cannot be turned into tokens.
    #[error("the haystack cannot be turned into tokens: {0}")]
    Tokens(String),
}

/// A long text.
#[derive(Debug)]
pub struct Haystack {
    sentences: Vec<String>,
    lengths: Vec<usize>,
    total: usize,
    tokens: Vec<u32>,
    vocabulary: Vec<String>,
}

/// Most tokens of a document that is made line by line: it is made whole, and no model reads as much.
pub(super) const MOST: usize = 100_000_000;

/// Turns text into tokens of the model under test.
pub type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, HaystackError>;

impl Haystack {
    /// Cuts a text into sentences and measures them.
    pub fn new(text: &str, encode: Encode<'_>) -> Result<Self, HaystackError> {
        let sentences: Vec<String> = sentences(text).into_iter().map(String::from).collect();
        let lengths: Result<Vec<usize>, _> = sentences.iter().map(|s| encode(s).map(|t| t.len())).collect();
        let lengths = lengths?;
        let total = lengths.iter().sum();
        Ok(Haystack { sentences, lengths, total, tokens: encode(text)?, vocabulary: vocabulary(text) })
    }

    /// Consecutive sentences of at least `tokens` tokens in all, from a place that `rng` draws, each with its length.
    pub(super) fn stretch(&self, rng: &mut StdRng, tokens: usize) -> Result<Vec<(&str, usize)>, HaystackError> {
        if self.total < tokens {
            return Err(HaystackError::TooShort { has: self.total, needs: tokens });
        }
        // The last start from which enough text follows.
        let mut tail = 0;
        let last = (0..self.sentences.len()).rev().find(|&i| {
            tail += self.lengths[i];
            tail >= tokens
        });
        let start = rng.random_range(0..=last.unwrap_or(0));
        let (mut out, mut read) = (Vec::new(), 0);
        for (sentence, &length) in self.sentences.iter().zip(&self.lengths).skip(start) {
            if read >= tokens {
                break;
            }
            out.push((sentence.as_str(), length));
            read += length;
        }
        Ok(out)
    }

    /// `n` consecutive tokens of the text, from a place that `rng` draws.
    pub(super) fn token_stretch(&self, rng: &mut StdRng, n: usize) -> Result<&[u32], HaystackError> {
        if self.tokens.len() < n {
            return Err(HaystackError::TooShort { has: self.tokens.len(), needs: n });
        }
        let start = rng.random_range(0..=self.tokens.len() - n);
        Ok(&self.tokens[start..start + n])
    }

    /// Distinct plain words of the text, in order of the alphabet.
    pub(super) fn vocabulary(&self) -> &[String] {
        &self.vocabulary
    }
}

/// The random numbers of sample `index`: the same for the same seed, whatever else is run.
pub(super) fn random(seed: u64, index: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index))
}

/// Cuts a text after sentence ends, keeping every byte.
fn sentences(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut ended) = (0, false);
    for (i, c) in text.char_indices() {
        if ended && !c.is_whitespace() {
            out.push(&text[start..i]);
            start = i;
            ended = false;
        }
        if matches!(c, '.' | '!' | '?') && text[i + 1..].starts_with(char::is_whitespace) {
            ended = true;
        }
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

/// Words of five to nine small letters.
fn vocabulary(text: &str) -> Vec<String> {
    let plain = |w: &&str| (5..=9).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
    let mut words: Vec<String> = text.split_whitespace().filter(plain).map(String::from).collect();
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Every word is a token, numbered by its length: enough for generators.
    pub(in crate::tasks) fn encode(text: &str) -> Result<Vec<u32>, HaystackError> {
        Ok(text.split_whitespace().map(|w| w.len() as u32).collect())
    }

    /// A haystack of plain sentences with a few hundred different words.
    pub(in crate::tasks) fn hay() -> Haystack {
        let word = |i: usize| -> String {
            let letter = |k: usize| char::from(b'a' + (k % 26) as u8);
            [i, i / 26, i * 7, i * 11 + 3, i / 5].into_iter().map(letter).collect()
        };
        let text: String =
            (0..400).map(|i| format!("Sentence number {i} has {} and {}. ", word(i), word(3 * i + 1))).collect();
        Haystack::new(&text, &encode).unwrap()
    }

    #[test]
    fn sentences_keep_every_byte() {
        let text = "One. Two!  Three?\nFour 3.5 five";
        assert_eq!(sentences(text).concat(), text);
        assert_eq!(sentences(text), ["One. ", "Two!  ", "Three?\n", "Four 3.5 five"]);
    }

    #[test]
    fn a_stretch_is_long_enough_and_stays_inside_the_text() {
        let hay = hay();
        for index in 0..50 {
            let stretch = hay.stretch(&mut random(1, index), 500).unwrap();
            let tokens: usize = stretch.iter().map(|(_, n)| n).sum();
            assert!((500..508).contains(&tokens), "{tokens}");
        }
        let all = hay.total;
        assert!(hay.stretch(&mut random(0, 0), all).is_ok());
        let error = hay.stretch(&mut random(0, 0), all + 1).unwrap_err();
        assert_eq!(error, HaystackError::TooShort { has: all, needs: all + 1 });
        assert!(hay.token_stretch(&mut random(0, 0), hay.tokens.len()).is_ok());
        assert!(hay.token_stretch(&mut random(0, 0), hay.tokens.len() + 1).is_err());
    }

    #[test]
    fn the_vocabulary_holds_plain_words_once() {
        assert_eq!(vocabulary("Alpha gamma beta1 gamma delta. epsilon toolongaword abc"), ["epsilon", "gamma"]);
    }
}
