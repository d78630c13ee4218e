//! Variables: chains of assignments hidden in a long text; which variables hold a value?
//!
//! "VAR QXWZL = 48213." stands somewhere, "VAR PLMOK = VAR QXWZL." later, and so on. The question names the value of
//! one chain; every variable of that chain, and of no other, is an answer.

use super::haystack::{Haystack, HaystackError, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::HashSet;

/// What chains look like.
#[derive(Debug, Clone, Copy)]
pub struct VariableOptions {
    /// Tokens of the haystack (assignments come on top).
    pub tokens: usize,
    /// Chains; the first is asked for.
    pub chains: usize,
    /// Assignments of a chain after the first.
    pub hops: usize,
    /// Seed of names, values and places.
    pub seed: u64,
}

impl Default for VariableOptions {
    fn default() -> Self {
        VariableOptions { tokens: 3000, chains: 2, hops: 4, seed: 0 }
    }
}

/// Most assignments of a document.
const MOST: usize = 1000;

/// Makes document number `index`.
pub fn sample(haystack: &Haystack, options: &VariableOptions, index: u64) -> Result<Sample, HaystackError> {
    let &VariableOptions { tokens, chains, hops, seed } = options;
    let assignments = chains.saturating_mul(hops.saturating_add(1));
    if chains == 0 {
        return Err(HaystackError::Setting("variables need at least one chain"));
    }
    if assignments > MOST {
        return Err(HaystackError::TooMany { what: "assignments", asked: assignments, known: MOST });
    }
    let mut rng = random(seed, index);
    let stretch = haystack.stretch(&mut rng, tokens)?;
    let mut used = HashSet::new();
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut asked = (String::new(), Vec::new());
    for chain in 0..chains {
        let value = distinct(&mut used, || rng.random_range(10_000..100_000).to_string());
        let names: Vec<String> = (0..=hops).map(|_| distinct(&mut used, || name(&mut rng))).collect();
        // A variable is assigned before it is used.
        let mut places: Vec<usize> = names.iter().map(|_| rng.random_range(0..=stretch.len())).collect();
        places.sort_unstable();
        for (i, place) in places.into_iter().enumerate() {
            let right = if i == 0 { value.clone() } else { format!("VAR {}", names[i - 1]) };
            lines.push((place, format!("VAR {} = {right}. ", names[i])));
        }
        if chain == 0 {
            asked = (value, names);
        }
    }
    // Assignments of one chain keep their order where several fall into one place.
    lines.sort_by_key(|(place, _)| *place);
    let (mut text, mut next) = (String::new(), lines.iter().peekable());
    for place in 0..=stretch.len() {
        while let Some((_, line)) = next.next_if(|(at, _)| *at == place) {
            if !text.is_empty() && !text.ends_with(char::is_whitespace) {
                text.push(' ');
            }
            text.push_str(line);
        }
        if let Some((sentence, _)) = stretch.get(place) {
            text.push_str(sentence);
        }
    }
    let (value, mut names) = asked;
    names.shuffle(&mut rng);
    let question = Question {
        text: format!(
            "Some variables (VAR) are assigned in the text above. Which {} variables have the value {value}, directly or \
             through other variables? List their names only.",
            names.len()
        ),
        prefix: String::new(),
        max_tokens: 8 * names.len() + 16,
        expected: names,
        metric: Metric::MatchAll,
        classes: Vec::new(),
        first_line: false,
        depth: None,
        about: value,
    };
    Ok(Sample {
        task: "variables".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Text(text),
        probes: vec![Probe::Ask(question)],
        source: None,
    })
}

/// Draws until something new comes.
fn distinct(used: &mut HashSet<String>, mut draw: impl FnMut() -> String) -> String {
    loop {
        let drawn = draw();
        if used.insert(drawn.clone()) {
            return drawn;
        }
    }
}

fn name(rng: &mut StdRng) -> String {
    (0..5).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::hay;
    use super::*;

    #[test]
    fn a_chain_leads_from_the_value_to_every_answer_in_order() {
        for index in 0..20 {
            let s = sample(&hay(), &VariableOptions { tokens: 300, chains: 3, ..VariableOptions::default() }, index)
                .unwrap();
            let (Document::Text(text), Probe::Ask(q)) = (&s.document, &s.probes[0]) else { panic!("text") };
            // Follow the assignments as they are read.
            let mut holds: Vec<&str> = Vec::new();
            let words: Vec<&str> = text.split_whitespace().collect();
            for w in words.windows(4).filter(|w| w[0] == "VAR" && w[2] == "=") {
                let right = if w[3] == "VAR" { "" } else { w[3].trim_end_matches('.') };
                if right == q.about {
                    holds.push(w[1]);
                }
            }
            for w in words.windows(5).filter(|w| w[0] == "VAR" && w[2] == "=" && w[3] == "VAR") {
                if holds.contains(&w[4].trim_end_matches('.')) {
                    holds.push(w[1]);
                }
            }
            holds.sort_unstable();
            let mut expected: Vec<&str> = q.expected.iter().map(String::as_str).collect();
            expected.sort_unstable();
            assert_eq!(holds, expected, "document {index}");
            assert_eq!(expected.len(), 5);
        }
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let make = |options| sample(&hay(), &options, 0).unwrap_err().to_string();
        assert!(make(VariableOptions { chains: 0, ..VariableOptions::default() }).contains("at least one"));
        assert!(make(VariableOptions { hops: usize::MAX, ..VariableOptions::default() }).contains("1000"));
    }
}
