//! Rules: a system message says what every answer is to look like, a long text follows, and then questions about it. How many of
//! the rules does each answer keep?
//!
//! Compression that looks at what matters to the text may drop what was said before it, and an assistant that forgets its
//! instructions in a long conversation is of no use ("The Pitfalls of KV Cache Compression", arXiv:2510.00231). Whether an answer
//! is right does not matter here.

use super::haystack::{Haystack, HaystackError, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::seq::{IndexedRandom as _, SliceRandom as _};

/// What rules look like.
#[derive(Debug, Clone, Copy)]
pub struct RuleOptions {
    /// Tokens of the text.
    pub tokens: usize,
    /// Rules of the system message.
    pub rules: usize,
    /// Seed of rules, questions and the place in the haystack.
    pub seed: u64,
}

impl Default for RuleOptions {
    fn default() -> Self {
        RuleOptions { tokens: 3000, rules: 4, seed: 0 }
    }
}

/// Questions about any text.
const QUESTIONS: [&str; 5] = [
    "What is the text above about?",
    "What does the author think?",
    "Name one thing that the text mentions.",
    "For whom may the text have been written?",
    "What would be a good title for the text?",
];

/// Words that answers are to begin with, to end with, and to have in them: none of them comes by itself.
const FIRST: [&str; 6] = ["Certainly:", "Answer:", "Dear reader,", "In short:", "Note:", "Well,"];
const LAST: [&str; 6] = ["Thank you.", "Over and out.", "That is all.", "The end.", "Goodbye.", "So be it."];
const MIDDLE: [&str; 6] = ["banana", "violet", "penguin", "copper", "lantern", "walnut"];

/// Makes document number `index`.
///
/// # Errors
/// If there are no rules, more than there are kinds of them, or too little text.
pub fn sample(haystack: &Haystack, options: &RuleOptions, index: u64) -> Result<Sample, HaystackError> {
    let &RuleOptions { tokens, rules, seed } = options;
    let mut rng = random(seed, index);
    let mut pick = |words: &[&'static str]| words.choose(&mut rng).copied().unwrap_or_default();
    let (first, last, middle) = (pick(&FIRST), pick(&LAST), pick(&MIDDLE));
    let mut known = vec![
        (format!("Begin every answer with \"{first}\""), format!("begins {first}")),
        (format!("End every answer with \"{last}\""), format!("ends {last}")),
        (format!("Use the word \"{middle}\" in every answer."), format!("has {middle}")),
        ("Write every answer on one line.".into(), "one-line".into()),
        ("Answer in at most 30 words.".into(), "words-at-most 30".into()),
        ("Write capital letters only.".into(), "capitals".into()),
    ];
    if rules == 0 {
        return Err(HaystackError::Setting("a system message needs at least one rule"));
    }
    if rules > known.len() {
        return Err(HaystackError::TooMany { what: "rules", asked: rules, known: known.len() });
    }
    // Capital letters are asked for only where all others are, too: small models fail at them.
    if rules < known.len() {
        known.pop();
    }
    known.shuffle(&mut rng);
    known.truncate(rules);
    let lines = known.iter().enumerate().map(|(i, (said, _))| format!("\n{}. {said}", i + 1));
    let system = String::from("You answer questions about a text. These rules hold for every answer:")
        + &lines.collect::<String>();
    let expected: Vec<String> = known.into_iter().map(|(_, rule)| rule).collect();
    let stretch = haystack.stretch(&mut rng, tokens)?;
    let text: String = stretch.iter().map(|(sentence, _)| *sentence).collect();
    let mut asked = QUESTIONS;
    asked.shuffle(&mut rng);
    let probe = |question: &str| {
        Probe::Ask(Question {
            text: question.into(),
            prefix: String::new(),
            expected: expected.clone(),
            metric: Metric::Rules,
            classes: Vec::new(),
            max_tokens: 96,
            first_line: false,
            depth: None,
            about: question.into(),
        })
    };
    Ok(Sample {
        task: "rules".into(),
        id: index.to_string(),
        length: tokens,
        system: Some(system),
        document: Document::Text(text),
        probes: asked[..3].iter().map(|question| probe(question)).collect(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::hay;
    use super::*;

    #[test]
    fn what_the_system_message_asks_for_is_what_answers_are_held_against() {
        for (index, rules) in (0..30).zip((1..=6).cycle()) {
            let options = RuleOptions { tokens: 300, rules, ..RuleOptions::default() };
            let sample = sample(&hay(), &options, index).unwrap();
            let system = sample.system.unwrap();
            assert_eq!((system.lines().count(), sample.probes.len()), (rules + 1, 3));
            for probe in &sample.probes {
                let Probe::Ask(question) = probe else { panic!("a question") };
                assert_eq!(question.expected.len(), rules);
                for (line, rule) in system.lines().skip(1).zip(&question.expected) {
                    let word = rule.split_once(' ').map_or("", |(_, word)| word);
                    assert!(line.contains(word), "{line}: {rule}");
                }
                // Each rule can be kept, and all of them together.
                let of = |name: &str| question.expected.iter().find_map(|rule| rule.strip_prefix(name)).unwrap_or("");
                let answer = format!("{} it has a {} in it. {}", of("begins "), of("has "), of("ends "));
                let capitals = question.expected.iter().any(|rule| rule == "capitals");
                let answer = if capitals { answer.to_uppercase() } else { answer };
                assert_eq!(
                    Metric::Rules.score(&answer, &question.expected, &[]),
                    1.0,
                    "{answer}: {:?}",
                    question.expected
                );
            }
        }
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let make =
            |rules| sample(&hay(), &RuleOptions { tokens: 300, rules, ..RuleOptions::default() }, 0).unwrap_err();
        assert!(make(0).to_string().contains("at least one rule"));
        assert!(make(7).to_string().contains("7 rules"));
    }
}
