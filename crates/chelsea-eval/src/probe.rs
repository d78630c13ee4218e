//! Asks questions of sessions that have read a document, and scores how well they predict given tokens.

use crate::error::EvalError;
use crate::metrics::Metric;
use crate::results::Asked;
use crate::sample::{Continuation, Judge, Probe, Question};
use chelsea_engine::{EngineError, Finish, GenerateOptions, Generation, Layout, Session, generate_many};
use chelsea_model::tokenizer::{Part, Tokenizer};
use std::ops::ControlFlow;

/// Right answers longer than this are not scored token by token: of a summary it would say nothing.
const MAX_SCORED: usize = 128;

/// A probe as tokens.
pub(crate) struct Prepared<'a> {
    probe: &'a Probe,
    /// What is read before anything is measured.
    cue: Vec<u32>,
    /// What a right answer would be.
    target: Vec<u32>,
}

/// The full cache's predictions of a continuation: logits, a row for each token.
pub(crate) type Reference = Vec<Vec<f32>>;

/// What was said last in a conversation.
pub(crate) enum Outcome {
    /// Nothing yet.
    Nothing,
    /// An answer; its last token was not read yet, and whether it was the end of the turn.
    Answer {
        /// The token.
        unread: Option<u32>,
        /// Whether the turn ended.
        closed: bool,
    },
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(probe: &'a Probe, layout: &Layout<'_>, tokenizer: &Tokenizer) -> Result<Self, EvalError> {
        Ok(match probe {
            Probe::Ask(question) => {
                let mut cue = layout.question(&question.text)?;
                let opening = opening(question, layout);
                cue.extend(following(tokenizer, &cue, opening)?);
                let gap = if opening.is_empty() || opening.ends_with('\n') { "" } else { " " };
                let mut target = following(tokenizer, &cue, &format!("{gap}{}", right_answer(question)))?;
                // Rules are kept by many answers.
                if target.len() > MAX_SCORED || question.metric == Metric::Rules {
                    target.clear();
                }
                Prepared { probe, cue, target }
            }
            Probe::Continue(c) => Prepared { probe, cue: c.cue.clone(), target: c.target.clone() },
        })
    }

    /// What is read before anything is measured.
    pub(crate) fn cue(&self) -> &[u32] {
        &self.cue
    }

    /// Most tokens that it takes.
    pub(crate) fn longest(&self) -> usize {
        let answer = match self.probe {
            Probe::Ask(question) => question.max_tokens,
            Probe::Continue(_) => 0,
        };
        self.cue.len() + answer.max(self.target.len())
    }

    /// Whether text is scored, and no answer.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.probe, Probe::Continue(_))
    }

    /// Reads the question as the next turn of a conversation.
    pub(crate) fn say(
        &self,
        session: &mut Session,
        layout: &Layout<'_>,
        tokenizer: &Tokenizer,
        said: &Outcome,
    ) -> Result<(), EvalError> {
        let (Outcome::Answer { unread, closed }, Probe::Ask(question)) = (said, self.probe) else {
            session.read(&self.cue, |_| ())?;
            return Ok(());
        };
        if let Some(token) = unread {
            session.step(*token)?;
        }
        let mut tokens = layout.next_turn(&question.text, *closed)?;
        tokens.extend(following(tokenizer, &tokens, opening(question, layout))?);
        session.read(&tokens, |_| ())?;
        Ok(())
    }

    fn follow(
        &self,
        session: &mut Session,
        continuation: &Continuation,
        reference: Option<&Reference>,
    ) -> Result<Asked, EvalError> {
        let (mut nll, mut kl, mut right, mut at) = (0.0, 0.0, 0usize, 0usize);
        session.score_each(&self.target, |logits, token| {
            let said = Distribution::of(logits);
            nll -= said.ln_p(token);
            let wanted = match (reference.and_then(|rows| rows.get(at)), continuation.judge) {
                (Some(row), Judge::Full) => {
                    let full = Distribution::of(row);
                    kl += full.divergence(&said);
                    full.top()
                }
                _ => token as usize,
            };
            right += usize::from(said.top() == wanted);
            at += 1;
        })?;
        let n = self.target.len().max(1) as f64;
        Ok(Asked {
            about: String::new(),
            expected: Vec::new(),
            answer: String::new(),
            score: right as f64 / n,
            nll: Some(nll / n),
            kl: reference.map(|_| kl / n),
            exact: (continuation.judge == Judge::Target).then_some(right == self.target.len()),
            depth: continuation.depth,
        })
    }
}

/// A session that has read the document and the cue, and what is measured from there.
pub(crate) struct OpenProbe<'a> {
    /// What is measured.
    pub(crate) prepared: &'a Prepared<'a>,
    /// The session.
    pub(crate) session: Session,
    /// The full cache's predictions, where they are wanted.
    pub(crate) reference: Option<&'a Reference>,
}

/// Measures from where each session stands. Answers are generated side by side, so that all of them share each pass
/// over the weights; unless `whole`, an answer ends where nothing that may follow can change its score.
pub(crate) fn measure(
    standing: &mut [OpenProbe<'_>],
    tokenizer: &Tokenizer,
    whole: bool,
) -> Result<Vec<(Asked, Outcome)>, EvalError> {
    let mut found = Vec::with_capacity(standing.len());
    let (mut questions, mut sessions) = (Vec::new(), Vec::new());
    for one in standing.iter_mut() {
        match one.prepared.probe {
            Probe::Ask(question) => {
                let target = &one.prepared.target;
                let nll = if target.is_empty() { None } else { Some(mean(&one.session.fork()?.score(target)?)) };
                questions.push((question, nll));
                sessions.push(&mut one.session);
                found.push(None);
            }
            Probe::Continue(c) => {
                let asked = one.prepared.follow(&mut one.session, c, one.reference)?;
                found.push(Some((asked, Outcome::Nothing)));
            }
        }
    }
    let options = |q: &Question| GenerateOptions { max_tokens: Some(q.max_tokens), ..GenerateOptions::default() };
    let options: Vec<GenerateOptions> = questions.iter().map(|(q, _)| options(q)).collect();
    let mut texts = vec![String::new(); questions.len()];
    let generations = generate_many(&mut sessions, tokenizer, &options, |i, text| {
        texts[i].push_str(text);
        let settled = !whole && questions[i].0.settled(&texts[i]);
        if settled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let mut answers = questions.iter().zip(&generations).map(|(&(question, nll), g)| answered(question, nll, g));
    Ok(found.into_iter().filter_map(|asked| asked.or_else(|| answers.next())).collect())
}

fn answered(question: &Question, nll: Option<f64>, generation: &Generation) -> (Asked, Outcome) {
    let text = question.scored(&generation.text);
    let asked = Asked {
        about: question.about.clone(),
        expected: question.expected.clone(),
        answer: generation.text.trim().to_owned(),
        score: question.metric.score(text, &question.expected, &question.classes),
        nll,
        kl: None,
        exact: None,
        depth: question.depth,
    };
    let closed = generation.finish == Finish::EndOfTurn;
    (asked, Outcome::Answer { unread: generation.tokens.last().copied(), closed })
}

/// The predictions of the full cache, where a probe is held against them.
pub(crate) fn references(full: &Session, probes: &[Prepared<'_>]) -> Result<Vec<Option<Reference>>, EvalError> {
    let one = |prepared: &Prepared<'_>| -> Result<Option<Reference>, EvalError> {
        if !matches!(prepared.probe, Probe::Continue(c) if c.judge == Judge::Full) {
            return Ok(None);
        }
        let mut session = full.fork()?;
        session.read(&prepared.cue, |_| ())?;
        if session.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let mut rows = Vec::with_capacity(prepared.target.len());
        session.score_each(&prepared.target, |logits, _| rows.push(logits.to_vec()))?;
        Ok(Some(rows))
    };
    probes.iter().map(one).collect()
}

/// Tokens of text that goes on from these.
fn following(tokenizer: &Tokenizer, before: &[u32], text: &str) -> Result<Vec<u32>, EngineError> {
    Ok(tokenizer.encode_parts(tokenizer.before(before), &[Part::Foreign(text)])?)
}

/// The beginning of the answer; after a chat template it does not begin with a space. Without a template something has
/// to tell where the question ends.
fn opening<'q>(question: &'q Question, layout: &Layout<'_>) -> &'q str {
    match (layout.has_template(), question.prefix.as_str()) {
        (true, prefix) => prefix.trim_start(),
        (false, "") if question.metric == Metric::CodeSimilarity => "\n",
        (false, "") => "\nAnswer:",
        (false, prefix) => prefix,
    }
}

/// What a perfect answer would be.
fn right_answer(question: &Question) -> String {
    if question.metric.wants_all() {
        question.expected.join(", ")
    } else {
        question.expected.first().cloned().unwrap_or_default()
    }
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

/// Probabilities of the next token.
struct Distribution<'a> {
    logits: &'a [f32],
    /// Logarithm of the sum of all exponentials.
    norm: f64,
}

impl<'a> Distribution<'a> {
    fn of(logits: &'a [f32]) -> Self {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
        Distribution { logits, norm: f64::from(top) + sum.ln() }
    }

    fn ln_p(&self, token: u32) -> f64 {
        self.logits.get(token as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x) - self.norm)
    }

    /// The first of the most likely tokens.
    fn top(&self) -> usize {
        let best = |best: usize, i: usize| if self.logits[i] > self.logits[best] { i } else { best };
        (0..self.logits.len()).fold(0, best)
    }

    /// `KL(self || other)`.
    fn divergence(&self, other: &Distribution<'_>) -> f64 {
        let term = |(&x, &y): (&f32, &f32)| {
            let (p, q) = (f64::from(x) - self.norm, f64::from(y) - other.norm);
            p.exp() * (p - q)
        };
        // Rounding can leave a little less than nothing.
        self.logits.iter().zip(other.logits).map(term).sum::<f64>().max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::question;

    #[test]
    fn divergence_is_the_expected_difference_of_log_probabilities() {
        let (p, q) = ([0.0f32, 3f32.ln()], [0.0f32, 0.0]);
        let (p, q) = (Distribution::of(&p), Distribution::of(&q));
        let by_hand = 0.25 * (0.25f64 / 0.5).ln() + 0.75 * (0.75f64 / 0.5).ln();
        assert!((p.divergence(&q) - by_hand).abs() < 1e-6);
        assert_eq!(p.divergence(&p), 0.0);
        assert!((p.ln_p(1) - 0.75f64.ln()).abs() < 1e-6);
        assert_eq!((p.top(), q.top()), (1, 0));
        assert_eq!(p.ln_p(9), f64::NEG_INFINITY);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let d = [1e30f32, 1e30, -1e30];
        let d = Distribution::of(&d);
        assert!((d.ln_p(0) - 0.5f64.ln()).abs() < 1.0, "{}", d.ln_p(0));
        assert!(d.divergence(&d).is_finite());
    }

    #[test]
    fn a_perfect_answer_names_all_that_is_asked_for() {
        let mut q = question("which?", "a");
        q.expected.push("b".into());
        assert_eq!(right_answer(&q), "a, b");
        q.metric = Metric::MatchPart;
        assert_eq!(right_answer(&q), "a");
    }
}
