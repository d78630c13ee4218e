//! Needles: facts hidden in a long text, asked for after it was read.
//!
//! A context is a stretch of a haystack with sentences "The special magic number for CITY is: DIGITS." in it, each
//! between two sentences of the text. An answer is right when it holds the value exactly. What is hidden and asked
//! for depends on the [`Kind`]: each needle on its own, one alone at a given depth, several values of one key, or
//! several keys in one question.

use super::haystack::{Haystack, HaystackError, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// How many needles there are, and how they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One needle, one question.
    Single,
    /// Needles with different keys; each is asked for on its own.
    MultiKey,
    /// Needles with one key; one question asks for all values.
    MultiValue,
    /// Needles with different keys; one question asks for all of them.
    MultiQuery,
}

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Numbers of so many digits.
    Digits(usize),
    /// Two words with a hyphen between them.
    Words,
    /// Random UUIDs.
    Uuids,
}

/// What contexts look like.
#[derive(Debug, Clone, Copy)]
pub struct NeedleOptions {
    /// Tokens of the haystack in each context (needles come on top).
    pub tokens: usize,
    /// How needles are asked for.
    pub kind: Kind,
    /// Needles in each context; one where the kind is [`Kind::Single`].
    pub needles: usize,
    /// What the values are.
    pub values: Values,
    /// Where the needle lies, from 0 to 1, where there is one; needles are spread evenly when this is none.
    pub depth: Option<f64>,
    /// Seed of keys, values and the place in the haystack.
    pub seed: u64,
}

impl Default for NeedleOptions {
    fn default() -> Self {
        NeedleOptions {
            tokens: 3000,
            kind: Kind::MultiKey,
            needles: 6,
            values: Values::Digits(7),
            depth: None,
            seed: 0,
        }
    }
}

impl NeedleOptions {
    /// The name of the task, which tells kinds and values apart.
    pub fn task(&self) -> String {
        let kind = match self.kind {
            Kind::Single => "_single",
            Kind::MultiKey => "",
            Kind::MultiValue => "_multivalue",
            Kind::MultiQuery => "_multiquery",
        };
        let values = match self.values {
            Values::Digits(7) => String::new(),
            Values::Digits(n) => format!("_{n}digits"),
            Values::Words => "_words".into(),
            Values::Uuids => "_uuids".into(),
        };
        format!("needles{kind}{values}")
    }

    fn noun(&self) -> &'static str {
        match self.values {
            Values::Digits(_) => "number",
            Values::Words => "word",
            Values::Uuids => "code",
        }
    }

    fn check(&self) -> Result<(), HaystackError> {
        let known = if self.kind == Kind::MultiValue { MOST } else { CITIES.len() };
        if self.needles > known {
            return Err(HaystackError::TooMany { what: "needles", asked: self.needles, known });
        }
        if self.needles == 0 || self.values == Values::Digits(0) {
            return Err(HaystackError::Setting("a context needs at least one needle, and a number one digit"));
        }
        if let Values::Digits(digits) = self.values
            && self.needles as f64 > 9.0 * 10f64.powi(digits as i32 - 1)
        {
            return Err(HaystackError::Setting(
                "there are fewer numbers of so many digits than needles: give them more",
            ));
        }
        if self.depth.is_some_and(|d| !(0.0..=1.0).contains(&d)) {
            return Err(HaystackError::Setting("the depth of a needle is between 0 (the beginning) and 1 (the end)"));
        }
        if self.depth.is_some() && self.kind != Kind::Single {
            return Err(HaystackError::Setting(
                "only a single needle lies at a given depth; several are spread evenly",
            ));
        }
        Ok(())
    }
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needle {
    key: &'static str,
    value: String,
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

/// Most values of one key.
const MOST: usize = 1000;

/// Makes context number `index`.
pub fn sample(haystack: &Haystack, options: &NeedleOptions, index: u64) -> Result<Sample, HaystackError> {
    options.check()?;
    let count = if options.kind == Kind::Single { 1 } else { options.needles };
    let mut rng = random(options.seed, index);
    let stretch = haystack.stretch(&mut rng, options.tokens)?;
    let mut cities = CITIES.to_vec();
    cities.shuffle(&mut rng);
    let keys: Vec<&'static str> = match options.kind {
        Kind::MultiValue => vec![cities[0]; count],
        _ => cities.into_iter().take(count).collect(),
    };
    let mut needles: Vec<Needle> = Vec::with_capacity(count);
    for key in keys {
        let mut draw = || value(options.values, count, haystack, &mut rng);
        let mut value = draw()?;
        while needles.iter().any(|n| n.value == value) {
            value = draw()?;
        }
        needles.push(Needle { key, value });
    }
    // Needle i of m sits at depth (i + 1/2) / m.
    let depths: Vec<f64> = match options.depth {
        Some(depth) => vec![depth],
        None => (0..count).map(|i| (i as f64 + 0.5) / count as f64).collect(),
    };
    let text = hide(&stretch, &needles, &depths, options);
    let id = options.depth.map_or_else(|| index.to_string(), |d| format!("{index}@{:.0}%", 100.0 * d));
    Ok(Sample {
        task: options.task(),
        id,
        length: options.tokens,
        system: None,
        document: Document::Text(text),
        probes: questions(&needles, &depths, options).into_iter().map(Probe::Ask).collect(),
        source: None,
    })
}

/// A value, where `wanted` different ones are to be found in all.
fn value(kind: Values, wanted: usize, haystack: &Haystack, rng: &mut StdRng) -> Result<String, HaystackError> {
    Ok(match kind {
        Values::Digits(digits) => (0..digits)
            .map(|i| char::from(b'0' + if i == 0 { rng.random_range(1..10u8) } else { rng.random_range(0..10u8) }))
            .collect(),
        Values::Words => {
            let words = haystack.vocabulary();
            if words.len() < 100 || words.len() * words.len() < 2 * wanted {
                return Err(HaystackError::Setting("the haystack has too few plain words to make values of"));
            }
            let (a, b) = (rng.random_range(0..words.len()), rng.random_range(0..words.len()));
            format!("{}-{}", words[a], words[b])
        }
        Values::Uuids => {
            // Version 4: the version and the variant are fixed, the rest is random.
            let bits: u128 = rng.random();
            let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
            let hex = format!("{bits:032x}");
            [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
        }
    })
}

fn hide(stretch: &[(&str, usize)], needles: &[Needle], depths: &[f64], options: &NeedleOptions) -> String {
    let (mut text, mut read, mut placed) = (String::new(), 0, 0);
    // Depths are fractions of whole numbers: the little on top outweighs their rounding and nothing else.
    let total = options.tokens as f64;
    for (sentence, length) in stretch {
        while placed < needles.len() && read as f64 + 1e-6 >= depths[placed] * total {
            push_needle(&mut text, &needles[placed], options.noun());
            placed += 1;
        }
        text.push_str(sentence);
        read += length;
    }
    for needle in &needles[placed..] {
        push_needle(&mut text, needle, options.noun());
    }
    text
}

fn push_needle(text: &mut String, needle: &Needle, noun: &str) {
    if !text.is_empty() && !text.ends_with(char::is_whitespace) {
        text.push(' ');
    }
    text.push_str(&format!("The special magic {noun} for {} is: {}. ", needle.key, needle.value));
}

fn questions(needles: &[Needle], depths: &[f64], options: &NeedleOptions) -> Vec<Question> {
    let noun = options.noun();
    let question = |text: String, expected: Vec<String>, about: String, depth: Option<f64>| {
        let tokens_a_value = if options.values == Values::Uuids { 48 } else { 16 };
        Question {
            text,
            prefix: String::new(),
            max_tokens: (16 + tokens_a_value * expected.len()).max(32),
            expected,
            metric: Metric::Exact,
            classes: Vec::new(),
            first_line: false,
            depth,
            about,
        }
    };
    let values = || needles.iter().map(|n| n.value.clone()).collect::<Vec<_>>();
    match options.kind {
        Kind::Single | Kind::MultiKey => {
            let ask = |(n, &depth): (&Needle, &f64)| {
                let text = format!("What is the special magic {noun} for {}? Answer with the {noun} only.", n.key);
                question(text, vec![n.value.clone()], n.key.into(), Some(depth))
            };
            needles.iter().zip(depths).map(ask).collect()
        }
        Kind::MultiValue | Kind::MultiQuery => {
            let mut keys: Vec<&str> = needles.iter().map(|n| n.key).collect();
            keys.dedup();
            let names = match keys.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
                _ => keys.concat(),
            };
            let text = format!("What are all the special magic {noun}s for {names}? Answer with the {noun}s only.");
            vec![question(text, values(), names, None)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::{encode, hay};
    use super::*;

    fn text(sample: &Sample) -> &str {
        match &sample.document {
            Document::Text(text) => text,
            Document::Tokens(_) => panic!("needles are text"),
        }
    }

    fn asked(sample: &Sample) -> Vec<&Question> {
        let mut questions = Vec::new();
        for probe in &sample.probes {
            let Probe::Ask(question) = probe else { panic!("needles are asked for") };
            questions.push(question);
        }
        questions
    }

    #[test]
    fn a_context_holds_every_needle_once_spread_in_order() {
        let s = sample(&hay(), &NeedleOptions { tokens: 600, ..NeedleOptions::default() }, 3).unwrap();
        let (text, questions) = (text(&s), asked(&s));
        let at: Vec<usize> = questions.iter().map(|q| text.find(&q.expected[0]).unwrap()).collect();
        assert_eq!(questions.len(), 6);
        assert!(at.is_sorted());
        for (q, at) in questions.iter().zip(&at) {
            assert!((*at as f64 / text.len() as f64 - q.depth.unwrap()).abs() < 0.05, "{at}");
            assert_eq!(text.matches(&q.expected[0]).count(), 1);
            assert!(q.text.contains(&q.about) && q.max_tokens == 32);
        }
        assert_eq!(s.task, "needles");
    }

    #[test]
    fn a_single_needle_lies_where_it_should() {
        for depth in [0.0, 0.3, 1.0] {
            let options =
                NeedleOptions { tokens: 1000, kind: Kind::Single, depth: Some(depth), ..NeedleOptions::default() };
            let s = sample(&hay(), &options, 0).unwrap();
            let at = text(&s).find(&asked(&s)[0].expected[0]).unwrap() as f64 / text(&s).len() as f64;
            assert!((at - depth).abs() < 0.05, "{at} for {depth}");
            assert_eq!((s.task.as_str(), asked(&s).len()), ("needles_single", 1));
        }
    }

    #[test]
    fn several_values_or_keys_are_asked_for_at_once() {
        let options = |kind| NeedleOptions { tokens: 600, kind, needles: 4, ..NeedleOptions::default() };
        let values = sample(&hay(), &options(Kind::MultiValue), 1).unwrap();
        let queries = sample(&hay(), &options(Kind::MultiQuery), 1).unwrap();
        for s in [&values, &queries] {
            let q = asked(s)[0];
            assert_eq!((s.probes.len(), q.expected.len()), (1, 4));
            assert!(q.expected.iter().all(|value| text(s).matches(value.as_str()).count() == 1));
        }
        let key = &asked(&values)[0].about;
        assert_eq!(text(&values).matches(&format!("for {key} is")).count(), 4);
        assert_eq!(asked(&queries)[0].about.split([',', ' ']).filter(|w| CITIES.contains(w)).count(), 4);
    }

    #[test]
    fn values_are_digits_words_or_uuids() {
        let made = |values| {
            let s = sample(&hay(), &NeedleOptions { tokens: 600, values, ..NeedleOptions::default() }, 2).unwrap();
            asked(&s)[0].expected[0].clone()
        };
        let digits = made(Values::Digits(5));
        assert!(digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'));
        assert_eq!(made(Values::Words).split('-').count(), 2);
        let uuid = made(Values::Uuids);
        let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert!(uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }

    #[test]
    fn the_same_seed_makes_the_same_context_and_another_index_another() {
        let o = NeedleOptions { tokens: 300, ..NeedleOptions::default() };
        let hay = hay();
        let made = |i| sample(&hay, &o, i).unwrap();
        assert_eq!(made(1), made(1));
        assert_ne!(made(1).key(), made(2).key());
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let short = Haystack::new("Short. Text.", &encode).unwrap();
        let error = sample(&short, &NeedleOptions::default(), 0).unwrap_err();
        assert_eq!(error, HaystackError::TooShort { has: 2, needs: 3000 });
        let make = |options| sample(&hay(), &options, 0).unwrap_err().to_string();
        let base = NeedleOptions { tokens: 300, ..NeedleOptions::default() };
        assert!(make(NeedleOptions { needles: 41, ..base }).contains("40"));
        let absurd = NeedleOptions { kind: Kind::MultiValue, values: Values::Uuids, needles: 1 << 60, ..base };
        assert!(make(absurd).contains("1000 are the most"));
        assert!(make(NeedleOptions { needles: 0, ..base }).contains("at least one"));
        // Of one digit, not 0, there are nine.
        let one = NeedleOptions { values: Values::Digits(1), ..base };
        assert!(make(NeedleOptions { needles: 10, ..one }).contains("fewer numbers"));
        assert!(sample(&hay(), &NeedleOptions { needles: 9, ..one }, 0).is_ok());
        assert!(make(NeedleOptions { depth: Some(0.5), ..base }).contains("single"));
        assert!(make(NeedleOptions { kind: Kind::Single, depth: Some(1.5), ..base }).contains("between 0"));
    }
}
