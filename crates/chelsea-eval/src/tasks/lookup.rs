//! Looking things up: a long list, and several questions about it, each of which needs one or a few of its lines.
//!
//! Nothing on these lists can be guessed or summed up, and no line stands out before it is asked for: a cache that
//! dropped what seemed unimportant is found out, at the latest by the second question. After the retrieval and counting tasks of
//! SCBench (arXiv:2412.10319) and of InfiniteBench (arXiv:2402.13718).

use super::haystack::{Encode, Haystack, HaystackError, MOST, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::index;
use std::collections::HashSet;

/// What is on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// Keys and values of eight hexadecimal digits: what is the value of this key?
    Pairs,
    /// Lines of four words: which line begins with this word and ends with that? Others begin or end alike.
    Ends,
    /// Numbers of five digits: which is the largest, the smallest, the second largest, and so on?
    Numbers,
}

impl Lookup {
    /// All of them.
    pub const ALL: [Lookup; 3] = [Lookup::Pairs, Lookup::Ends, Lookup::Numbers];

    /// The task's name in results.
    pub const fn task(self) -> &'static str {
        match self {
            Lookup::Pairs => "lookup-pairs",
            Lookup::Ends => "lookup-ends",
            Lookup::Numbers => "lookup-numbers",
        }
    }
}

/// What lists look like.
#[derive(Debug, Clone, Copy)]
pub struct LookupOptions {
    /// Tokens of the list.
    pub tokens: usize,
    /// What is on it.
    pub kind: Lookup,
    /// Questions about it.
    pub questions: usize,
    /// Seed of the list and of what is asked.
    pub seed: u64,
}

impl Default for LookupOptions {
    fn default() -> Self {
        LookupOptions { tokens: 3000, kind: Lookup::Pairs, questions: 5, seed: 0 }
    }
}

/// What may be asked of numbers, by rank from the largest and from the smallest.
const RANKS: [(&str, usize, bool); 6] = [
    ("largest", 0, true),
    ("smallest", 0, false),
    ("second largest", 1, true),
    ("second smallest", 1, false),
    ("third largest", 2, true),
    ("third smallest", 2, false),
];

/// Makes list number `index`.
///
/// # Errors
/// If there are no questions, more than the list has answers for, or more words needed than the haystack has.
pub fn sample(
    haystack: &Haystack,
    options: &LookupOptions,
    index: u64,
    encode: Encode<'_>,
) -> Result<Sample, HaystackError> {
    let &LookupOptions { tokens, kind, questions, seed } = options;
    if questions == 0 {
        return Err(HaystackError::Setting("a list needs at least one question"));
    }
    if tokens > MOST {
        return Err(HaystackError::Setting("a list of more than a hundred million tokens is not made: fewer tokens"));
    }
    let mut rng = random(seed, index);
    let (heading, lines) = match kind {
        Lookup::Pairs => ("Keys and their values:", pairs(&mut rng, tokens, encode)?),
        Lookup::Ends => ("Lines of four words:", words(&mut rng, haystack.vocabulary(), tokens, encode)?),
        Lookup::Numbers => ("Numbers:", numbers(&mut rng, tokens, encode)?),
    };
    let known = if kind == Lookup::Numbers { RANKS.len().min(lines.len()) } else { lines.len() };
    if questions > known {
        return Err(HaystackError::TooMany { what: "questions about a list", asked: questions, known });
    }
    let probes = match kind {
        Lookup::Numbers => RANKS[..questions].iter().map(|&rank| of_rank(&lines, rank)).collect(),
        _ => index::sample(&mut rng, lines.len(), questions).iter().map(|at| of_line(kind, &lines, at)).collect(),
    };
    let text = lines.iter().fold(String::from(heading), |text, line| text + "\n" + line);
    Ok(Sample {
        task: kind.task().into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Text(text),
        probes,
        source: None,
    })
}

/// Lines that `next` makes, as many as fit into `tokens`; it ends where it has no more.
fn fill(
    tokens: usize,
    encode: Encode<'_>,
    mut next: impl FnMut() -> Option<String>,
) -> Result<Vec<String>, HaystackError> {
    let (mut lines, mut left) = (Vec::new(), tokens);
    while let Some(line) = next() {
        match left.checked_sub(encode(&format!("{line}\n"))?.len().max(1)) {
            Some(less) => left = less,
            None => break,
        }
        lines.push(line);
    }
    Ok(lines)
}

fn pairs(rng: &mut StdRng, tokens: usize, encode: Encode<'_>) -> Result<Vec<String>, HaystackError> {
    let mut keys = HashSet::new();
    fill(tokens, encode, || {
        let key = std::iter::repeat_with(|| rng.random::<u32>()).find(|key| keys.insert(*key))?;
        Some(format!("{key:08x} = {:08x}", rng.random::<u32>()))
    })
}

fn words(
    rng: &mut StdRng,
    vocabulary: &[String],
    tokens: usize,
    encode: Encode<'_>,
) -> Result<Vec<String>, HaystackError> {
    // About as many first words, and last ones, as lines for each of them.
    let ends = ((tokens / 8) as f64).sqrt() as usize + 2;
    if vocabulary.len() < 3 * ends {
        return Err(HaystackError::TooMany { what: "words", asked: 3 * ends, known: vocabulary.len() });
    }
    let drawn: Vec<usize> = index::sample(rng, vocabulary.len(), vocabulary.len()).into_vec();
    let word = |i: usize| vocabulary[drawn[i]].as_str();
    let mut pairs: Vec<usize> = index::sample(rng, ends * ends, ends * ends).into_vec();
    fill(tokens, encode, || {
        let pair = pairs.pop()?;
        let mut middle = || word(rng.random_range(2 * ends..vocabulary.len()));
        let (second, third) = (middle(), middle());
        Some(format!("{}-{second}-{third}-{}", word(pair / ends), word(ends + pair % ends)))
    })
}

fn numbers(rng: &mut StdRng, tokens: usize, encode: Encode<'_>) -> Result<Vec<String>, HaystackError> {
    let mut used = HashSet::new();
    fill(tokens, encode, || {
        // Past half of all numbers a new one would take long to find; no list of such length says more.
        if used.len() == 45_000 {
            return None;
        }
        let mut drawn = std::iter::repeat_with(|| rng.random_range(10_000..100_000u32));
        drawn.find(|number| used.insert(*number)).map(|number| number.to_string())
    })
}

/// What is asked of line `at`.
fn of_line(kind: Lookup, lines: &[String], at: usize) -> Probe {
    let line = &lines[at];
    let depth = Some((at as f64 + 0.5) / lines.len() as f64);
    if kind == Lookup::Pairs {
        let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
        let text = format!("What is the value of the key {key} in the list above? Answer with the value only.");
        return ask(text, value, 24, Metric::MatchPart, key, depth);
    }
    let (first, last) = (line.split('-').next().unwrap_or(""), line.rsplit('-').next().unwrap_or(""));
    let text = format!(
        "Which line of the list above begins with \"{first}\" and ends with \"{last}\"? Answer with the whole line only."
    );
    ask(text, line, 40, Metric::MatchPart, &format!("{first}-{last}"), depth)
}

/// What is asked about a rank.
fn of_rank(lines: &[String], (name, rank, from_largest): (&str, usize, bool)) -> Probe {
    // All have five digits, so their order as text is that as numbers.
    let mut sorted: Vec<&String> = lines.iter().collect();
    sorted.sort_unstable();
    let number = sorted[if from_largest { sorted.len() - 1 - rank } else { rank }];
    let text = format!("What is the {name} number of the list above? Answer with the number only.");
    let at = lines.iter().position(|line| line == number);
    ask(text, number, 16, Metric::Exact, name, at.map(|at| (at as f64 + 0.5) / lines.len() as f64))
}

fn ask(text: String, expected: &str, max_tokens: usize, metric: Metric, about: &str, depth: Option<f64>) -> Probe {
    Probe::Ask(Question {
        text,
        prefix: String::new(),
        expected: vec![expected.into()],
        metric,
        classes: Vec::new(),
        max_tokens,
        first_line: false,
        depth,
        about: about.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::{encode, hay};
    use super::*;

    fn made(kind: Lookup, index: u64) -> (Vec<String>, Vec<Question>) {
        let options = LookupOptions { tokens: 600, kind, ..LookupOptions::default() };
        let sample = sample(&hay(), &options, index, &encode).unwrap();
        assert_eq!(sample.task, kind.task());
        let Document::Text(text) = sample.document else { panic!("text") };
        let questions = sample.probes.into_iter().map(|probe| match probe {
            Probe::Ask(question) => question,
            Probe::Continue(_) => panic!("a question"),
        });
        (text.lines().skip(1).map(String::from).collect(), questions.collect())
    }

    #[test]
    fn every_key_has_the_value_that_is_expected_and_no_other() {
        for index in 0..5 {
            let (lines, questions) = made(Lookup::Pairs, index);
            assert_eq!((questions.len(), lines.len()), (5, 200), "three words a line");
            let asked: HashSet<&str> = questions.iter().map(|q| q.about.as_str()).collect();
            assert_eq!(asked.len(), 5, "no question comes twice");
            for q in &questions {
                let of_key: Vec<&String> = lines.iter().filter(|line| line.starts_with(&q.about)).collect();
                assert_eq!(of_key, [&format!("{} = {}", q.about, q.expected[0])]);
                assert_eq!(q.metric.score(&format!("It is {}.", q.expected[0]), &q.expected, &[]), 1.0);
            }
        }
    }

    #[test]
    fn one_line_has_both_ends_and_others_have_one() {
        let mut alike = 0;
        for index in 0..5 {
            let (lines, questions) = made(Lookup::Ends, index);
            for q in &questions {
                let (first, last) = q.about.split_once('-').unwrap();
                let (begins, ends) = (format!("{first}-"), format!("-{last}"));
                let both: Vec<&String> =
                    lines.iter().filter(|line| line.starts_with(&begins) && line.ends_with(&ends)).collect();
                assert_eq!(both, [&q.expected[0]]);
                alike += lines.iter().filter(|line| line.starts_with(&begins) != line.ends_with(&ends)).count();
            }
        }
        assert!(alike > 100, "{alike}");
    }

    #[test]
    fn ranks_are_those_of_the_numbers() {
        let (lines, questions) = made(Lookup::Numbers, 3);
        let mut numbers: Vec<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), lines.len());
        let n = numbers.len();
        let expected: Vec<u32> = questions.iter().map(|q| q.expected[0].parse().unwrap()).collect();
        assert_eq!(expected, [numbers[n - 1], numbers[0], numbers[n - 2], numbers[1], numbers[n - 3]]);
    }

    #[test]
    fn the_same_numbers_make_the_same_list_and_others_another() {
        for kind in Lookup::ALL {
            assert_eq!(made(kind, 1), made(kind, 1));
            assert_ne!(made(kind, 1).0, made(kind, 2).0);
        }
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let make = |options| sample(&hay(), &options, 0, &encode).unwrap_err().to_string();
        assert!(make(LookupOptions { questions: 0, ..LookupOptions::default() }).contains("at least one"));
        assert!(make(LookupOptions { tokens: 9, ..LookupOptions::default() }).contains("the most there can be"));
        let numbers = LookupOptions { kind: Lookup::Numbers, questions: 7, ..LookupOptions::default() };
        assert!(make(numbers).contains('6'));
        assert!(make(LookupOptions { tokens: usize::MAX, ..LookupOptions::default() }).contains("fewer tokens"));
        let words = LookupOptions { kind: Lookup::Ends, tokens: 90_000_000, ..LookupOptions::default() };
        assert!(make(words).contains("words"));
    }
}
