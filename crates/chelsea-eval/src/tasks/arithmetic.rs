//! Arithmetic: worked examples that fill the document, and then new questions that take as many steps each.
//!
//! A number found in a text is right or wrong by itself. In a chain of steps every number follows from the one before, so that one
//! slip spoils the answer: small errors of a compressed cache add up where they would not show elsewhere. The shape is that of
//! school problems with their solutions before the question (GSM8K, arXiv:2110.14168).

use super::haystack::{Encode, HaystackError, MOST, random};
use crate::metrics::Metric;
use crate::sample::{Document, Probe, Question, Sample};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use std::fmt::Write as _;

/// What examples and questions look like.
#[derive(Debug, Clone, Copy)]
pub struct ArithmeticOptions {
    /// Tokens of the worked examples.
    pub tokens: usize,
    /// Steps of every problem.
    pub steps: usize,
    /// Questions after the examples.
    pub questions: usize,
    /// Seed of all problems.
    pub seed: u64,
}

impl Default for ArithmeticOptions {
    fn default() -> Self {
        ArithmeticOptions { tokens: 3000, steps: 4, questions: 6, seed: 0 }
    }
}

/// Most steps of a problem.
const MOST_STEPS: usize = 1000;
/// Tokens that a step of an answer may take, twice what it takes where the examples are followed.
const STEP_TOKENS: usize = 40;
/// The largest number of a chain.
const LARGEST: u32 = 199;

const NAMES: [&str; 8] = ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry"];
const THINGS: [&str; 8] = ["apples", "coins", "books", "stamps", "marbles", "pencils", "shells", "cards"];
const GAINS: [&str; 4] = ["finds", "buys", "gets", "wins"];
const LOSSES: [&str; 4] = ["loses", "sells", "gives away", "hides"];

/// A problem and how it is worked out.
struct Problem {
    question: String,
    /// All of its steps, and the answer.
    solution: String,
    answer: String,
}

/// Makes document number `index`: worked examples in its text, other problems of the same kind as questions.
///
/// # Errors
/// If there are no steps or no questions, too many steps, or no room for one example.
pub fn sample(options: &ArithmeticOptions, index: u64, encode: Encode<'_>) -> Result<Sample, HaystackError> {
    let &ArithmeticOptions { tokens, steps, questions, seed } = options;
    if steps == 0 || questions == 0 {
        return Err(HaystackError::Setting("arithmetic needs at least one step and one question"));
    }
    if steps > MOST_STEPS {
        return Err(HaystackError::TooMany { what: "steps", asked: steps, known: MOST_STEPS });
    }
    if tokens > MOST {
        return Err(HaystackError::Setting(
            "examples of more than a hundred million tokens are not made: fewer tokens",
        ));
    }
    let mut rng = random(seed, index);
    let (mut text, mut left) = (String::from("Problems and their solutions:"), tokens);
    loop {
        let Problem { question, solution, .. } = problem(&mut rng, steps);
        let example = format!("\n\nProblem: {question}\nSolution: {solution}");
        match left.checked_sub(encode(&example)?.len().max(1)) {
            Some(less) => left = less,
            None if left == tokens => {
                return Err(HaystackError::Setting(
                    "the text is too short for one example: fewer steps, or more tokens",
                ));
            }
            None => break,
        }
        text += &example;
    }
    let probes = (0..questions).map(|number| ask(problem(&mut rng, steps), steps, number)).collect();
    Ok(Sample {
        task: "arithmetic".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Text(text),
        probes,
        source: None,
    })
}

/// A problem of `steps` steps whose numbers all stay between 1 and [`LARGEST`].
fn problem(rng: &mut StdRng, steps: usize) -> Problem {
    let mut word = |words: &[&'static str]| words.choose(rng).copied().unwrap_or_default();
    let (name, thing) = (word(&NAMES), word(&THINGS));
    let mut number = rng.random_range(10..60u32);
    let (mut question, mut worked) = (format!("{name} has {number} {thing}."), String::new());
    for _ in 0..steps {
        let by = rng.random_range(2..30u32);
        let kind = rng.random_range(0..5);
        let (what, sign, with, next) = if kind == 0 && 2 * number <= LARGEST {
            ("doubles the number".into(), '*', 2, 2 * number)
        } else if number > by && (kind < 3 || number + by > LARGEST) {
            (format!("{} {by}", LOSSES.choose(rng).unwrap_or(&"loses")), '-', by, number - by)
        } else {
            (format!("{} {by} more", GAINS.choose(rng).unwrap_or(&"gets")), '+', by, number + by)
        };
        // Writing to a string cannot fail.
        let _ = write!(question, " Then {name} {what}.");
        let _ = write!(worked, "{name} {what}: {number} {sign} {with} = {next}. ");
        number = next;
    }
    let _ = write!(question, " How many {thing} does {name} have now?");
    let answer = format!("The answer is {number}.");
    Problem { question, solution: worked + &answer, answer }
}

/// The problem as a question: right is the last number; the loss of the right answer is that of all its steps.
fn ask(problem: Problem, steps: usize, number: usize) -> Probe {
    let Problem { question, solution, answer } = problem;
    Probe::Ask(Question {
        text: format!("Solve this problem step by step, in the form of the solutions above.\n\nProblem: {question}"),
        prefix: "Solution:".into(),
        expected: vec![solution, answer],
        metric: Metric::MatchPart,
        classes: Vec::new(),
        max_tokens: STEP_TOKENS * (steps + 1),
        first_line: false,
        depth: None,
        about: (number + 1).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::encode;
    use super::*;

    fn questions(options: &ArithmeticOptions, index: u64) -> (String, Vec<Question>) {
        let sample = sample(options, index, &encode).unwrap();
        let Document::Text(text) = sample.document else { panic!("text") };
        let questions = sample.probes.into_iter().map(|probe| match probe {
            Probe::Ask(question) => question,
            Probe::Continue(_) => panic!("a question"),
        });
        (text, questions.collect())
    }

    /// Follows a written solution and returns its last number; every step begins where the one before it ended.
    fn followed(solution: &str) -> u32 {
        let (steps, answer) = solution.split_once(" The answer is ").unwrap();
        let mut last: Option<u32> = None;
        for step in steps.split_terminator('.') {
            let (_, step) = step.split_once(": ").unwrap();
            let parts: Vec<&str> = step.split(' ').collect();
            let [a, sign, b, "=", c] = parts[..] else { panic!("{step}") };
            let (a, b, c): (u32, u32, u32) = (a.parse().unwrap(), b.parse().unwrap(), c.parse().unwrap());
            assert!(last.is_none_or(|number| number == a), "{solution}");
            let right = match sign {
                "+" => a + b,
                "-" => a - b,
                _ => a * b,
            };
            assert_eq!(right, c);
            assert!((1..=LARGEST).contains(&c));
            last = Some(c);
        }
        let said = answer.trim_end_matches('.').parse().unwrap();
        assert_eq!(last, Some(said));
        said
    }

    #[test]
    fn every_solution_is_right_and_has_its_steps() {
        for index in 0..20 {
            let options = ArithmeticOptions { tokens: 800, steps: 7, questions: 3, seed: 5 };
            let (text, asked) = questions(&options, index);
            let solutions: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Solution: ")).collect();
            assert!(solutions.len() > 3, "{text}");
            assert_eq!(asked.len(), 3);
            for solution in solutions.into_iter().chain(asked.iter().map(|q| q.expected[0].as_str())) {
                followed(solution);
                assert_eq!(solution.matches('=').count(), 7);
            }
            let length = encode(&text).unwrap().len();
            assert!((700..=810).contains(&length), "{length}");
        }
    }

    #[test]
    fn the_right_last_number_counts_and_no_other() {
        let (_, asked) = questions(&ArithmeticOptions { tokens: 300, ..ArithmeticOptions::default() }, 0);
        let q = &asked[0];
        let right = followed(&q.expected[0]);
        let score = |answer: &str| q.metric.score(answer, &q.expected, &q.classes);
        assert_eq!(score(&q.expected[0]), 1.0);
        assert_eq!(score(&format!("Some other way. The answer is {right}.")), 1.0);
        assert_eq!(score(&format!("The answer is {}.", right + 1)), 0.0);
        assert_eq!(score(&format!("The answer is {right}0.")), 0.0);
    }

    #[test]
    fn the_same_numbers_make_the_same_problems_and_others_other_ones() {
        let options = ArithmeticOptions { tokens: 300, ..ArithmeticOptions::default() };
        assert_eq!(questions(&options, 1), questions(&options, 1));
        assert_ne!(questions(&options, 1), questions(&options, 2));
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let make = |options| sample(&options, 0, &encode).unwrap_err().to_string();
        let usual = ArithmeticOptions::default();
        assert!(make(ArithmeticOptions { steps: 0, ..usual }).contains("at least one"));
        assert!(make(ArithmeticOptions { questions: 0, ..usual }).contains("at least one"));
        assert!(make(ArithmeticOptions { steps: usize::MAX, ..usual }).contains("1000"));
        assert!(make(ArithmeticOptions { tokens: 20, ..usual }).contains("too short"));
        assert!(make(ArithmeticOptions { tokens: usize::MAX, ..usual }).contains("fewer tokens"));
    }
}
