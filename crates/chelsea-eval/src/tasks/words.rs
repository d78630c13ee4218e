//! Words: a long numbered list of words in which some come more often than others; which?
//!
//! The words are drawn from the haystack. The list is as long as the document was asked to be; common words come ten
//! times as often as the others.

use super::haystack::{Encode, Haystack, HaystackError, MOST, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::seq::SliceRandom;

/// What lists look like.
#[derive(Debug, Clone, Copy)]
pub struct WordOptions {
    /// Tokens of the list.
    pub tokens: usize,
    /// Words that come more often.
    pub common: usize,
    /// Seed of words and their order.
    pub seed: u64,
}

impl Default for WordOptions {
    fn default() -> Self {
        WordOptions { tokens: 3000, common: 10, seed: 0 }
    }
}

/// How often a common word comes for each time that another does.
const RATIO: usize = 10;
/// Common words take about this share of the list.
const COMMON_SHARE: f64 = 0.5;

/// Makes list number `index`.
pub fn sample(
    haystack: &Haystack,
    options: &WordOptions,
    index: u64,
    encode: Encode<'_>,
) -> Result<Sample, HaystackError> {
    let &WordOptions { tokens, common, seed } = options;
    if common == 0 {
        return Err(HaystackError::Setting("a list needs at least one common word"));
    }
    if tokens > MOST {
        return Err(HaystackError::Setting("a list of more than a hundred million tokens is not made: fewer tokens"));
    }
    let mut words = haystack.vocabulary().to_vec();
    if words.len() <= common {
        return Err(HaystackError::TooMany { what: "common words", asked: common, known: words.len() });
    }
    let mut rng = random(seed, index);
    words.shuffle(&mut rng);
    let cost = |word: &str| encode(&format!(" 1000. {word}")).map(|t| t.len().max(1));
    let mut budget = tokens;
    let common_cost: usize = words[..common].iter().map(|w| cost(w)).sum::<Result<usize, _>>()?;
    // Times that the others come; the common ones come ten times as often.
    let rare_times = ((COMMON_SHARE * tokens as f64) as usize / (RATIO * common_cost)).max(1);
    budget = budget.checked_sub(RATIO * rare_times * common_cost).ok_or(HaystackError::Setting(
        "the list is too short for its common words to come ten times: fewer common words, or more tokens",
    ))?;
    let mut list: Vec<&str> = words[..common].iter().flat_map(|w| vec![w.as_str(); RATIO * rare_times]).collect();
    for word in &words[common..] {
        let Some(left) = budget.checked_sub(rare_times * cost(word)?) else { break };
        list.extend(vec![word.as_str(); rare_times]);
        budget = left;
    }
    list.shuffle(&mut rng);
    let lines: Vec<String> = list.iter().enumerate().map(|(i, word)| format!("{}. {word}", i + 1)).collect();
    let question = Question {
        text: format!(
            "What are the {common} most common words in the list above? Each comes {} times, all others fewer. Answer \
             with the words only.",
            RATIO * rare_times
        ),
        prefix: String::new(),
        expected: words[..common].to_vec(),
        metric: Metric::MatchAll,
        classes: Vec::new(),
        max_tokens: 12 * common + 16,
        first_line: false,
        depth: None,
        about: String::new(),
    };
    Ok(Sample {
        task: "words".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Text(lines.join(" ")),
        probes: vec![Probe::Ask(question)],
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::{encode, hay};
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_answers_are_the_most_common_words() {
        let s = sample(&hay(), &WordOptions { tokens: 900, common: 5, seed: 1 }, 0, &encode).unwrap();
        let (Document::Text(text), Probe::Ask(q)) = (&s.document, &s.probes[0]) else { panic!("text") };
        let mut times: HashMap<&str, usize> = HashMap::new();
        for word in text.split_whitespace().filter(|w| !w.ends_with('.')) {
            *times.entry(word).or_default() += 1;
        }
        let common = q.expected.iter().map(|w| times[w.as_str()]).min().unwrap();
        let rare = times.iter().filter(|(w, _)| !q.expected.iter().any(|e| e == *w)).map(|(_, n)| *n).max().unwrap();
        assert_eq!(common, 10 * rare);
        let length = encode(text).unwrap().len();
        assert!((800..=900).contains(&length), "{length}");
    }

    #[test]
    fn lists_that_cannot_be_made_are_refused() {
        let make = |options| sample(&hay(), &options, 0, &encode).unwrap_err().to_string();
        assert!(make(WordOptions { tokens: 20, ..WordOptions::default() }).contains("too short"));
        assert!(make(WordOptions { tokens: usize::MAX, ..WordOptions::default() }).contains("fewer tokens"));
        assert!(make(WordOptions { common: 0, ..WordOptions::default() }).contains("at least one"));
        assert!(make(WordOptions { common: 100_000, ..WordOptions::default() }).contains("the most there can be"));
    }
}
