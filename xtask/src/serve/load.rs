//! The two loads.

use super::client::{self, Timed};
use super::server::Server;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Times in seconds, sorted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn new(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        Times(times)
    }

    /// The time below which so large a share lies; 0 without any.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((share * last as f64).round() as usize).copied().unwrap_or(0.0)
    }
}

/// What came of a load.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Requests.
    pub asked: usize,
    /// Of these, the ones that failed.
    pub failed: usize,
    /// Most answers that were on their way at one moment.
    pub at_once: usize,
    /// Tokens a second while the most answers were on their way.
    pub decode_rate: f64,
    /// Tokens a second from the first request to the last token.
    pub throughput: f64,
    /// From a request to its first token.
    pub first_token: Times,
    /// Between two tokens of an answer.
    pub next_token: Times,
}

impl Measured {
    fn of(answers: &[Option<Timed>]) -> Measured {
        let done: Vec<&Timed> = answers.iter().flatten().filter(|answer| !answer.tokens.is_empty()).collect();
        let starts = done.iter().map(|answer| answer.tokens[0]);
        // An answer is held from its first token to its last.
        let held =
            |at: Instant| done.iter().filter(|a| a.tokens[0] <= at && at <= a.tokens[a.tokens.len() - 1]).count();
        let best = starts.clone().max_by_key(|&at| held(at));
        let at_once = best.map_or(0, held);
        // While none of them ends: to the first end among those that are on their way then.
        let rate = best.map_or(0.0, |from| {
            let there = || done.iter().filter(|a| a.tokens[0] <= from && from <= a.tokens[a.tokens.len() - 1]);
            let until = there().map(|a| a.tokens[a.tokens.len() - 1]).min().unwrap_or(from);
            let tokens = there().flat_map(|a| &a.tokens).filter(|&&at| from < at && at <= until).count();
            tokens as f64 / (until - from).as_secs_f64().max(1e-9)
        });
        let tokens: usize = done.iter().map(|answer| answer.tokens.len()).sum();
        let first = done.iter().map(|answer| answer.asked).min();
        let last = done.iter().filter_map(|answer| answer.tokens.last().copied()).max();
        let all = first.zip(last).map_or(f64::INFINITY, |(first, last)| (last - first).as_secs_f64());
        let next = done.iter().flat_map(|a| a.tokens.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()));
        Measured {
            asked: answers.len(),
            failed: answers.iter().filter(|answer| answer.is_none()).count(),
            at_once,
            decode_rate: rate,
            throughput: tokens as f64 / all,
            first_token: Times::new(done.iter().map(|a| (a.tokens[0] - a.asked).as_secs_f64()).collect()),
            next_token: Times::new(next.collect()),
        }
    }
}

/// Words of about so many tokens, that begin with `salt` and so are no other prompt's beginning.
pub fn words(salt: u64, tokens: usize) -> String {
    const WORDS: [&str; 16] = [
        "river", "stone", "green", "seven", "window", "letter", "market", "silver", "garden", "paper", "winter",
        "number", "people", "morning", "table", "water",
    ];
    let mut state = salt;
    let mut text = format!("Note {salt}:");
    for _ in 0..tokens.saturating_sub(6) {
        text.push(' ');
        text.push_str(WORDS[(random(&mut state) >> 33) as usize % WORDS.len()]);
    }
    text
}

/// The next of a row of random numbers (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Many long conversations together.
pub struct AtOnce {
    /// How many.
    pub conversations: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens of each answer.
    pub answer: usize,
}

impl AtOnce {
    /// Asks for all of them at the same moment.
    pub fn run(&self, server: &Server) -> Result<Measured> {
        ensure!(self.conversations > 0, "not one conversation fits");
        let at = Instant::now();
        let requests =
            (0..self.conversations).map(|i| (at, words(1000 + i as u64, self.prompt), self.answer)).collect();
        Ok(Measured::of(&ask_all(server, requests)))
    }
}

/// Requests that come at random times.
pub struct Arriving {
    /// Requests a second, on average.
    pub rate: f64,
    /// Seconds for which they come.
    pub seconds: u64,
    /// Tokens of the longest prompts.
    pub prompt: usize,
    /// Tokens of the longest answers.
    pub answer: usize,
}

impl Arriving {
    /// Asks at each of the times, whatever became of those before: a third of the prompts are long, a third begin alike,
    /// and a third are short.
    pub fn run(&self, server: &Server) -> Result<Measured> {
        let (start, mut state, mut after) = (Instant::now(), 7u64, 0.0);
        let common = words(1, self.prompt / 2);
        let mut requests = Vec::new();
        loop {
            // Poisson: times between two requests are exponential.
            let uniform = (random(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
            after += -(1.0 - uniform).ln() / self.rate;
            if after > self.seconds as f64 {
                break;
            }
            let salt = random(&mut state) >> 40;
            let prompt = match requests.len() % 3 {
                0 => words(salt, self.prompt),
                1 => format!("{common} {}", words(salt, 64)),
                _ => words(salt, 200),
            };
            let answer = 2 + (random(&mut state) >> 33) as usize % (self.answer - 1);
            requests.push((start + Duration::from_secs_f64(after), prompt, answer));
        }
        Ok(Measured::of(&ask_all(server, requests)))
    }
}

/// Asks each at its time, on a thread of its own. One that fails is told and counted.
fn ask_all(server: &Server, requests: Vec<(Instant, String, usize)>) -> Vec<Option<Timed>> {
    let answers = Mutex::new(vec![None; requests.len()]);
    std::thread::scope(|scope| {
        for (i, (at, prompt, answer)) in requests.into_iter().enumerate() {
            let answers = &answers;
            scope.spawn(move || {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                match client::complete(server.address, &prompt, answer) {
                    Ok(timed) => answers.lock().expect("nobody panics with it")[i] = Some(timed),
                    Err(error) => eprintln!("a request failed: {error:#}"),
                }
            });
        }
    });
    answers.into_inner().expect("nobody panics with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_overlap_are_held_at_once() {
        let start = Instant::now();
        let at = |ms: &[u64]| ms.iter().map(|&ms| start + Duration::from_millis(ms)).collect::<Vec<_>>();
        let answer = |ms: &[u64]| Some(Timed { asked: start, tokens: at(ms), text: String::new(), cached: None });
        let measured = Measured::of(&[answer(&[100, 200, 300]), answer(&[250, 350]), answer(&[400, 500]), None]);
        assert_eq!((measured.asked, measured.failed, measured.at_once), (4, 1, 2));
        // From 250 to 300 one token came.
        assert!((measured.decode_rate - 20.0).abs() < 1e-6);
        assert!((measured.throughput - 14.0).abs() < 1e-6);
        assert!((measured.first_token.at(0.5) - 0.25).abs() < 1e-9 && measured.first_token.at(1.0) == 0.4);
    }

    #[test]
    fn prompts_are_repeatable_and_begin_differently() {
        assert_eq!(words(5, 100), words(5, 100));
        assert_ne!(words(5, 100)[..12], words(6, 100)[..12]);
        assert!(words(5, 100).split(' ').count() >= 94);
    }
}
