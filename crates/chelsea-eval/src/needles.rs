//! Needles: facts hidden in a long text, asked for after it was read.
//!
//! A context is a stretch of a haystack with `needles` sentences "The special magic number for CITY is: DIGITS."
//! spread evenly over it, each between two sentences of the text. Every needle is asked for on its
//! own; an answer is right when it holds the digits exactly.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use thiserror::Error;

/// What contexts look like.
#[derive(Debug, Clone)]
pub struct NeedleOptions {
    /// Tokens of the haystack in each context (needles come on top).
    pub tokens: usize,
    /// Needles in each context.
    pub needles: usize,
    /// Digits of each needle.
    pub digits: usize,
    /// Seed of cities, digits and the place in the haystack.
    pub seed: u64,
}

impl Default for NeedleOptions {
    fn default() -> Self {
        NeedleOptions { tokens: 3000, needles: 6, digits: 7, seed: 0 }
    }
}

/// One fact to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    /// What the question names.
    pub city: &'static str,
    /// What the answer must hold.
    pub digits: String,
}

impl Needle {
    /// The question.
    pub fn question(&self) -> String {
        format!("What is the special magic number for {}? Answer with the number only.", self.city)
    }

    /// Whether an answer holds the digits exactly, neither cut short nor run on.
    pub fn answered_by(&self, text: &str) -> bool {
        text.split(|c: char| !c.is_ascii_digit()).any(|run| run == self.digits)
    }
}

/// A text with needles in it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The text, needles included.
    pub text: String,
    /// The needles, in the order of the text.
    pub needles: Vec<Needle>,
}

/// A haystack that cannot give what was asked for.
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
    /// More needles than there are names for them.
    #[error("{0} needles were asked for, but there are names for {known} only", known = CITIES.len())]
    TooManyNeedles(usize),
}

const CITIES: [&str; 40] = [
    "Lisbon",
    "Nairobi",
    "Oslo",
    "Lima",
    "Kyoto",
    "Cairo",
    "Dublin",
    "Havana",
    "Warsaw",
    "Quito",
    "Tunis",
    "Riga",
    "Seoul",
    "Athens",
    "Bogota",
    "Dakar",
    "Geneva",
    "Hanoi",
    "Jakarta",
    "Kiev",
    "London",
    "Madrid",
    "Naples",
    "Ottawa",
    "Prague",
    "Rabat",
    "Sofia",
    "Tokyo",
    "Utrecht",
    "Vienna",
    "Wellington",
    "Yerevan",
    "Zagreb",
    "Accra",
    "Berlin",
    "Chicago",
    "Delhi",
    "Edinburgh",
    "Florence",
    "Glasgow",
];

/// Makes context number `index`. `count_tokens` says how long a text is for the model under test.
pub fn context(
    haystack: &str,
    options: &NeedleOptions,
    index: u64,
    count_tokens: &dyn Fn(&str) -> usize,
) -> Result<Context, HaystackError> {
    if options.needles > CITIES.len() {
        return Err(HaystackError::TooManyNeedles(options.needles));
    }
    let mut rng = StdRng::seed_from_u64(options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index));
    let sentences = sentences(haystack);
    let lengths: Vec<usize> = sentences.iter().map(|s| count_tokens(s)).collect();
    let total: usize = lengths.iter().sum();
    if total < options.tokens {
        return Err(HaystackError::TooShort { has: total, needs: options.tokens });
    }
    // The last start from which enough text follows.
    let mut tail = 0;
    let last = (0..sentences.len()).rev().find(|&i| {
        tail += lengths[i];
        tail >= options.tokens
    });
    let start = rng.random_range(0..=last.unwrap_or(0));
    let mut cities = CITIES.to_vec();
    cities.shuffle(&mut rng);
    let needles: Vec<Needle> = cities
        .into_iter()
        .take(options.needles)
        .map(|city| Needle {
            city,
            digits: (0..options.digits)
                .map(|i| char::from(b'0' + if i == 0 { rng.random_range(1..10u8) } else { rng.random_range(0..10u8) }))
                .collect(),
        })
        .collect();
    let (mut text, mut read, mut placed) = (String::new(), 0, 0);
    for (sentence, length) in sentences.iter().zip(&lengths).skip(start) {
        if read >= options.tokens {
            break;
        }
        // Needle i of m sits at depth (i + 1/2) / m.
        while placed < needles.len() && 2 * read * needles.len() >= (2 * placed + 1) * options.tokens {
            push_needle(&mut text, &needles[placed]);
            placed += 1;
        }
        text.push_str(sentence);
        read += length;
    }
    for needle in &needles[placed..] {
        push_needle(&mut text, needle);
    }
    Ok(Context { text, needles })
}

fn push_needle(text: &mut String, needle: &Needle) {
    if !text.is_empty() && !text.ends_with(char::is_whitespace) {
        text.push(' ');
    }
    text.push_str(&format!("The special magic number for {} is: {}. ", needle.city, needle.digits));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn hay() -> String {
        (0..400).map(|i| format!("Sentence number {i} has a few plain words. ")).collect()
    }

    #[test]
    fn sentences_keep_every_byte() {
        let text = "One. Two!  Three?\nFour 3.5 five";
        assert_eq!(sentences(text).concat(), text);
        assert_eq!(sentences(text), ["One. ", "Two!  ", "Three?\n", "Four 3.5 five"]);
    }

    #[test]
    fn a_context_holds_every_needle_once_spread_in_order() {
        let c = context(&hay(), &NeedleOptions { tokens: 600, ..NeedleOptions::default() }, 3, &words).unwrap();
        let at: Vec<usize> = c.needles.iter().map(|n| c.text.find(&n.digits).unwrap()).collect();
        assert_eq!(c.needles.len(), 6);
        assert!(at.is_sorted());
        let depth = |i: usize| at[i] as f64 / c.text.len() as f64;
        assert!((depth(0) - 1.0 / 12.0).abs() < 0.05 && (depth(5) - 11.0 / 12.0).abs() < 0.05, "{at:?}");
        for n in &c.needles {
            assert_eq!(c.text.matches(&n.digits).count(), 1);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_context_and_another_index_another() {
        let o = NeedleOptions { tokens: 300, ..NeedleOptions::default() };
        let text = |i| context(&hay(), &o, i, &words).unwrap().text;
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn only_the_exact_digits_count_as_an_answer() {
        let n = Needle { city: "Oslo", digits: "1234567".into() };
        assert!(n.answered_by("The code is 1234567."));
        assert!(!n.answered_by("12345678"));
        assert!(!n.answered_by("123 4567"));
    }

    #[test]
    fn too_short_a_haystack_is_an_error() {
        let err = context("Short. Text.", &NeedleOptions::default(), 0, &words).unwrap_err();
        assert_eq!(err, HaystackError::TooShort { has: 2, needs: 3000 });
    }
}
